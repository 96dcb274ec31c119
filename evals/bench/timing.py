"""Times on a GPU, and the ceilings of the same run that they are set against."""

import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ... import __version__


def microseconds(calls: Sequence[Callable[[], object]], seconds: float = 0.2) -> float:
    """Median time of a call on the device, between two events.

    The calls do the same on different data, in turn, so that together they read more than a cache holds. Before each
    the device fills a buffer, so that the host has launched the call by the time it may begin: without, a short call
    measures how long the host takes.
    """
    filler = torch.empty(2**29, dtype=torch.uint8, device="cuda")
    for call in calls:
        call()
    torch.cuda.synchronize()
    times: list[float] = []
    while sum(times) < seconds * 1e6 and len(times) < 2000:
        begins, ends = ([torch.cuda.Event(enable_timing=True) for _ in calls] for _ in range(2))
        for begin, end, call in zip(begins, ends, calls, strict=True):
            filler.zero_()
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        times += [1000 * begin.elapsed_time(end) for begin, end in zip(begins, ends, strict=True)]
    return statistics.median(times)


def graph_microseconds(calls: Sequence[Callable[[], object]], seconds: float = 0.2) -> float:
    """Median time of a call inside a CUDA graph that holds all of them in turn: without launches."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return microseconds([graph.replay], seconds) / len(calls)


def copies_beyond_cache(nbytes: int) -> int:
    """How many inputs of so many bytes are four times the L2, at least 2 and at most 64."""
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return max(2, min(64, -(-4 * cache // max(1, nbytes))))


def ceilings() -> dict[str, float]:
    """Measured: bytes read and written a second by a device copy of 2 GiB; bf16 FLOP/s of an 8192³ matrix product."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / (1e-6 * microseconds([lambda: target.copy_(source)]))
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return {"copy_bytes_per_second": copy, "bf16_flop_per_second": 2 * 8192**3 / (1e-6 * microseconds([lambda: a @ b]))}


def provenance() -> dict[str, Any]:
    """The card, the versions and the commit, as far as they can be found out."""
    import triton

    folder = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "recall_evals": __version__,
        "commit": commit,
    }
