"""Full attention's decoding step on whatever device there is: PyTorch's flash kernel over the slots where it runs.

The kernel reads sequences of different lengths out of one long tensor of keys, beginning where it is told: slot s of a
cache `[slots, capacity, H, head_dim]` begins at s * capacity. So the cache is read as it lies, whatever the slots.
"""

import torch
from torch import Tensor

from . import reference

LARGEST_HEAD = 256  # dimensions; the flash kernel takes multiples of 8


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    position: Tensor,
    cache: tuple[Tensor, Tensor],
    rows: Tensor | None = None,
) -> Tensor:
    """`reference.step`; in half precision on a CUDA device by PyTorch's flash kernel."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    if not (q.is_cuda and half and q.shape[2] % 8 == 0 and q.shape[2] <= LARGEST_HEAD):
        return reference.step(q, k, v, scale, position, cache, rows)
    reference.put(k, v, position, cache, rows)
    batch, capacity = q.shape[0], cache[0].shape[1]
    slots = torch.arange(batch, device=q.device) if rows is None else rows
    first = torch.zeros(batch + 1, dtype=torch.int32, device=q.device)  # the last is not read
    first[:-1] = slots * capacity
    queries = torch.arange(batch + 1, dtype=torch.int32, device=q.device)
    keys, values = (x.flatten(0, 1) for x in cache)
    y, *_ = torch.ops.aten._flash_attention_forward(
        q.contiguous(), keys, values, queries, first, 1, capacity, 0.0, False, False,
        scale=scale, seqused_k=(position + 1).int(),
    )  # fmt: skip
    return y
