"""Taylor linear attention on whatever device there is."""

from torch import Tensor

from ..devices import has_kernel, in_slots, runs_triton
from ..packing import Packing
from . import reference
from .reference import TaylorState

LARGEST_DIM = 16  # d that the Triton form of `prefill` takes; larger ones, and a decay, go through the reference


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    packing: Packing,
    position: Tensor,
    state: TaylorState | None = None,
    decay: Tensor | None = None,
) -> tuple[Tensor, TaylorState]:
    """`reference.prefill`."""
    fits = decay is None and q.shape[2] <= LARGEST_DIM
    if has_kernel(q, fits, f"prompts of Taylor attention, d {q.shape[2]}{'' if decay is None else ', decay'}"):
        from .triton_prefill import prefill as fused

        return fused(q, k, v, scale, packing, position, state)
    return reference.prefill(q, k, v, scale, packing, position, state, decay)


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
