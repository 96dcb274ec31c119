"""Sliding-window attention, rotation included, on whatever device there is."""

from torch import Tensor

from ..devices import has_kernel, in_slots, runs_triton
from ..packing import Packing
from ..rotary.dispatch import rotate
from ..rotary.reference import apply_rotary
from . import reference

LARGEST_HEAD = 256  # dimensions that the Triton form of `prefill` takes, half of them in float32


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int,
    packing: Packing,
    position: Tensor,
    ring: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`reference.prefill` of q and k rotated by `angles`; larger heads than LARGEST_HEAD by the reference.

    Args:
        q, k: `[T, H, head_dim]`, not rotated; angles: cosines and sines `[T, n]`, or None.
    """
    q, k = rotate(q, k, angles)
    fits = q.shape[2] * q.element_size() <= 2 * LARGEST_HEAD
    if has_kernel(q, fits, f"prompts of sliding-window attention, head_dim {q.shape[2]}"):
        from .triton_prefill import prefill as fused

        return fused(q, k, v, scale, window, packing, position, ring)
    return reference.prefill(q, k, v, scale, window, packing, position, ring)


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
