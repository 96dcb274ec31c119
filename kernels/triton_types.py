"""PyTorch's dtypes in Triton."""

import torch
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """The type that a kernel computes in."""
    return _TYPES[dtype]
