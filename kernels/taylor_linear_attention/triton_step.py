"""Taylor linear attention, one token a sequence, in Triton: the equations and the state of `reference.py`, in float32.

A program has one sequence and head (and a block of dv), and walks the state S `[F, dv]`. With x_b = q_b sqrt(scale) its
rows are read as they lie, 1, then x_b, then x_a x_b for each a and b >= a, so that no table of features is needed:

    phi(q)·S = S_0 + sum_b x_b ( S_b + sum_{a <= b} x_a c_ab S_ab ),    c_ab = sqrt(1/2) where a = b, else 1

What stands in the brackets is summed in a tile `[d, dv]` of registers, and over b only at the end: a sum over threads
for each a would hold up the loads. Then it attends to the tokens beside S. Where these are complete, one step in FOLD,
a second kernel folds them in; in the first it would take registers, and fewer programs would run at a time.

Sequences live in slots: row i of q, k, v belongs to slot rows[i] of the state.
"""

from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped, slots_of
from .reference import TaylorState, n_features

HALF_ROOT = tl.constexpr(sqrt(0.5))


class Config(NamedTuple):
    """How the work is cut; numbers are powers of two.

    Attributes:
        values: most value dimensions of a program.
        registers: most of a thread, so that more programs run at a time; None leaves it to the compiler.
    """

    values: int
    warps: int
    registers: int | None = None


MANY = Config(values=128, warps=2)
FEW = Config(values=8, warps=1)  # where sequences and heads alone are too few programs
FEW_PROGRAMS = 128
FOLD_TILE, FOLD_WARPS = 32, 4
FOLD_PROGRAMS = 2048  # about as many as run at a time: most steps only find that there is nothing to fold


@triton.jit
def _load(s, z, f, e, in_f, in_e, DV: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows f of S and z."""
    s_tile = tl.load(s + f[:, None] * DV + e[None, :], mask=in_f[:, None] & in_e[None, :], other=0.0)
    return s_tile, tl.load(z + f, mask=in_f, other=0.0)


@triton.jit
def _step(  # type: ignore[no-untyped-def]
    q, k, v, y,  # [B, H, d] twice, [B, H, dv] twice
    q_row, q_head, k_row, k_head, v_row, v_head,  # strides
    rows, position,  # [B], [slots]
    s, z, keys, values,  # [slots, H, F, dv], [slots, H, F], [slots, FOLD, H, d or dv]
    gamma,  # [H], if DECAY
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, F: tl.constexpr, FOLD: tl.constexpr,
    DP: tl.constexpr, JP: tl.constexpr, BLOCK: tl.constexpr,
    ROOT: tl.constexpr, DECAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i, h = tl.program_id(0) // H, tl.program_id(0) % H
    slot = tl.load(rows + i).to(tl.int64)
    e, b = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, DP)
    in_e, in_b = e < DV, b < D
    q += i * q_row + h * q_head
    k += i * k_row + h * k_head
    keys += (slot * FOLD * H + h) * D  # of the token at place 0; tokens are H * D apart
    values += (slot * FOLD * H + h) * DV
    s += (slot * H + h) * (F * DV)
    z += (slot * H + h) * F
    place = (tl.load(position + slot) % FOLD).to(tl.int32)
    s_first, z_first = _load(s, z, 1 + b, e, in_b, in_e, DV)
    s_next, z_next = _load(s, z, 1 + D + b, e, in_b, in_e, DV)
    s_0 = tl.load(s + e, mask=in_e, other=0.0).to(tl.float32)
    z_0 = tl.load(z).to(tl.float32)
    k_now = tl.load(k + b, mask=in_b, other=0.0)
    v_now = tl.load(v + i * v_row + h * v_head + e, mask=in_e, other=0.0)
    x_b = tl.load(q + b, mask=in_b, other=0.0).to(tl.float32) * ROOT
    k_b, v_e = k_now.to(tl.float32) * ROOT, v_now.to(tl.float32)
    acc, z_acc = s_first.to(tl.float32), z_first.to(tl.float32)
    for a in tl.static_range(D):
        f = 1 + D + a * D - a * (a + 1) // 2 + b  # of x_a x_b
        s_tile, z_tile = s_next.to(tl.float32), z_next.to(tl.float32)
        if a + 1 < D:  # asked for before this one is used
            s_next, z_next = _load(s, z, f + D - a - 1, e, in_b & (b > a), in_e, DV)
        c = tl.where(b == a, HALF_ROOT, 1.0)
        x = tl.load(q + a).to(tl.float32) * ROOT * c
        acc += x[:, None] * s_tile
        z_acc += x * z_tile
    read = s_0 + tl.sum(x_b[:, None] * acc, axis=0)
    similarity = tl.sum(x_b * k_b, axis=0)
    weight = 1.0 + similarity + similarity * similarity * 0.5
    total = z_0 + tl.sum(x_b * z_acc, axis=0) + weight
    y_sum = weight * v_e
    j = tl.arange(0, JP)
    before = j < place
    k_j = tl.load(keys + j[:, None] * (H * D) + b[None, :], mask=before[:, None] & in_b[None, :], other=0.0)
    v_j = tl.load(values + j[:, None] * (H * DV) + e[None, :], mask=before[:, None] & in_e[None, :], other=0.0)
    similarities = tl.sum(x_b[None, :] * (k_j.to(tl.float32) * ROOT), axis=1)
    weights = tl.where(before, 1.0 + similarities + similarities * similarities * 0.5, 0.0)
    total += tl.sum(weights, axis=0)
    if DECAY:
        log_gamma = tl.log2(tl.load(gamma + h).to(tl.float32))
        weights *= tl.exp2(log_gamma * tl.where(before, place - j, 0).to(tl.float32))
        read *= tl.exp2(log_gamma * (place + 1).to(tl.float32))
    y_sum += tl.sum(weights[:, None] * v_j.to(tl.float32), axis=0)
    if tl.program_id(1) == 0:
        tl.store(keys + place * (H * D) + b, k_now, mask=in_b)
    tl.store(values + place * (H * DV) + e, v_now, mask=in_e)
    tl.store(y + (i * H + h) * DV + e, ((y_sum + read) / total).to(y.dtype.element_ty), mask=in_e)


@triton.jit
def _fold(  # type: ignore[no-untyped-def]
    rows, position,  # [B], [slots]
    s, z, keys, values,  # as of _step
    gamma,  # [H], if DECAY
    pairs,  # [F]
    tiles, heads,  # of a head, and of a program
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, F: tl.constexpr, FOLD: tl.constexpr,
    JP: tl.constexpr, EP: tl.constexpr, TILE: tl.constexpr,
    ROOT: tl.constexpr, DECAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """S and z plus the tokens beside S, where they are complete, of some heads of a sequence."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    slot = tl.load(rows + tl.program_id(0)).to(tl.int64)
    if tl.load(position + slot) % FOLD == FOLD - 1:
        e, j = tl.arange(0, EP), tl.arange(0, JP)
        in_e, in_j = e < DV, j < FOLD
        for part in range(0, heads * tiles):
            h = tl.program_id(1) * heads + part // tiles
            f = part % tiles * TILE + tl.arange(0, TILE)
            in_f = (f < F) & (h < H)
            inside = in_f[:, None] & in_e[None, :]
            s_place = s + (slot * H + h) * (F * DV) + f[:, None] * DV + e[None, :]
            z_place = z + (slot * H + h) * F + f
            s_tile = tl.load(s_place, mask=inside, other=0.0).to(tl.float32)
            z_tile = tl.load(z_place, mask=in_f, other=0.0).to(tl.float32)
            token = (slot * FOLD + j) * H + h
            live = in_j & (h < H)
            v_j = tl.load(values + token[:, None] * DV + e[None, :], mask=live[:, None] & in_e[None, :], other=0.0)
            pair = tl.load(pairs + f, mask=f < F, other=0)
            phi = tl.where((f < F)[:, None] & live[None, :], 1.0, 0.0)
            for side in tl.static_range(2):  # the number 1 stands in place d of x
                n = (pair >> 8 if side == 0 else pair & 255)[:, None]
                x = tl.load(keys + token[None, :] * D + n, mask=live[None, :] & (n < D), other=0.0)
                phi *= tl.where(n < D, x.to(tl.float32) * ROOT, 1.0)
            phi *= tl.where((pair >> 8 == (pair & 255)) & (pair < (D << 8)), HALF_ROOT, 1.0)[:, None]
            tl.store(z_place, (z_tile + tl.sum(phi, axis=1)).to(z.dtype.element_ty), mask=in_f)
            if DECAY:
                log_gamma = tl.log2(tl.load(gamma + h, mask=h < H, other=1.0).to(tl.float32))
                s_tile *= tl.exp2(log_gamma * FOLD)
                phi *= tl.exp2(log_gamma * tl.where(in_j, FOLD - 1 - j, 0).to(tl.float32))[None, :]
            s_tile = tl.dot(phi, v_j.to(tl.float32), s_tile, input_precision="tf32x3")
            tl.store(s_place, s_tile.to(s.dtype.element_ty), mask=inside)


@lru_cache(maxsize=32)
def pairs_of(feature_dim: int, device: torch.device) -> Tensor:
    """a * 256 + b `[F]` int32: phi_f(x) = x_a x_b (times sqrt(1/2) where a = b < d), where x_d is 1."""
    d = feature_dim
    with torch.inference_mode(False):
        a, b = torch.triu_indices(d, d, dtype=torch.int32)
        single, one = torch.arange(d, dtype=torch.int32), torch.tensor([d], dtype=torch.int32)
        first, second = torch.cat([one, one.expand(d), a]), torch.cat([one, single, b])
        return (first * 256 + second).to(device)


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    position: Tensor,
    state: TaylorState,
    decay: Tensor | None = None,
    rows: Tensor | None = None,
    config: Config | None = None,
) -> Tensor:
    """`reference.step`; q, k `[B, H, d]`, v `[B, H, dv]` -> y `[B, H, dv]`; `state` is updated in place.

    Args:
        position: `[slots]` int64, tokens read before this one.
        state: of all slots, contiguous; the number of tokens beside S, FOLD, is its recent_keys.shape[1], 2 or more.
        rows: `[B]`, the slot of each sequence, none twice; None: row i is slot i.
        config: how the work is cut; None for what suits the sizes.
    """
    B, H, D = q.shape
    DV, FOLD, F = v.shape[2], state.recent_keys.shape[1], n_features(D)
    rows = slots_of(rows, q)
    config = config or (MANY if B * H > FEW_PROGRAMS else FEW)
    block = min(config.values, triton.next_power_of_2(DV))
    y = v.new_empty(B, H, DV)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    sizes = {"H": H, "D": D, "DV": DV, "F": F, "FOLD": FOLD, "ROOT": sqrt(scale), "DECAY": decay is not None}
    sizes |= {"JP": max(16, triton.next_power_of_2(FOLD)), **overlapped(q)}
    gamma = state.k_sum if decay is None else decay
    if B:
        _step[(B * H, triton.cdiv(DV, block))](
            q, k, v, y, *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], rows, position, *state, gamma, **sizes,
            DP=triton.next_power_of_2(D), BLOCK=block, num_warps=config.warps, maxnreg=config.registers,
        )  # fmt: skip
        heads = max(1, B * H // FOLD_PROGRAMS)
        _fold[(B, triton.cdiv(H, heads))](
            rows, position, *state, gamma, pairs_of(D, q.device), triton.cdiv(F, FOLD_TILE), heads, **sizes,
            EP=triton.next_power_of_2(DV), TILE=FOLD_TILE, num_warps=FOLD_WARPS, num_stages=1,
        )  # fmt: skip
    return y
