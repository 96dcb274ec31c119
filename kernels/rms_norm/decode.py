"""Residual add and norm of a decoding step on whatever device there is."""

import torch
from torch import Tensor

from ..dispatch import runs_triton
from . import reference


def add_rms_norm(
    stream: Tensor | None, hidden: Tensor, weight: Tensor, eps: float, wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`reference.add_rms_norm` of `[B, D]`."""
    if runs_triton(hidden):
        from .triton_norm import add_rms_norm as fused

        return fused(stream, hidden, weight, eps, wide)
    return reference.add_rms_norm(stream, hidden, weight, eps, wide)
