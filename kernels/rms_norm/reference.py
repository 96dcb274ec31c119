"""Root-mean-square norm (arXiv 1910.07467) after a residual add.

    r <- r + h;    y = r / sqrt(mean(r²) + eps) * w,    eps inside the root

The running sum r stays in float32 or better, where the configuration says so; it is rounded to the weight's dtype
before it is normalised, as the published models were trained (this only matters in half precision).
"""

import torch
from torch import Tensor

from ..precision import sum_dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Shapes: x `[..., D]`, weight `[D]` -> `[..., D]` in the dtype of x."""
    wide = x.to(sum_dtype(x))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def add(stream: Tensor | None, hidden: Tensor, in_float32: bool) -> Tensor:
    """The residual add: r `[..., D]`, None before the first, and h `[..., D]` in the working dtype -> r.

    The embedding enters in the working dtype; only from the first sum on the stream is float32, if `in_float32`.
    """
    if stream is None:
        return hidden
    return stream.to(torch.promote_types(hidden.dtype, torch.float32) if in_float32 else hidden.dtype) + hidden


def add_rms_norm(
    stream: Tensor | None, hidden: Tensor, weight: Tensor, eps: float, in_float32: bool
) -> tuple[Tensor, Tensor]:
    """`add` and then `rms_norm` in the dtype of the weight: r and y."""
    stream = add(stream, hidden, in_float32)
    return stream, rms_norm(stream.to(weight.dtype), weight, eps)
