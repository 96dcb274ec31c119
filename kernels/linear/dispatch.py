"""Products with a weight on whatever device there is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..devices import HALF, runs_triton
from . import reference

MOST_ROWS = 2  # from where on cuBLAS was as fast on an H100
MOST_INPUTS = 16384  # that a program of the Triton form has registers for


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`reference.linear`: x `[..., in]`, weight `[out, in]`, bias `[out]` -> `[..., out]`."""
    few = x.dim() == 2 and 0 < x.shape[0] <= MOST_ROWS and weight.dtype == x.dtype and weight.is_contiguous()
    if few and x.dtype in HALF and x.shape[1] <= MOST_INPUTS and runs_triton(x):
        from .triton_few_rows import linear as fused

        return fused(x, weight, bias)
    return reference.linear(x, weight, bias)


def joint(weights: Sequence[Tensor]) -> Tensor:
    """The matrices `[out_i, in]` as one `[sum(out_i), in]` that shares their memory: one product in place of several.

    Where they don't lie one after the other, they are moved there, which changes nothing else about them.
    """
    first, sizes = weights[0], [len(w) for w in weights]
    place = first.data_ptr()
    adjacent = True
    for w in weights:
        adjacent &= w.data_ptr() == place and w.is_contiguous()
        adjacent &= w.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        place += w.nbytes
    if not adjacent:
        with torch.no_grad():
            whole = torch.cat([w.detach() for w in weights])
            for w, part in zip(weights, whole.split(sizes), strict=True):
                w.set_(part.untyped_storage(), part.storage_offset(), part.shape)  # type: ignore[call-overload]
    return first.detach().as_strided((sum(sizes), first.shape[1]), (first.shape[1], 1))
