"""The Triton forms of `prefill` (but Taylor's) over packed prompts against their references in float64.

Each check reads prompts from nothing and then more from the state after them: an odd number of tokens, one, none. The
same checks run under Triton's interpreter (this file as a script, float32, small shapes) and on a GPU.
"""

import copy

import pytest
import torch
from torch import Tensor

import tiny
from interpreter import needs_interpreter, run_interpreted
from recall_evals.kernels.full_attention import dispatch as attention_on_device
from recall_evals.kernels.full_attention import reference as full_attention
from recall_evals.kernels.packing import Packing
from recall_evals.kernels.pieces import pieces
from recall_evals.kernels.precision import plain_sums
from recall_evals.kernels.rotary.reference import apply_rotary, rotary_angles
from recall_evals.kernels.selective_scan import reference as selective_scan
from recall_evals.kernels.short_convolution import reference as short_convolution
from recall_evals.kernels.sliding_window_attention import reference as sliding
from recall_evals.kernels.wkv5 import reference as wkv5

FLOAT, HALF = torch.float32, torch.bfloat16
MODEL_BOUNDS = {FLOAT: 1e-4, HALF: 5e-2}
BOUNDS = {FLOAT: 1e-5, HALF: 1e-2}  # ‖got - want‖ / ‖want‖


class Inputs:
    """Random tensors, seeded: in float64 for the reference, and the same numbers for the form under test."""

    def __init__(self, dtype: torch.dtype, device: str):
        self.draw = torch.Generator().manual_seed(0)
        self.dtype, self.device = dtype, device

    def rand(self, *shape: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        given = torch.randn(*shape, generator=self.draw, dtype=torch.float64).to(dtype or self.dtype)
        return given.double(), given.to(self.device)


def assert_close(name: str, got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert got.shape == want.shape, f"{name}: {got.shape}"
    assert got.isfinite().all(), name
    error = ((got.double().cpu() - want.cpu()).norm() / want.norm().clamp(min=1e-30)).item() if want.numel() else 0.0
    assert error <= BOUNDS[dtype], f"{name}: error {error:.1e}"


def check_convolution(
    dtype: torch.dtype, device: str, rounds: list[list[int]], width: int, taps: int, bias: bool, gate: bool,
    cut: tuple[int, int, int] | None = None,
) -> None:  # fmt: skip
    from recall_evals.kernels.short_convolution.triton_prefill import DEFAULT, Config, prefill

    inputs = Inputs(dtype, device)
    weight_, weight = inputs.rand(width, taps)
    bias_, b = inputs.rand(width) if bias else (None, None)
    before_ = before = None
    for lengths in rounds:
        x_, x = inputs.rand(sum(lengths), 2 * width)  # the halves of one product
        (x_, gate_), (x, g) = x_.chunk(2, dim=-1), x.chunk(2, dim=-1)
        if not gate:
            gate_ = g = None
        want, before_ = short_convolution.prefill(x_, weight_, bias_, gate_, Packing(lengths), before_)
        config = Config(*cut) if cut else DEFAULT
        got, before = prefill(x, weight, b, g, Packing(lengths, device), before, config)
        assert_close("y", got, want, dtype)
        assert torch.equal(before.double().cpu(), before_), "inputs"


def check_rotary(dtype: torch.dtype, device: str, tokens: int, heads: int, e: int, n: int) -> None:
    from recall_evals.kernels.rotary.triton_prefill import rotate

    (q_, k_, _), (q, k, _) = (x.unbind(1) for x in Inputs(dtype, device).rand(tokens, 3, heads, e))
    cos, sin = rotary_angles(torch.arange(tokens) * 7, 2 * n, 10_000.0, dtype)
    got = rotate(q, k, cos.to(device), sin.to(device))
    for x, given in zip(got, (q_, k_), strict=True):
        assert_close("rotated", x, apply_rotary(given, cos.double(), sin.double()), dtype)


def check_sliding(
    dtype: torch.dtype, device: str, rounds: list[list[int]], heads: int, e: int, window: int,
    cut: tuple[int, int, int, int] | None = None,
) -> None:  # fmt: skip
    from recall_evals.kernels.sliding_window_attention.triton_prefill import DEFAULT, Config, prefill

    inputs = Inputs(dtype, device)
    position = torch.zeros(len(rounds[0]), dtype=torch.int64)
    before_ = before = None
    for lengths in rounds:
        (q_, k_, v_), (q, k, v) = (x.unbind(1) for x in inputs.rand(sum(lengths), 3, heads, e))
        want, before_ = sliding.prefill(q_, k_, v_, 0.3, window, Packing(lengths), position, before_)
        config = Config(*cut) if cut else DEFAULT
        got, before = prefill(q, k, v, 0.3, window, Packing(lengths, device), position.to(device), before, config)
        position = position + torch.tensor(lengths)
        assert_close("y", got, want, dtype)
        for x, y in zip(before, before_, strict=True):
            assert torch.equal(x.double().cpu(), y), "ring"


def check_scan(
    dtype: torch.dtype, device: str, rounds: list[list[int]], width: int, n: int, size: int | None = None,
    cut: tuple[int, int, int] | None = None,
) -> None:  # fmt: skip
    from recall_evals.kernels.selective_scan.triton_prefill import DEFAULT, Config, gated_prefill

    inputs = Inputs(dtype, device)
    (bias_, bias), (skip_, skip), (a_, a) = inputs.rand(width), inputs.rand(width), inputs.rand(width, n, dtype=FLOAT)
    before_ = before = None
    for lengths in rounds:
        (u_, u), (dt_, dt), (z_, z) = (inputs.rand(sum(lengths), width) for _ in range(3))
        bc_, bc = inputs.rand(sum(lengths), 2 * n + 3)
        (_, b_, c_), (_, b, c) = (x.split([3, n, n], dim=-1) for x in (bc_, bc))
        sizes = selective_scan.step_sizes(dt_, bias_)
        rates = -a_.exp()
        want, before_ = selective_scan.prefill(u_, sizes, rates, b_, c_, skip_, Packing(lengths), before_)
        given = selective_scan.GatedInputs(u, dt, z, b, c, bias, a, skip)
        config = Config(*cut) if cut else DEFAULT
        got, before = gated_prefill(given, Packing(lengths, device), before, size, config)
        assert_close("y", got, want * torch.nn.functional.silu(z_), dtype)
        assert_close("state", before, before_, dtype)


def check_wkv(
    dtype: torch.dtype, device: str, rounds: list[list[int]], heads: int, n: int,
    cut: tuple[int, int, int] | None = None,
) -> None:  # fmt: skip
    """Decays from almost 1 to 0; and the same bits from every sequence read at once, alone and by smaller programs."""
    from recall_evals.kernels.wkv5.triton_prefill import DEFAULT, Config, prefill

    inputs, config = Inputs(dtype, device), Config(*cut) if cut else DEFAULT
    log_w = -torch.linspace(-8.5, 3, heads * n).reshape(heads, n).exp()
    u_, u = inputs.rand(heads, n, dtype=FLOAT)
    weights = log_w.to(device), u
    before_ = before = None
    read, outputs = [], []
    for lengths in rounds:
        x_, x = inputs.rand(sum(lengths), 3, heads + 1, n)
        given = None if before is None else before.clone()
        want, before_ = wkv5.recurrent(*x_[:, :, 1:].unbind(1), log_w.double(), u_, Packing(lengths), before_)
        got, after = prefill(*x[:, :, 1:].unbind(1), *weights, Packing(lengths, device), before, config)
        assert_close("y", got, want, dtype)
        assert_close("state", after, before_, FLOAT)
        assert before is None or torch.equal(before, given), "the state before was changed"
        before = after
        read.append(x.split(lengths))
        outputs.append(got.split(lengths))
    small = Config(1, config.group + 1)
    for i in range(len(rounds[0])):
        x, y = torch.cat([parts[i] for parts in read]), torch.cat([parts[i] for parts in outputs])
        got, after = prefill(*x[:, :, 1:].unbind(1), *weights, Packing([len(x)], device), None, small)
        assert torch.equal(got, y) and torch.equal(after[0], before[i]), f"sequence {i}: bits"


def check_model(
    dtype: torch.dtype, device: str, name: str, lengths: list[int], cut: list[int], layers: int | None = None
) -> None:
    """Prompts read at once, and cut in two: the scores of a copy in float64, and a state from which it can go on."""
    torch.manual_seed(0)
    config = (tiny.CONFIGS | tiny.BASELINES)[name]
    model = tiny.build(tiny.changed(config, **({"n_layer": layers} if layers else {}))).to(dtype)
    exact, model = copy.deepcopy(model).double(), model.to(device)
    tokens = torch.randint(257, (sum(lengths),))
    want, state = exact.prefill(tokens, lengths)
    want = [want, exact.step(torch.arange(len(lengths)), state)]
    rest = [n - part for n, part in zip(lengths, cut, strict=True)]
    sequences = tokens.split(lengths)
    first, second = (
        torch.cat([x[part] for x, part in zip(sequences, parts, strict=True)]).to(device)
        for parts in ([slice(n) for n in cut], [slice(n, None) for n in cut])
    )
    with plain_sums():
        whole, after = model.prefill(tokens.to(device), lengths)
        _, held = model.prefill(first, cut)
        pieces, continued = model.prefill(second, rest, held)
        for got, state in ((whole, after), (pieces, continued)):
            state.reserve(max(lengths) + 1)
            for x, y in zip((got, model.step(torch.arange(len(lengths), device=device), state)), want, strict=True):
                error = ((x.double().cpu() - y).norm() / y.norm()).item()
                assert error <= MODEL_BOUNDS[dtype], f"{name}: error {error:.1e}"


MANY = [[40, 1, 0, 19], [0, 7, 1, 2], [3, 1, 1, 20]]  # the second round begins in an empty state, among others
FEW = [[18, 1, 0], [0, 5, 1]]
SMALL = [
    *((check_convolution, case) for case in (
        (MANY, 20, 3, False, True, (16, 32, 4)), (FEW, 7, 4, True, False, (2, 16, 4)),
        ([[3], [1], [1]], 9, 5, True, True), ([[70, *[3] * 5]], 40, 2, False, False, (32, 32, 4)),
        ([[4, 2]], 5, 1, True, True),
    )),
    *((check_rotary, case) for case in ((5, 3, 8, 4), (9, 1, 20, 3))),
    *((check_sliding, case) for case in (
        (MANY, 2, 8, 5, (16, 16, 4, 2)), (MANY, 1, 20, 33, (16, 32, 4, 1)),
        ([[100, *[3] * 3], [1, 1, 40, 0]], 1, 16, 40),
        ([[7], [1], [9]], 1, 5, 1, (16, 16, 4, 1)), ([[60], [60]], 1, 16, 16, (16, 16, 4, 1)),
    )),
    *((check_scan, case) for case in (
        (FEW, 20, 16, 16, (32, 4, 1)), (FEW, 5, 3, 8, (8, 2, 1)), ([[9, *[3] * 2], [1, 2, 0]], 40, 4, 16),
    )),
    *((check_wkv, case) for case in ((FEW, 2, 16, (2, 2, 1)), ([[6, 1, 0], [1, 0, 3]], 1, 33, (4, 3, 1)))),
    *((check_model, (name, [7, 2], [3, 1], layers)) for name, layers in (("based", 3), ("mamba", 1), ("rwkv", None))),
]  # fmt: skip


def test_pieces_of_a_batch():
    cut = pieces(Packing([5, 0, 4, 1]), 2)
    assert cut.row.tolist() == [0, 0, 0, 1, 2, 2, 3] and cut.place.tolist() == [0, 1, 2, 0, 0, 1, 0]
    assert cut.first.tolist() == [0, 3, 4, 6, 7] and cut.most == 3 and len(cut) == 7
    assert len(pieces(Packing([]), 2)) == 0


@needs_interpreter("convolutions, rotation, windows, scans, WKV of small prompts against their references in float64")
def test_prompts_under_the_interpreter():
    run_interpreted(__file__)


WHAT = "prompts at real sizes, in float32 and bfloat16, against their references in float64"
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason=f"needs a GPU; would check {WHAT}")
LONG = [[2047, 1, 0, 700], [3, 513, 64, 0], [1, 1, 1, 1]]
REAL = [
    *((check_convolution, case) for case in ((LONG, 3584, 3, False, True), (LONG, 2049, 4, True, False))),
    *((check_rotary, case) for case in ((3000, 16, 112, 56), (1, 16, 128, 18))),
    *((check_sliding, case) for case in (
        (LONG, 4, 112, 129), (LONG, 2, 64, 65), (LONG, 1, 20, 7),
    )),
    *((check_scan, case) for case in ((LONG, 256, 16), (LONG, 300, 5, 128), (LONG, 70, 16, 4096))),
    *((check_wkv, case) for case in (
        (LONG, 5, 64), (LONG, 4, 64, (8, 2, 1)), (LONG, 2, 128, (4, 4, 1)), (LONG, 5, 20, (1, 3, 1)),
    )),
    *((check_model, (name, [500, 150, 50], [300, 1, 49])) for name in ("based", "mamba", "attention", "rwkv")),
]  # fmt: skip


@on_cuda
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@pytest.mark.parametrize(("check", "case"), REAL, ids=lambda x: x.__name__ if callable(x) else str(x)[:60])
def test_prompts_on_a_gpu(check, case, dtype):
    check(dtype, "cuda", *case)


@on_cuda
@pytest.mark.parametrize("e", [112, 128, 70])
@pytest.mark.parametrize("dtype", [HALF, torch.float16], ids=str)
def test_full_attention_over_packed_prompts_on_a_gpu(e, dtype):
    """Through PyTorch's flash kernel: from nothing, then from caches, empty sequences among them."""
    inputs = Inputs(dtype, "cuda")
    position = torch.zeros(4, dtype=torch.int64)
    before_ = before = None
    for lengths in ([300, 1, 0, 77], [3, 129, 64, 0], [1, 1, 1, 1]):
        (q_, k_, v_), (q, k, v) = (x.unbind(1) for x in inputs.rand(sum(lengths), 3, 4, e))
        want, before_ = full_attention.prefill(q_, k_, v_, 0.1, Packing(lengths), position, before_)
        packing = Packing(lengths, "cuda")
        got, before = attention_on_device.prefill(q, k, v, 0.1, packing, position.cuda(), before)
        position = position + torch.tensor(lengths)
        assert_close("y", got, want, HALF)
        for x, y in zip(before, before_, strict=True):
            assert torch.equal(x.double().cpu(), y), "cache"


@on_cuda
def test_a_long_prompt_beside_many_short_ones_on_a_gpu():
    """300,000 tokens, whose last inputs lie 2.15 billion numbers from the first, and 60 prompts of 3 after them.

    All but the last tokens are zeros, so that the reference can begin there.
    """
    from recall_evals.kernels.selective_scan.triton_prefill import gated_prefill
    from recall_evals.kernels.short_convolution.triton_prefill import prefill as convolve
    from recall_evals.kernels.sliding_window_attention.triton_prefill import prefill as slide
    from recall_evals.kernels.wkv5.triton_prefill import prefill as mix

    window, last, short = 100, [200, *[3] * 60], [300_000, *[3] * 60]
    inputs, n = Inputs(HALF, "cuda"), sum(last)
    wide = torch.zeros(sum(short), 7168, dtype=HALF, device="cuda")
    wide[-n:] = inputs.rand(n, 7168)[1]
    packing, tail, position = Packing(short, "cuda"), Packing(last), torch.zeros(61, dtype=torch.int64)

    def exact(x: Tensor) -> Tensor:
        return x[-n:].double().cpu()

    x, gate = wide.chunk(2, dim=-1)
    weight_, weight = inputs.rand(3584, 3)
    want, _ = short_convolution.prefill(exact(x), weight_, None, exact(gate), tail)
    assert_close("convolution", convolve(x, weight, None, gate, packing)[0][-n:], want, HALF)
    q, k, v = (part.unflatten(-1, (16, 112)) for part in wide[:, : 3 * 1792].chunk(3, dim=-1))
    want, _ = sliding.prefill(exact(q), exact(k), exact(v), 0.1, window, tail, position)
    got, _ = slide(q, k, v, 0.1, window, packing, position.cuda())
    assert_close("window", got[-n + window :], want[window:], HALF)  # from there on no zero is seen
    b, c = wide[:, :16], wide[:, 16:32]
    (bias_, bias), (skip_, skip), (a_, a) = (inputs.rand(*shape) for shape in ((3584,), (3584,), (3584, 16)))
    got, _ = gated_prefill(selective_scan.GatedInputs(x, x, gate, b, c, bias, a, skip), packing)
    sizes = selective_scan.step_sizes(exact(x), bias_)
    want, _ = selective_scan.prefill(exact(x), sizes, -a_.exp(), exact(b), exact(c), skip_, tail)
    assert_close("scan", got[-n:], want * torch.nn.functional.silu(exact(gate)), HALF)
    heads = [part.unflatten(-1, (2, 64)) for part in wide[:, -384:].chunk(3, dim=-1)]
    log_w, (u_, u) = -torch.linspace(-5, 1, 128).exp().reshape(2, 64), inputs.rand(2, 64, dtype=FLOAT)
    got, _ = mix(*heads, log_w.cuda(), u, packing)
    want, _ = wkv5.recurrent(*map(exact, heads), log_w.double(), u_, tail)
    assert_close("WKV", got[-n:], want, HALF)


if __name__ == "__main__":
    for check, case in SMALL:
        check(FLOAT, "cpu", *case)
