"""Sliding-window attention over packed prompts, in Triton: the equations and the ring of `reference.py`.

A program has a piece of one sequence and a head. It walks the keys that its queries can see, a tile at a time with a
running maximum (arXiv 1805.02867): first those of the ring, where the piece is near the sequence's begin, then those of
the packed tensor. The program with a sequence's last piece writes the new ring.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..packing import Packing
from ..pieces import pieces


class Config(NamedTuple):
    """How the work is cut; numbers are powers of two, at least 16."""

    queries: int = 64  # of a piece
    keys: int = 32  # of a tile
    warps: int = 4
    stages: int = 2  # tiles on their way


DEFAULT = Config()
LOG2E = 1.4426950408889634  # exp(x) = exp2(LOG2E x)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q, k, v, i, j, largest, total, y, W: tl.constexpr, SCALE: tl.constexpr
):  # fmt: skip
    """Take a tile of keys and values at places j into the sums of the queries at places i."""
    scores = tl.dot(q, tl.trans(k), input_precision="tf32x3") * SCALE
    lag = i[:, None] - j[None, :]
    scores = tl.where((lag >= 0) & (lag < W), scores, float("-inf"))
    larger = tl.maximum(largest, tl.max(scores, axis=1))
    base = tl.where(larger == float("-inf"), 0.0, larger)  # of a query that has seen no key yet
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(largest - base)
    total = total * shrink + tl.sum(weights, axis=1)
    y = tl.dot(weights.to(v.dtype), v, y * shrink[:, None], input_precision="tf32x3")
    return larger, total, y


@triton.jit
def _ringed(  # type: ignore[no-untyped-def]
    keys, values, place, known, j, e, in_e, W: tl.constexpr, E: tl.constexpr
):  # fmt: skip
    """Keys and values of the ring at places j < 0 before the new tokens; zeros where no token was read."""
    slot = (place + W + j) % W
    at = slot[:, None] * E + e[None, :]
    inside = ((j < 0) & (j >= -known))[:, None] & in_e[None, :]
    return tl.load(keys + at, mask=inside, other=0.0), tl.load(values + at, mask=inside, other=0.0)


@triton.jit
def _prefill(  # type: ignore[no-untyped-def]
    q, k, v, y,  # [T, H, E]
    q_row, q_head, k_row, k_head, v_row, v_head,  # strides
    offsets, position, piece_row, piece_place,  # [B + 1], [B], [P], [P]
    old_keys, old_values, new_keys, new_values,  # [B, H, W, E]; old if OLD
    W: tl.constexpr, H: tl.constexpr, E: tl.constexpr, EP: tl.constexpr, QUERIES: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, SCALE: tl.constexpr, OLD: tl.constexpr,
):  # fmt: skip
    piece, h = tl.program_id(0), tl.program_id(1)
    b = tl.load(piece_row + piece).to(tl.int64)
    start = tl.load(piece_place + piece).to(tl.int64) * QUERIES
    first, end = tl.load(offsets + b), tl.load(offsets + b + 1)
    read = tl.load(position + b)
    # From here on places count from the piece's first token; those of the ring come before -near.
    n = (end - first - start).to(tl.int32)
    near = tl.minimum(start, W).to(tl.int32)
    known = tl.minimum(read, W - 1).to(tl.int32) if OLD else 0
    at = first + start
    q += at * q_row + h * q_head
    k += at * k_row + h * k_head
    v += at * v_row + h * v_head
    y += (at * H + h) * E
    ring = (b * H + h) * (W * E)
    e = tl.arange(0, EP)
    in_e = e < E
    i, tile = tl.arange(0, QUERIES), tl.arange(0, TILE)
    asked = (i < n)[:, None] & in_e[None, :]
    q_all = tl.load(q + i[:, None] * q_row + e[None, :], mask=asked, other=0.0)
    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    y_sum = tl.zeros([QUERIES, EP], tl.float32)
    if OLD:
        old_keys += ring
        old_values += ring
        begun = (read % W).to(tl.int32)  # the place of the first new token
        # Of the ring, what the first query can see: from 1 - W on, and nothing that was never read.
        for low in tl.range(tl.maximum(1 - W, -near - known), -near, TILE, num_stages=1):
            j = low + tile
            k_tile, v_tile = _ringed(old_keys, old_values, begun, known, j + near, e, in_e, W, E)
            j = tl.where(j < -near, j, QUERIES)  # beyond: no query sees them from here
            largest, total, y_sum = _attend(q_all, k_tile, v_tile, i, j, largest, total, y_sum, W, SCALE)
    for low in tl.range(tl.maximum(1 - W, -near), tl.minimum(n, QUERIES), TILE, num_stages=STAGES):
        j = low + tile
        inside = (j < n)[:, None] & in_e[None, :]
        k_tile = tl.load(k + j[:, None] * k_row + e[None, :], mask=inside, other=0.0)
        v_tile = tl.load(v + j[:, None] * v_row + e[None, :], mask=inside, other=0.0)
        largest, total, y_sum = _attend(q_all, k_tile, v_tile, i, j, largest, total, y_sum, W, SCALE)
    tl.store(y + i[:, None] * (H * E) + e[None, :], (y_sum / total[:, None]).to(y.dtype.element_ty), mask=asked)
    if n <= QUERIES:  # the last piece
        place = ((read + (end - first)) % W).to(tl.int32)  # of the next token
        for low in tl.range(-W, 0, TILE, num_stages=1):
            age = low + tile  # -1 for the newest
            j = n + age
            inside = ((age < 0) & (j >= -near))[:, None] & in_e[None, :]
            k_tile = tl.load(k + j[:, None] * k_row + e[None, :], mask=inside, other=0.0)
            v_tile = tl.load(v + j[:, None] * v_row + e[None, :], mask=inside, other=0.0)
            if OLD:
                older = tl.where(age < 0, j + near, 0)
                k_old, v_old = _ringed(old_keys, old_values, begun, known, older, e, in_e, W, E)
                k_tile += k_old
                v_tile += v_old
            to = ring + ((place + W + age) % W)[:, None] * E + e[None, :]
            kept = (age < 0)[:, None] & in_e[None, :]
            tl.store(new_keys + to, k_tile, mask=kept)
            tl.store(new_values + to, v_tile, mask=kept)


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int,
    packing: Packing,
    position: Tensor,
    ring: tuple[Tensor, Tensor] | None = None,
    config: Config = DEFAULT,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`reference.prefill` in one kernel: q, k (rotated), v `[T, H, head_dim]` -> y, new ring `[B, H, W, head_dim]`."""
    (_, H, E), B = q.shape, packing.batch
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    y = v.new_empty(v.shape)
    new = k.new_empty(B, H, window, E), v.new_empty(B, H, window, E)
    old = new if ring is None else (ring[0].contiguous(), ring[1].contiguous())
    cut = pieces(packing, config.queries)
    if B:
        _prefill[(len(cut), H)](
            q, k, v, y, *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
            packing.offsets, position, cut.row, cut.place, *old, *new,
            W=window, H=H, E=E, EP=max(16, triton.next_power_of_2(E)), QUERIES=config.queries, TILE=config.keys,
            STAGES=config.stages, SCALE=scale * LOG2E, OLD=ring is not None, num_warps=config.warps,
        )  # fmt: skip
    return y, new
