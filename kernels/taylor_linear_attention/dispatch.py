"""Taylor linear attention's decoding step on whatever device there is."""

from torch import Tensor

from ..devices import in_slots, runs_triton
from . import reference
from .reference import TaylorState


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    position: Tensor,
    state: TaylorState,
    decay: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """`reference.step` on the slots `rows` of `state`, by default on all; `position` `[slots]`."""
    if runs_triton(q):
        from .triton_step import step as fused

        return fused(q, k, v, scale, position, state, decay, rows)
    read = position if rows is None else position[rows]
    return in_slots(lambda s: reference.step(q, k, v, scale, read, s, decay), state, rows)
