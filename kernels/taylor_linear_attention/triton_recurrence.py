"""Taylor linear attention as the plain recurrence, one token a sequence, in Triton: S is read and written in one pass.

    S <- gamma S + phi(k) vᵀ,   z <- z + phi(k),   y = phi(q)·S / phi(q)·z

What the deferred write (`triton_step.py`), which models decode with, is measured against. A program has one sequence
and head (and a block of dv) and walks S `[F, dv]` a tile of features at a time.
"""

from math import sqrt
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..devices import arrivals, overlapped, slots_of
from .reference import n_features
from .triton_step import pairs_of

HALF_ROOT = tl.constexpr(sqrt(0.5))
FEW_PROGRAMS = 128


class Config(NamedTuple):
    """How the work is cut; numbers are powers of two."""

    features: int  # of a tile
    values: int  # most value dimensions of a program
    warps: int


def config_for(programs: int, state: Tensor) -> Config:
    """What was fastest on an H100 for so many sequences times heads."""
    if programs <= FEW_PROGRAMS:
        return Config(features=256, values=16, warps=4)
    return Config(128, 128, 4) if state.element_size() == 4 else Config(64, 128, 2)


@triton.jit
def _phi(x, pairs, f, ROOT: tl.constexpr, D: tl.constexpr, F: tl.constexpr):  # type: ignore[no-untyped-def]
    """Features f of x scaled by ROOT = sqrt(scale); 0 from F on. The number 1 stands in place d of x."""
    pair = tl.load(pairs + f, mask=f < F, other=0)
    a, b = pair >> 8, pair & 255
    x_a = tl.load(x + a, mask=(f < F) & (a < D), other=0.0).to(tl.float32) * ROOT
    x_b = tl.load(x + b, mask=(f < F) & (b < D), other=0.0).to(tl.float32) * ROOT
    phi = tl.where(a < D, x_a, 1.0) * tl.where(b < D, x_b, 1.0)
    phi *= tl.where((a == b) & (a < D), HALF_ROOT, 1.0)
    return tl.where(f < F, phi, 0.0)


@triton.jit
def _recur(  # type: ignore[no-untyped-def]
    q, k, v, y,  # [B, H, d] twice, [B, H, dv] twice
    q_row, q_head, k_row, k_head, v_row, v_head,  # strides
    rows, s, z,  # [B], [slots, H, F, dv], [slots, H, F]
    pairs,  # [F]
    gamma,  # [H], if DECAY
    arrived,  # [B H], zeros before and after, if SPLIT
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, F: tl.constexpr,
    FP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    ROOT: tl.constexpr, SPLIT: tl.constexpr, DECAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i, h = tl.program_id(0) // H, tl.program_id(0) % H
    slot = tl.load(rows + i).to(tl.int64)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_e = e < DV
    q += i * q_row + h * q_head
    k += i * k_row + h * k_head
    s += (slot * H + h) * (F * DV)
    z += (slot * H + h) * F
    v_now = tl.load(v + i * v_row + h * v_head + e, mask=in_e, other=0.0).to(tl.float32)
    kept = tl.load(gamma + h).to(tl.float32) if DECAY else 1.0
    read = tl.zeros([BLOCK], tl.float32)
    total = 0.0
    for start in tl.static_range(0, F, TILE):
        f = start + tl.arange(0, TILE)
        inside = (f < F)[:, None] & in_e[None, :]
        s_tile = tl.load(s + f[:, None] * DV + e[None, :], mask=inside, other=0.0).to(tl.float32)
        z_tile = tl.load(z + f, mask=f < F, other=0.0).to(tl.float32)
        phi_q, phi_k = _phi(q, pairs, f, ROOT, D, F), _phi(k, pairs, f, ROOT, D, F)
        s_tile = s_tile * kept + phi_k[:, None] * v_now[None, :]
        z_tile += phi_k
        read += tl.sum(phi_q[:, None] * s_tile, axis=0)
        total += tl.sum(phi_q * z_tile, axis=0)
        tl.store(s + f[:, None] * DV + e[None, :], s_tile.to(s.dtype.element_ty), mask=inside)
        if not SPLIT:
            tl.store(z + f, z_tile.to(z.dtype.element_ty), mask=f < F)
    tl.store(y + (i * H + h) * DV + e, (read / total).to(y.dtype.element_ty), mask=in_e)
    if SPLIT:
        # All programs of a head read z: the last to come here writes it.
        tl.debug_barrier()
        if tl.atomic_add(arrived + tl.program_id(0), 1) == tl.num_programs(1) - 1:
            g = tl.arange(0, FP)
            z_sum = tl.load(z + g, mask=g < F, other=0.0).to(tl.float32) + _phi(k, pairs, g, ROOT, D, F)
            tl.store(z + g, z_sum.to(z.dtype.element_ty), mask=g < F)
            tl.store(arrived + tl.program_id(0), 0)


def recur(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    state: tuple[Tensor, Tensor],
    decay: Tensor | None = None,
    rows: Tensor | None = None,
    config: Config | None = None,
) -> Tensor:
    """q, k `[B, H, d]`, v `[B, H, dv]` -> y `[B, H, dv]`; the state is updated in place.

    Args:
        state: S `[slots, H, F, dv]` and z `[slots, H, F]` of all slots, contiguous.
        decay: gamma `[H]`, or None.
        rows: `[B]`, the slot of each sequence, none twice; None: row i is slot i.
        config: how the work is cut; None for what suits the sizes.
    """
    (B, H, D), DV, F = q.shape, v.shape[2], n_features(q.shape[2])
    rows = slots_of(rows, q)
    config = config or config_for(B * H, state[0])
    block = min(config.values, triton.next_power_of_2(DV))
    split = triton.cdiv(DV, block)
    y = v.new_empty(B, H, DV)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    features = triton.next_power_of_2(F)
    if B:
        _recur[(B * H, split)](
            q, k, v, y, *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], rows, *state, pairs_of(D, q.device),
            rows if decay is None else decay, arrivals(B * H, q.device) if split > 1 else rows,
            H=H, D=D, DV=DV, F=F, FP=features, TILE=min(config.features, features), BLOCK=block,
            ROOT=sqrt(scale), SPLIT=split > 1, DECAY=decay is not None, num_warps=config.warps, **overlapped(q),
        )  # fmt: skip
    return y
