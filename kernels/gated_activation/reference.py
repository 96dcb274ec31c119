"""SwiGLU's gate (arXiv 2002.05202): silu(b) * a, with silu(b) = b / (1 + exp(-b))."""

import torch.nn.functional as F
from torch import Tensor


def silu_gate(value: Tensor, gate: Tensor) -> Tensor:
    """Shapes: value a and gate b `[..., D]` -> `[..., D]`."""
    return value * F.silu(gate)
