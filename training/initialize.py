"""Weights to begin with.

Matrices are normal with a standard deviation of 1 / sqrt(columns), so that scores of queries and keys begin near 1,
where both exp and 1 + s + s²/2 tell keys apart; those that write into the residual stream smaller by sqrt(2 x layers)
(GPT-2), embeddings 0.02; norms are one, biases zero. Mamba's scan begins as in its paper (arXiv 2312.00752, section
3.6): A = -(1 .. N), D = 1, and steps softplus(bias) spread from 0.001 to 0.1 on a logarithmic scale.
"""

import math

import torch

from ..models.sequence_model import SequenceModel

DEVIATION = 0.02
SMALLEST_STEP, LARGEST_STEP = 1e-3, 1e-1


@torch.no_grad()
def initialize(model: SequenceModel, seed: int) -> None:
    """Fill the parameters, the same for the same seed; the model must lie on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    writers = ("out_proj.weight", "fc2.weight")
    n_writers = sum(name.endswith(writers) for name, _ in model.named_parameters())
    for name, p in model.named_parameters():
        normal = torch.randn(p.shape, generator=generator)
        if name.endswith("A_log"):
            p.copy_(torch.arange(1, p.shape[1] + 1).log().expand_as(p))
        elif name.endswith("dt_proj.bias"):
            spread = torch.rand(p.shape, generator=generator) * math.log(LARGEST_STEP / SMALLEST_STEP)
            step = SMALLEST_STEP * spread.exp()
            p.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step
        elif name.endswith("dt_proj.weight"):
            p.copy_((torch.rand(p.shape, generator=generator) * 2 - 1) * p.shape[1] ** -0.5)
        elif "conv" in name and p.dim() == 3:
            p.copy_((torch.rand(p.shape, generator=generator) * 2 - 1) * p.shape[2] ** -0.5)
        elif "embedding" in name or name == "lm_head.weight":
            p.copy_(normal * DEVIATION)
        elif p.dim() >= 2:
            p.copy_(normal * p.shape[1] ** -0.5 / (math.sqrt(n_writers) if name.endswith(writers) else 1))
        elif name.endswith("bias"):
            p.zero_()
        else:
            p.fill_(1.0)
