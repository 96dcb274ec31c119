"""Root-mean-square norm (arXiv 1910.07467) after a residual add.

    r <- r + h;    y = r / sqrt(mean(r²) + eps) * w,    eps inside the root

The running sum r stays in float32 or better; it is rounded to the weight's dtype before it is normalised, as the
published models were trained (this only matters in half precision).
"""

import torch
from torch import Tensor

from ..precision import sum_dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Shapes: x `[..., D]`, weight `[D]` -> `[..., D]` in the dtype of x."""
    wide = x.to(sum_dtype(x))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight
