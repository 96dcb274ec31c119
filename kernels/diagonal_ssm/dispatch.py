"""The diagonal SSM on whatever device there is."""

from torch import Tensor

from ..devices import in_slots, runs_triton
from . import reference
from .reference import DiagonalSSM


def gated_step(u: Tensor, ssm: DiagonalSSM, gate: Tensor, state: Tensor, rows: Tensor | None = None) -> Tensor:
    """`reference.step` times the gate `[B, D]`, on the slots `rows` of `state` `[slots, D, N, 2]`, by default all."""
    if runs_triton(u):
        from .triton_step import gated_step as fused

        return fused(u, ssm, gate, state, rows)
    return gate * in_slots(lambda s: reference.step(u, ssm, s[0]), (state,), rows)
