"""Residual add and norm on whatever device there is."""

from torch import Tensor

from ..devices import runs_triton
from . import reference


def add_rms_norm(
    stream: Tensor | None, hidden: Tensor, weight: Tensor, eps: float, in_float32: bool
) -> tuple[Tensor, Tensor]:
    """`reference.add_rms_norm`."""
    if runs_triton(hidden):
        from .triton_norm import add_rms_norm as fused

        return fused(stream, hidden, weight, eps, in_float32)
    return reference.add_rms_norm(stream, hidden, weight, eps, in_float32)
