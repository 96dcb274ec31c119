"""Taylor linear attention over packed prompts, in Triton: the equations and the state of `reference.py`.

A program walks a segment of one sequence and head, a chunk of tokens at a time, with the state in registers:

    w_ij = 1 + s + s²/2,    s = q_i·k_j * scale,    g(x) = (x_a x_b for a <= b; x_a; 1)
    c    = (scale² for a < b, scale²/2 for a = b; scale; 1)
    y_i  = (sum_j w_ij v_j + sum_f c_f g_f(q_i) M_f) / (sum_j w_ij + sum_f c_f g_f(q_i) z_f),    j <= i of the chunk
    M_f += sum_j g_f(k_j) v_j,    z_f += sum_j g_f(k_j),    j of the chunk

The 153 features of 16 dimensions (or fewer, filled up) lie in three blocks of 64 rows, which the tensor cores take.
They are made there too: g(x) = (P x) * (R x) with matrices P and R of zeros and ones that select a and b, but for the
factors 1, which are put in. So they come out where the next product wants them, in registers and already in its order;
the usual outer product and reshape go through shared memory. The state keeps phi_f = sqrt(c_f) g_f, that is
sqrt(c_f) M_f and sqrt(c_f) z_f, and is unpacked and packed once a segment. What is multiplied has the type of the
inputs, sums are float32.

Where sequences and heads are too few to fill the device, sequences are cut into segments: `_walk` first sums the states
that the segments add, `_prefix` turns those into the states they begin with, and `_walk` again makes the outputs.
"""

from functools import lru_cache
from itertools import accumulate
from math import frexp
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..packing import Packing
from .reference import FOLD, TaylorState, n_features


class Config(NamedTuple):
    """How the work is cut; numbers are powers of two."""

    chunk: int = 64  # tokens, FOLD or more
    warps: int = 4
    stages: int = 4  # chunks whose loads are under way


DEFAULT = Config()
ENOUGH_PROGRAMS = 264  # walks that fill a device
SHORTEST_SEGMENT = 128  # tokens
ROWS = 3 * 64  # of features, 153 of them used: 136 pairs, 16 dimensions, 1
PAIRS_IN_LAST = tl.constexpr(136 - 128)


@triton.jit
def _rows(x, stride, start, n, inside, e, in_e):  # type: ignore[no-untyped-def]
    """Rows start + n, columns e; the first in 64 bits, since a prompt may be longer than 2³¹ / stride."""
    at = x + tl.cast(start, tl.int64) * stride + n[:, None] * stride + e[None, :]
    return tl.load(at, mask=inside[:, None] & in_e[None, :], other=0.0)


@triton.jit
def _features(left, right, f, LAST: tl.constexpr):  # type: ignore[no-untyped-def]
    """g from the selected factors; in the last block of rows, f counts those from its first."""
    if LAST:
        left = tl.where(f == PAIRS_IN_LAST + 16, 1.0, left)
        right = tl.where((f >= PAIRS_IN_LAST) & (f <= PAIRS_IN_LAST + 16), 1.0, right)
    return left * right


@triton.jit
def _read_out(q, left, right, factors, m, z, y, sums, LAST: tl.constexpr, TIMES: tl.constexpr):  # type: ignore[no-untyped-def]
    """q `[n, 16]`, left and right `[16, 64]`: adds c g(q) M to y `[n, e]` and c g(q) z to the sums `[n]`."""
    f = tl.arange(0, 64)
    left_of_q = tl.dot(q, left, input_precision="ieee")
    features = _features(left_of_q, tl.dot(q, right, input_precision="ieee"), f[None, :], LAST)
    if TIMES:
        features *= tl.load(factors + f)[None, :]
    sums += tl.sum(features * z[None, :], axis=1)
    return tl.dot(features.to(q.dtype), m.to(q.dtype), y, input_precision="ieee"), sums


@triton.jit
def _take_up(k, left, right, v, taken, m, z, LAST: tl.constexpr):  # type: ignore[no-untyped-def]
    """k `[n, 16]`, left and right `[64, 16]`, v `[n, e]`: adds what the tokens `taken` `[n]` add to M and to z."""
    f = tl.arange(0, 64)
    turned = tl.trans(k)
    left_of_k = tl.dot(left, turned, input_precision="ieee")
    features = _features(left_of_k, tl.dot(right, turned, input_precision="ieee"), f[:, None], LAST)
    features = tl.where(taken[None, :], features, 0.0)
    return tl.dot(features.to(k.dtype), v, m, input_precision="ieee"), z + tl.sum(features, axis=1)


@triton.jit
def _unpack(s, z, table, rows, e, in_e, DV: tl.constexpr, LOAD: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of M and z from the packed state, or zeros."""
    if LOAD:
        f, by = tl.load(table + 2 * rows).to(tl.int32), tl.load(table + 2 * rows + 1)
        tile = tl.load(s + f[:, None] * DV + e[None, :], mask=(f >= 0)[:, None] & in_e[None, :], other=0.0)
        sums = tl.load(z + f, mask=f >= 0, other=0.0).to(tl.float32) * by
        return tile.to(tl.float32) * by[:, None], sums
    return tl.zeros([rows.shape[0], e.shape[0]], tl.float32), tl.zeros([rows.shape[0]], tl.float32)


@triton.jit
def _pack(s, z, tile, sums, table, rows, e, in_e, first, DV: tl.constexpr):  # type: ignore[no-untyped-def]
    """The reverse; z only where `first`."""
    f, by = tl.load(table + 2 * rows).to(tl.int32), tl.load(table + 2 * rows + 1)
    tl.store(s + f[:, None] * DV + e[None, :], tile / by[:, None], mask=(f >= 0)[:, None] & in_e[None, :])
    tl.store(z + f, sums / by, mask=(f >= 0) & first)


@triton.jit
def _walk(  # type: ignore[no-untyped-def]
    q, k, v, y,  # [T, H, d] twice, [T, H, dv] twice
    q_row, q_head, k_row, k_head, v_row, v_head,  # strides
    offsets, position,  # [B + 1], [B]
    segments,  # [n, 2]: the sequence, and which of its segments
    s_old, z_old,  # [B, H, F, dv], [B, H, F], if OLD; where MANY [n, H, F, dv], [n, H, F]: before each segment
    keys_old, values_old,  # [B, FOLD, H, d or dv], if RECENT
    s_new, z_new,  # out: after each sequence [B, H, F, dv]; if SUMS what each segment adds [n, H, F, dv]
    keys_new, values_new,  # out
    select,  # [2, 192, 16]: P and R
    select_c,  # [2, 192, 16]: P and R for queries, times c unless TIMES
    factors,  # [192]: c
    table,  # [192, 2]: the feature that a row of M is in the packed state, and what to multiply it by
    segment,  # tokens
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, F: tl.constexpr, FOLD: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr, SCALE: tl.constexpr, TIMES: tl.constexpr,
    OLD: tl.constexpr, MANY: tl.constexpr, RECENT: tl.constexpr, SUMS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    which, h = tl.program_id(0) // H, tl.program_id(0) % H
    e, first_block = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1) == 0
    in_e = e < DV
    b, part = tl.load(segments + 2 * which), tl.load(segments + 2 * which + 1)
    d, row, c = tl.arange(0, 16), tl.arange(0, 64), tl.arange(0, CHUNK)
    in_d = d < D
    first = tl.load(offsets + b)
    waiting = (tl.load(position + b) % FOLD).to(tl.int32)  # tokens beside the state
    tokens = (tl.load(offsets + b + 1) - first).to(tl.int32)
    folded = waiting + tokens - (waiting + tokens) % FOLD  # tokens that the state takes up, the waiting ones with them
    begin = part * segment - waiting  # segments and chunks end where a fold does; so the first may begin before token 0
    end = tl.minimum((part + 1) * segment - waiting, tokens)
    last = (begin < tokens) & (end == tokens) | (tokens == 0) & (part == 0)
    if SUMS and (last | (begin >= tokens)):  # nothing begins after it
        return
    q += first * q_row + h * q_head
    k += first * k_row + h * k_head
    v += first * v_row + h * v_head
    y += (first * H + h) * DV
    keys_old += (b * FOLD * H + h).to(tl.int64) * D
    values_old += (b * FOLD * H + h).to(tl.int64) * DV
    at = (which * H + h if MANY else b * H + h).to(tl.int64)
    s_old += at * (F * DV)
    z_old += at * F
    m_0, z_0 = _unpack(s_old, z_old, table, row, e, in_e, DV, OLD)
    m_1, z_1 = _unpack(s_old, z_old, table, 64 + row, e, in_e, DV, OLD)
    m_2, z_2 = _unpack(s_old, z_old, table, 128 + row, e, in_e, DV, OLD)
    of_row, of_column = row[:, None] * 16 + d[None, :], row[None, :] * 16 + d[:, None]
    kl_0, kr_0 = tl.load(select + of_row), tl.load(select + 192 * 16 + of_row)
    kl_1, kr_1 = tl.load(select + 64 * 16 + of_row), tl.load(select + 256 * 16 + of_row)
    kl_2, kr_2 = tl.load(select + 128 * 16 + of_row), tl.load(select + 320 * 16 + of_row)
    if not SUMS:
        ql_0, qr_0 = tl.load(select_c + of_column), tl.load(select_c + 192 * 16 + of_column)
        ql_1, qr_1 = tl.load(select_c + 64 * 16 + of_column), tl.load(select_c + 256 * 16 + of_column)
        ql_2, qr_2 = tl.load(select_c + 128 * 16 + of_column), tl.load(select_c + 320 * 16 + of_column)
    if RECENT:  # the first segment takes up the tokens beside the state
        j = tl.arange(0, FOLD)
        beside = (j < waiting) & (part == 0)
        k_old = _rows(keys_old, H * D, 0, j, beside, d, in_d)
        v_old = _rows(values_old, H * DV, 0, j, beside, e, in_e)
        m_0, z_0 = _take_up(k_old, kl_0, kr_0, v_old, beside, m_0, z_0, False)
        m_1, z_1 = _take_up(k_old, kl_1, kr_1, v_old, beside, m_1, z_1, False)
        m_2, z_2 = _take_up(k_old, kl_2, kr_2, v_old, beside, m_2, z_2, True)

    up_to = tl.minimum(end, folded - waiting)
    for start in tl.range(begin, end, CHUNK, num_stages=STAGES):
        inside, taken = start + c < end, start + c < up_to
        seen = c[:, None] >= c[None, :]
        if RECENT:
            begun = start + c >= 0
            inside, taken, seen = inside & begun, taken & begun, seen & begun[None, :]
        k_c = _rows(k, k_row, start, c, inside, d, in_d)
        v_c = _rows(v, v_row, start, c, inside, e, in_e)
        if not SUMS:
            q_c = _rows(q, q_row, start, c, inside, d, in_d)
            product = tl.dot(q_c, tl.trans(k_c), input_precision="ieee")
            weights = tl.where(seen, (product * (SCALE * SCALE / 2) + SCALE) * product + 1.0, 0.0)
            sums = tl.sum(weights, axis=1)
            y_c = tl.dot(weights.to(v_c.dtype), v_c, input_precision="ieee")
            y_c, sums = _read_out(q_c, ql_0, qr_0, factors, m_0, z_0, y_c, sums, False, TIMES)
            y_c, sums = _read_out(q_c, ql_1, qr_1, factors + 64, m_1, z_1, y_c, sums, False, TIMES)
            y_c, sums = _read_out(q_c, ql_2, qr_2, factors + 128, m_2, z_2, y_c, sums, True, TIMES)
            out = (y_c / sums[:, None]).to(y.dtype.element_ty)
            to = y + tl.cast(start, tl.int64) * (H * DV) + c[:, None] * (H * DV) + e[None, :]
            tl.store(to, out, mask=inside[:, None] & in_e[None, :])
        m_0, z_0 = _take_up(k_c, kl_0, kr_0, v_c, taken, m_0, z_0, False)
        m_1, z_1 = _take_up(k_c, kl_1, kr_1, v_c, taken, m_1, z_1, False)
        m_2, z_2 = _take_up(k_c, kl_2, kr_2, v_c, taken, m_2, z_2, True)

    if SUMS or last:
        to = (which * H + h if SUMS else b * H + h).to(tl.int64)
        s_new += to * (F * DV)
        z_new += to * F
        if RECENT and not SUMS and folded == 0:  # the state stays as it was
            m_0, z_0 = _unpack(s_old, z_old, table, row, e, in_e, DV, OLD)
            m_1, z_1 = _unpack(s_old, z_old, table, 64 + row, e, in_e, DV, OLD)
            m_2, z_2 = _unpack(s_old, z_old, table, 128 + row, e, in_e, DV, OLD)
        _pack(s_new, z_new, m_0, z_0, table, row, e, in_e, first_block, DV)
        _pack(s_new, z_new, m_1, z_1, table, 64 + row, e, in_e, first_block, DV)
        _pack(s_new, z_new, m_2, z_2, table, 128 + row, e, in_e, first_block, DV)
        if not SUMS:
            j = tl.arange(0, FOLD)
            # Those that the state doesn't hold: new tokens, and such as lay beside it already where it didn't change.
            kept = folded - waiting + j
            new = (kept >= 0) & (kept < tokens)
            k_left = _rows(k, k_row, folded - waiting, j, new, d, in_d)
            v_left = _rows(v, v_row, folded - waiting, j, new, e, in_e)
            if RECENT:
                old = kept < 0
                k_left += _rows(keys_old, H * D, 0, j, old, d, in_d)
                v_left += _rows(values_old, H * DV, 0, j, old, e, in_e)
            place = ((b * FOLD + j) * H + h).to(tl.int64)
            tl.store(keys_new + place[:, None] * D + d[None, :], k_left, mask=in_d[None, :] & first_block)
            tl.store(values_new + place[:, None] * DV + e[None, :], v_left, mask=in_e[None, :])


@triton.jit
def _prefix(added, before, old, begins, SIZE, BLOCK: tl.constexpr, OLD: tl.constexpr):  # type: ignore[no-untyped-def]
    """What each segment adds `[n, SIZE]` -> what stood before it; `old` `[B, SIZE]` before the first, if OLD."""
    b = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < SIZE
    total = tl.zeros([BLOCK], tl.float32)
    if OLD:
        total += tl.load(old + b.to(tl.int64) * SIZE + i, mask=inside, other=0.0).to(tl.float32)
    first, last = tl.load(begins + b), tl.load(begins + b + 1) - 1
    for segment in range(first, last):
        at = tl.cast(segment, tl.int64) * SIZE + i
        tl.store(before + at, total, mask=inside)
        total += tl.load(added + at, mask=inside, other=0.0)
    tl.store(before + last.to(tl.int64) * SIZE + i, total, mask=inside)


@lru_cache(maxsize=32)
def tables(feature_dim: int, scale: float, dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], bool]:
    """What `_walk` reads of P and R, c and the packed state, which keeps sqrt(c_f) M_f; and TIMES: whether c has to be
    multiplied in float32, since the inputs' type can't hold it."""
    d = feature_dim
    features = {(a, b): 1 + d + i for i, (a, b) in enumerate((a, b) for a in range(d) for b in range(a, d))}
    pairs = [(a, b) for a in range(16) for b in range(a, 16)]
    select, c, packed = torch.zeros(2, ROWS, 16), torch.ones(ROWS), torch.full((ROWS,), -1.0)
    for f, (a, b) in enumerate(pairs):
        select[0, f, a] = select[1, f, b] = 1
        c[f], packed[f] = scale**2 / (2 if a == b else 1), features.get((a, b), -1)
    for a in range(16):
        f = len(pairs) + a
        select[0, f, a], c[f], packed[f] = 1, scale, 1 + a if a < d else -1
    packed[len(pairs) + 16] = 0
    times = dtype != torch.float32 and frexp(scale)[0] != 0.5
    select_c = select.clone()
    if not times:
        select_c[1, : len(pairs)] *= c[: len(pairs), None]
        select_c[0, len(pairs) :] *= c[len(pairs) :, None]
    with torch.inference_mode(False):
        rows = torch.stack([packed, c**-0.5], dim=1)
        return [x.to(device) for x in (select.to(dtype), select_c.to(dtype), c, rows)], times


def cut(lengths: list[int], beside: int, walks: int, config: Config, segment: int | None) -> tuple[int, list[int]]:
    """The tokens of a segment, and how many segments each sequence has.

    Args:
        beside: tokens that may lie beside the states.
        walks: heads and blocks of dv, that is programs for one segment.
        segment: tokens, a multiple of `config.chunk`; None for what fills the device. Two passes over cut sequences
            take more work than one, so they are left whole where that gains little.
    """
    longest = max(lengths) + beside
    if segment is None:
        ideal = triton.cdiv(sum(lengths) * walks, ENOUGH_PROGRAMS)
        segment = triton.cdiv(max(SHORTEST_SEGMENT, ideal), config.chunk) * config.chunk
        if longest <= 2 * segment:
            segment = max(1, triton.cdiv(longest, config.chunk)) * config.chunk
    return segment, [max(1, triton.cdiv(n + beside, segment)) for n in lengths]


@lru_cache(maxsize=32)
def places(counts: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The sequence and the part of each segment `[n, 2]`, and where the segments of each sequence begin `[B + 1]`."""
    which = [(b, part) for b, count in enumerate(counts) for part in range(count)]
    with torch.inference_mode(False):
        begins = torch.tensor([0, *accumulate(counts)], dtype=torch.int32)
        return torch.tensor(which, dtype=torch.int32).to(device), begins.to(device)


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
    """`reference.prefill` without a decay: q, k `[T, H, d]`, d <= 16, v `[T, H, dv]`; `segment` as in `cut`."""
    B, (_, H, D), DV, F = packing.batch, q.shape, v.shape[2], n_features(q.shape[2])
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    block = max(16, min(64, triton.next_power_of_2(DV)))
    blocks = triton.cdiv(DV, block)
    y = v.new_empty(v.shape)

    def empty(*shape: int) -> Tensor:
        return v.new_empty(*shape, dtype=torch.float32)

    after = TaylorState(empty(B, H, F, DV), empty(B, H, F), k.new_empty(B, FOLD, H, D), v.new_empty(B, FOLD, H, DV))
    if not B:
        return y, after
    beside = 0 if state is None else FOLD - 1
    segment, counts = cut(packing.lengths, beside, H * blocks, config, segment)
    n, (segments, begins) = sum(counts), places(tuple(counts), q.device)
    selections, times = tables(D, scale, q.dtype, q.device)
    recent = (after if state is None else state)[2:]
    strides = (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2])
    constants = {
        "H": H, "D": D, "DV": DV, "F": F, "FOLD": FOLD, "BLOCK": block, "CHUNK": config.chunk, "SCALE": scale,
        "TIMES": times, "RECENT": state is not None, "STAGES": config.stages, "num_warps": config.warps,
    }  # fmt: skip

    def walk(before: tuple[Tensor, Tensor], to: tuple[Tensor, Tensor], old: bool, many: bool, sums: bool) -> None:
        _walk[(n * H, blocks)](
            q, k, v, y, *strides, packing.offsets, position, segments, *before, *recent, *to, *after[2:],
            *selections, segment, **constants, OLD=old, MANY=many, SUMS=sums,
        )  # fmt: skip

    if n == B:
        walk((after if state is None else state)[:2], after[:2], state is not None, False, False)
        return y, after
    added, before = ((empty(n, H, F, DV), empty(n, H, F)) for _ in range(2))
    walk(added, added, False, True, True)
    for i in (0, 1):
        size = added[i][0].numel()
        old = after[i] if state is None else state[i]
        _prefix[(triton.cdiv(size, 1024), B)](
            added[i], before[i], old, begins, size, BLOCK=1024, OLD=state is not None, num_warps=4
        )
    walk(before, after[:2], True, True, False)
    return y, after
