"""The causal filter on whatever device there is."""

from torch import Tensor

from ..devices import in_slots, runs_triton
from . import reference


def gated_step(u: Tensor, taps: Tensor, gate: Tensor, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
    """`reference.step` times the gate `[B, D]`, on the slots `rows` of `inputs` `[slots, N - 1, D]`, by default all."""
    if runs_triton(u):
        from .triton_step import gated_step as fused

        return fused(u, taps, gate, inputs, rows)
    return in_slots(lambda s: reference.step(u, taps, s[0]), (inputs,), rows) * gate
