"""RWKV-5's time mixing over packed prompts, in Triton: the recurrence of `reference.py`, token by token.

A program is one warp; it has a sequence, a head and some columns of v, and holds that part of the state in registers, a
tile of 256 numbers after the other. Of a tile a thread has 8 rows of a column, which are a load of r and of k and most
of a sum over N; the rest are exchanges with the threads of the same column. Every token of every sequence is summed so,
whatever else is computed beside it: cuts and batches don't change a bit. (Rows of r and k that are aligned to less than
16 bytes are loaded, and so summed, in smaller parts.)

The state becomes S + kᵀ v - (1 - w) S: of a decay near 1, whose rounding error every token would repeat, 1 - w has all
digits.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..packing import Packing
from ..precision import state_dtype

TILE = 256  # numbers of state


class Config(NamedTuple):
    """How the work is cut; numbers are powers of two."""

    tiles: int = 4  # of a program, at most
    group: int = 4  # tokens that are loaded together, while the group before is computed
    programs: int = 512  # that fill a device: where sequences and heads are few, programs have fewer tiles


DEFAULT = Config()


@triton.jit
def _group(x, row, n, at, inside, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """x of GROUP tokens at the places `at`, as they are; 0 from token n on."""
    tokens = ()
    for i in tl.static_range(GROUP):
        tokens = tokens + (tl.load(x + i * row + at, mask=inside & (i < n), other=0.0),)  # type: ignore[assignment, unused-ignore]
    return tokens


@triton.jit
def _groups(x, row, n, columns, TILES: tl.constexpr, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """`_group` at the columns of each tile."""
    groups = ()
    for j in tl.static_range(TILES):
        groups = groups + (_group(x, row, n, columns[j], True, GROUP),)  # type: ignore[assignment, unused-ignore]
    return groups


@triton.jit
def _recur(  # type: ignore[no-untyped-def]
    r, k, v, y,  # [T, H, N]
    r_row, r_head, k_row, k_head, v_row, v_head,  # strides
    lost, bonus,  # [H, N]; lost: 1 - w
    offsets,  # [B + 1]
    old, new,  # [B, H, N, N]; old if OLD
    H, blocks,  # blocks: programs of a head
    N: tl.constexpr, NP: tl.constexpr, COLUMNS: tl.constexpr, TILES: tl.constexpr, GROUP: tl.constexpr,
    OLD: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(0) // (H * blocks)).to(tl.int64), tl.program_id(0) // blocks % H
    first = tl.load(offsets + b)
    left = (tl.load(offsets + b + 1) - first).to(tl.int32)  # tokens
    r += first * r_row + h * r_head
    k += first * k_row + h * k_head
    v += first * v_row + h * v_head
    y += (first * H + h) * N
    n = tl.broadcast_to(tl.arange(0, NP)[:, None], (NP, COLUMNS))
    in_n = n < N
    loss = tl.load(lost + h * N + n, mask=in_n, other=0.0)
    u = tl.load(bonus + h * N + n, mask=in_n, other=0.0)
    within = (b * H + h) * (N * N) + n * N
    columns, states = (), ()
    for j in tl.static_range(TILES):
        # Those past the end repeat the last.
        m = tl.minimum((tl.program_id(0) % blocks * TILES + j) * COLUMNS + tl.arange(0, COLUMNS), N - 1)
        if OLD:
            s = tl.load(old + within + m[None, :], mask=in_n, other=0.0).to(tl.float32)
        else:
            s = tl.zeros([NP, COLUMNS], tl.float32)
        columns, states = columns + (m,), states + (s,)  # type: ignore[assignment, unused-ignore]
    next_v = _groups(v, v_row, left, columns, TILES, GROUP)
    next_r, next_k = _group(r, r_row, left, n, in_n, GROUP), _group(k, k_row, left, n, in_n, GROUP)
    for _ in range(0, left, GROUP):
        rs, ks, vs = next_r, next_k, next_v
        r += GROUP * r_row
        k += GROUP * k_row
        v += GROUP * v_row
        next_r = _group(r, r_row, left - GROUP, n, in_n, GROUP)
        next_k = _group(k, k_row, left - GROUP, n, in_n, GROUP)
        next_v = _groups(v, v_row, left - GROUP, columns, TILES, GROUP)
        for i in tl.static_range(GROUP):
            r_t, k_t = rs[i].to(tl.float32), ks[i].to(tl.float32)
            loss_t = tl.where(i < left, loss, 0.0)  # past the end the state stays as it is: k is 0 there
            now = tl.sum(r_t * u * k_t, axis=0)
            after = ()
            for j in tl.static_range(TILES):
                v_t = vs[j][i].to(tl.float32)
                out = tl.fma(now, v_t, tl.sum(r_t * states[j], axis=0))
                tl.store(y + i * (H * N) + columns[j], out.to(y.dtype.element_ty), mask=i < left)
                s = states[j] + k_t * v_t[None, :] - loss_t * states[j]
                after = after + (s,)  # type: ignore[assignment, unused-ignore]
            states = after
        y += GROUP * H * N
        left -= GROUP
    for j in tl.static_range(TILES):
        tl.store(new + within + columns[j][None, :], states[j].to(new.dtype.element_ty), mask=in_n)


def prefill(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, packing: Packing, state: Tensor | None = None,
    config: Config = DEFAULT,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`reference.prefill` in one kernel."""
    (T, H, N), B = r.shape, packing.batch
    r, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (r, k, v))
    y = r.new_empty(T, H, N)
    new = r.new_empty(B, H, N, N, dtype=state_dtype(r) if state is None else state.dtype)
    padded = triton.next_power_of_2(N)
    columns, tiles = max(1, TILE // padded), config.tiles
    while tiles > 1 and B * H * triton.cdiv(N, columns * tiles) < config.programs:
        tiles //= 2
    blocks = triton.cdiv(N, columns * tiles)
    if B:
        strides = (*r.stride()[:2], *k.stride()[:2], *v.stride()[:2])
        _recur[(B * H * blocks,)](
            r, k, v, y, *strides, -log_w.expm1(), u.contiguous(), packing.offsets,
            new if state is None else state.contiguous(), new, H, blocks,
            N=N, NP=padded, COLUMNS=columns, TILES=tiles, GROUP=config.group, OLD=state is not None, num_warps=1,
        )  # fmt: skip
    return y, new
