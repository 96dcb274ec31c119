"""The selective scan's decoding step on whatever device there is."""

from torch import Tensor

from ..devices import in_slots, runs_triton
from . import reference


def gated_step(
    u: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    a_log: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    gate: Tensor,
    state: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    """`reference.gated_step` on the slots `rows` of `state`, by default on all."""
    if runs_triton(u):
        from .triton_step import gated_step as fused

        return fused(u, dt, dt_bias, a_log, b, c, skip, gate, state, rows)
    return in_slots(lambda s: reference.gated_step(u, dt, dt_bias, a_log, b, c, skip, gate, s[0]), (state,), rows)
