"""The causal filter, one token a sequence, in Triton: the equation of `reference.py`, times a gate.

A program has some channels of some sequences. It holds their taps, reads the inputs of a sequence, and writes them back
one place on, without the oldest; the next sequence's are on their way meanwhile. A ring would save the writing, but
whoever reads the state would have to turn it back, and of what an H3 layer moves in a step it is a sixth.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped, slots_of


class Config(NamedTuple):
    """How the work is cut."""

    numbers: int  # taps times channels of a program; a power of two
    sequences: int
    warps: int


MANY, FEW = Config(numbers=4096, sequences=4, warps=4), Config(numbers=2048, sequences=1, warps=4)
ENOUGH = 32  # sequences that are many


@triton.jit
def _newest(u, u_row, rows, inputs, i, there, D, N, lag, d, in_d):  # type: ignore[no-untyped-def]
    """The last N inputs of sequence i, the newest first `[NP, BLOCK]`, and its slot."""
    slot = tl.load(rows + i, mask=there, other=0).to(tl.int64)
    held = inputs + slot * (N - 1) * D + (N - 1 - lag)[:, None] * D + d[None, :]
    before = tl.load(held, mask=((lag > 0) & (lag < N))[:, None] & (in_d & there)[None, :], other=0.0)
    now = tl.load(u + i * u_row + d, mask=in_d & there, other=0.0).to(before.dtype)
    return tl.where((lag == 0)[:, None], now[None, :], before), slot


@triton.jit
def _filter(  # type: ignore[no-untyped-def]
    u, gate, y, u_row, gate_row,  # [B, D], and strides of rows
    taps, taps_row,  # [D, N]
    rows, inputs,  # [B], [slots, N - 1, D]
    B, D, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, SEQUENCES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    d, lag = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, NP)
    in_d = d < D
    tap = tl.load(taps + d[None, :] * taps_row + lag[:, None], mask=(lag < N)[:, None] & in_d[None, :], other=0.0).to(
        tl.float32
    )
    if PDL:
        tl.extra.cuda.gdc_wait()
    first = tl.program_id(0) * SEQUENCES
    x_next, slot_next = _newest(u, u_row, rows, inputs, first, first < B, D, N, lag, d, in_d)
    for j in tl.static_range(SEQUENCES):
        i, x, slot = first + j, x_next, slot_next
        if j + 1 < SEQUENCES:
            x_next, slot_next = _newest(u, u_row, rows, inputs, i + 1, i + 1 < B, D, N, lag, d, in_d)
        inside = in_d & (i < B)
        out = tl.sum(x.to(tl.float32) * tap, axis=0)
        out *= tl.load(gate + i * gate_row + d, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + i * D + d, out.to(y.dtype.element_ty), mask=inside)
        tl.debug_barrier()  # all have read what is now overwritten
        moved = inputs + slot * (N - 1) * D + (N - 2 - lag)[:, None] * D + d[None, :]
        tl.store(moved, x, mask=(lag < N - 1)[:, None] & inside[None, :])


def gated_step(
    u: Tensor, taps: Tensor, gate: Tensor, inputs: Tensor, rows: Tensor | None = None, config: Config | None = None
) -> Tensor:
    """`dispatch.gated_step` in one kernel: u, gate `[B, D]`, taps `[D, N]`.

    Args:
        inputs: of all slots, contiguous.
        rows: `[B]`, the slot of each sequence, none twice; None: row i is slot i.
        config: how the work is cut; None for what suits the sizes.
    """
    (B, D), N = u.shape, taps.shape[1]
    u, gate, taps = (x if x.stride(1) == 1 else x.contiguous() for x in (u, gate, taps))
    config = config or (MANY if B >= ENOUGH else FEW)
    y = u.new_empty(B, D)
    padded = triton.next_power_of_2(N)
    block = max(1, min(config.numbers // padded, triton.next_power_of_2(D)))
    if B:
        _filter[(triton.cdiv(B, config.sequences), triton.cdiv(D, block))](
            u, gate, y, u.stride(0), gate.stride(0), taps, taps.stride(0), slots_of(rows, u), inputs,
            B, D, N=N, NP=padded, BLOCK=block, SEQUENCES=config.sequences, num_warps=config.warps, **overlapped(u),
        )  # fmt: skip
    return y
