"""The trainable selective scan in Triton: the equations of `differentiable.py`, every segment of the sequence at once.

A scan token by token leaves most of a GPU idle, so the sequence is cut into segments. Forward: `_walk` finds the state
that each segment ends in when it starts from zero; `_combine` turns those into the states the segments really start
from (the decay across a segment is exp(A sum dt)); `_walk` again, from there, writes y. Backward, with
q_t = exp(dt_t A) * g_t, what a token hands to the one before it: `_walk_back` finds each segment's q of its first token
as if nothing came after the segment; `_combine` as before, from the last segment to the first; `_gradients` does the
rest. It needs the states from the last token to the first, so `_walk_back` leaves the state before every few tokens
(a group), and the others live in registers.

A program is one warp and holds the states of a block of channels as `[N, block]`; a thread has a few channels of a few
n, so that most of a sum is within it. Sums over programs are stored apart and added by PyTorch: no atomics, so the same
bits each time. States in memory are `[B, segments, N, D]`, float32.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(LOG2E x): the hardware has exp2, so A is scaled once
LN2 = tl.constexpr(0.6931471805599453)


class Config(NamedTuple):
    """How the work is cut. The defaults fit `_gradients` into 255 registers for N 16.

    Of six ways tried on an H100 with 20,480 tokens of 512 channels they took least on the whole: 1.25 ms forward and
    backward for sequences of 160 tokens, 1.20 ms for 2,560; with segments of 128 tokens 1.36 and 1.26.
    """

    segment: int = 64  # tokens
    group: int = 4  # tokens whose states `_gradients` holds in registers; divides segment
    forward_block: int = 32  # channels of a program; a power of two, as group and segment
    backward_block: int = 32
    warps: int = 1  # of a program


DEFAULT = Config()


@triton.jit
def _row(x, row, width, offsets, mask):  # type: ignore[no-untyped-def]
    """x[row, offsets] in float32; 0 outside the mask."""
    return tl.load(x + (row * width + offsets), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _walk(  # type: ignore[no-untyped-def]
    u, dt, a, b, c, skip,  # [B, L, D] twice, [D, N], [B, L, N] twice, [D]
    states,  # [B, S, N, D]: out, or in if WRITE_Y
    totals,  # [B, S, D]: out, unless WRITE_Y
    y,  # [B, L, D]: out, if WRITE_Y
    L, D, S,
    N: tl.constexpr, NP: tl.constexpr, SEGMENT: tl.constexpr, BLOCK: tl.constexpr,
    WRITE_Y: tl.constexpr,
):  # fmt: skip
    """A segment: WRITE_Y: y from its first state; otherwise its last state, and sum dt, from a state of zero."""
    segment, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    d, n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, NP)
    in_d, in_n = d < D, n < N
    inside = in_n[:, None] & in_d[None, :]
    a2 = tl.load(a + d[None, :] * N + n[:, None], mask=inside, other=0.0).to(tl.float32) * LOG2E
    within = n[:, None] * D + d[None, :]
    place = (batch * S + segment) * (N * D) + within
    if WRITE_Y:
        h = tl.load(states + place, mask=inside, other=0.0)
        skips = tl.load(skip + d, mask=in_d, other=0.0).to(tl.float32)
    else:
        h = tl.zeros([NP, BLOCK], tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
    steps = tl.minimum(SEGMENT, L - segment * SEGMENT)
    first = batch * L + segment * SEGMENT
    u, dt, b, c, y = u + first * D, dt + first * D, b + first * N, c + first * N, y + first * D  # the first token's
    # The next token is loaded while this one is computed.
    next_u, next_dt = _row(u, 0, D, d, in_d), _row(dt, 0, D, d, in_d)
    next_b = _row(b, 0, N, n, in_n)
    if WRITE_Y:
        next_c = _row(c, 0, N, n, in_n)
    for t in range(steps):
        after = tl.minimum(t + 1, steps - 1)
        u_t, dt_t, b_t = next_u, next_dt, next_b
        next_u, next_dt = _row(u, after, D, d, in_d), _row(dt, after, D, d, in_d)
        next_b = _row(b, after, N, n, in_n)
        h = tl.exp2(dt_t[None, :] * a2) * h + (dt_t * u_t)[None, :] * b_t[:, None]
        if WRITE_Y:
            c_t = next_c
            next_c = _row(c, after, N, n, in_n)
            y_t = tl.sum(h * c_t[:, None], axis=0) + skips * u_t
            tl.store(y + (t * D + d), y_t, mask=in_d)
        else:
            total += dt_t
    if not WRITE_Y:
        tl.store(states + place, h, mask=inside)
        tl.store(totals + (batch * S + segment) * D + d, total, mask=in_d)


@triton.jit
def _combine(  # type: ignore[no-untyped-def]
    states,  # [B, S, N, D]: in and out
    totals,  # [B, S, D]: sum dt
    a,  # [D, N]
    D, S,
    N: tl.constexpr, BLOCK: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """From what each segment adds to what each receives: from those before it, or after it if BACKWARD."""
    batch = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of [N, D]
    mask = i < N * D
    n, d = i // D, i % D
    a2 = tl.load(a + d * N + n, mask=mask, other=0.0).to(tl.float32) * LOG2E
    received = tl.zeros([BLOCK], tl.float32)
    for k in range(S):
        at = batch * S + (S - 1 - k if BACKWARD else k)
        added = tl.load(states + at * (N * D) + i, mask=mask, other=0.0)
        total = tl.load(totals + at * D + d, mask=mask, other=0.0)
        tl.store(states + at * (N * D) + i, received, mask=mask)
        received = tl.exp2(total * a2) * received + added


@triton.jit
def _walk_back(  # type: ignore[no-untyped-def]
    u, dt, a, b, c, dy,
    states,  # [B, S, N, D]: the state before each segment
    groups,  # [B, S * SEGMENT / GROUP, N, D]: out, the state before each group
    q_first,  # [B, S, N, D]: out, exp(dt A) * g of each segment's first token
    L, D, S,
    N: tl.constexpr, NP: tl.constexpr, SEGMENT: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Token t's part in q of the first is (product of the decays up to t) * C_t dy_t: a walk forward gives both."""
    segment, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    d, n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, NP)
    in_d, in_n = d < D, n < N
    inside = in_n[:, None] & in_d[None, :]
    a2 = tl.load(a + d[None, :] * N + n[:, None], mask=inside, other=0.0).to(tl.float32) * LOG2E
    within = n[:, None] * D + d[None, :]
    place = (batch * S + segment) * (N * D) + within
    h = tl.load(states + place, mask=inside, other=0.0)
    q = tl.zeros([NP, BLOCK], tl.float32)
    product = tl.full([NP, BLOCK], 1.0, tl.float32)
    steps = tl.minimum(SEGMENT, L - segment * SEGMENT)
    first = batch * L + segment * SEGMENT
    u, dt, dy, b, c = u + first * D, dt + first * D, dy + first * D, b + first * N, c + first * N
    groups += (batch * S + segment) * (SEGMENT // GROUP) * (N * D)
    next_u, next_dt, next_dy = _row(u, 0, D, d, in_d), _row(dt, 0, D, d, in_d), _row(dy, 0, D, d, in_d)
    next_b, next_c = _row(b, 0, N, n, in_n), _row(c, 0, N, n, in_n)
    for t in range(steps):
        u_t, dt_t, dy_t, b_t, c_t = next_u, next_dt, next_dy, next_b, next_c
        after = tl.minimum(t + 1, steps - 1)
        next_u, next_dt, next_dy = _row(u, after, D, d, in_d), _row(dt, after, D, d, in_d), _row(dy, after, D, d, in_d)
        next_b, next_c = _row(b, after, N, n, in_n), _row(c, after, N, n, in_n)
        if t % GROUP == 0:
            tl.store(groups + (t // GROUP * (N * D) + within), h, mask=inside)
        decay = tl.exp2(dt_t[None, :] * a2)
        product *= decay
        q += product * (c_t[:, None] * dy_t[None, :])
        h = decay * h + (dt_t * u_t)[None, :] * b_t[:, None]
    tl.store(q_first + place, q, mask=inside)


@triton.jit
def _gradients(  # type: ignore[no-untyped-def]
    u, dt, a, b, c, skip, dy,
    groups,  # [B, S * SEGMENT / GROUP, N, D]: the state before each group
    q_after,  # [B, S, N, D]: exp(dt A) * g of the token after each segment
    du, ddt,  # [B, L, D]: out
    da,  # [B, S, N, D]: out, the sum over a segment
    dskip,  # [B, S, D]: out, likewise
    dbc,  # [2, programs over D, B, L, N]: out, dB and dC, the sums over a program's channels
    L, D, S,
    N: tl.constexpr, NP: tl.constexpr, SEGMENT: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All gradients of a segment's tokens, from its last group to its first."""
    segment, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    d, n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, NP)
    in_d, in_n = d < D, n < N
    inside = in_n[:, None] & in_d[None, :]
    a2 = tl.load(a + d[None, :] * N + n[:, None], mask=inside, other=0.0).to(tl.float32) * LOG2E
    skips = tl.load(skip + d, mask=in_d, other=0.0).to(tl.float32)
    within = n[:, None] * D + d[None, :]
    place = (batch * S + segment) * (N * D) + within
    q = tl.load(q_after + place, mask=inside, other=0.0)
    da_sum = tl.zeros([NP, BLOCK], tl.float32)
    dskip_sum = tl.zeros([BLOCK], tl.float32)
    steps = tl.minimum(SEGMENT, L - segment * SEGMENT)
    first = batch * L + segment * SEGMENT
    u, dt, dy, b, c = u + first * D, dt + first * D, dy + first * D, b + first * N, c + first * N
    du, ddt = du + first * D, ddt + first * D
    groups += (batch * S + segment) * (SEGMENT // GROUP) * (N * D)
    rows = tl.num_programs(2).to(tl.int64) * L
    db = dbc + (tl.program_id(0) * rows + first) * N
    dc = db + tl.num_programs(0) * rows * N
    n_groups = (steps + GROUP - 1) // GROUP
    for k in range(n_groups):
        group = n_groups - 1 - k
        t0 = group * GROUP
        h = tl.load(groups + (group * (N * D) + within), mask=inside, other=0.0)
        before = ()  # the state before each token of the group
        for j in tl.static_range(GROUP):
            # Tokens past the end load as zeros: dt = 0 leaves h and q as they are.
            live = t0 + j < steps
            dt_t = _row(dt, t0 + j, D, d, in_d & live)
            u_t = _row(u, t0 + j, D, d, in_d & live)
            b_t = _row(b, t0 + j, N, n, in_n & live)
            before = before + (h,)  # type: ignore[assignment, unused-ignore]
            h = tl.exp2(dt_t[None, :] * a2) * h + (dt_t * u_t)[None, :] * b_t[:, None]
        row = t0 + (GROUP - 1)
        live = t0 + (GROUP - 1) < steps
        next_u, next_dt = _row(u, row, D, d, in_d & live), _row(dt, row, D, d, in_d & live)
        next_dy = _row(dy, row, D, d, in_d & live)
        next_b, next_c = _row(b, row, N, n, in_n & live), _row(c, row, N, n, in_n & live)
        for j in tl.static_range(GROUP - 1, -1, -1):
            u_t, dt_t, dy_t, b_t, c_t = next_u, next_dt, next_dy, next_b, next_c
            row = t0 + j
            live = t0 + j < steps
            if j > 0:  # before the stores, which loads can't overtake
                more = t0 + j - 1 < steps
                next_u, next_dt = _row(u, row - 1, D, d, in_d & more), _row(dt, row - 1, D, d, in_d & more)
                next_dy = _row(dy, row - 1, D, d, in_d & more)
                next_b, next_c = _row(b, row - 1, N, n, in_n & more), _row(c, row - 1, N, n, in_n & more)
            g = c_t[:, None] * dy_t[None, :] + q
            gb = tl.sum(g * b_t[:, None], axis=0)
            db_t = tl.sum(g * (dt_t * u_t)[None, :], axis=1)
            dc_t = tl.sum(h * dy_t[None, :], axis=1)
            q = tl.exp2(dt_t[None, :] * a2) * g
            h = before[j]
            z = q * h
            da_sum += dt_t[None, :] * z
            dskip_sum += dy_t * u_t
            ddt_t = u_t * gb + LN2 * tl.sum(a2 * z, axis=0)
            tl.store(du + (row * D + d), skips * dy_t + dt_t * gb, mask=in_d & live)
            tl.store(ddt + (row * D + d), ddt_t, mask=in_d & live)
            tl.store(db + (row * N + n), db_t, mask=in_n & live)
            tl.store(dc + (row * N + n), dc_t, mask=in_n & live)
    tl.store(da + place, da_sum, mask=inside)
    tl.store(dskip + (batch * S + segment) * D + d, dskip_sum, mask=in_d)


def triton_scan(
    u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, config: Config = DEFAULT
) -> Tensor:
    """`differentiable.selective_scan`, for non-empty inputs of at most float32 on a CUDA device."""
    y: Tensor = _TritonScan.apply(u, dt, a, b, c, skip, config)
    return y


class _TritonScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, config: Config
    ) -> Tensor:
        inputs = tuple(x.contiguous() for x in (u, dt, a, b, c, skip))
        (B, L, D), N = u.shape, a.shape[1]
        S = triton.cdiv(L, config.segment)
        states = u.new_empty(B, S, N, D, dtype=torch.float32)
        totals = u.new_empty(B, S, D, dtype=torch.float32)
        y = torch.empty_like(inputs[0])
        grid = (triton.cdiv(D, config.forward_block), S, B)
        constants = _constants(N, config.forward_block, config)
        with torch.cuda.device_of(u):
            _walk[grid](*inputs, states, totals, y, L, D, S, **constants, WRITE_Y=False)
            _receive(states, totals, inputs[2], backward=False)
            _walk[grid](*inputs, states, totals, y, L, D, S, **constants, WRITE_Y=True)
        ctx.save_for_backward(*inputs, states, totals)
        ctx.config = config
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, states, totals = ctx.saved_tensors
        u, dt, a, b, c, skip = inputs
        config: Config = ctx.config
        dy = dy.contiguous()
        (B, L, D), N, S = u.shape, a.shape[1], states.shape[1]
        grid = (triton.cdiv(D, config.backward_block), S, B)
        groups = states.new_empty(B, S * (config.segment // config.group), N, D)
        q, da = torch.empty_like(states), torch.empty_like(states)
        du, ddt, dskip = torch.empty_like(u), torch.empty_like(dt), torch.empty_like(totals)
        dbc = states.new_empty(2, grid[0], B, L, N)
        constants = _constants(N, config.backward_block, config) | {"GROUP": config.group}
        with torch.cuda.device_of(u):
            _walk_back[grid](u, dt, a, b, c, dy, states, groups, q, L, D, S, **constants)
            _receive(q, totals, a, backward=True)
            _gradients[grid](*inputs, dy, groups, q, du, ddt, da, dskip, dbc, L, D, S, **constants)
            db, dc = dbc.sum(1)
            return (
                du,
                ddt,
                da.sum((0, 1)).T.to(a.dtype),
                db.to(b.dtype),
                dc.to(c.dtype),
                dskip.sum((0, 1)).to(skip.dtype),
                None,
            )


def _constants(N: int, block: int, config: Config) -> dict[str, int]:
    return {
        "N": N,
        "NP": triton.next_power_of_2(N),
        "SEGMENT": config.segment,
        "BLOCK": block,
        "num_warps": config.warps,
    }


def _receive(states: Tensor, totals: Tensor, a: Tensor, backward: bool) -> None:
    """Replaces what each segment adds, states `[B, S, N, D]`, by what it receives."""
    (B, S, N, D), block = states.shape, 256
    _combine[(triton.cdiv(N * D, block), B)](states, totals, a, D, S, N=N, BLOCK=block, BACKWARD=backward, num_warps=2)
