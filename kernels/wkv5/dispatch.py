"""RWKV-5's time mixing on whatever device there is."""

from collections.abc import Sequence

from torch import Tensor

from ..devices import has_kernel, in_slots, runs_triton
from ..packing import Packing
from . import reference
from .reference import Heads

LARGEST_HEAD = 128  # of whose state a program of a step has all


def prefill(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, packing: Packing, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`reference.prefill`."""
    if runs_triton(r):
        from .triton_prefill import prefill as fused

        return fused(r, k, v, log_w, u, packing, state)
    return reference.prefill(r, k, v, log_w, u, packing, state)


def mix_step(x: Tensor, mus: Sequence[Tensor], last: Tensor, rows: Tensor | None = None) -> Sequence[Tensor]:
    """`reference.mix` of x `[B, D]`, one token a sequence, with the tokens before it, whose place it then takes.

    Args:
        mus: `[D]` each.
        last: `[slots, D]`.
        rows: the slot of each sequence, none twice; None: row i is slot i.
    """
    if runs_triton(x):
        from .triton_step import mix_step as fused

        return fused(x, mus, last, rows)
    slots = slice(None) if rows is None else rows
    mixed = reference.mix(x, last[slots], mus)
    last[slots] = x
    return mixed


def gated_step(
    r: Tensor, k: Tensor, v: Tensor, gate: Tensor, heads: Heads, state: Tensor, rows: Tensor | None = None
) -> Tensor:
    """`reference.gated_step` on the slots `rows` of `state` `[slots, H, N, N]`, by default on all."""
    if has_kernel(r, r.shape[2] <= LARGEST_HEAD, f"steps of WKV-5, head_size {r.shape[2]}"):
        from .triton_step import gated_step as fused

        return fused(r, k, v, gate, heads, state, rows)
    return in_slots(lambda s: reference.gated_step(r, k, v, gate, heads, s[0]), (state,), rows)
