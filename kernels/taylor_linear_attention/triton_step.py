"""Taylor linear attention, one token a sequence, in Triton: the equations and the state of `reference.py`.

A program reads the state S `[F, dv]` of one sequence and head (a block of dv) once, a tile of features at a time, and
makes phi(q) of a tile in registers: feature f is x_a x_b times a factor, with a, b and the factor from a table and the
number 1 in place d of x. In the step that completes the FOLD tokens beside S, each tile is written back with their
features folded in before the next is read, so that with FOLD = 1 this is the plain recurrence in one pass.

Sequences live in slots: row i of q, k, v belongs to slot rows[i] of the state.
"""

from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from ..devices import slots_of
from ..precision import sum_dtype
from ..triton_types import accumulator
from .reference import TaylorState, n_features


class Config(NamedTuple):
    """How the work is cut."""

    features: int = 32  # of a tile; a power of two
    values: int = 128  # most value dimensions of a program; a power of two
    warps: int = 4


WIDE = Config()
NARROW = Config(features=64, values=16, warps=1)  # where sequences and heads alone are too few programs
FEW_PROGRAMS = 128


@triton.jit
def _features(x, a, b, factor, root, inside, D: tl.constexpr, ACC: tl.constexpr):  # type: ignore[no-untyped-def]
    """x_a x_b * factor of a tile, with x scaled by `root` = sqrt(scale); x_D is 1."""
    x_a = tl.load(x + a, mask=inside & (a < D), other=0.0).to(ACC) * root
    x_b = tl.load(x + b, mask=inside & (b < D), other=0.0).to(ACC) * root
    return tl.where(a < D, x_a, 1.0) * tl.where(b < D, x_b, 1.0) * factor


@triton.jit
def _step(  # type: ignore[no-untyped-def]
    q, k, v, y,  # [B, H, d] twice, [B, H, dv] twice
    q_row, q_head, k_row, k_head, v_row, v_head,  # strides
    rows, position,  # [B], [slots]
    s, z, keys, values,  # [slots, H, F, dv], [slots, H, F], [slots, FOLD, H, d or dv]
    first, second, factors,  # [F]: the table of features
    gamma,  # [H], if DECAY
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, F: tl.constexpr, FOLD: tl.constexpr,
    DP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    SCALE: tl.constexpr, ROOT: tl.constexpr,  # of it; constants, since a number as an argument is float32
    SPLIT: tl.constexpr,  # several programs share z: `_fold_normaliser` folds it when all have read it
    DECAY: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    i, h = tl.program_id(0) // H, tl.program_id(0) % H
    slot = tl.load(rows + i).to(tl.int64)
    place = (tl.load(position + slot) % FOLD).to(tl.int32)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_e = e < DV
    d = tl.arange(0, DP)
    in_d = d < D
    q += i * q_row + h * q_head
    k += i * k_row + h * k_head
    keys += (slot * FOLD * H + h) * D  # of the token at place 0; tokens are H * D apart
    values += (slot * FOLD * H + h) * DV
    scale, root = tl.full((), SCALE, ACC), tl.full((), ROOT, ACC)

    # The token itself, and those beside S before it.
    k_now, v_now = tl.load(k + d, mask=in_d, other=0.0), tl.load(v + i * v_row + h * v_head + e, mask=in_e, other=0.0)
    if tl.program_id(1) == 0:
        tl.store(keys + place * H * D + d, k_now, mask=in_d)
    tl.store(values + place * H * DV + e, v_now, mask=in_e)
    q_all = tl.load(q + d, mask=in_d, other=0.0).to(ACC)
    similarity = tl.sum(q_all * k_now.to(ACC), axis=0) * scale
    weight = 1.0 + similarity + similarity * similarity * 0.5
    total = weight
    y_sum = weight * v_now.to(ACC)
    if DECAY:
        log_gamma = tl.log2(tl.load(gamma + h).to(ACC))
    if FOLD > 1:
        j = tl.arange(0, FOLD)
        before = j < place
        k_before = tl.load(keys + j[:, None] * (H * D) + d[None, :], mask=before[:, None] & in_d[None, :], other=0.0)
        v_before = tl.load(values + j[:, None] * (H * DV) + e[None, :], mask=before[:, None] & in_e[None, :], other=0.0)
        similarities = tl.sum(q_all[None, :] * k_before.to(ACC), axis=1) * scale
        weights = tl.where(before, 1.0 + similarities + similarities * similarities * 0.5, 0.0)
        total += tl.sum(weights, axis=0)
        if DECAY:
            weights *= tl.exp2(log_gamma * tl.where(before, place - j, 0).to(ACC))
        y_sum += tl.sum(weights[:, None] * v_before.to(ACC), axis=0)

    # S and z, and the fold.
    s += (slot * H + h) * (F * DV)
    z += (slot * H + h) * F
    read = tl.zeros([BLOCK], ACC)
    fold = place == FOLD - 1
    for start in tl.static_range(0, F, TILE):
        f = start + tl.arange(0, TILE)
        in_f = f < F
        a, b = tl.load(first + f, mask=in_f, other=0), tl.load(second + f, mask=in_f, other=0)
        factor = tl.load(factors + f, mask=in_f, other=0.0).to(ACC)
        inside = in_f[:, None] & in_e[None, :]
        phi = _features(q, a, b, factor, root, in_f, D, ACC)
        s_tile = tl.load(s + f[:, None] * DV + e[None, :], mask=inside, other=0.0).to(ACC)
        z_tile = tl.load(z + f, mask=in_f, other=0.0).to(ACC)
        read += tl.sum(phi[:, None] * s_tile, axis=0)
        total += tl.sum(phi * z_tile, axis=0)
        if fold:
            phi_k = _features(k, a, b, factor, root, in_f, D, ACC)
            s_sum = phi_k[:, None] * v_now.to(ACC)[None, :]
            z_sum = phi_k
            for older in range(FOLD - 1):
                phi_k = _features(keys + older * H * D, a, b, factor, root, in_f, D, ACC)
                v_then = tl.load(values + older * H * DV + e, mask=in_e, other=0.0).to(ACC)
                z_sum += phi_k
                if DECAY:
                    phi_k *= tl.exp2(log_gamma * (FOLD - 1 - older))
                s_sum += phi_k[:, None] * v_then[None, :]
            if DECAY:
                s_tile *= tl.exp2(log_gamma * FOLD)
            tl.store(s + f[:, None] * DV + e[None, :], (s_tile + s_sum).to(s.dtype.element_ty), mask=inside)
            if not SPLIT:
                tl.store(z + f, (z_tile + z_sum).to(z.dtype.element_ty), mask=in_f)
    if DECAY:
        read *= tl.exp2(log_gamma * (place + 1).to(ACC))
    out = (y_sum + read) / total
    tl.store(y + (i * H + h) * DV + e, out.to(y.dtype.element_ty), mask=in_e)


@triton.jit
def _fold_normaliser(  # type: ignore[no-untyped-def]
    rows, position, z, keys, first, second, factors,
    H: tl.constexpr, D: tl.constexpr, F: tl.constexpr, FOLD: tl.constexpr, FP: tl.constexpr,
    ROOT: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """z of a sequence and head, in the step that completes the tokens beside S; `keys` hold them all by now."""
    i, h = tl.program_id(0) // H, tl.program_id(0) % H
    slot = tl.load(rows + i).to(tl.int64)
    if tl.load(position + slot) % FOLD == FOLD - 1:
        f = tl.arange(0, FP)
        in_f = f < F
        a, b = tl.load(first + f, mask=in_f, other=0), tl.load(second + f, mask=in_f, other=0)
        factor = tl.load(factors + f, mask=in_f, other=0.0).to(ACC)
        root = tl.full((), ROOT, ACC)
        z += (slot * H + h) * F
        keys += (slot * FOLD * H + h) * D
        z_sum = _features(keys + (FOLD - 1) * H * D, a, b, factor, root, in_f, D, ACC)
        for older in range(FOLD - 1):
            z_sum += _features(keys + older * H * D, a, b, factor, root, in_f, D, ACC)
        z_old = tl.load(z + f, mask=in_f, other=0.0).to(ACC)
        tl.store(z + f, (z_old + z_sum).to(z.dtype.element_ty), mask=in_f)


@lru_cache(maxsize=32)
def feature_table(feature_dim: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """a, b `[F]` int32 and the factor `[F]` float64: phi_f(x) = x_a x_b * factor, where x_d is 1."""
    d = feature_dim
    with torch.inference_mode(False):
        pairs = torch.triu_indices(d, d, dtype=torch.int32)
        single, one = torch.arange(d, dtype=torch.int32), torch.tensor([d], dtype=torch.int32)
        a, b = torch.cat([one, single, pairs[0]]), torch.cat([one, one.expand(d), pairs[1]])
        factor = torch.where((a == b) & (a < d), 1 / sqrt(2), 1.0).double()
        return a.to(device), b.to(device), factor.to(device)


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
    """`reference.step` in one kernel; q, k `[B, H, d]`, v `[B, H, dv]` -> y `[B, H, dv]`; `state` is updated in place.

    Args:
        q, k, v: the last dimension contiguous.
        position: `[slots]` int64, tokens read before this one.
        state: of all slots, contiguous; the number of tokens beside S, FOLD, is its recent_keys.shape[1].
        rows: `[B]`, the slot of each sequence, none twice; None: row i is slot i.
        config: how the work is cut; None for what suits the sizes.
    """
    B, H, D = q.shape
    DV, FOLD = v.shape[2], state.recent_keys.shape[1]
    rows = slots_of(rows, q)
    config = config or (WIDE if B * H > FEW_PROGRAMS else NARROW)
    block = min(config.values, triton.next_power_of_2(DV))
    split = triton.cdiv(DV, block)
    y = v.new_empty(B, H, DV)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    table = feature_table(D, q.device)
    F = n_features(D)
    constants = {"H": H, "D": D, "F": F, "FOLD": FOLD, "ROOT": sqrt(scale), "ACC": accumulator(sum_dtype(q))}
    if B:
        _step[(B * H, split)](
            q, k, v, y, *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], rows, position, *state, *table,
            decay if decay is not None else table[2], **constants,
            DV=DV, DP=triton.next_power_of_2(D), TILE=config.features, BLOCK=block, SCALE=scale,
            SPLIT=split > 1, DECAY=decay is not None, num_warps=config.warps,
        )  # fmt: skip
        if split > 1:
            _fold_normaliser[(B * H,)](
                rows, position, state.k_sum, state.recent_keys, *table, **constants,
                FP=triton.next_power_of_2(F), num_warps=1,
            )  # fmt: skip
    return y
