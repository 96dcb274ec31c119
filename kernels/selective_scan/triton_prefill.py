"""Mamba's selective scan over packed prompts, in Triton: the equations of `reference.py`, its softplus and gate too.

A program is one warp; it has a piece of one sequence and a block of channels, whose states `[N, block]` it holds, and
walks its tokens. Where sequences and channels are many, a piece is a whole sequence. Otherwise `_walk` first finds the
state that each piece ends in when it starts from zero, `_combine` turns those into the states that the pieces really
start from (the decay across a piece is exp(A sum dt)), and `_walk` again, from there, writes y.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..packing import Packing
from ..pieces import pieces
from .reference import GatedInputs


class Config(NamedTuple):
    """How the work is cut; numbers are powers of two."""

    channels: int = 32  # of a program
    group: int = 4  # tokens that are loaded together, while the group before is computed
    warps: int = 1


DEFAULT = Config()
ENOUGH_PROGRAMS = 1024  # walks that fill a device
SHORTEST_PIECE, LONGEST_PIECE = 64, 1 << 15  # tokens; within a piece, places are 32 bits wide
LOG2E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(LOG2E x)


@triton.jit
def _softplus(x):  # type: ignore[no-untyped-def]
    """Cut where PyTorch cuts it; log(1 + t) loses what 1 + t rounds away, and the quotient gives it back."""
    t = tl.exp2(tl.minimum(x, 20.0) * LOG2E)
    rounded = 1.0 + t
    exact = rounded == 1.0
    log1p = tl.where(exact, t, tl.log(rounded) * (t / tl.where(exact, 1.0, rounded - 1.0)))
    return tl.where(x > 20.0, x, log1p)


@triton.jit
def _group(  # type: ignore[no-untyped-def]
    x, row, t, n, at, inside, GROUP: tl.constexpr
):  # fmt: skip
    """x of the tokens t to t + GROUP, each `[block]`, as they are; 0 from token n on."""
    tokens = ()
    for i in tl.static_range(GROUP):
        tokens = tokens + (tl.load(x + (t + i) * row + at, mask=inside & (t + i < n), other=0.0),)  # type: ignore[assignment, unused-ignore]
    return tokens


@triton.jit
def _walk(  # type: ignore[no-untyped-def]
    u, dt, gate, b, c,  # [T, D] three times, [T, N] twice
    dt_bias, a_log, skip,  # [D], [D, N], [D]
    y,  # [T, D]: out, unless ENDS
    u_row, dt_row, gate_row, b_row, c_row,  # strides
    offsets, piece_row, piece_place,  # [B + 1], [P], [P]
    old,  # [P, D, N]: the state before each piece, if OLD
    new,  # out: the state after each sequence [B, D, N], if LAST; the state after each piece [P, D, N], if ENDS
    totals,  # [P, D]: out, sum dt, if ENDS
    size, blocks, D,  # tokens of a piece, programs of a piece
    N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
    OLD: tl.constexpr, ENDS: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """A piece: y from the state before it; if ENDS, only the state after it, from zero."""
    piece = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.load(piece_row + piece).to(tl.int64)
    start = tl.load(piece_place + piece).to(tl.int64) * size
    first, end = tl.load(offsets + row), tl.load(offsets + row + 1)
    n_tokens = tl.minimum(end - first - start, size).to(tl.int32)
    at = first + start
    u += at * u_row
    dt += at * dt_row
    gate += at * gate_row
    b += at * b_row
    c += at * c_row
    y += at * D
    d, n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK), tl.arange(0, NP)
    in_d, in_n = d < D, n < N
    inside = in_n[:, None] & in_d[None, :]
    within = d[None, :] * N + n[:, None]
    a2 = -tl.exp(tl.load(a_log + within, mask=inside, other=0.0).to(tl.float32)) * LOG2E
    bias = tl.load(dt_bias + d, mask=in_d, other=0.0).to(tl.float32)
    skips = tl.load(skip + d, mask=in_d, other=0.0).to(tl.float32)
    if OLD:
        h = tl.load(old + piece * (D * N) + within, mask=inside, other=0.0).to(tl.float32)
    else:
        h = tl.zeros([NP, BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    next_u = _group(u, u_row, 0, n_tokens, d, in_d, GROUP)
    next_dt = _group(dt, dt_row, 0, n_tokens, d, in_d, GROUP)
    next_b = _group(b, b_row, 0, n_tokens, n, in_n, GROUP)
    if not ENDS:
        next_c = _group(c, c_row, 0, n_tokens, n, in_n, GROUP)
        next_gate = _group(gate, gate_row, 0, n_tokens, d, in_d, GROUP)
    for t in range(0, n_tokens, GROUP):
        us, dts, bs = next_u, next_dt, next_b
        after = t + GROUP
        next_u, next_dt = (
            _group(u, u_row, after, n_tokens, d, in_d, GROUP),
            _group(dt, dt_row, after, n_tokens, d, in_d, GROUP),
        )
        next_b = _group(b, b_row, after, n_tokens, n, in_n, GROUP)
        if not ENDS:
            cs, gates = next_c, next_gate
            next_c = _group(c, c_row, after, n_tokens, n, in_n, GROUP)
            next_gate = _group(gate, gate_row, after, n_tokens, d, in_d, GROUP)
        for i in tl.static_range(GROUP):
            u_t = us[i].to(tl.float32)
            step = tl.where(t + i < n_tokens, _softplus(dts[i].to(tl.float32) + bias), 0.0)  # 0: h stays as it is
            h = tl.exp2(step[None, :] * a2) * h + (step * u_t)[None, :] * bs[i].to(tl.float32)[:, None]
            if ENDS:
                total += step
            else:
                out = tl.sum(h * cs[i].to(tl.float32)[:, None], axis=0) + skips * u_t
                z = gates[i].to(tl.float32)
                out = out * z / (1.0 + tl.exp2(-LOG2E * z))
                tl.store(y + (t + i) * D + d, out.to(y.dtype.element_ty), mask=in_d & (t + i < n_tokens))
    if ENDS:
        tl.store(new + piece * (D * N) + within, h, mask=inside)
        tl.store(totals + piece * D + d, total, mask=in_d)
    if LAST:
        tl.store(new + row * (D * N) + within, h, mask=inside)


@triton.jit
def _combine(  # type: ignore[no-untyped-def]
    states,  # [P, D, N]: in, the state after each piece from zero; out, the state before it
    totals,  # [P, D]: sum dt
    a_log,  # [D, N]
    first_piece,  # [B + 1]
    old, new,  # [B, D, N]: before and after each sequence; old if OLD
    D, N: tl.constexpr, BLOCK: tl.constexpr, OLD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of [D, N]
    mask = i < D * N
    a2 = -tl.exp(tl.load(a_log + i, mask=mask, other=0.0).to(tl.float32)) * LOG2E
    received = tl.zeros([BLOCK], tl.float32)
    if OLD:
        received += tl.load(old + row * (D * N) + i, mask=mask, other=0.0).to(tl.float32)
    for piece in range(tl.load(first_piece + row).to(tl.int64), tl.load(first_piece + row + 1).to(tl.int64)):
        place = states + piece * (D * N) + i
        added = tl.load(place, mask=mask, other=0.0)
        total = tl.load(totals + piece * D + i // N, mask=mask, other=0.0)
        tl.store(place, received, mask=mask)
        received = tl.exp2(total * a2) * received + added
    tl.store(new + row * (D * N) + i, received, mask=mask)


def gated_prefill(
    x: GatedInputs, packing: Packing, state: Tensor | None = None, size: int | None = None, config: Config = DEFAULT
) -> tuple[Tensor, Tensor]:
    """`dispatch.gated_prefill`: y `[T, D]` and the state `[B, D, N]`, float32.

    Args:
        size: tokens of a piece; None for what fills the device.
    """
    D, N = x.a_log.shape
    x = GatedInputs(*(t if t.stride(-1) == 1 else t.contiguous() for t in x))
    blocks = triton.cdiv(D, config.channels)
    if size is None:
        wanted = triton.cdiv(packing.total * blocks, ENOUGH_PROGRAMS)
        size = triton.next_power_of_2(max(SHORTEST_PIECE, min(LONGEST_PIECE, wanted)))  # few sizes: pieces are shared
    cut = pieces(packing, size)
    y = x.u.new_empty(packing.total, D)
    new = x.u.new_empty(packing.batch, D, N, dtype=torch.float32)
    if not packing.batch:
        return y, new
    a_log = x.a_log.contiguous()
    x = x._replace(a_log=a_log)
    strides = [t.stride(0) for t in x[:5]]
    old = new if state is None else state.contiguous()
    constants = {
        "N": N, "NP": triton.next_power_of_2(N), "BLOCK": config.channels, "GROUP": config.group,
        "num_warps": config.warps,
    }  # fmt: skip

    def walk(before: Tensor, after: Tensor, totals: Tensor, **options: bool) -> None:
        _walk[(len(cut) * blocks,)](
            *x, y, *strides, packing.offsets, cut.row, cut.place, before, after, totals, size, blocks, D,
            **constants, **options,
        )  # fmt: skip

    if cut.most <= 1:  # a piece is a sequence
        walk(old, new, y, OLD=state is not None, ENDS=False, LAST=True)
        return y, new
    states, totals = new.new_empty(len(cut), D, N), new.new_empty(len(cut), D)
    walk(states, states, totals, OLD=False, ENDS=True, LAST=False)
    _combine[(triton.cdiv(D * N, 256), packing.batch)](
        states, totals, a_log, cut.first, old, new, D, N=N, BLOCK=256, OLD=state is not None, num_warps=2
    )
    walk(states, new, totals, OLD=True, ENDS=False, LAST=False)
    return y, new
