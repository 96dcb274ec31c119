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


def add_rms_norm(
    stream: Tensor | None, hidden: Tensor, weight: Tensor, eps: float, wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The residual add and the norm.

    Args:
        stream: r `[..., D]`; None before the first add, where r is h as it is.
        hidden: h `[..., D]`.
        wide: dtype of r from the first add on.

    Returns:
        r and y; y in the dtype of the weight.
    """
    stream = hidden if stream is None else stream.to(wide) + hidden
    return stream, rms_norm(stream.to(weight.dtype), weight, eps)
