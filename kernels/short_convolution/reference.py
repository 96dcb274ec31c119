"""Causal depthwise convolution of a few taps, SiLU, and an optional gate.

    c_t = sum_{k < K} w[:, k] * x_{t - K + 1 + k} + b        (x before the first token is 0)
    y_t = silu(c_t) * g_t

The last tap multiplies the current token. BASED's gated convolution has K = 3, a gate and no bias (arXiv 2402.18668);
Mamba's has K = 4, a bias and no gate (arXiv 2312.00752). The state is the last K - 1 inputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..packing import Packing


def prefill(
    x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, packing: Packing, inputs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A packed batch of sequences, each continuing from its last inputs.

    Args:
        x: `[T, D]`; gate: `[T, D]` or None; weight: `[D, K]`; bias: `[D]` or None.
        inputs: `[B, K - 1, D]`, the inputs before these; None for the start of a sequence.

    Returns:
        y `[T, D]` and the new `inputs` `[B, K - 1, D]`.
    """
    taps = weight.shape[1]
    if inputs is None:
        inputs = x.new_zeros(packing.batch, taps - 1, x.shape[1])
    history = torch.cat([inputs, packing.pad(x)], dim=1)
    y = history[:, : packing.longest] * weight[:, 0]
    for k in range(1, taps):
        y = y + history[:, k : k + packing.longest] * weight[:, k]
    y = F.silu(_add(packing.unpad(y), bias))
    newest = packing.length_tensor[:, None] + torch.arange(taps - 1, device=x.device)
    rows = torch.arange(packing.batch, device=x.device)[:, None]
    return (y if gate is None else y * gate), history[rows, newest]


def step(x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, inputs: Tensor) -> Tensor:
    """One token a sequence: x `[B, D]`, gate `[B, D]` -> y `[B, D]`; `inputs` `[B, K - 1, D]` is updated in place."""
    history = torch.cat([inputs, x[:, None]], dim=1)
    y = history[:, 0] * weight[:, 0]
    for k in range(1, weight.shape[1]):
        y = y + history[:, k] * weight[:, k]
    y = F.silu(_add(y, bias))
    inputs.copy_(history[:, 1:])
    return y if gate is None else y * gate


def _add(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias
