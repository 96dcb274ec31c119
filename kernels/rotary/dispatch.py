"""Rotary embedding of packed prompts on whatever device there is."""

from torch import Tensor

from ..devices import runs_triton
from .reference import apply_rotary


def rotate(q: Tensor, k: Tensor, angles: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """`apply_rotary` of q and k `[T, H, head_dim]` by cosines and sines `[T, n]`; None: as they are."""
    if angles is None:
        return q, k
    if runs_triton(q):
        from .triton_prefill import rotate as fused

        return fused(q, k, *angles)
    return apply_rotary(q, *angles), apply_rotary(k, *angles)
