"""Full attention on whatever device there is: PyTorch's flash kernel over packed sequences and slots where it runs.

The kernel reads sequences of different lengths out of one long tensor of keys, beginning where it is told: slot s of a
cache `[slots, capacity, H, head_dim]` begins at s * capacity. So the cache is read as it lies, whatever the slots. The
last query of a sequence sees all its keys, the one before all but the last, and so on.
"""

import torch
from torch import Tensor

from ..devices import HALF, has_kernel
from ..packing import Packing
from . import reference

LARGEST_HEAD = 256  # dimensions; the flash kernel takes multiples of 8


def _flash_takes(q: Tensor) -> bool:
    """Half precision on a CUDA device, and a size of heads that the kernel has; no gradients."""
    fits = q.shape[2] % 8 == 0 and q.shape[2] <= LARGEST_HEAD
    return q.is_cuda and q.dtype in HALF and has_kernel(q, fits, f"full attention, head_dim {q.shape[2]}")


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    packing: Packing,
    position: Tensor,
    cache: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`reference.prefill`; in half precision on a CUDA device by PyTorch's flash kernel, without padding."""
    if not (_flash_takes(q) and packing.total):
        return reference.prefill(q, k, v, scale, packing, position, cache)
    end = position + packing.length_tensor
    capacity = packing.longest if cache is None else int(end.max())  # the second waits for the device
    places = packing.row * capacity + (packing.within if cache is None else position[packing.row] + packing.within)
    grown = []
    for old, new in zip(cache or (None, None), (k, v), strict=True):
        full = new.new_zeros(packing.batch, capacity, *new.shape[1:])
        if old is not None:
            kept = min(old.shape[1], capacity)
            full[:, :kept] = old[:, :kept]
        full.flatten(0, 1)[places] = new
        grown.append(full)
    queries = packing.offsets.int()
    if cache is None:
        keys, values, begins, longest, lengths = k, v, queries, packing.longest, None
    else:
        keys, values = (x.flatten(0, 1) for x in grown)
        begins = torch.arange(packing.batch + 1, dtype=torch.int32, device=q.device) * capacity
        longest, lengths = capacity, end.int()
    y, *_ = torch.ops.aten._flash_attention_forward(
        q, keys, values, queries, begins, packing.longest, longest, 0.0, True, False, scale=scale, seqused_k=lengths
    )
    return y, (grown[0], grown[1])


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
    if not _flash_takes(q):
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
