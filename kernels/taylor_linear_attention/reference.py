"""Causal linear attention with the second-order Taylor feature map of exp (BASED, arXiv 2402.18668).

    w_ij = phi(q_i)·phi(k_j) = 1 + s + s²/2,   s = q_i·k_j * scale,   scale = 1/sqrt(d) unless said otherwise
    y_i  = sum_{j <= i} w_ij v_j / sum_{j <= i} w_ij

The second-order features are symmetric, so x_a x_b is kept once for a <= b, with sqrt(2) off the diagonal: for d = 16
the map has 1 + 16 + 136 = 153 features where published kernels store 273, and is the same function. w >= 1/2, so the
denominator needs no epsilon.

The state of a sequence is S = sum_j phi(k_j) v_jᵀ `[H, F, dv]` and z = sum_j phi(k_j) `[H, F]`, in float32 or better,
over the tokens before the last multiple of FOLD; the at most FOLD tokens since then lie beside it as they are. They are
attended to directly and folded in together when they are complete (the deferred write). Since the folds stand at fixed
positions, S and z are rounded at those and nowhere else, so the state after a token is the same however the sequence
was cut into prefill, forks and steps; and a decoding step reads S without writing it.
With a decay gamma per head (a variant that few checkpoints use), S_i = gamma S_{i-1} + phi(k_i) v_iᵀ; z does not decay.
"""

from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from ..packing import Packing
from ..precision import state_dtype, sum_dtype

FOLD = 16  # at 16 feature and 64 head dimensions, the tokens beside S are an eighth of the state
CHUNK = 128


class TaylorState(NamedTuple):
    """What is remembered of B sequences; how many tokens lie beside S follows from their positions.

    Attributes:
        kv: S `[B, H, F, dv]`; k_sum: z `[B, H, F]`.
        recent_keys, recent_values: k and v of the tokens since the last fold `[B, FOLD, H, d or dv]`: position p lies
            in place p mod FOLD, and places from there on are unused.
    """

    kv: Tensor
    k_sum: Tensor
    recent_keys: Tensor
    recent_values: Tensor


def n_features(feature_dim: int) -> int:
    """F = 1 + d + d (d + 1) / 2."""
    return 1 + feature_dim + feature_dim * (feature_dim + 1) // 2


@lru_cache(maxsize=32)
def _pairs(feature_dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    with torch.inference_mode(False):  # kept beyond this call, which may be inference while a later one trains
        a, b = torch.triu_indices(feature_dim, feature_dim, device=device)
        factor = torch.ones(len(a), dtype=dtype, device=device).masked_fill_(a == b, 1 / sqrt(2))
        return a, b, factor


def taylor_features(x: Tensor, scale: float) -> Tensor:
    """phi(x): `[..., d] -> [..., F]`, so that phi(q)·phi(k) = 1 + s + s²/2 with s = q·k * scale."""
    x = x * sqrt(scale)
    a, b, factor = _pairs(x.shape[-1], x.dtype, x.device)
    return torch.cat([torch.ones_like(x[..., :1]), x, x[..., a] * x[..., b] * factor], dim=-1)


def absorb(k: Tensor, v: Tensor, scale: float, packing: Packing) -> TaylorState:
    """The sums over whole sequences, as a state of position 0: k `[T, H, d]`, v `[T, H, dv]`.

    What JRT's encoder starts from; no token lies beside S.
    """
    wide = sum_dtype(k)
    k_, v_ = packing.pad(k).to(wide), packing.pad(v).to(wide)
    state = v_.new_zeros(packing.batch, k.shape[1], n_features(k.shape[2]), v.shape[2])
    normaliser = state.new_zeros(state.shape[:3])
    for start in range(0, packing.longest, CHUNK):
        part = slice(start, start + CHUNK)
        features = taylor_features(k_[:, part], scale) * packing.mask[:, part, None, None]
        state = state + torch.einsum("blhf,blhe->bhfe", features, v_[:, part])
        normaliser = normaliser + features.sum(1)
    recent = [x.new_zeros(packing.batch, FOLD, *x.shape[1:]) for x in (k, v)]
    return TaylorState(state.to(state_dtype(k)), normaliser.to(state_dtype(k)), *recent)


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    packing: Packing,
    position: Tensor,
    state: TaylorState | None = None,
    decay: Tensor | None = None,
) -> tuple[Tensor, TaylorState]:
    """A packed batch of sequences: quadratic between two folds, through S across them; linear in length.

    Args:
        q, k: `[T, H, d]`; v: `[T, H, dv]`.
        position: `[B]` int64, tokens read before these.
        state: before these tokens; None for the start of a sequence.
        decay: gamma `[H]` in (0, 1], or None.

    Returns:
        y `[T, H, dv]` in the dtype of v, and the state after the last token of each sequence.
    """
    wide = sum_dtype(q)
    if state is None:
        kv = v.new_zeros(packing.batch, v.shape[1], n_features(q.shape[2]), v.shape[2], dtype=state_dtype(v))
        recent = [x.new_zeros(packing.batch, FOLD, *x.shape[1:]) for x in (k, v)]
        state = TaylorState(kv, kv.new_zeros(kv.shape[:3]), *recent)
    # Each row begins at its last fold, with the tokens beside S.
    waiting = position % FOLD  # [B]
    end = waiting + packing.length_tensor
    latest = int(end.max()) if packing.batch else 0
    longest = -(-latest // FOLD) * FOLD
    row, place = packing.row, waiting[packing.row] + packing.within
    old = torch.arange(FOLD, device=q.device) < waiting[:, None]

    def laid_out(new: Tensor, before: Tensor | None) -> Tensor:
        rows = new.new_zeros(packing.batch, max(longest, FOLD), *new.shape[1:])
        if before is not None:
            rows[:, :FOLD] = before * old[..., None, None]
        rows[row, place] = new
        return rows

    keys, values = laid_out(k, state.recent_keys), laid_out(v, state.recent_values)
    q_, k_, v_ = (x.to(wide).transpose(1, 2) for x in (laid_out(q, None), keys, values))  # [B, H, L, .]
    s, z = state.kv.to(wide), state.k_sum.to(wide)
    stored = state.kv.dtype
    age = torch.arange(FOLD, device=q.device)
    causal = (age[:, None] >= age).to(wide)
    if decay is not None:
        gamma = decay.to(wide)[:, None]
        since_fold, until_fold = gamma ** (age + 1), gamma ** (FOLD - 1 - age)  # [H, FOLD]
        between = gamma[..., None] ** (age[:, None] - age).clamp(min=0)  # [H, FOLD, FOLD]
    outputs = []
    for start in range(0, longest, FOLD):
        part = slice(start, start + FOLD)
        qc, kc, vc = q_[:, :, part], k_[:, :, part], v_[:, :, part]
        similarity = qc @ kc.transpose(-1, -2) * scale
        weights = (1 + similarity + similarity.square() / 2) * causal
        features_q = taylor_features(qc, scale)
        total = weights.sum(-1) + (features_q @ z[..., None])[..., 0]
        read = features_q @ s
        if decay is not None:
            weights, read = weights * between, read * since_fold[..., None]
        outputs.append((weights @ vc + read) / total[..., None])
        if start + FOLD > latest:
            break
        full = (end >= start + FOLD)[:, None, None, None]  # rows that reach the end of this part
        features_k = taylor_features(kc, scale)
        new_z = (z + features_k.sum(2)).to(stored).to(wide)
        new_s = features_k.transpose(-1, -2) @ vc + s
        if decay is not None:
            new_s = (features_k * until_fold[..., None]).transpose(-1, -2) @ vc + s * gamma[..., None] ** FOLD
        s, z = torch.where(full, new_s.to(stored).to(wide), s), torch.where(full[..., 0], new_z, z)
    y = torch.cat(outputs, dim=2).transpose(1, 2)[row, place] if outputs else v_.transpose(1, 2)[row, place]
    last = (end - end % FOLD).clamp(max=max(0, longest - FOLD))[:, None] + age
    batch = torch.arange(packing.batch, device=q.device)[:, None]
    unused = (age >= (end % FOLD)[:, None])[..., None, None]
    recent = [x[batch, last].masked_fill(unused, 0) for x in (keys, values)]
    return y.to(v.dtype), TaylorState(s.to(stored), z.to(stored), *recent)


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    position: Tensor,
    state: TaylorState,
    decay: Tensor | None = None,
) -> Tensor:
    """One token a sequence: q, k `[B, H, d]`, v `[B, H, dv]` -> y `[B, H, dv]`; `state` is updated in place.

    `position` `[B]` int64: tokens read before this one.
    """
    s, z, keys, values = state
    place = position % FOLD
    rows = torch.arange(q.shape[0], device=q.device)
    keys[rows, place] = k
    values[rows, place] = v
    wide = sum_dtype(s)
    lag = place[:, None] - torch.arange(FOLD, device=q.device)  # [B, FOLD]
    similarity = torch.einsum("bhd,bjhd->bhj", q.to(wide), keys.to(wide)) * scale
    weights = (1 + similarity + similarity.square() / 2) * (lag >= 0)[:, None]
    features_q = taylor_features(q.to(wide), scale)
    total = weights.sum(-1) + (features_q * z).sum(-1)
    read = (features_q[:, :, None] @ s.to(wide))[:, :, 0]
    if decay is not None:
        gamma = decay.to(wide)
        weights = weights * gamma[:, None] ** lag.clamp(min=0)[:, None]
        read = read * (gamma ** (place + 1)[:, None])[..., None]
    y = (torch.einsum("bhj,bjhe->bhe", weights, values.to(wide)) + read) / total[..., None]
    _fold((place == FOLD - 1).nonzero()[:, 0], scale, state, decay)
    return y.to(v.dtype)


def _fold(rows: Tensor, scale: float, state: TaylorState, decay: Tensor | None) -> None:
    """Fold the complete tokens beside S of the named rows into S and z, in place."""
    if not len(rows):
        return
    s, z, keys, values = state
    wide = sum_dtype(s)
    features = taylor_features(keys[rows].to(wide).transpose(1, 2), scale)  # [n, H, FOLD, F]
    v = values[rows].to(wide).transpose(1, 2)
    kept = s[rows].to(wide)
    z[rows] = (z[rows].to(wide) + features.sum(2)).to(z.dtype)
    if decay is not None:
        gamma = decay.to(wide)[:, None]
        features = features * (gamma ** torch.arange(FOLD - 1, -1, -1, device=s.device))[..., None]
        kept = kept * gamma[..., None] ** FOLD
    s[rows] = (features.transpose(-1, -2) @ v + kept).to(s.dtype)


def quadratic(q: Tensor, k: Tensor, v: Tensor, scale: float, decay: Tensor | None = None) -> Tensor:
    """The equation as it stands, for one sequence `[L, H, .]`: the oracle of every other form."""
    similarity = torch.einsum("ihd,jhd->hij", q, k) * scale
    weights = (1 + similarity + similarity.square() / 2).tril()
    total = weights.sum(-1, keepdim=True)
    if decay is not None:
        age = torch.arange(q.shape[0], device=q.device)
        weights = weights * decay[:, None, None] ** (age[:, None] - age).clamp(min=0)
    return torch.einsum("hij,jhe->ihe", weights / total, v)
