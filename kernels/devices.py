"""Where Triton's forms run: in half precision on CUDA devices; on a CPU under Triton's interpreter, for tests.

They sum in float32. float32 models are for answers that must be the same everywhere, and a network makes 1e-7 into
1e-5: so float32 keeps to the references on every device, unless it is in a hurry (`precision.plain_sums`).

A Triton form of a decoding step reads and writes states in slots: row i of its inputs belongs to slot rows[i]. The
references know no slots, so elsewhere the rows are taken out, stepped and put back.
"""

import logging
import os
from collections.abc import Callable
from functools import cache, lru_cache
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


@cache
def _say_once(what: str) -> None:
    logging.getLogger("recall_evals").warning("no kernel for %s: it runs in PyTorch, which takes longer", what)


def has_kernel(x: Tensor, fits: bool, what: str) -> bool:
    """Whether an operation runs in a kernel here that takes some shapes only; one it doesn't take is logged once.

    Args:
        what: the operation and the shape, for the log.
    """
    if not runs_triton(x):
        return False
    if not fits:
        _say_once(what)
    return fits


@cache
def _overlaps(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


def overlapped(x: Tensor) -> dict[str, bool]:
    """Arguments of a decoding kernel that is launched while the one before it ends (programmatic dependent launch).

    Such a kernel must wait (`gdc_wait`) before it reads or writes anything but weights, so that all before it is done.
    """
    able = _overlaps(x.device)
    return {"PDL": able, "launch_pdl": able}


@lru_cache(maxsize=64)
def arrivals(n: int, device: torch.device) -> Tensor:
    """n int32 zeros in which programs count who of them comes to its end; who makes a count full puts it back to 0.

    Kernels that count on the same device must not run at the same time.
    """
    with torch.inference_mode(False):
        return torch.zeros(n, dtype=torch.int32, device=device)


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
    if rows is not None:
        return rows
    key = x.shape[0], x.device
    if key not in _FIRST:
        with torch.inference_mode(False):
            made = torch.arange(key[0], device=x.device)
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return made  # within a graph's memory, where nothing stands before it is replayed
        _FIRST[key] = made
    return _FIRST[key]


_FIRST: dict[tuple[int, torch.device], Tensor] = {}  # 0 .. n - 1, for which a step asks in every layer
