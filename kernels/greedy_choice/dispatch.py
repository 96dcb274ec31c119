"""The greedy choice on whatever device there is."""

from torch import Tensor

from ..devices import runs_triton
from . import reference


def greedy_choice(scores: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.greedy_choice`: tokens `[B]` and leads `[B]` of scores `[B, V]`."""
    if scores.is_cuda and runs_triton(scores) and scores.stride(-1) == 1:
        from .triton_choice import greedy_choice as fused

        return fused(scores)
    return reference.greedy_choice(scores)
