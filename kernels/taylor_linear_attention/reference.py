"""Causal linear attention with the second-order Taylor feature map of exp (BASED, arXiv 2402.18668).

    w_ij = phi(q_i)·phi(k_j) = 1 + s + s²/2,   s = q_i·k_j * scale,   scale = 1/sqrt(d) unless said otherwise
    y_i  = sum_{j <= i} w_ij v_j / sum_{j <= i} w_ij

The second-order features are symmetric, so x_a x_b is kept once for a <= b, with sqrt(2) off the diagonal: for d = 16
the map has 1 + 16 + 136 = 153 features where published kernels store 273, and is the same function. w >= 1/2, so the
denominator needs no epsilon.

The state of a sequence is S = sum_j phi(k_j) v_jᵀ `[H, F, dv]` and z = sum_j phi(k_j) `[H, F]`, in float32 or better.
With a decay gamma per head (a variant that few checkpoints use), S_i = gamma S_{i-1} + phi(k_i) v_iᵀ; z does not decay.
"""

from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor

from ..packing import Packing
from ..precision import state_dtype, sum_dtype

CHUNK = 128


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


def absorb(k: Tensor, v: Tensor, scale: float, packing: Packing, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """The state of whole sequences without reading anything out: k `[T, H, d]`, v `[T, H, dv]` -> S, z."""
    wide = sum_dtype(k)
    k_, v_ = packing.pad(k).to(wide), packing.pad(v).to(wide)
    state = v_.new_zeros(packing.batch, k.shape[1], n_features(k.shape[2]), v.shape[2])
    normaliser = state.new_zeros(state.shape[:3])
    for start in range(0, packing.longest, chunk):
        part = slice(start, start + chunk)
        features = taylor_features(k_[:, part], scale) * packing.mask[:, part, None, None]
        state = state + torch.einsum("blhf,blhe->bhfe", features, v_[:, part])
        normaliser = normaliser + features.sum(1)
    return state.to(state_dtype(k)), normaliser.to(state_dtype(k))


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    packing: Packing,
    state: tuple[Tensor, Tensor] | None = None,
    decay: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A packed batch of sequences: quadratic inside a chunk, through the state between chunks; linear in length.

    Args:
        q, k: `[T, H, d]`; v: `[T, H, dv]`.
        state: S `[B, H, F, dv]` and z `[B, H, F]` before these tokens; None for zeros.
        decay: gamma `[H]` in (0, 1], or None.

    Returns:
        y `[T, H, dv]` in the dtype of v, and the state after the last token of each sequence.
    """
    wide = sum_dtype(q)
    q_, k_, v_ = (packing.pad(x).to(wide).transpose(1, 2) for x in (q, k, v))  # [B, H, L, .]
    if state is None:
        s = v_.new_zeros(packing.batch, v.shape[1], n_features(q.shape[2]), v.shape[2])
        z = s.new_zeros(s.shape[:3])
    else:
        s, z = (x.to(wide) for x in state)
    mask = packing.mask[:, None]  # [B, 1, L]
    outputs = []
    for start in range(0, packing.longest, chunk):
        part = slice(start, min(start + chunk, packing.longest))
        qc, kc, vc, real = q_[:, :, part], k_[:, :, part], v_[:, :, part], mask[:, :, part]
        n = qc.shape[2]
        similarity = qc @ kc.transpose(-1, -2) * scale
        weights = ((1 + similarity + similarity.square() / 2) * real[:, :, None]).tril()
        features_q, features_k = taylor_features(qc, scale), taylor_features(kc, scale) * real[..., None]
        read = features_q @ s
        total = weights.sum(-1) + (features_q @ z[..., None])[..., 0]
        if decay is None:
            outputs.append((weights @ vc + read) / total[..., None])
            s = s + features_k.transpose(-1, -2) @ vc
        else:
            age = torch.arange(n, device=q.device)
            since_start = decay[:, None] ** (age + 1)  # [H, n]
            between = decay[:, None, None] ** (age[:, None] - age).clamp(min=0)  # [H, n, n]
            outputs.append((weights * between @ vc + read * since_start[..., None]) / total[..., None])
            valid = real.sum(-1)  # [B, 1]: tokens of this chunk in each sequence
            until_end = decay[:, None] ** (valid[..., None] - 1 - age).clamp(min=0)  # [B, H, n]
            kept = (decay**valid)[..., None, None]
            s = kept * s + (features_k * until_end[..., None]).transpose(-1, -2) @ vc
        z = z + features_k.sum(2)
    y = torch.cat(outputs, dim=2).transpose(1, 2) if outputs else v_.transpose(1, 2)
    return packing.unpad(y).to(v.dtype), (s.to(state_dtype(q)), z.to(state_dtype(q)))


def step(
    q: Tensor, k: Tensor, v: Tensor, scale: float, state: tuple[Tensor, Tensor], decay: Tensor | None = None
) -> Tensor:
    """One token a sequence: q, k `[B, H, d]`, v `[B, H, dv]` -> y `[B, H, dv]`; S and z are updated in place."""
    s, z = state
    features_k = taylor_features(k.to(s.dtype), scale)
    if decay is not None:
        s.mul_(decay[:, None, None])
    s.addcmul_(features_k[..., None], v.to(s.dtype)[:, :, None])
    z.add_(features_k)
    wide = sum_dtype(s)
    features_q = taylor_features(q.to(wide), scale)
    numerator = (features_q[:, :, None] @ s.to(wide))[:, :, 0]
    return (numerator / (features_q * z).sum(-1, keepdim=True)).to(v.dtype)


def quadratic(q: Tensor, k: Tensor, v: Tensor, scale: float, decay: Tensor | None = None) -> Tensor:
    """The equation as it stands, for one sequence `[L, H, .]`: the oracle of every other form."""
    similarity = torch.einsum("ihd,jhd->hij", q, k) * scale
    weights = (1 + similarity + similarity.square() / 2).tril()
    total = weights.sum(-1, keepdim=True)
    if decay is not None:
        age = torch.arange(q.shape[0], device=q.device)
        weights = weights * decay[:, None, None] ** (age[:, None] - age).clamp(min=0)
    return torch.einsum("hij,jhe->ihe", weights / total, v)
