"""y = x Wᵀ + b, with the same rounding for a row whatever other rows are multiplied beside it.

The engine promises that an answer does not depend on its batch. Matrix libraries break that promise: they choose
routines with another order of summation by the shape of a product.

On a CPU that happens at one place, for products of few rows. From 12 rows on, MKL's float32 product gave the same bits
for a row at every batch size tried (to 2,048 rows; 64 to 1,024 inputs, 8 to 50,264 outputs), so smaller batches are
filled up with zero rows. Decoding is bound by reading W, so the filling costs little.

On a GPU every shape may round differently. There float32 is multiplied in float64 and rounded, which costs little
where float64 has hardware of its own (H100, H200: as fast as float32) and much elsewhere; bfloat16 is for speed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import sums_are_exact

SMALLEST = 16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Shapes: x `[..., in]`, weight `[out, in]`, bias `[out]` -> `[..., out]`."""
    if not sums_are_exact():
        return F.linear(x, weight, bias)
    if x.device.type == "cuda" and x.dtype == torch.float32:
        return F.linear(x.double(), weight.double(), None if bias is None else bias.double()).float()
    rows = x.reshape(-1, x.shape[-1])
    if rows.device.type != "cpu" or rows.shape[0] >= SMALLEST:
        return F.linear(x, weight, bias)
    filled = torch.cat([rows, rows.new_zeros(SMALLEST - rows.shape[0], rows.shape[1])])
    return F.linear(filled, weight, bias)[: rows.shape[0]].reshape(*x.shape[:-1], -1)
