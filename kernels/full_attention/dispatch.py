"""Full attention on whatever device there is: prompts by PyTorch's flash kernel where it runs, steps in Triton.

The flash kernel reads sequences of different lengths out of one long tensor of keys, beginning where it is told:
sequence s of a cache `[B, capacity, H, head_dim]` begins at s * capacity. So the cache is read as it lies. The last
query of a sequence sees all its keys, the one before all but the last, and so on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import HALF, has_kernel, runs_triton
from ..packing import Packing
from . import reference

LARGEST_HEAD = 256  # dimensions that the flash kernel takes; it wants multiples of 8


def _flash_takes(q: Tensor) -> bool:
    """Half precision on a CUDA device, and a size of heads that the kernel has; no gradients."""
    what = f"prompts of full attention, head_dim {q.shape[2]}"
    return q.is_cuda and q.dtype in HALF and has_kernel(q, q.shape[2] <= LARGEST_HEAD, what)


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
    width = q.shape[2]
    if width % 8:  # zeros change neither products nor sums
        q, keys, values = (F.pad(x, (0, -width % 8)) for x in (q, keys, values))
    y, *_ = torch.ops.aten._flash_attention_forward(
        q, keys, values, queries, begins, packing.longest, longest, 0.0, True, False, scale=scale, seqused_k=lengths
    )
    return y[..., :width], (grown[0], grown[1])


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    position: Tensor,
    cache: tuple[Tensor, Tensor],
    rows: Tensor | None = None,
) -> Tensor:
    """`reference.step`; in Triton where that runs."""
    if not runs_triton(q):
        return reference.step(q, k, v, scale, position, cache, rows)
    from .triton_step import step as fused

    return fused(q, k, v, scale, position, cache, rows)
