"""Sliding-window attention with rotary embedding, one token a sequence, in Triton: the equations of `reference.py`.

A program has one sequence and head. It turns the new query and key, puts key and value into the ring, and walks the
ring, which then holds W - 1 older keys, a tile at a time with a running maximum (arXiv 1805.02867); the next tile is on
its way meanwhile.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped, slots_of


class Config(NamedTuple):
    """How the work is cut."""

    keys: int  # of a tile; a power of two
    warps: int
    registers: int | None = None  # most of a thread, so that more programs run at a time


MANY = Config(keys=8, warps=1)
FEW = Config(keys=128, warps=8)  # where sequences and heads are too few to fill the device
FEW_PROGRAMS = 128


@triton.jit
def _turned(x, e, cos, sin, angles, in_e):  # type: ignore[no-untyped-def]
    """x rotated, in the dtype of x: dimensions e and e + angles form a pair."""
    first, second = e < angles, (e >= angles) & (e < 2 * angles)
    own = tl.load(x + e, mask=in_e, other=0.0)
    other = tl.load(x + tl.where(first, e + angles, e - angles), mask=first | second, other=0.0).to(tl.float32)
    angle = tl.where(first, e, e - angles)
    c = tl.load(cos + angle, mask=first | second, other=1.0).to(tl.float32)
    s = tl.load(sin + angle, mask=first | second, other=0.0).to(tl.float32)
    return (own.to(tl.float32) * c + tl.where(first, -other, other) * s).to(own.dtype)


@triton.jit
def _tile(keys, values, place, age, older, e, in_e, W: tl.constexpr, E: tl.constexpr):  # type: ignore[no-untyped-def]
    """Keys and values of the tokens of that age; zeros from `older` on."""
    j = ((place + W - 1 - age) % W).to(tl.int32)
    inside = (age < older)[:, None] & in_e[None, :]
    k = tl.load(keys + j[:, None] * E + e[None, :], mask=inside, other=0.0)
    return k, tl.load(values + j[:, None] * E + e[None, :], mask=inside, other=0.0)


@triton.jit
def _step(  # type: ignore[no-untyped-def]
    q, k, v, y,  # [B, H, E]
    q_row, q_head, k_row, k_head, v_row, v_head,  # strides
    cos, sin, angles,  # [B, angles]
    rows, position,  # [B], [slots]
    keys, values,  # [slots, H, W, E]
    W: tl.constexpr, H: tl.constexpr, E: tl.constexpr, EP: tl.constexpr, TILE: tl.constexpr, SCALE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i, h = tl.program_id(0) // H, tl.program_id(0) % H
    slot = tl.load(rows + i).to(tl.int64)
    seen = tl.load(position + slot)  # tokens before this one
    place = seen % W
    e = tl.arange(0, EP)
    in_e = e < E
    keys += (slot * H + h) * (W * E)
    values += (slot * H + h) * (W * E)
    q_now = _turned(q + i * q_row + h * q_head, e, cos + i * angles, sin + i * angles, angles, in_e).to(tl.float32)
    k_now = _turned(k + i * k_row + h * k_head, e, cos + i * angles, sin + i * angles, angles, in_e)
    v_now = tl.load(v + i * v_row + h * v_head + e, mask=in_e, other=0.0)
    tl.store(keys + place * E + e, k_now, mask=in_e)
    tl.store(values + place * E + e, v_now, mask=in_e)
    largest = tl.sum(q_now * k_now.to(tl.float32), axis=0) * SCALE
    total = tl.full((), 1.0, tl.float32)
    y_sum = v_now.to(tl.float32)
    older = tl.minimum(seen, W - 1).to(tl.int32)
    age = tl.arange(0, TILE)  # 0 for the token before the new one
    k_next, v_next = _tile(keys, values, place, age, older, e, in_e, W, E)
    for start in range(0, older, TILE):
        k_tile, v_tile = k_next.to(tl.float32), v_next.to(tl.float32)
        k_next, v_next = _tile(keys, values, place, start + TILE + age, older, e, in_e, W, E)
        scores = tl.sum(k_tile * q_now[None, :], axis=1) * SCALE
        scores = tl.where(start + age < older, scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, axis=0))
        weights = tl.exp(scores - larger)
        shrink = tl.exp(largest - larger)
        total = total * shrink + tl.sum(weights, axis=0)
        y_sum = y_sum * shrink + tl.sum(weights[:, None] * v_tile, axis=0)
        largest = larger
    tl.store(y + (i * H + h) * E + e, (y_sum / total).to(y.dtype.element_ty), mask=in_e)


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: tuple[Tensor, Tensor] | None,
    scale: float,
    position: Tensor,
    ring: tuple[Tensor, Tensor],
    rows: Tensor | None = None,
    config: Config | None = None,
) -> Tensor:
    """Rotation and `reference.step` in one kernel: q, k, v `[B, H, head_dim]`, not rotated, -> y; updates the ring.

    Args:
        angles: cosines and sines of the new tokens' positions `[B, n]`; None: nothing is rotated.
        position: `[slots]` int64, tokens read before this one.
        ring: keys and values of all slots `[slots, H, W, head_dim]`, contiguous.
        rows: `[B]`, the slot of each sequence, none twice; None: row i is slot i.
        config: how the work is cut; None for what suits the sizes.
    """
    (B, H, E), W = q.shape, ring[0].shape[2]
    rows = slots_of(rows, q)
    config = config or (MANY if B * H > FEW_PROGRAMS else FEW)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    y = v.new_empty(B, H, E)
    cos, sin = (x.contiguous() for x in angles) if angles else (q, q)
    n = cos.shape[1] if angles else 0
    if B:
        _step[(B * H,)](
            q, k, v, y, *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], cos, sin, n, rows, position, *ring,
            W, H=H, E=E, EP=triton.next_power_of_2(E), TILE=config.keys, SCALE=scale,
            num_warps=config.warps, maxnreg=config.registers, **overlapped(q),
        )  # fmt: skip
    return y
