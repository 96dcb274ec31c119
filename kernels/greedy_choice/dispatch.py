"""The greedy choice on whatever device there is."""

import torch
from torch import Tensor

from ..devices import runs_triton
from . import reference


def greedy_choice(scores: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.greedy_choice`: tokens `[B]` and leads `[B]` of scores `[B, V]`."""
    if runs_triton(scores) and scores.dtype != torch.float64 and scores.stride(-1) == 1:
        from .triton_choice import greedy_choice as fused

        return fused(scores)
    return reference.greedy_choice(scores)
