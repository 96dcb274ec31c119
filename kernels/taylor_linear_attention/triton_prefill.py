"""Taylor linear attention over packed prompts, in Triton: the equations and the state of `reference.py`.

A program walks a segment of one sequence and head, a chunk of tokens at a time, with the state in registers:

    y_i = sum_{j <= i in the chunk} (1 + s + s²/2) v_j + S0 + scale q_i·S1 + scale²/2 sum_{a,b} q_a q_b M_ab
    S0 += sum_j v_j,    S1 += sum_j k_j v_jᵀ,    M_ab += sum_j k_a k_b v_jᵀ

M is symmetric. With the 16 dimensions (or fewer, filled up) cut into halves, the blocks (low, all) and (high, high) are
kept: 192 instead of 256 products, in three matrices of 64 rows, which the tensor cores take. They are packed into the F
features of the state when a segment ends. Products are bfloat16, sums float32.

Where sequences and heads are too few to fill the device, sequences are cut into segments: `_walk` first sums the states
that the segments add, `_prefix` turns those into the states they begin with, and `_walk` again makes the outputs.
"""

from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..packing import Packing
from .reference import FOLD, TaylorState, n_features


class Config(NamedTuple):
    """How the work is cut; numbers are powers of two."""

    chunk: int = 64  # tokens
    warps: int = 4


DEFAULT = Config()
ENOUGH_PROGRAMS = 192  # walks that fill a device
SHORTEST_SEGMENT = 128  # tokens


@triton.jit
def _tokens(x, x_row, old, old_row, u, waiting, end, e, in_e, RECENT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of tokens u `[u, e]`: the first `waiting` lie beside the old state, the others in x; 0 from `end` on."""
    new = (u >= waiting) & (u < end)
    tile = tl.load(x + (u - waiting)[:, None] * x_row + e[None, :], mask=new[:, None] & in_e[None, :], other=0.0)
    if RECENT:
        before = (u < waiting) & (u < end)
        tile += tl.load(old + u[:, None] * old_row + e[None, :], mask=before[:, None] & in_e[None, :], other=0.0)
    return tile


@triton.jit
def _unpack(s, z, table, rows, e, in_e, DV: tl.constexpr, LOAD: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of the matrix and of its normaliser from the packed state, or zeros."""
    f, by = tl.load(table + 2 * rows).to(tl.int32), tl.load(table + 2 * rows + 1)
    if LOAD:
        tile = tl.load(s + f[:, None] * DV + e[None, :], mask=(f >= 0)[:, None] & in_e[None, :], other=0.0)
        sums = tl.load(z + f, mask=f >= 0, other=0.0).to(tl.float32) * by
        return tile.to(tl.float32) * by[:, None], sums
    return tl.zeros([rows.shape[0], e.shape[0]], tl.float32), tl.zeros([rows.shape[0]], tl.float32)


@triton.jit
def _pack(s, z, tile, sums, table, rows, once, e, in_e, first, DV: tl.constexpr):  # type: ignore[no-untyped-def]
    f, by = tl.load(table + 2 * rows).to(tl.int32), tl.load(table + 2 * rows + 1)
    once &= f >= 0
    tl.store(s + f[:, None] * DV + e[None, :], tile / by[:, None], mask=once[:, None] & in_e[None, :])
    tl.store(z + f, sums / by, mask=once & first)


@triton.jit
def _asked(q, q_row, u, waiting, end, e, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Columns e of the queries u."""
    mask = ((u >= waiting) & (u < end))[:, None] & (e < D)[None, :]
    return tl.load(q + (u - waiting)[:, None] * q_row + e[None, :], mask=mask, other=0.0)


@triton.jit
def _products(left, right, CHUNK: tl.constexpr):  # type: ignore[no-untyped-def]
    """`[CHUNK, m]`, `[CHUNK, n]` with m n = 64 -> `[CHUNK, 64]`."""
    return tl.reshape(left[:, :, None] * right[:, None, :], [CHUNK, 64])


@triton.jit
def _read_out(phi, m, z, y_sum, sums):  # type: ignore[no-untyped-def]
    return tl.dot(phi, m.to(phi.dtype), y_sum, input_precision="ieee"), sums + tl.sum(
        phi.to(tl.float32) * z[None, :], axis=1
    )


@triton.jit
def _take_up(phi, v, m, z):  # type: ignore[no-untyped-def]
    return tl.dot(tl.trans(phi), v, m, input_precision="ieee"), z + tl.sum(phi.to(tl.float32), axis=0)


@triton.jit
def _walk(  # type: ignore[no-untyped-def]
    q, k, v, y,  # [T, H, d] twice, [T, H, dv] twice
    q_row, q_head, k_row, k_head, v_row, v_head,  # strides
    offsets, position,  # [B + 1], [B]
    s_old, z_old,  # [B, S, H, F, dv], [B, S, H, F]: before each segment, if OLD
    keys_old, values_old,  # [B, FOLD, H, d or dv], if RECENT
    s_new, z_new,  # out: after each sequence [B, H, F, dv]; if SUMS what each segment adds [B, S, H, F, dv]
    keys_new, values_new,  # out
    table,  # [rows of M and S1, 2]: the feature of a row, and what to multiply it by
    segment, S,  # tokens of a segment; segments of a sequence
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, F: tl.constexpr, FOLD: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr, SCALE: tl.constexpr,
    OLD: tl.constexpr, RECENT: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    b, h, part = tl.program_id(0) // H, tl.program_id(0) % H, tl.program_id(1)
    e, first_block = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK), tl.program_id(2) == 0
    in_e = e < DV
    d, row, c = tl.arange(0, 16), tl.arange(0, 64), tl.arange(0, CHUNK)
    some, high = tl.arange(0, 4), 8 + tl.arange(0, 8)
    first = tl.load(offsets + b)
    waiting = (tl.load(position + b) % FOLD).to(tl.int32)
    total = waiting + (tl.load(offsets + b + 1) - first).to(tl.int32)
    folded = total - total % FOLD  # tokens that the state takes up
    begin = part * segment
    end = tl.minimum(begin + segment, total)
    q += first * q_row + h * q_head
    k += first * k_row + h * k_head
    v += first * v_row + h * v_head
    y += (first * H + h) * DV
    keys_old += (b * FOLD * H + h) * D
    values_old += (b * FOLD * H + h) * DV
    at = ((b * S + part) * H + h).to(tl.int64)
    s_old += at * (F * DV)
    z_old += at * F
    m_0, z_0 = _unpack(s_old, z_old, table, row, e, in_e, DV, OLD)
    m_1, z_1 = _unpack(s_old, z_old, table, 64 + row, e, in_e, DV, OLD)
    m_2, z_2 = _unpack(s_old, z_old, table, 128 + row, e, in_e, DV, OLD)
    m_3, z_3 = _unpack(s_old, z_old, table, 192 + d, e, in_e, DV, OLD)
    if OLD:
        s_sum, z_sum = tl.load(s_old + e, mask=in_e, other=0.0).to(tl.float32), tl.load(z_old).to(tl.float32)
    else:
        s_sum, z_sum = e * 0.0, begin * 0.0
    part_of_a = tl.where(d < 8, 0.5, 1.0).to(q.dtype.element_ty)  # (low, high) stands for (high, low) too

    for start in range(begin, end, CHUNK):
        u = start + c
        v_all = _tokens(v, v_row, values_old, H * DV, u, waiting, end, e, in_e, RECENT)
        if not SUMS:
            q_all = _asked(q, q_row, u, waiting, end, d, D)
            right = q_all * part_of_a[None, :]
            y_sum, sums = tl.zeros([CHUNK, BLOCK], tl.float32), tl.zeros([CHUNK], tl.float32)
            y_sum, sums = _read_out(
                _products(_asked(q, q_row, u, waiting, end, some, D), right, CHUNK), m_0, z_0, y_sum, sums
            )
            y_sum, sums = _read_out(
                _products(_asked(q, q_row, u, waiting, end, 4 + some, D), right, CHUNK), m_1, z_1, y_sum, sums
            )
            q_high = _asked(q, q_row, u, waiting, end, high, D)
            y_sum, sums = _read_out(_products(q_high, (q_high * 0.5).to(q_high.dtype), CHUNK), m_2, z_2, y_sum, sums)
            y_sum, sums = _read_out(q_all, m_3, z_3, y_sum * SCALE, sums * SCALE)
            similarity = tl.dot(
                q_all,
                tl.trans(_tokens(k, k_row, keys_old, H * D, u, waiting, end, d, d < D, RECENT)),
                input_precision="ieee",
            )
            similarity *= SCALE
            seen = (c[:, None] >= c[None, :]) & (u < end)[None, :]
            weights = tl.where(seen, 1.0 + similarity + similarity * similarity * 0.5, 0.0)
            y_sum = tl.dot(weights.to(v_all.dtype), v_all, y_sum * SCALE + s_sum[None, :], input_precision="ieee")
            sums = sums * SCALE + z_sum + tl.sum(weights, axis=1)
            out = (y_sum / sums[:, None]).to(y.dtype.element_ty)
            asked = (u >= waiting) & (u < end)
            tl.store(y + (u - waiting)[:, None] * (H * DV) + e[None, :], out, mask=asked[:, None] & in_e[None, :])
        up_to = tl.minimum(end, folded)
        k_all = _tokens(k, k_row, keys_old, H * D, u, waiting, up_to, d, d < D, RECENT)
        k_some = _tokens(k, k_row, keys_old, H * D, u, waiting, up_to, some, some < D, RECENT)
        m_0, z_0 = _take_up(_products(k_some, k_all, CHUNK), v_all, m_0, z_0)
        k_some = _tokens(k, k_row, keys_old, H * D, u, waiting, up_to, 4 + some, 4 + some < D, RECENT)
        m_1, z_1 = _take_up(_products(k_some, k_all, CHUNK), v_all, m_1, z_1)
        k_high = _tokens(k, k_row, keys_old, H * D, u, waiting, up_to, high, high < D, RECENT)
        m_2, z_2 = _take_up(_products(k_high, k_high, CHUNK), v_all, m_2, z_2)
        m_3, z_3 = _take_up(k_all, v_all, m_3, z_3)
        taken = u < up_to
        s_sum += tl.sum(tl.where(taken[:, None], v_all.to(tl.float32), 0.0), axis=0)
        z_sum += tl.sum(tl.where(taken, 1.0, 0.0), axis=0)

    if SUMS or ((begin < total) & (end == total)) or ((total == 0) & (part == 0)):
        to = (at if SUMS else b * H + h).to(tl.int64)
        s_new += to * (F * DV)
        z_new += to * F
        # Of (a, b) and (b, a) in one block, one is written.
        _pack(s_new, z_new, m_0, z_0, table, row, row // 16 <= row % 16, e, in_e, first_block, DV)
        _pack(s_new, z_new, m_1, z_1, table, 64 + row, 4 + row // 16 <= row % 16, e, in_e, first_block, DV)
        _pack(s_new, z_new, m_2, z_2, table, 128 + row, row // 8 <= row % 8, e, in_e, first_block, DV)
        _pack(s_new, z_new, m_3, z_3, table, 192 + d, d >= 0, e, in_e, first_block, DV)
        tl.store(s_new + e, s_sum, mask=in_e)
        tl.store(z_new, z_sum, mask=first_block)
        if not SUMS:
            j = tl.arange(0, FOLD)
            u = folded + j
            k_left = _tokens(k, k_row, keys_old, H * D, u, waiting, total, d, d < D, RECENT)
            v_left = _tokens(v, v_row, values_old, H * DV, u, waiting, total, e, in_e, RECENT)
            place = (b * FOLD + j) * H + h
            tl.store(keys_new + place[:, None] * D + d[None, :], k_left, mask=(d < D)[None, :] & first_block)
            tl.store(values_new + place[:, None] * DV + e[None, :], v_left, mask=in_e[None, :])


@triton.jit
def _prefix(added, before, old, S, SIZE, BLOCK: tl.constexpr, OLD: tl.constexpr):  # type: ignore[no-untyped-def]
    """What each segment adds `[B, S, SIZE]` -> what stood before it; `old` `[B, SIZE]` before the first, if OLD."""
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < SIZE
    total = tl.zeros([BLOCK], tl.float32)
    if OLD:
        total += tl.load(old + b * SIZE + i, mask=inside, other=0.0).to(tl.float32)
    for part in range(S):
        at = (b * S + part) * SIZE + i
        tl.store(before + at, total, mask=inside)
        total += tl.load(added + at, mask=inside, other=0.0)


@lru_cache(maxsize=32)
def row_table(feature_dim: int, scale: float, device: torch.device) -> Tensor:
    """`[192 + 16, 2]` float32: for each row of M and then of S1 its packed feature, or -1, and its factor.

    M_ab is the feature of (a, b), a <= b, by 1 / scale, and sqrt(2) more on the diagonal; S1 by 1 / sqrt(scale).
    """
    d = feature_dim
    pairs = [(a, b) for a in range(8) for b in range(16)] + [(a, b) for a in range(8, 16) for b in range(8, 16)]
    packed = {(a, b): 1 + d + i for i, (a, b) in enumerate((a, b) for a in range(d) for b in range(a, d))}
    rows = [(packed.get((min(a, b), max(a, b)), -1), (sqrt(2) if a == b else 1.0) / scale) for a, b in pairs]
    rows += [(1 + a if a < d else -1, scale**-0.5) for a in range(16)]
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.float32).to(device)


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    packing: Packing,
    position: Tensor,
    state: TaylorState | None = None,
    config: Config = DEFAULT,
    segment: int | None = None,
) -> tuple[Tensor, TaylorState]:
    """`reference.prefill` without a decay: q, k `[T, H, d]`, d <= 16, v `[T, H, dv]`.

    Args:
        segment: tokens that a program walks, a multiple of `config.chunk`; None for what fills the device.
    """
    B, (_, H, D), DV, F = packing.batch, q.shape, v.shape[2], n_features(q.shape[2])
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    block = max(16, min(64, triton.next_power_of_2(DV)))
    blocks = triton.cdiv(DV, block)
    longest = packing.longest + FOLD - 1  # with what may lie beside the state
    if segment is None:
        parts = max(1, min(ENOUGH_PROGRAMS // max(1, B * H * blocks), longest // SHORTEST_SEGMENT))
        segment = triton.cdiv(triton.cdiv(longest, parts), config.chunk) * config.chunk
    S = triton.cdiv(longest, segment)
    y = v.new_empty(v.shape)

    def empty(*shape: int) -> Tensor:
        return v.new_empty(*shape, dtype=torch.float32)

    after = TaylorState(empty(B, H, F, DV), empty(B, H, F), k.new_empty(B, FOLD, H, D), v.new_empty(B, FOLD, H, DV))
    if not B:
        return y, after
    offsets, table = packing.offsets, row_table(D, scale, q.device)
    recent = (after if state is None else state)[2:]
    strides = (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2])
    constants = {
        "H": H, "D": D, "DV": DV, "F": F, "FOLD": FOLD, "BLOCK": block, "CHUNK": config.chunk,
        "SCALE": scale, "RECENT": state is not None, "num_warps": config.warps,
    }  # fmt: skip

    def walk(before: tuple[Tensor, Tensor], to: tuple[Tensor, Tensor], old: bool, sums: bool) -> None:
        _walk[(B * H, S, blocks)](
            q, k, v, y, *strides, offsets, position, *before, *recent, *to, *after[2:], table, segment, S,
            **constants, OLD=old, SUMS=sums,
        )  # fmt: skip

    if S == 1:
        walk((after if state is None else state)[:2], after[:2], state is not None, False)
        return y, after
    added, before = ((empty(B, S, H, F, DV), empty(B, S, H, F)) for _ in range(2))
    walk(added, added, False, True)
    for which in (0, 1):
        size = added[which][0, 0].numel()
        old = after[which] if state is None else state[which]
        _prefix[(triton.cdiv(size, 1024), B)](
            added[which], before[which], old, S, size, BLOCK=1024, OLD=state is not None, num_warps=4
        )
    walk(before, after[:2], True, False)
    return y, after
