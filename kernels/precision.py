"""The precision in which the references sum along a sequence.

Where a sequence is cut into prefill, fork and step depends on the other requests, and a float32 sum rounds differently
for every cut. On a CPU the references therefore sum float32 inputs in float64, where the difference vanishes when the
result is rounded; next to the projections this costs little. Half precision sums in float32, as on a GPU.
"""

import torch
from torch import Tensor


def sum_dtype(x: Tensor) -> torch.dtype:
    """dtype to sum in, for operands like x."""
    if x.dtype == torch.float32 and x.device.type == "cpu":
        return torch.float64
    return torch.promote_types(x.dtype, torch.float32)


def state_dtype(x: Tensor) -> torch.dtype:
    """dtype of a state that accumulates over the whole sequence: float32 or better."""
    return torch.promote_types(x.dtype, torch.float32)
