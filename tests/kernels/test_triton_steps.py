"""The Triton forms of the decoding steps against their references in float64: every operation, slot and split.

The same checks run under Triton's interpreter (this file as a script, float32, small shapes) and on a GPU.
"""

import sys
from collections.abc import Callable

import pytest
import torch

import baseline_steps as baseline
from interpreter import needs_interpreter, run_interpreted
from kernel_inputs import BOUNDS, SLOTS, Inputs, assert_close
from recall_evals.kernels.full_attention import reference as attention
from recall_evals.kernels.gated_activation import reference as gated_activation
from recall_evals.kernels.greedy_choice import reference as greedy
from recall_evals.kernels.rms_norm import reference as rms_norm
from recall_evals.kernels.rotary.reference import apply_rotary, rotary_angles
from recall_evals.kernels.selective_scan import reference as selective_scan
from recall_evals.kernels.short_convolution import reference as short_convolution
from recall_evals.kernels.sliding_window_attention import reference as sliding
from recall_evals.kernels.taylor_linear_attention import reference as taylor


def check_taylor(
    dtype: torch.dtype, device: str, batch: int, heads: int, d: int, dv: int, fold: int, decay: bool = False,
    cut: tuple[int, ...] | None = None, steps: int | None = None, state_dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Steps over a whole period of folds, in rows of slots that stand at different places of it.

    At fold 1, where no token lies beside the state, it is the recurrence.
    """
    from recall_evals.kernels.taylor_linear_attention import triton_recurrence, triton_step

    inputs = Inputs(dtype, device)
    slots, features = batch + SLOTS, taylor.n_features(d)
    state = [inputs.rand(slots, heads, features, dv, wide=True), inputs.rand(slots, heads, features, wide=True)]
    state[1] = tuple(x.abs() * 0.1 + (torch.arange(features, device=x.device) == 0) * 40 for x in state[1])
    state += [inputs.rand(slots, fold, heads, d), inputs.rand(slots, fold, heads, dv)]
    state[0], state[1] = ((x.to(state_dtype).double(), y.to(state_dtype)) for x, y in state[:2])
    wanted, given = (taylor.TaylorState(*x) for x in zip(*state, strict=True))
    rows = inputs.rows(batch)
    position = torch.arange(slots) * 5 % (2 * fold)
    gamma = torch.tensor([0.875, 0.99, 1.0] * heads)[:heads] if decay else None
    folds = taylor.FOLD
    taylor.FOLD = fold
    try:
        for _ in range(steps or fold + 2):
            (q_, q), (k_, k), (v_, v) = (inputs.rand(batch, 2, heads, n) for n in (d, d, dv))
            part = taylor.TaylorState(*(x[rows] for x in wanted))
            want = taylor.step(q_[:, 1], k_[:, 1], v_[:, 1], 0.25, position[rows], part, gamma)
            for x, new in zip(wanted, part, strict=True):
                x[rows] = new
            there, slot_of = None if gamma is None else gamma.to(device), rows.to(device)
            x = q[:, 1], k[:, 1], v[:, 1]
            if fold == 1:
                how = cut and triton_recurrence.Config(*cut)
                got = triton_recurrence.recur(*x, 0.25, given[:2], there, slot_of, how)
            else:
                how = cut and triton_step.Config(*cut)
                got = triton_step.step(*x, 0.25, position.to(device), given, there, slot_of, how)
            position[rows] += 1
            assert_close("y", got, want, dtype)
        kept = dtype if dtype != torch.float32 else state_dtype
        waiting = torch.arange(fold) < (position % fold)[:, None]  # what lies beside S; the other places are unused
        for name, x, y in list(zip(given._fields, given, wanted, strict=True))[: 2 if fold == 1 else 4]:
            beside = name.startswith("recent")
            assert_close(name, x.cpu()[waiting] if beside else x, y[waiting] if beside else y, kept)
    finally:
        taylor.FOLD = folds


def check_sliding(dtype: torch.dtype, device: str, batch: int, heads: int, e: int, window: int, n: int) -> None:
    """n angles turn 2n dimensions; the ring is empty, half full and gone round."""
    from recall_evals.kernels.sliding_window_attention.triton_step import step

    inputs = Inputs(dtype, device)
    slots = batch + SLOTS
    rings = [inputs.rand(slots, heads, window, e) for _ in range(2)]
    wanted, given = ([x[i] for x in rings] for i in (0, 1))
    rows = inputs.rows(batch)
    position = torch.arange(slots) * 7 % (2 * window + 1)
    position[rows[0]] = 0
    for _ in range(3):
        (q_, k_, v_), (q, k, v) = (x.unbind(1) for x in inputs.rand(batch, 3, heads, e))
        cos, sin = rotary_angles(position[rows], 2 * n, 10_000.0, dtype)
        turned = (q_, k_) if not n else tuple(apply_rotary(x, cos.double(), sin.double()) for x in (q_, k_))
        part = tuple(x[rows] for x in wanted)
        want = sliding.step(turned[0], turned[1].to(dtype).double(), v_, 0.3, position[rows], part)
        for x, new in zip(wanted, part, strict=True):
            x[rows] = new
        angles = (cos.to(device), sin.to(device)) if n else None
        got = step(q, k, v, angles, 0.3, position.to(device), tuple(given), rows.to(device))
        position[rows] += 1
        assert_close("y", got, want, dtype)
    for name, x, y in zip(("keys", "values"), given, wanted, strict=True):
        assert_close(name, x, y, dtype)


def check_attention(dtype: torch.dtype, device: str, batch: int, heads: int, e: int, longest: int, parts: int) -> None:
    """Caches empty, part full, and full but for the tokens that come; keys cut into parts, some without keys."""
    from recall_evals.kernels.full_attention.triton_step import step

    inputs = Inputs(dtype, device)
    slots = batch + SLOTS
    caches = [inputs.rand(slots, longest + 3, heads, e) for _ in range(2)]
    wanted, given = ([x[i] for x in caches] for i in (0, 1))
    rows = inputs.rows(batch)
    position = torch.arange(batch) * 37 % (longest + 1)
    position[-1] = longest
    for _ in range(3):
        (q_, k_, v_), (q, k, v) = (x.unbind(1) for x in inputs.rand(batch, 3, heads, e))
        want = attention.step(q_, k_, v_, 0.3, position, tuple(wanted), rows)
        got = step(q, k, v, 0.3, position.to(device), tuple(given), rows.to(device), parts=parts or None)
        position += 1
        assert_close("y", got, want, dtype)
    for x, y in zip(given, wanted, strict=True):
        assert torch.equal(x.double().cpu(), y), "cache"


def check_convolution(
    dtype: torch.dtype, device: str, batch: int, width: int, taps: int, bias: bool, gate: bool
) -> None:
    from recall_evals.kernels.short_convolution.triton_step import step

    inputs = Inputs(dtype, device)
    weight_, weight = inputs.rand(width, taps)
    bias_, b = inputs.rand(width) if bias else (None, None)
    wanted, given = inputs.rand(batch + SLOTS, taps - 1, width)
    rows = inputs.rows(batch)
    for _ in range(taps + 1):
        x_, x = inputs.rand(batch, 2 * width)
        x_, gate_ = x_.chunk(2, dim=-1)
        x, g = x.chunk(2, dim=-1)
        part = wanted[rows]
        want = short_convolution.step(x_, weight_, bias_, gate_ if gate else None, part)
        wanted[rows] = part
        got = step(x, weight, b, g if gate else None, given, rows.to(device))
        assert_close("y", got, want, dtype)
    assert_close("inputs", given, wanted, dtype)


def check_norm(dtype: torch.dtype, device: str, batch: int, width: int) -> None:
    from recall_evals.kernels.rms_norm.triton_norm import add_rms_norm

    inputs = Inputs(dtype, device)
    weight_, weight = inputs.rand(width)
    (stream_, stream), (hidden_, hidden) = inputs.rand(batch, width, wide=True), inputs.rand(batch, width)
    for before_, before in ((None, None), (stream_, stream), (stream_.to(dtype).double(), stream.to(dtype))):
        want = rms_norm.add_rms_norm(before_, hidden_, weight_, 1e-5, True)
        got = add_rms_norm(before, hidden, weight, 1e-5, True)
        assert got[1].dtype == dtype and got[0].dtype == (dtype if before is None else torch.float32)
        assert_close("sum", got[0], want[0], torch.float32)
        assert_close("y", got[1], want[1], dtype)


def check_linear(dtype: torch.dtype, device: str, batch: int, width: int, outputs: int, bias: bool) -> None:
    from recall_evals.kernels.linear.triton_few_rows import linear

    inputs = Inputs(dtype, device)
    (x_, x), (weight_, weight) = inputs.rand(batch, 2 * width), inputs.rand(outputs, width)
    bias_, b = inputs.rand(outputs) if bias else (None, None)
    got = linear(x[:, width:], weight, b)
    assert_close("y", got, torch.nn.functional.linear(x_[:, width:], weight_, bias_), dtype)


def check_gate(dtype: torch.dtype, device: str, batch: int, width: int) -> None:
    from recall_evals.kernels.gated_activation.triton_gate import silu_gate

    x_, x = Inputs(dtype, device).rand(batch, 2 * width)
    got = silu_gate(*x.chunk(2, dim=-1))
    assert_close("y", got, gated_activation.silu_gate(*x_.chunk(2, dim=-1)), dtype)


def check_scan(dtype: torch.dtype, device: str, batch: int, width: int, n: int) -> None:
    from recall_evals.kernels.selective_scan.triton_step import gated_step

    inputs = Inputs(dtype, device)
    (bias_, bias), (skip_, skip) = inputs.rand(width), inputs.rand(width)
    a_, a = inputs.rand(width, n)
    wanted, given = inputs.rand(batch + SLOTS, width, n, wide=True)
    rows = inputs.rows(batch)
    for shift in (0, -8, 25):  # of dt: both ends of the softplus
        (u_, u), (z_, z), (dt_, dt) = (inputs.rand(batch, width) for _ in range(3))
        bc_, bc = inputs.rand(batch, 2 * n + 3)
        dt_, dt = (dt_ + shift).to(dtype).double(), (dt.double() + shift).to(dtype)
        (b_, c_, _), (b, c, _) = (x.split([n, n, 3], dim=-1) for x in (bc_, bc))
        part = wanted[rows]
        x_ = selective_scan.GatedInputs(u_, dt_, z_, b_, c_, bias_, a_, skip_)
        x = selective_scan.GatedInputs(u, dt, z, b, c, bias, a, skip)
        want = selective_scan.gated_step(x_, part)
        wanted[rows] = part
        got = gated_step(x, given, rows.to(device))
        assert_close("y", got, want, dtype)
        if shift == -8:  # near 0, where log(1 + t) is less than log1p(t): its own largest entry is the measure
            fresh_, fresh = (torch.zeros_like(h) for h in (wanted, given))
            part = fresh_[rows]
            selective_scan.gated_step(x_, part)
            gated_step(x, fresh, rows.to(device))
            error = (fresh[rows.to(device)].double().cpu() - part).abs().max() / part.abs().max()
            assert error <= BOUNDS[dtype], f"small steps: error {error:.1e}"
    assert_close("state", given, wanted, dtype)


def check_choice(dtype: torch.dtype, device: str, batch: int, vocabulary: int) -> None:
    from recall_evals.kernels.greedy_choice.triton_choice import greedy_choice

    _, scores = Inputs(dtype, device).rand(batch, vocabulary + 5)
    scores = scores[:, :vocabulary]  # strided
    if vocabulary > 3:
        scores[0, 1] = scores[0, 3] = scores[0, -1] = 99.0  # of equal scores the first wins
    want = greedy.greedy_choice(scores.cpu())
    got = greedy_choice(scores)
    assert torch.equal(got[0].cpu(), want[0]) and torch.equal(got[1].cpu(), want[1])


FLOAT, HALF = torch.float32, torch.bfloat16
SMALL: list[tuple[Callable[..., None], tuple]] = [
    *((check_taylor, case) for case in (
        (3, 2, 16, 20, 16), (2, 1, 8, 20, 4, True, (16, 1)), (1, 2, 5, 7, 1, False, (32, 4, 1)),
        (2, 2, 3, 9, 1, True), (2, 3, 16, 5, 2, False, (8, 2)),
    )),
    *((check_sliding, case) for case in ((3, 2, 8, 5, 4), (2, 1, 7, 40, 2), (1, 3, 6, 33, 0))),
    *((check_attention, case) for case in ((3, 2, 8, 40, 1), (2, 1, 7, 50, 4))),
    *((check_convolution, case) for case in ((3, 20, 3, False, True), (2, 7, 4, True, False), (1, 600, 2, True, True))),
    *((check_norm, case) for case in ((3, 24), (1, 100))),
    *((check_gate, case) for case in ((3, 24), (1, 1100))),
    *((check_linear, case) for case in ((1, 24, 7, False), (2, 5000, 3, True))),
    *((check_scan, case) for case in ((3, 20, 16), (2, 70, 5), (65, 3, 4))),
    *((check_choice, case) for case in ((3, 1), (2, 50), (2, 5000))),
    *((baseline.check_mixing, case) for case in ((3, 20, 4), (2, 600, 2))),
    *((baseline.check_wkv, case) for case in ((3, 2, 16), (2, 3, 5, 4), (1, 1, 64), (1, 1, 70))),
    *((baseline.check_filter, case) for case in ((3, 20, 12), (2, 70, 64), (2, 5, 1), (5, 20, 8, 2, (128, 4, 4)))),
    *((baseline.check_ssm, case) for case in ((3, 20, 8), (2, 5, 32), (2, 3, 1), (5, 20, 7, 2, (64, 4, 4)))),
]  # fmt: skip


@needs_interpreter("all decoding steps on small shapes against their references in float64")
def test_steps_under_the_interpreter():
    run_interpreted(__file__)


def check_small(device: str) -> None:
    for check, case in SMALL:
        check(FLOAT, device, *case)


WHAT = "all decoding steps at real sizes, in float32 and bfloat16, against their references in float64"
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason=f"needs a GPU; would check {WHAT}")
FAR = 2**31  # numbers of state before ours
REAL: list[tuple[Callable[..., None], tuple]] = [
    *((check_taylor, case) for case in (
        (128, 16, 16, 112, 16), (128, 16, 16, 112, 1), (513, 4, 16, 64, 16), (1, 16, 16, 112, 16), (1, 16, 16, 112, 1),
        (3, 4, 32, 128, 16), (5, 2, 7, 33, 8, True), (2, 16, 24, 56, 16, True),
    )),
    *((check_sliding, case) for case in ((128, 16, 112, 129, 56), (1, 16, 64, 65, 16), (513, 2, 20, 7, 0))),
    *((check_attention, case) for case in ((128, 24, 70, 300, 0), (1, 16, 128, 5000, 0), (65, 4, 256, 1000, 2))),
    *((check_convolution, case) for case in ((128, 3584, 3, False, True), (1, 2049, 4, True, False))),
    *((check_norm, case) for case in ((128, 1792), (1, 2048), (513, 100))),
    *((check_gate, case) for case in ((128, 3584), (1, 100))),
    *((check_linear, case) for case in ((1, 1792, 50264, False), (2, 3584, 1792, True), (1, 16384, 100, False))),
    *((check_scan, case) for case in ((128, 4096, 16), (1, 1030, 5))),
    *((check_choice, case) for case in ((128, 50264), (1, 50257), (513, 257))),
    *((baseline.check_mixing, case) for case in ((128, 2048, 4), (128, 2048, 2), (1, 1030, 4))),
    *((baseline.check_wkv, case) for case in (
        (128, 32, 64), (1, 32, 64), (513, 3, 20), (5, 2, 128), (2, 32, 64, FAR >> 17),
    )),
    *((baseline.check_filter, case) for case in (
        (128, 2048, 64), (1, 2048, 64), (33, 1030, 64), (513, 100, 3), (3, 70, 600), (3, 1024, 65, FAR >> 16),
        (31, 1030, 64, 0, (4096, 4, 4)),
    )),
    *((baseline.check_ssm, case) for case in (
        (128, 2048, 32), (1, 2048, 32), (33, 1030, 32), (513, 100, 7), (3, 70, 600), (3, 1024, 32, FAR >> 16),
        (31, 1030, 32, 0, (1024, 4, 4)),
    )),
]  # fmt: skip


@pytest.fixture
def poisoned():
    """Memory that nobody wrote holds NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@on_cuda
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize(("check", "case"), REAL, ids=lambda x: x.__name__ if callable(x) else str(x))
def test_steps_on_a_gpu(poisoned, check, case, dtype):
    check(dtype, "cuda", *case)


@on_cuda
@pytest.mark.parametrize("case", [(128, 16, 16, 112, 16), (128, 16, 16, 112, 1), (1, 16, 16, 112, 16)])
def test_a_taylor_state_in_bfloat16_on_a_gpu(poisoned, case):
    check_taylor(HALF, "cuda", *case, state_dtype=HALF)


@on_cuda
def test_taylor_states_beyond_two_to_the_31_elements_on_a_gpu():
    """2.3 billion numbers of state, of which two slots at the end are stepped, into a fold."""
    from recall_evals.kernels.taylor_linear_attention.triton_step import step

    slots, heads, d, dv = 8192, 16, 16, 112
    shapes = (heads, 153, dv), (heads, 153), (16, heads, d), (16, heads, dv)
    state = taylor.TaylorState(*(torch.zeros(slots, *shape, dtype=HALF, device="cuda") for shape in shapes))
    assert state.kv.numel() > 2**31
    rows = torch.tensor([slots - 1, slots - 3], device="cuda")
    small = taylor.TaylorState(*(x[rows].double().cpu() for x in state))
    position = torch.full((slots,), 15, device="cuda")
    inputs = Inputs(HALF, "cuda")
    (q_, q), (k_, k), (v_, v) = (inputs.rand(2, heads, n) for n in (d, d, dv))
    want = taylor.step(q_, k_, v_, 0.25, position[:2].cpu(), small)
    assert_close("y", step(q, k, v, 0.25, position, state, None, rows), want, HALF)
    assert_close("state", state.kv[rows], small.kv, HALF)
    assert not state.kv[:-3].any() and not state.kv[-2].any()


if __name__ == "__main__":
    check_small("cuda" if sys.argv[1:] == ["cuda"] else "cpu")  # on a GPU: under a memory checker
