"""Taylor linear attention, one token a sequence, in Triton: the equations and the state of `reference.py`, in float32.

A program has one sequence and head (and a block of dv): it walks the state S `[F, dv]` a tile of features at a time and
makes phi(q) of a tile in registers: feature f is x_a x_b, with a and b from a table and the number 1 in place d of x.
It attends to the tokens beside S; only where these are complete, one step in FOLD, it walks S again and folds them in.
With FOLD = 1 no token lies beside S: each tile is written as it passes, and a step is the plain recurrence in one pass.

Sequences live in slots: row i of q, k, v belongs to slot rows[i] of the state.
"""

from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..devices import slots_of
from .reference import TaylorState, n_features

HALF_ROOT = tl.constexpr(sqrt(0.5))


class Config(NamedTuple):
    """How the work is cut; numbers are powers of two."""

    features: int = 32  # of a tile
    values: int = 128  # most value dimensions of a program
    warps: int = 4


WIDE = Config()
NARROW = Config(features=64, values=16, warps=1)  # where sequences and heads alone are too few programs
FEW_PROGRAMS = 128


@triton.jit
def _phi(x, pairs, f, ROOT: tl.constexpr, D: tl.constexpr, F: tl.constexpr):  # type: ignore[no-untyped-def]
    """Features f of x scaled by ROOT = sqrt(scale); 0 from F on."""
    pair = tl.load(pairs + f, mask=f < F, other=0)
    a, b = pair >> 8, pair & 255
    x_a = tl.load(x + a, mask=(f < F) & (a < D), other=0.0).to(tl.float32) * ROOT
    x_b = tl.load(x + b, mask=(f < F) & (b < D), other=0.0).to(tl.float32) * ROOT
    phi = tl.where(a < D, x_a, 1.0) * tl.where(b < D, x_b, 1.0)
    phi *= tl.where((a == b) & (a < D), HALF_ROOT, 1.0)
    return tl.where(f < F, phi, 0.0)


@triton.jit
def _fold(  # type: ignore[no-untyped-def]
    k, v_now, e, s, z, keys, values, pairs, log_gamma, older, features,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, F: tl.constexpr, FOLD: tl.constexpr, TILE: tl.constexpr,
    ROOT: tl.constexpr, SPLIT: tl.constexpr, DECAY: tl.constexpr,
):  # fmt: skip
    """S and z plus the tokens beside S and the new one, a tile at a time; bounds are numbers, lest it unrolls."""
    in_e = e < DV
    for start in range(0, features, TILE):
        f = start + tl.arange(0, TILE)
        inside = (f < F)[:, None] & in_e[None, :]
        s_tile = tl.load(s + f[:, None] * DV + e[None, :], mask=inside, other=0.0).to(tl.float32)
        if DECAY:
            s_tile *= tl.exp2(log_gamma * FOLD)
        z_sum = _phi(k, pairs, f, ROOT, D, F)
        s_tile += z_sum[:, None] * v_now.to(tl.float32)[None, :]
        for j in range(older):
            phi = _phi(keys + j * (H * D), pairs, f, ROOT, D, F)
            v_then = tl.load(values + j * (H * DV) + e, mask=in_e, other=0.0).to(tl.float32)
            z_sum += phi
            if DECAY:
                phi *= tl.exp2(log_gamma * (older - j).to(tl.float32))
            s_tile += phi[:, None] * v_then[None, :]
        tl.store(s + f[:, None] * DV + e[None, :], s_tile.to(s.dtype.element_ty), mask=inside)
        if not SPLIT:
            z_sum += tl.load(z + f, mask=f < F, other=0.0).to(tl.float32)
            tl.store(z + f, z_sum.to(z.dtype.element_ty), mask=f < F)


@triton.jit
def _step(  # type: ignore[no-untyped-def]
    q, k, v, y,  # [B, H, d] twice, [B, H, dv] twice
    q_row, q_head, k_row, k_head, v_row, v_head,  # strides
    rows, position,  # [B], [slots]
    s, z, keys, values,  # [slots, H, F, dv], [slots, H, F], [slots, FOLD, H, d or dv]
    pairs,  # [F]
    gamma,  # [H], if DECAY
    features,  # F, as a number that no loop is unrolled for
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, F: tl.constexpr, FOLD: tl.constexpr,
    DP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    ROOT: tl.constexpr, SPLIT: tl.constexpr, DECAY: tl.constexpr,
):  # fmt: skip
    """SPLIT: several programs read z, so that none may write it."""
    i, h = tl.program_id(0) // H, tl.program_id(0) % H
    slot = tl.load(rows + i).to(tl.int64)
    e, d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, DP)
    in_e, in_d = e < DV, d < D
    q += i * q_row + h * q_head
    k += i * k_row + h * k_head
    keys += (slot * FOLD * H + h) * D  # of the token at place 0; tokens are H * D apart
    values += (slot * FOLD * H + h) * DV
    s += (slot * H + h) * (F * DV)
    z += (slot * H + h) * F
    k_now = tl.load(k + d, mask=in_d, other=0.0)
    v_now = tl.load(v + i * v_row + h * v_head + e, mask=in_e, other=0.0)
    q_all = tl.load(q + d, mask=in_d, other=0.0).to(tl.float32) * (ROOT * ROOT)
    similarity = tl.sum(q_all * k_now.to(tl.float32), axis=0)
    total = 1.0 + similarity + similarity * similarity * 0.5
    y_sum = total * v_now.to(tl.float32)
    if DECAY:
        log_gamma = tl.log2(tl.load(gamma + h).to(tl.float32))
        since = log_gamma  # of the decay since the last fold
    if FOLD > 1:
        place = (tl.load(position + slot) % FOLD).to(tl.int32)
        if tl.program_id(1) == 0:
            tl.store(keys + place * (H * D) + d, k_now, mask=in_d)
        tl.store(values + place * (H * DV) + e, v_now, mask=in_e)
        j = tl.arange(0, FOLD)
        before = j < place
        k_before = tl.load(keys + j[:, None] * (H * D) + d[None, :], mask=before[:, None] & in_d[None, :], other=0.0)
        v_before = tl.load(values + j[:, None] * (H * DV) + e[None, :], mask=before[:, None] & in_e[None, :], other=0.0)
        similarities = tl.sum(q_all[None, :] * k_before.to(tl.float32), axis=1)
        weights = tl.where(before, 1.0 + similarities + similarities * similarities * 0.5, 0.0)
        total += tl.sum(weights, axis=0)
        if DECAY:
            weights *= tl.exp2(log_gamma * tl.where(before, place - j, 0).to(tl.float32))
            since *= (place + 1).to(tl.float32)
        y_sum += tl.sum(weights[:, None] * v_before.to(tl.float32), axis=0)
    read = tl.zeros([BLOCK], tl.float32)
    for start in tl.static_range(0, F, TILE):
        f = start + tl.arange(0, TILE)
        inside = (f < F)[:, None] & in_e[None, :]
        phi = _phi(q, pairs, f, ROOT, D, F)
        s_tile = tl.load(s + f[:, None] * DV + e[None, :], mask=inside, other=0.0).to(tl.float32)
        z_tile = tl.load(z + f, mask=f < F, other=0.0).to(tl.float32)
        read += tl.sum(phi[:, None] * s_tile, axis=0)
        total += tl.sum(phi * z_tile, axis=0)
        if FOLD == 1:
            phi_k = _phi(k, pairs, f, ROOT, D, F)
            if DECAY:
                s_tile *= tl.exp2(log_gamma)
            s_tile += phi_k[:, None] * v_now.to(tl.float32)[None, :]
            tl.store(s + f[:, None] * DV + e[None, :], s_tile.to(s.dtype.element_ty), mask=inside)
            if not SPLIT:
                tl.store(z + f, (z_tile + phi_k).to(z.dtype.element_ty), mask=f < F)
    if DECAY:
        read *= tl.exp2(since)
    tl.store(y + (i * H + h) * DV + e, ((y_sum + read) / total).to(y.dtype.element_ty), mask=in_e)
    if FOLD > 1:
        complete = place == FOLD - 1
        if complete:
            log2_gamma = log_gamma if DECAY else 0.0
            _fold(
                k, v_now, e, s, z, keys, values, pairs, log2_gamma, place, features,
                H, D, DV, F, FOLD, TILE, ROOT, SPLIT, DECAY,
            )  # fmt: skip


@triton.jit
def _fold_normaliser(  # type: ignore[no-untyped-def]
    k, k_row, k_head,
    rows, position, z, keys, pairs,
    H: tl.constexpr, D: tl.constexpr, F: tl.constexpr, FOLD: tl.constexpr, FP: tl.constexpr, ROOT: tl.constexpr,
):  # fmt: skip
    """z, where several programs had to read it before it is written."""
    i, h = tl.program_id(0) // H, tl.program_id(0) % H
    slot = tl.load(rows + i).to(tl.int64)
    place = (tl.load(position + slot) % FOLD).to(tl.int32)
    if place == FOLD - 1:
        f = tl.arange(0, FP)
        keys += (slot * FOLD * H + h) * D
        z += (slot * H + h) * F
        z_sum = tl.load(z + f, mask=f < F, other=0.0).to(tl.float32)
        z_sum += _phi(k + i * k_row + h * k_head, pairs, f, ROOT, D, F)
        for j in range(place):
            z_sum += _phi(keys + j * (H * D), pairs, f, ROOT, D, F)
        tl.store(z + f, z_sum.to(z.dtype.element_ty), mask=f < F)


@lru_cache(maxsize=32)
def pairs_of(feature_dim: int, device: torch.device) -> Tensor:
    """a * 256 + b `[F]` int32: phi_f(x) = x_a x_b (times sqrt(1/2) where a = b < d), where x_d is 1."""
    d = feature_dim
    with torch.inference_mode(False):
        a, b = torch.triu_indices(d, d, dtype=torch.int32)
        single, one = torch.arange(d, dtype=torch.int32), torch.tensor([d], dtype=torch.int32)
        first, second = torch.cat([one, single, a]), torch.cat([one, one.expand(d), b])
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
    """`reference.step`; q, k `[B, H, d]`, d < 255, v `[B, H, dv]` -> y `[B, H, dv]`; `state` is updated in place.

    Args:
        position: `[slots]` int64, tokens read before this one.
        state: of all slots, contiguous; the number of tokens beside S, FOLD, is its recent_keys.shape[1].
        rows: `[B]`, the slot of each sequence, none twice; None: row i is slot i.
        config: how the work is cut; None for what suits the sizes.
    """
    B, H, D = q.shape
    DV, FOLD, F = v.shape[2], state.recent_keys.shape[1], n_features(D)
    rows = slots_of(rows, q)
    config = config or (WIDE if B * H > FEW_PROGRAMS else NARROW)
    block = min(config.values, triton.next_power_of_2(DV))
    split = triton.cdiv(DV, block)
    y = v.new_empty(B, H, DV)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    if not B:
        return y
    pairs = pairs_of(D, q.device)
    gamma = pairs if decay is None else decay
    sizes = {"H": H, "D": D, "F": F, "FOLD": FOLD, "ROOT": sqrt(scale)}
    _step[(B * H, split)](
        q, k, v, y, *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], rows, position, *state, pairs, gamma, F,
        **sizes, DV=DV, DP=triton.next_power_of_2(D), TILE=config.features, BLOCK=block,
        SPLIT=split > 1, DECAY=decay is not None, num_warps=config.warps,
    )  # fmt: skip
    if split > 1:
        _fold_normaliser[(B * H,)](
            k, *k.stride()[:2], rows, position, state.k_sum, state.recent_keys, pairs,
            **sizes, FP=triton.next_power_of_2(F), num_warps=1,
        )  # fmt: skip
    return y
