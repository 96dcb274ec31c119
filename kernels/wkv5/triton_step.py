"""RWKV-5's time mixing, one token a sequence, in Triton: the equations of `reference.py`, norm and gate included.

A program has one sequence and head, whose state it reads and writes once.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped, slots_of
from .reference import Heads

BLOCK = 512  # channels of a program that mixes
WARPS = 4  # of a head of up to 64
THREADS = 32  # of a warp


@triton.jit
def _mixed(now, before, mu, y, d, in_d):  # type: ignore[no-untyped-def]
    weight = tl.load(mu + d, mask=in_d, other=0.0).to(tl.float32)
    tl.store(y + d, (now * weight + before * (1.0 - weight)).to(y.dtype.element_ty), mask=in_d)


@triton.jit
def _mix(  # type: ignore[no-untyped-def]
    x, x_row, mu_0, mu_1, mu_2, mu_3,  # [B, D], [D] each
    y,  # [COUNT, B, D]
    rows, last,  # [B], [slots, D]
    B, D, COUNT: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_d = d < D
    last += tl.load(rows + i).to(tl.int64) * D
    x_now = tl.load(x + i * x_row + d, mask=in_d, other=0.0)
    before = tl.load(last + d, mask=in_d, other=0.0).to(tl.float32)
    tl.debug_barrier()  # all have read what is now overwritten
    tl.store(last + d, x_now, mask=in_d)
    now = x_now.to(tl.float32)
    y += i * D
    _mixed(now, before, mu_0, y, d, in_d)
    _mixed(now, before, mu_1, y + B * D, d, in_d)
    if COUNT == 4:
        _mixed(now, before, mu_2, y + 2 * B * D, d, in_d)
        _mixed(now, before, mu_3, y + 3 * B * D, d, in_d)


@triton.jit
def _wkv(  # type: ignore[no-untyped-def]
    r, k, v, gate, y,  # [B, H, N] three times, [B, H N] twice
    r_row, r_head, k_row, k_head, v_row, v_head, gate_row,  # strides
    omega, bonus, weight, bias,  # [H, N] each
    rows, state,  # [B], [slots, H, N, N]
    H: tl.constexpr, N: tl.constexpr, NP: tl.constexpr,
    DIVISOR: tl.constexpr, EPS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    i, h = tl.program_id(0) // H, tl.program_id(0) % H
    n = tl.arange(0, NP)
    in_n = n < N
    inside = in_n[:, None] & in_n[None, :]
    at = h * N + n
    w = tl.exp(-tl.exp(tl.load(omega + at, mask=in_n, other=0.0).to(tl.float32)))
    u = tl.load(bonus + at, mask=in_n, other=0.0).to(tl.float32)
    scale = tl.load(weight + at, mask=in_n, other=0.0).to(tl.float32)
    shift = tl.load(bias + at, mask=in_n, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    place = state + (tl.load(rows + i).to(tl.int64) * H + h) * (N * N) + n[:, None] * N + n[None, :]
    s = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    r_now = tl.load(r + i * r_row + h * r_head + n, mask=in_n, other=0.0).to(tl.float32)
    k_now = tl.load(k + i * k_row + h * k_head + n, mask=in_n, other=0.0).to(tl.float32)
    v_now = tl.load(v + i * v_row + h * v_head + n, mask=in_n, other=0.0).to(tl.float32)
    z = tl.load(gate + i * gate_row + at, mask=in_n, other=0.0).to(tl.float32)
    new = w[:, None] * s + k_now[:, None] * v_now[None, :]
    tl.store(place, new.to(state.dtype.element_ty), mask=inside)
    read = (tl.sum(r_now[:, None] * s, axis=0) + tl.sum(r_now * u * k_now, axis=0) * v_now) / DIVISOR
    centred = tl.where(in_n, read - tl.sum(read, axis=0) / N, 0.0)
    normed = centred / tl.sqrt(tl.sum(centred * centred, axis=0) / N + EPS)
    out = (normed * scale + shift) * z / (1.0 + tl.exp(-z))
    tl.store(y + i * (H * N) + at, out.to(y.dtype.element_ty), mask=in_n)


def mix_step(x: Tensor, mus: Sequence[Tensor], last: Tensor, rows: Tensor | None = None) -> Sequence[Tensor]:
    """`dispatch.mix_step` in one kernel, for two or four mus; a contiguous `last`."""
    (B, D), count = x.shape, len(mus)
    assert count in (2, 4)
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty(count, B, D)
    block = min(BLOCK, triton.next_power_of_2(D))
    if B:
        _mix[(B, triton.cdiv(D, block))](
            x, x.stride(0), *mus, *mus[: 4 - count], y, slots_of(rows, x), last,
            B, D, COUNT=count, BLOCK=block, num_warps=4, **overlapped(x),
        )  # fmt: skip
    return y.unbind()


def gated_step(
    r: Tensor, k: Tensor, v: Tensor, gate: Tensor, heads: Heads, state: Tensor, rows: Tensor | None = None
) -> Tensor:
    """`dispatch.gated_step` in one kernel, for heads whose state a program can hold; a contiguous `state`."""
    B, H, N = r.shape
    r, k, v, gate = (x if x.stride(-1) == 1 else x.contiguous() for x in (r, k, v, gate))
    y, padded = gate.new_empty(B, H * N), triton.next_power_of_2(N)
    # With more threads than numbers of state, some would hold the same, and read what another had written already.
    warps = max(1, min(WARPS if N <= 64 else 2 * WARPS, padded**2 // THREADS))
    if B:
        strides = (*r.stride()[:2], *k.stride()[:2], *v.stride()[:2], gate.stride(0))
        _wkv[(B * H,)](
            r, k, v, gate, y, *strides, heads.omega, heads.u, heads.weight, heads.bias, slots_of(rows, r), state,
            H=H, N=N, NP=padded, DIVISOR=float(heads.divisor), EPS=heads.eps,
            num_warps=warps, **overlapped(r),
        )  # fmt: skip
    return y
