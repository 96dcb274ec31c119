"""`recall-evals bench kernels`: decoding steps of one layer against their peers and the card's ceilings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kernels.taylor_linear_attention.reference import FOLD, TaylorState, n_features
from . import peers
from .timing import copies_beyond_cache, graph_microseconds, microseconds

HALF, FLOAT = torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        name: what runs; shape: on what.
        nbytes: that any implementation of it must move.
        make: a call on fresh data; called once for each copy of the data.
        graph: inside a CUDA graph.
    """

    name: str
    shape: str
    nbytes: int
    make: Callable[[], Callable[[], object]]
    graph: bool = False


def taylor_inputs(batch: int, dtype: torch.dtype, heads: int, d: int, dv: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k = (torch.randn(batch, heads, d, device="cuda", dtype=dtype) for _ in range(2))
    return q, k, torch.randn(batch, heads, dv, device="cuda", dtype=dtype)


def ours(
    batch: int, state: torch.dtype, deferred: bool, config: Any = None, sizes: tuple[int, int, int] = (16, 16, 112)
) -> tuple[Callable[[], Callable[[], object]], int]:
    """Our step with bf16 activations, its sequences evenly spread between two folds; and the bytes it must move."""
    from ...kernels.taylor_linear_attention.triton_recurrence import recur
    from ...kernels.taylor_linear_attention.triton_step import step

    heads, d, dv = sizes
    features = n_features(d)

    def make() -> Callable[[], object]:
        q, k, v = taylor_inputs(batch, HALF, heads, d, dv)
        s = torch.randn(batch, heads, features, dv, device="cuda").to(state)
        z = torch.rand(batch, heads, features, device="cuda") + 1
        rows = torch.arange(batch, device="cuda")
        if not deferred:
            return lambda: recur(q, k, v, d**-0.5, (s, z), None, rows, config)
        recent = [torch.randn(batch, FOLD, heads, n, device="cuda", dtype=HALF) for n in (d, dv)]
        position = rows % FOLD + 1000 * FOLD
        remembered = TaylorState(s, z, *recent)
        return lambda: step(q, k, v, d**-0.5, position, remembered, None, rows, config)

    held = batch * heads * features * (dv * state.itemsize + 4)
    beside = batch * heads * FOLD * (d + dv) * 2 // 2  # half of the places are in use
    return make, held + 2 * held // FOLD + beside if deferred else 2 * held


def original(batch: int, heads: int, d: int, dv: int, compiled: bool) -> Callable[[], Callable[[], object]]:
    """The published recurrence in float32."""
    step = torch.compile(peers.original_step) if compiled else peers.original_step
    features = 1 + d + d * d

    def make() -> Callable[[], object]:
        q, k, v = taylor_inputs(batch, FLOAT, heads, d, dv)
        kv = torch.randn(batch, heads, dv, features, device="cuda")
        k_sum = torch.rand(batch, heads, features, device="cuda")
        return lambda: step(q, k, v, kv, k_sum)

    return make


def fla(batch: int, heads: int, d: int, dv: int) -> Callable[[], Callable[[], object]]:
    """flash-linear-attention's recurrent kernel on the published features, in float32."""

    def make() -> Callable[[], object]:
        step = peers.fla_step()
        q, k, v = taylor_inputs(batch, FLOAT, heads, d, dv)
        features = 1 + d + d * d
        state = torch.randn(batch, heads, features, dv, device="cuda")
        k_sum = torch.ones(batch, 1, heads, features, device="cuda")
        return lambda: step(q, k, v, (state, k_sum))

    return make


def taylor_cases(batches: tuple[int, ...] = (1, 128, 512)) -> Iterator[Case]:
    """The Taylor step of BASED 1.3 B's layers; at B 1 inside a graph, peers too."""
    sizes = heads, d, dv = 16, 16, 112
    for batch in batches:
        shape, graph = f"B {batch}, H {heads}, d {d}, dv {dv}", batch == 1
        for state, name in ((FLOAT, "fp32"), (HALF, "bf16")):
            for deferred, how in ((False, "one pass"), (True, f"deferred write of {FOLD}")):
                make, moved = ours(batch, state, deferred)
                yield Case(f"Taylor step, {name} state, {how}", shape, moved, make, graph)
        if batch <= 128:
            nbytes = 2 * batch * heads * (1 + d + d * d) * (dv + 1) * 4
            named = (
                ("original recurrence, PyTorch", original(batch, *sizes, False)),
                ("original recurrence, torch.compile", original(batch, *sizes, True)),
                ("flash-linear-attention, recurrent", fla(batch, *sizes)),
            )
            for name, make in named:
                yield Case(f"peer: {name}, fp32", shape, nbytes, make, graph)


def other_cases(batch: int = 128) -> Iterator[Case]:
    """The other operations of a step of BASED 1.3 B and Mamba 1.3 B, bf16."""
    from ...kernels.greedy_choice.triton_choice import greedy_choice
    from ...kernels.rms_norm.triton_norm import add_rms_norm
    from ...kernels.selective_scan.reference import GatedInputs
    from ...kernels.selective_scan.triton_step import gated_step
    from ...kernels.short_convolution.triton_step import step as convolution
    from ...kernels.sliding_window_attention.triton_step import step as sliding

    def rand(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
        return torch.randn(*shape, device="cuda", dtype=dtype)

    rows = torch.arange(batch, device="cuda")

    def window() -> Callable[[], object]:
        q, k, v = rand(batch, 3, 16, 112).unbind(1)
        ring = rand(batch, 16, 129, 112), rand(batch, 16, 129, 112)
        angles, position = (rand(batch, 56), rand(batch, 56)), 1000 + rows
        return lambda: sliding(q, k, v, angles, 0.1, position, ring, rows)

    def short() -> Callable[[], object]:
        (x, gate), weight, inputs = rand(batch, 7168).chunk(2, dim=-1), rand(3584, 3), rand(batch, 2, 3584)
        return lambda: convolution(x, weight, None, gate, inputs, rows)

    def norm() -> Callable[[], object]:
        stream, hidden, weight = rand(batch, 1792, dtype=FLOAT), rand(batch, 1792), rand(1792)
        return lambda: add_rms_norm(stream, hidden, weight, 1e-5, True)

    def scan() -> Callable[[], object]:
        u, dt, z, bc = rand(batch, 4096), rand(batch, 4096), rand(batch, 4096), rand(batch, 160)
        bias, a, skip, h = rand(4096), rand(4096, 16, dtype=FLOAT), rand(4096), rand(batch, 4096, 16, dtype=FLOAT)
        b, c = bc[:, :16], bc[:, 16:32]
        inputs = GatedInputs(u, dt, z, b, c, bias, a, skip)
        return lambda: gated_step(inputs, h, rows)

    def choice() -> Callable[[], object]:
        scores = rand(batch, 50264)
        return lambda: greedy_choice(scores)

    n = batch
    yield Case("sliding window, rotation fused", f"B {n}, H 16, head 112, W 129", n * 129 * 1792 * 4, window)
    yield Case("short convolution, SiLU, gate", f"B {n}, D 3584, K 3", n * 3584 * 2 * (3 + 2 + 2), short)
    yield Case("residual add, RMSNorm", f"B {n}, D 1792", n * 1792 * (4 + 2 + 4 + 2), norm)
    yield Case("selective scan, softplus, gate", f"B {n}, D 4096, N 16", n * 4096 * (16 * 8 + 8), scan)
    yield Case("greedy choice and lead", f"B {n}, V 50,264", n * 50264 * 2, choice)


def measure(cases: Iterator[Case], copy_rate: float, seconds: float = 0.2) -> Iterator[dict[str, Any]]:
    """A row for each case: microseconds, GB/s of the bytes that must move, share of the copy rate; or why not."""
    for case in cases:
        row: dict[str, Any] = {"what": case.name, "shape": case.shape, "in_graph": case.graph}
        try:
            calls = [case.make() for _ in range(copies_beyond_cache(case.nbytes))]
            time = (graph_microseconds if case.graph else microseconds)(calls, seconds)
        except peers.MissingPeerError as error:
            yield row | {"skipped": str(error)}
            continue
        except Exception as error:  # a peer that breaks is a finding, and must not end the run
            if not case.name.startswith("peer"):
                raise
            yield row | {"skipped": peers.failure(error)}
            continue
        rate = case.nbytes / (time * 1e-6)
        yield row | {"microseconds": time, "gigabytes_per_second": rate / 1e9, "of_copy_rate": rate / copy_rate}
        del calls
