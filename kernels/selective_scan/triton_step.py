"""Mamba's selective scan, one token a sequence, in Triton: `reference.gated_step`, its softplus and gate included."""

import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped, slots_of
from .reference import GatedInputs

BLOCK = 128  # channels of a program


@triton.jit
def _step(  # type: ignore[no-untyped-def]
    u, dt, gate, b, c,  # [B, D] three times, [B, N] twice
    dt_bias, a_log, skip,  # [D], [D, N], [D]
    y,  # [B, D]
    u_row, dt_row, gate_row, b_row, c_row,  # strides
    rows, state,  # [B], [slots, D, N]
    D, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i = tl.program_id(0)
    slot = tl.load(rows + i).to(tl.int64)
    d, n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, NP)
    in_d, in_n = d < D, n < N
    inside = in_d[:, None] & in_n[None, :]
    cell = d[:, None] * N + n[None, :]
    a = -tl.exp(tl.load(a_log + cell, mask=inside, other=0.0).to(tl.float32))
    bias = tl.load(dt_bias + d, mask=in_d, other=0.0).to(tl.float32)
    skipped = tl.load(skip + d, mask=in_d, other=0.0).to(tl.float32)
    place = state + slot * D * N + cell
    h = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    u_now = tl.load(u + i * u_row + d, mask=in_d, other=0.0).to(tl.float32)
    step = tl.load(dt + i * dt_row + d, mask=in_d, other=0.0).to(tl.float32) + bias
    # softplus, cut where PyTorch cuts it; log(1 + t) loses what 1 + t rounds away, and the quotient gives it back
    t = tl.exp(tl.minimum(step, 20.0))
    rounded = 1.0 + t
    log1p = tl.where(rounded == 1.0, t, tl.log(rounded) * (t / tl.where(rounded == 1.0, 1.0, rounded - 1.0)))
    step = tl.where(step > 20.0, step, log1p)
    b_now = tl.load(b + i * b_row + n, mask=in_n, other=0.0).to(tl.float32)
    c_now = tl.load(c + i * c_row + n, mask=in_n, other=0.0).to(tl.float32)
    h = tl.exp(step[:, None] * a) * h + (step * u_now)[:, None] * b_now[None, :]
    tl.store(place, h.to(state.dtype.element_ty), mask=inside)
    out = tl.sum(h * c_now[None, :], axis=1) + skipped * u_now
    z = tl.load(gate + i * gate_row + d, mask=in_d, other=0.0).to(tl.float32)
    tl.store(y + i * D + d, (out * z / (1.0 + tl.exp(-z))).to(y.dtype.element_ty), mask=in_d)


def gated_step(x: GatedInputs, state: Tensor, rows: Tensor | None = None) -> Tensor:
    """`reference.gated_step` in one kernel; the last dimensions of x contiguous.

    Args:
        state: of all slots `[slots, D, N]`, contiguous.
        rows: `[B]`, the slot of each sequence, none twice; None: row i is slot i.
    """
    (B, D), N = x.u.shape, x.a_log.shape[1]
    rows = slots_of(rows, x.u)
    y = x.u.new_empty(B, D)
    block = min(BLOCK, triton.next_power_of_2(D))
    if B:
        _step[(B, triton.cdiv(D, block))](
            *x, y, *(t.stride(0) for t in x[:5]), rows, state,
            D, N=N, NP=triton.next_power_of_2(N), BLOCK=block, num_warps=4, **overlapped(x.u),
        )  # fmt: skip
    return y
