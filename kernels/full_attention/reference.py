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
    if q.device.type == "cpu":  # one by one, none as long as the longest: what is laid out stays within the caches
        y, starts = v.new_empty(v.shape), packing.offsets.tolist()
        for b, (i, j, n) in enumerate(zip(starts, starts[1:], end.tolist(), strict=False)):
            if i < j:
                queries, k_, v_ = (x[None].to(wide) for x in (q[i:j], keys[b, :n], values[b, :n]))
                y[i:j] = _attend(queries, k_, v_, scale, position[b : b + 1] if n > j - i else None)[0]
        return y, (keys, values)
    before = None if cache is None else position
    y = _attend(packing.pad(q).to(wide), keys.to(wide), values.to(wide), scale, before)
    return packing.unpad(y).to(v.dtype), (keys, values)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, before: Tensor | None) -> Tensor:
    """q `[B, L, H, d]`, k, v `[B, capacity, H, d]`; before `[B]`: keys that precede a sequence's queries."""
    queries, keys, values = (x.transpose(1, 2) for x in (q, k, v))
    if before is None:
        y = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale)
    else:
        own = before[:, None] + torch.arange(q.shape[1], device=q.device)
        allowed = torch.arange(k.shape[1], device=q.device) <= own[..., None]  # [B, L, capacity]
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed[:, None], scale=scale)
    return y.transpose(1, 2)


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
    wide = sum_dtype(q)
    if q.device.type == "cpu":  # one by one, as in `prefill`
        y = v.new_empty(v.shape)
        places = range(q.shape[0]) if rows is None else rows.tolist()
        for i, (row, n) in enumerate(zip(places, position.tolist(), strict=True)):
            keys, values = (x[row : row + 1, : n + 1].to(wide) for x in cache)
            y[i] = _attend_one(q[i : i + 1].to(wide), keys, values, scale)[0]
        return y
    keys, values = cache if rows is None else (x[rows] for x in cache)
    allowed = torch.arange(keys.shape[1], device=q.device) <= position[:, None]
    return _attend_one(q.to(wide), keys.to(wide), values.to(wide), scale, allowed).to(v.dtype)


def _attend_one(q: Tensor, k: Tensor, v: Tensor, scale: float, allowed: Tensor | None = None) -> Tensor:
    """q `[B, H, d]`, k, v `[B, n, H, d]` -> `[B, H, d]`, over the keys that are allowed `[B, n]`."""
    scores = (k.transpose(1, 2) @ q[..., None])[..., 0] * scale  # [B, H, n]
    if allowed is not None:
        scores = scores.masked_fill(~allowed[:, None], float("-inf"))
    return (scores.softmax(-1)[:, :, None] @ v.transpose(1, 2))[:, :, 0]
