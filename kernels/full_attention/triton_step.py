"""Full attention, one token a sequence, in Triton: the equations of `reference.py`, for heads of any size.

A program has one sequence and head, and of its keys one part. It walks them a tile at a time with a running maximum
(arXiv 1805.02867); the next tile is on its way meanwhile. The first part puts the new key and value into the cache and
begins with them. Where sequences and heads are too few to fill a device the keys are cut into parts, whose sums
`_combine` puts together (flash decoding): with s_j = q·k_j * scale and, over the keys of part p,

    m_p = max_j s_j,    l_p = sum_j exp(s_j - m_p),    Y_p = sum_j exp(s_j - m_p) v_j
    y = sum_p exp(m_p - m) Y_p / sum_p exp(m_p - m) l_p,    m = max_p m_p
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped, slots_of


class Config(NamedTuple):
    """How the work is cut."""

    keys: int  # of a tile; a power of two
    warps: int


MANY, FEW = Config(keys=8, warps=1), Config(keys=16, warps=1)  # for sequences times heads; the quickest on an H200
ENOUGH_PROGRAMS = 2048  # that fill a device
SHORTEST_PART = 32  # keys
MOST_PARTS = 64


@triton.jit
def _tile(keys, values, row, start, end, j, e, in_e):  # type: ignore[no-untyped-def]
    """Keys and values start + j `[TILE, EP]`; the first in 64 bits, since a cache may be longer than 2³¹ / row."""
    inside = (start + j < end)[:, None] & in_e[None, :]
    first, at = tl.cast(start, tl.int64) * row, j[:, None] * row + e[None, :]
    return tl.load(keys + first + at, mask=inside, other=0.0), tl.load(values + first + at, mask=inside, other=0.0)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q, k, v, y,  # [B, H, E]
    q_row, q_head, k_row, k_head, v_row, v_head,  # strides
    rows, position,  # [B] twice
    keys, values, slot_size,  # [slots, capacity, H, E]; capacity * H * E
    largests, totals, sums,  # [B H, PARTS] twice, [B H, PARTS, E]: of each part, if there are several
    H: tl.constexpr, E: tl.constexpr, EP: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr, SCALE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i, h, part = tl.program_id(0) // H, tl.program_id(0) % H, tl.program_id(1)
    seen = tl.load(position + i).to(tl.int32)  # tokens before this one
    e, j = tl.arange(0, EP), tl.arange(0, TILE)
    in_e = e < E
    at = tl.load(rows + i).to(tl.int64) * slot_size + h * E
    keys += at
    values += at
    q_now = tl.load(q + i * q_row + h * q_head + e, mask=in_e, other=0.0).to(tl.float32) * SCALE
    k_now = tl.load(k + i * k_row + h * k_head + e, mask=in_e, other=0.0)
    v_now = tl.load(v + i * v_row + h * v_head + e, mask=in_e, other=0.0)
    new = tl.cast(seen, tl.int64) * (H * E) + e
    tl.store(keys + new, k_now, mask=in_e & (part == 0))
    tl.store(values + new, v_now, mask=in_e & (part == 0))
    largest = tl.where(part == 0, tl.sum(q_now * k_now.to(tl.float32), axis=0), float("-inf"))
    total = tl.where(part == 0, 1.0, 0.0)
    y_sum = v_now.to(tl.float32) * total
    span = tl.cdiv(tl.cdiv(seen, PARTS), TILE) * TILE
    begin = part * span
    end = tl.minimum(begin + span, seen)
    k_next, v_next = _tile(keys, values, H * E, begin, end, j, e, in_e)
    for start in range(begin, end, TILE):
        k_tile, v_tile = k_next.to(tl.float32), v_next.to(tl.float32)
        k_next, v_next = _tile(keys, values, H * E, start + TILE, end, j, e, in_e)
        scores = tl.where(start + j < end, tl.sum(k_tile * q_now[None, :], axis=1), float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, axis=0))
        weights = tl.exp(scores - larger)
        shrink = tl.exp(largest - larger)
        total = total * shrink + tl.sum(weights, axis=0)
        y_sum = y_sum * shrink + tl.sum(weights[:, None] * v_tile, axis=0)
        largest = larger
    if PARTS == 1:
        tl.store(y + tl.program_id(0) * E + e, (y_sum / total).to(y.dtype.element_ty), mask=in_e)
    else:
        to = tl.program_id(0) * PARTS + part
        tl.store(largests + to, largest)
        tl.store(totals + to, total)
        tl.store(sums + to * E + e, y_sum, mask=in_e)


@triton.jit
def _combine(  # type: ignore[no-untyped-def]
    largests, totals, sums, y, E: tl.constexpr, EP: tl.constexpr, PARTS: tl.constexpr, PDL: tl.constexpr
):
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    p, e = tl.program_id(0) * PARTS + tl.arange(0, PARTS), tl.arange(0, EP)
    largest = tl.load(largests + p)
    shrink = tl.exp(largest - tl.max(largest, axis=0))  # 0 for a part without keys
    y_sum = tl.load(sums + p[:, None] * E + e[None, :], mask=(e < E)[None, :], other=0.0)
    total = tl.sum(shrink * tl.load(totals + p), axis=0)
    out = tl.sum(shrink[:, None] * y_sum, axis=0) / total
    tl.store(y + tl.program_id(0) * E + e, out.to(y.dtype.element_ty), mask=e < E)


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    position: Tensor,
    cache: tuple[Tensor, Tensor],
    rows: Tensor | None = None,
    config: Config | None = None,
    parts: int | None = None,
) -> Tensor:
    """`reference.step`: q, k, v `[B, H, head_dim]`, a contiguous cache.

    Args:
        config: how the work is cut; None for what suits the sizes.
        parts: into how many the keys of a sequence are cut, a power of two; None for what fills the device. That looks
            at the cache's capacity alone, so that a CUDA graph can hold it.
    """
    (B, H, E), capacity = q.shape, cache[0].shape[1]
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    if parts is None:
        wanted = min(ENOUGH_PROGRAMS // max(1, B * H), capacity // SHORTEST_PART, MOST_PARTS)
        parts = 1 << max(0, wanted.bit_length() - 1)
    config = config or (MANY if B * H >= ENOUGH_PROGRAMS else FEW)
    y = v.new_empty(B, H, E)
    if not B:
        return y
    largests, totals = v.new_empty(2, B * H, parts, dtype=torch.float32)
    sums = v.new_empty(B * H, parts, E, dtype=torch.float32)
    sizes = {"E": E, "EP": triton.next_power_of_2(E), "PARTS": parts, **overlapped(q)}
    _attend[(B * H, parts)](
        q, k, v, y, *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], slots_of(rows, q), position,
        *cache, capacity * H * E, largests, totals, sums, H=H, TILE=config.keys, SCALE=scale,
        num_warps=config.warps, **sizes,
    )  # fmt: skip
    if parts > 1:
        _combine[(B * H,)](largests, totals, sums, y, num_warps=4, **sizes)
    return y
