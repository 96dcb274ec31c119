"""The selective scan's decoding step on whatever device there is."""

from torch import Tensor

from ..devices import in_slots, runs_triton
from . import reference
from .reference import GatedInputs


def gated_step(x: GatedInputs, state: Tensor, rows: Tensor | None = None) -> Tensor:
    """`reference.gated_step` on the slots `rows` of `state`, by default on all."""
    if runs_triton(x.u):
        from .triton_step import gated_step as fused

        return fused(x, state, rows)
    return in_slots(lambda s: reference.gated_step(x, s[0]), (state,), rows)
