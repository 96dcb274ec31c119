"""The precision in which the references sum.

Where a sequence is cut into prefill, fork and step depends on the other requests, and so does the batch in which a row
is multiplied; a float32 sum rounds differently for every cut and every shape. The references therefore sum float32
inputs in float64, where the difference vanishes when the result is rounded. float32 is the precision of answers that
must be the same everywhere; half precision, for speed, sums in float32. Training needs none of this: gradients pass
through the same functions inside `plain_sums`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_exact = True


@contextmanager
def plain_sums() -> Iterator[None]:
    """Inside, float32 is summed in float32, as training does."""
    global _exact
    before, _exact = _exact, False
    try:
        yield
    finally:
        _exact = before


def sums_are_exact() -> bool:
    """Whether answers must not depend on how a sequence or batch is cut: everywhere but inside `plain_sums`."""
    return _exact


def sum_dtype(x: Tensor) -> torch.dtype:
    """dtype to sum in, for operands like x."""
    if _exact and x.dtype == torch.float32 and x.device.type in ("cpu", "cuda"):  # not every device has float64
        return torch.float64
    return torch.promote_types(x.dtype, torch.float32)


def state_dtype(x: Tensor) -> torch.dtype:
    """dtype of a state that accumulates over the whole sequence: float32 or better."""
    return torch.promote_types(x.dtype, torch.float32)
