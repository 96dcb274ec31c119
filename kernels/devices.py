"""Where Triton's forms run: in half precision on CUDA devices; on a CPU under Triton's interpreter, for tests.

They sum in float32. float32 models are for answers that must be the same everywhere, and a network makes 1e-7 into
1e-5: so float32 keeps to the references on every device, unless it is in a hurry (`precision.plain_sums`).

A Triton form of a decoding step reads and writes states in slots: row i of its inputs belongs to slot rows[i]. The
references know no slots, so elsewhere the rows are taken out, stepped and put back.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor

from .precision import sums_are_exact

State = TypeVar("State", bound=tuple[Tensor, ...])
HALF = (torch.bfloat16, torch.float16)


@cache
def _available() -> bool:
    return find_spec("triton") is not None


def runs_triton(x: Tensor) -> bool:
    """Whether operations on tensors like x run in Triton here; never where gradients or the compiler pass through."""
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and x.requires_grad):
        return False
    if not (x.dtype in HALF or (x.dtype == torch.float32 and not sums_are_exact())):
        return False
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and x.dtype not in HALF  # which it gets wrong
    return (x.is_cuda or interpreted) and _available()


def in_slots(step: Callable[[State], Tensor], state: State, rows: Tensor | None) -> Tensor:
    """`step(state)`, which updates its state in place, on the named slots alone; on all of them for None."""
    if rows is None:
        return step(state)
    taken = [x[rows] for x in state]
    part: State = state._make(taken) if hasattr(state, "_make") else tuple(taken)  # type: ignore[assignment]
    result = step(part)
    for x, new in zip(state, part, strict=True):
        x[rows] = new
    return result


def slots_of(rows: Tensor | None, x: Tensor) -> Tensor:
    """`rows`, or slot i for row i of x."""
    return torch.arange(x.shape[0], device=x.device) if rows is None else rows
