"""Sliding-window attention's decoding step, rotation included, on whatever device there is."""

from torch import Tensor

from ..devices import in_slots, runs_triton
from ..rotary.reference import apply_rotary
from . import reference


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: tuple[Tensor, Tensor] | None,
    scale: float,
    position: Tensor,
    ring: tuple[Tensor, Tensor],
    rows: Tensor | None = None,
) -> Tensor:
    """`reference.step` of q and k rotated by `angles`, on the slots `rows` of `ring`, by default on all.

    Args:
        q, k: `[B, H, head_dim]`, not rotated; angles: cosines and sines `[B, n]`, or None.
        position: `[slots]` int64, tokens read before this one.
    """
    if runs_triton(q):
        from .triton_step import step as fused

        return fused(q, k, v, angles, scale, position, ring, rows)
    if angles:
        q, k = apply_rotary(q, *angles), apply_rotary(k, *angles)
    read = position if rows is None else position[rows]
    return in_slots(lambda s: reference.step(q, k, v, scale, read, s), ring, rows)
