"""The diagonal SSM, one token a sequence, in Triton: the equations of `reference.py`, times a gate.

A program has some channels of some sequences. It reads dA, dB and C of its channels once for all of them: read again
for each, they would be 1.5 times the bytes of its states. The next sequence's state is on its way meanwhile.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped, slots_of
from .reference import DiagonalSSM


class Config(NamedTuple):
    """How the work is cut."""

    numbers: int  # complex ones of a program, a sequence; a power of two
    sequences: int
    warps: int


MANY, FEW = Config(numbers=512, sequences=4, warps=4), Config(numbers=512, sequences=1, warps=4)
ENOUGH = 32  # sequences that are many
THREADS = 32  # of a warp


@triton.jit
def _parts(numbers, cell, inside):  # type: ignore[no-untyped-def]
    """Real and imaginary parts `[BLOCK, NP]`."""
    pairs = tl.load(numbers + cell, mask=inside, other=0.0).to(tl.float32)
    return tl.split(tl.reshape(pairs, [cell.shape[0], cell.shape[1] // 2, 2]))


@triton.jit
def _ssm(  # type: ignore[no-untyped-def]
    u, gate, y, u_row, gate_row,  # [B, D], and strides of rows
    da, db, c, skip,  # [D, N, 2] three times, [D]
    rows, state,  # [B], [slots, D, N, 2]
    B, D, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, SEQUENCES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    d, m = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, 2 * NP)
    in_d = d < D
    inside = in_d[:, None] & (m < 2 * N)[None, :]
    cell = d[:, None] * (2 * N) + m[None, :]
    a, a_i = _parts(da, cell, inside)
    b, b_i = _parts(db, cell, inside)
    c_r, c_i = _parts(c, cell, inside)
    skipped = tl.load(skip + d, mask=in_d, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    first = tl.program_id(0) * SEQUENCES
    slot = tl.load(rows + first).to(tl.int64)
    next_r, next_i = _parts(state + slot * (D * N * 2), cell, inside)
    for j in tl.static_range(SEQUENCES):
        i, now, h_r, h_i = first + j, slot, next_r, next_i
        if j + 1 < SEQUENCES:
            slot = tl.load(rows + i + 1, mask=i + 1 < B, other=0).to(tl.int64)
            next_r, next_i = _parts(state + slot * (D * N * 2), cell, inside & (i + 1 < B))
        there = in_d & (i < B)
        x = tl.load(u + i * u_row + d, mask=there, other=0.0).to(tl.float32)
        z = tl.load(gate + i * gate_row + d, mask=there, other=0.0).to(tl.float32)
        new_r = a * h_r - a_i * h_i + b * x[:, None]
        new_i = a * h_i + a_i * h_r + b_i * x[:, None]
        new = tl.reshape(tl.join(new_r, new_i), [BLOCK, 2 * NP])
        tl.store(state + now * (D * N * 2) + cell, new.to(state.dtype.element_ty), mask=inside & (i < B))
        read = 2.0 * tl.sum(c_r * new_r - c_i * new_i, axis=1)
        tl.store(y + i * D + d, ((read + skipped * x) * z).to(y.dtype.element_ty), mask=there)


def gated_step(
    u: Tensor,
    ssm: DiagonalSSM,
    gate: Tensor,
    state: Tensor,
    rows: Tensor | None = None,
    config: Config | None = None,
) -> Tensor:
    """`dispatch.gated_step` in one kernel.

    Args:
        state: of all slots, contiguous.
        rows: `[B]`, the slot of each sequence, none twice; None: row i is slot i.
        config: how the work is cut; None for what suits the sizes.
    """
    (B, D), N = u.shape, ssm.da.shape[1]
    u, gate = (x if x.stride(1) == 1 else x.contiguous() for x in (u, gate))
    numbers = [torch.view_as_real(x.contiguous()) for x in ssm[:3]]  # no copies: discretize() makes them so
    config = config or (MANY if B >= ENOUGH else FEW)
    y = u.new_empty(B, D)
    padded = triton.next_power_of_2(N)
    block = max(1, min(config.numbers // padded, triton.next_power_of_2(D)))
    # With more threads than numbers of state, some would hold the same, and read what another had written already.
    warps = max(1, min(config.warps, 2 * padded * block // THREADS))
    if B:
        _ssm[(triton.cdiv(B, config.sequences), triton.cdiv(D, block))](
            u, gate, y, u.stride(0), gate.stride(0), *numbers, ssm.skip, slots_of(rows, u), state,
            B, D, N=N, NP=padded, BLOCK=block, SEQUENCES=config.sequences, num_warps=warps, **overlapped(u),
        )  # fmt: skip
    return y
