"""Causal softmax attention over everything read so far.

    y_i = sum_{j <= i} softmax_j(q_i·k_j * scale) v_j

The state is the cache of all keys (rotated) and values `[B, capacity, H, head_dim]`; places from `position` on are
unused. The products are PyTorch's `scaled_dot_product_attention` (flash kernels where the device has them).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..packing import Packing
from ..precision import sum_dtype


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    packing: Packing,
    position: Tensor,
    cache: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A packed batch of sequences.

    Args:
        q, k, v: `[T, H, head_dim]`; position: `[B]` int64, tokens read before these.
        cache: keys and values `[B, capacity, H, head_dim]`; None for the start of a sequence.

    Returns:
        y `[T, H, head_dim]` and a new cache that just holds the longest sequence.
    """
    end = position + packing.length_tensor
    capacity = int(end.max())
    rows, places = packing.row, position[packing.row] + packing.within
    new_cache = []
    for old, new in zip(cache or (None, None), (k, v), strict=True):
        full = new.new_zeros(packing.batch, capacity, *new.shape[1:])
        if old is not None:
            kept = min(old.shape[1], capacity)
            full[:, :kept] = old[:, :kept]
        full[rows, places] = new
        new_cache.append(full)
    keys, values = new_cache
    # In half precision on a GPU the flash kernels want the model's own dtype, and sum in float32 themselves.
    wide = sum_dtype(q) if q.device.type == "cpu" or q.dtype == torch.float32 else q.dtype
    queries, k_, v_ = (x.to(wide).transpose(1, 2) for x in (packing.pad(q), keys, values))
    if cache is None:
        y = F.scaled_dot_product_attention(queries, k_, v_, is_causal=True, scale=scale)
    else:
        own = position[:, None] + torch.arange(packing.longest, device=q.device)
        allowed = torch.arange(capacity, device=q.device) <= own[..., None]  # [B, L, capacity]
        y = F.scaled_dot_product_attention(queries, k_, v_, attn_mask=allowed[:, None], scale=scale)
    return packing.unpad(y.transpose(1, 2)).to(v.dtype), (keys, values)


def put(k: Tensor, v: Tensor, position: Tensor, cache: tuple[Tensor, Tensor], rows: Tensor | None) -> None:
    """Write one key and value a sequence into the cache."""
    rows = torch.arange(k.shape[0], device=k.device) if rows is None else rows
    for old, new in zip(cache, (k, v), strict=True):
        old[rows, position] = new


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    position: Tensor,
    cache: tuple[Tensor, Tensor],
    rows: Tensor | None = None,
) -> Tensor:
    """One token a sequence: q, k, v `[B, H, head_dim]` -> y; the cache, which must have room, is updated in place.

    Args:
        position: `[B]` int64, tokens each sequence read before this one.
        rows: `[B]`, where in the cache each sequence lies; None: in order.
    """
    put(k, v, position, cache, rows)
    keys, values = cache if rows is None else (x[rows] for x in cache)
    allowed = torch.arange(keys.shape[1], device=q.device) <= position[:, None]
    wide = sum_dtype(q)
    scores = torch.einsum("bhd,bjhd->bhj", q.to(wide), keys.to(wide)) * scale
    weights = scores.masked_fill(~allowed[:, None], float("-inf")).softmax(-1)
    return torch.einsum("bhj,bjhd->bhd", weights, values.to(wide)).to(v.dtype)
