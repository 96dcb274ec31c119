"""Softmax attention over the last W keys, the query's own among them.

    y_i = sum_{i-W < j <= i} softmax_j(q_i·k_j * scale) v_j

The state is a ring: position p lies in slot p mod W, so it holds exactly the keys that the window can still see
(flash-attn's window (window_size // 2, 0) is inclusive: W = window_size // 2 + 1). Keys are stored rotated, and
those of a head one after the other, since a step reads all of them.
"""

import torch
from torch import Tensor

from ..packing import Packing
from ..precision import sum_dtype

BLOCK = 128


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int,
    packing: Packing,
    position: Tensor,
    ring: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A packed batch of sequences; linear in length.

    Args:
        q, k, v: `[T, H, head_dim]`, q and k rotated where the model rotates.
        position: `[B]` int64, tokens read before these.
        ring: keys and values `[B, H, W, head_dim]`; None for the start of a sequence.

    Returns:
        y `[T, H, head_dim]` and the new ring.
    """
    batch, heads, head_dim = packing.batch, q.shape[1], q.shape[2]
    rows = torch.arange(batch, device=q.device)[:, None]
    earlier = position[:, None] + torch.arange(1 - window, 0, device=q.device)  # [B, W-1] positions before these
    known = earlier >= 0
    if ring is None:
        empty = q.new_zeros(batch, window - 1, heads, head_dim)
        previous = (empty, empty)
    else:
        previous = tuple(x.transpose(1, 2)[rows, earlier % window] * known[..., None, None] for x in ring)  # type: ignore[assignment]
    keys, values = (torch.cat([p, packing.pad(x)], dim=1) for p, x in zip(previous, (k, v), strict=True))
    seen = torch.cat([known, known.new_ones(batch, packing.longest)], dim=1)

    queries = packing.pad(q)
    wide = sum_dtype(q)
    outputs = []
    for start in range(0, packing.longest, BLOCK):
        block = queries[:, start : start + BLOCK]
        n = block.shape[1]
        reach = slice(start, start + n + window - 1)
        lag = torch.arange(n + window - 1, device=q.device) - torch.arange(n, device=q.device)[:, None]
        allowed = ((lag >= 0) & (lag < window)) & seen[:, None, reach]
        scores = torch.einsum("bihd,bjhd->bhij", block.to(wide), keys[:, reach].to(wide)) * scale
        weights = scores.masked_fill(~allowed[:, None], float("-inf")).softmax(-1)
        outputs.append(torch.einsum("bhij,bjhd->bihd", weights, values[:, reach].to(wide)))
    y = torch.cat(outputs, dim=1) if outputs else queries

    newest = packing.length_tensor[:, None] + torch.arange(-1, window - 1, device=q.device)  # last W places of `keys`
    slots = (position + packing.length_tensor)[:, None] + torch.arange(-window, 0, device=q.device)
    new_ring = []
    for x in (keys, values):
        padded = torch.cat([x.new_zeros(batch, 1, heads, head_dim), x], dim=1)  # place -1 becomes 0
        fresh = x.new_zeros(batch, window, heads, head_dim)
        fresh[rows, slots % window] = padded[rows, newest + 1]
        new_ring.append(fresh.transpose(1, 2).contiguous())
    return packing.unpad(y).to(v.dtype), (new_ring[0], new_ring[1])


def step(q: Tensor, k: Tensor, v: Tensor, scale: float, position: Tensor, ring: tuple[Tensor, Tensor]) -> Tensor:
    """One token a sequence: q, k, v `[B, H, head_dim]` -> y `[B, H, head_dim]`; the ring is updated in place."""
    keys, values = ring
    window = keys.shape[2]
    rows = torch.arange(q.shape[0], device=q.device)
    keys[rows, :, position % window] = k
    values[rows, :, position % window] = v
    slot = torch.arange(window, device=q.device)
    empty = slot > position[:, None]  # before the ring has gone round once, later slots were never written
    wide = sum_dtype(q)
    scores = torch.einsum("bhd,bhjd->bhj", q.to(wide), keys.to(wide)) * scale
    weights = scores.masked_fill(empty[:, None], float("-inf")).softmax(-1)
    return torch.einsum("bhj,bhjd->bhd", weights, values.to(wide)).to(v.dtype)
