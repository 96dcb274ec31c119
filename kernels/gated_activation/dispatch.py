"""SwiGLU's gate in a decoding step on whatever device there is."""

from torch import Tensor

from ..devices import runs_triton
from . import reference


def silu_gate(value: Tensor, gate: Tensor) -> Tensor:
    """`reference.silu_gate` of `[B, D]`."""
    if runs_triton(value):
        from .triton_gate import silu_gate as fused

        return fused(value, gate)
    return reference.silu_gate(value, gate)
