"""The operations of H3, Hyena and RWKV-5: by token, in parallel, packed, cut and stepped, against the equation."""

import pytest
import torch
from torch import Tensor

from recall_evals.kernels.causal_filter import reference as causal_filter
from recall_evals.kernels.diagonal_ssm import reference as diagonal_ssm
from recall_evals.kernels.long_convolution import reference as long_convolution
from recall_evals.kernels.packing import Packing
from recall_evals.kernels.precision import plain_sums
from recall_evals.kernels.wkv5 import reference as wkv5

LENGTHS = [5, 1, 150, 17, 64]  # ends within, at and after a chunk of either operation
TIGHT = {"rtol": 0.0, "atol": 1e-10}
WIDTH, TAPS = 3, 12


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class Wkv5:
    """y_t = r_t (S + u k_t^T v_t), S <- w S + k_t^T v_t, a head and token at a time; decays from 0.9998 to 1e-9."""

    def __init__(self, dtype: torch.dtype = torch.float64):
        omega = torch.linspace(-8.5, 3, 8).reshape(2, 4).double()
        self.log_w, self.u = -omega.exp().to(dtype), rand(2, 4).to(dtype)
        self.inputs = [rand(sum(LENGTHS), 2, 4).to(dtype) for _ in range(3)]

    def want(self, r: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = torch.zeros_like(r)
        for h in range(2):
            s = torch.zeros(4, 4, dtype=r.dtype)
            for t in range(len(r)):
                added = torch.outer(k[t, h], v[t, h])
                y[t, h] = r[t, h] @ (s + torch.diag(self.u[h]) @ added)
                s = torch.diag(self.log_w[h].exp()) @ s + added
        return y

    def prefill(self, x: list[Tensor], packing: Packing, state: Tensor | None, form: str) -> tuple[Tensor, Tensor]:
        return getattr(wkv5, form)(*x, self.log_w, self.u, packing, state)

    def step(self, x: list[Tensor], state: Tensor) -> Tensor:
        return wkv5.step(*x, self.log_w, self.u, state)


class DiagonalSSM:
    """y_t = 2 Re(C h_t) + D u_t of the bilinear discretisation, with complex numbers, a channel and token at a time."""

    def __init__(self, dtype: torch.dtype = torch.float64):
        n = 4
        a = torch.stack([-torch.rand(WIDTH, n) - 0.1, 3.0 * torch.arange(n).expand(WIDTH, n)], -1).double()
        self.parts = torch.linspace(-6, -1, WIDTH).double(), a, rand(WIDTH, n, 2), rand(WIDTH, n, 2), rand(WIDTH)
        self.ssm = diagonal_ssm.discretize(*(x.to(dtype) for x in self.parts))
        self.inputs = [rand(sum(LENGTHS), WIDTH).to(dtype)]

    def want(self, u: Tensor) -> Tensor:
        log_dt, a, b, c, skip = self.parts
        y = torch.zeros_like(u)
        for d in range(WIDTH):
            dt, h = log_dt[d].exp(), torch.zeros(4, dtype=torch.complex128)
            a_, b_, c_ = (torch.complex(x[d, :, 0], x[d, :, 1]) for x in (a, b, c))
            for t in range(len(u)):
                h = ((1 + dt * a_ / 2) * h + dt * b_ * u[t, d]) / (1 - dt * a_ / 2)
                y[t, d] = 2 * (c_ * h).sum().real + skip[d] * u[t, d]
        return y

    def prefill(self, x: list[Tensor], packing: Packing, state: Tensor | None, form: str) -> tuple[Tensor, Tensor]:
        return getattr(diagonal_ssm, form)(*x, self.ssm, packing, state)

    def step(self, x: list[Tensor], state: Tensor) -> Tensor:
        return diagonal_ssm.step(*x, self.ssm, state)


OPERATIONS = pytest.mark.parametrize("operation", [Wkv5, DiagonalSSM])


def parts_of(x: list[Tensor], lengths: list[int], begin: list[int], end: list[int]) -> list[Tensor]:
    return [torch.cat([s[i:j] for s, i, j in zip(t.split(lengths), begin, end, strict=True)]) for t in x]


@OPERATIONS
@pytest.mark.parametrize("form", ["recurrent", "parallel"])
def test_both_forms_are_the_equation_however_the_sequences_are_cut(operation, form):
    op = operation()
    want = torch.cat([op.want(*x) for x in zip(*(t.split(LENGTHS) for t in op.inputs), strict=True)])
    y, state = op.prefill(op.inputs, Packing(LENGTHS), None, form)
    torch.testing.assert_close(y, want, **TIGHT)
    none = [0] * len(LENGTHS)
    for cut in (0.0, 0.3, 0.9):
        heads, ends = [int(n * cut) for n in LENGTHS], [n - 1 for n in LENGTHS]
        _, middle = op.prefill(parts_of(op.inputs, LENGTHS, none, heads), Packing(heads), None, form)
        rest = Packing([n - h for n, h in zip(ends, heads, strict=True)])
        y, middle = op.prefill(parts_of(op.inputs, LENGTHS, heads, ends), rest, middle, form)
        torch.testing.assert_close(y, parts_of([want], LENGTHS, heads, ends)[0], **TIGHT)
        y = op.step(parts_of(op.inputs, LENGTHS, ends, LENGTHS), middle)
        torch.testing.assert_close(y, parts_of([want], LENGTHS, ends, LENGTHS)[0], **TIGHT)
        torch.testing.assert_close(middle, state, **TIGHT)


@OPERATIONS
def test_exact_float32_gives_the_same_bits_for_every_cut_and_plain_float32_is_near(operation):
    op = operation(torch.float32)
    total = len(op.inputs[0])
    module = wkv5 if operation is Wkv5 else diagonal_ssm
    arguments = (op.log_w, op.u) if operation is Wkv5 else (op.ssm,)
    want, whole = module.prefill(*op.inputs, *arguments, Packing([total]))
    assert whole.dtype == torch.float32 == want.dtype
    for cut in (1, 63, 64, 200):
        _, state = module.prefill(*(x[:cut] for x in op.inputs), *arguments, Packing([cut]))
        for t in range(cut, total):
            y = op.step([x[t : t + 1] for x in op.inputs], state)
            assert torch.equal(y[0], want[t]), f"cut at {cut}, token {t}"
        assert torch.equal(state, whole)
    with plain_sums():
        if operation is DiagonalSSM:
            arguments = (diagonal_ssm.discretize(*(x.float() for x in op.parts)),)
        fast, state = module.prefill(*op.inputs, *arguments, Packing([total]))
    assert 0 < (fast - want).abs().max() < 1e-4 * want.abs().max(), "the parallel form, in float32"
    torch.testing.assert_close(state, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [3, TAPS])  # one tap after the other; by FFT
def test_causal_filter(n):
    x, taps = rand(sum(LENGTHS), WIDTH), rand(WIDTH, n)
    want = []
    for u in x.split(LENGTHS):
        y = torch.zeros_like(u)
        for t in range(len(u)):
            y[t] = sum(taps[:, lag] * u[t - lag] for lag in range(min(n, t + 1)))
        want.append(y)
    y, inputs = causal_filter.prefill(x, taps, Packing(LENGTHS))
    torch.testing.assert_close(y, torch.cat(want), **TIGHT)
    none, heads, ends = [0] * len(LENGTHS), [n // 3 for n in LENGTHS], [n - 1 for n in LENGTHS]
    _, middle = causal_filter.prefill(*parts_of([x], LENGTHS, none, heads), taps, Packing(heads))
    rest = Packing([e - h for e, h in zip(ends, heads, strict=True)])
    _, middle = causal_filter.prefill(*parts_of([x], LENGTHS, heads, ends), taps, rest, middle)
    y = causal_filter.step(*parts_of([x], LENGTHS, ends, LENGTHS), taps, middle)
    torch.testing.assert_close(y, torch.stack([w[-1] for w in want]), **TIGHT)
    assert torch.equal(middle, inputs)


def test_the_taps_of_a_shift_ssm():
    b, c, skip, u = rand(WIDTH, TAPS), rand(WIDTH, TAPS), rand(WIDTH), rand(40, WIDTH)
    x, want = torch.zeros(WIDTH, TAPS, dtype=torch.float64), []
    for token in u:
        x = torch.cat([torch.zeros(WIDTH, 1, dtype=torch.float64), x[:, :-1]], dim=1) + b * token[:, None]
        want.append((c * x).sum(1) + skip * token)
    y, _ = causal_filter.prefill(u, causal_filter.shift_taps(b, c, skip), Packing([40]))
    torch.testing.assert_close(y, torch.stack(want), **TIGHT)


def test_long_convolution():
    x, taps = rand(sum(LENGTHS), WIDTH), rand(max(LENGTHS), WIDTH)
    want = [torch.stack([(taps[: t + 1].flip(0) * u[: t + 1]).sum(0) for t in range(len(u))]) for u in x.split(LENGTHS)]
    none = [0] * len(LENGTHS)
    y, _ = long_convolution.prefill(x, taps, Packing(LENGTHS), torch.tensor(none))
    torch.testing.assert_close(y, torch.cat(want), **TIGHT)
    heads, ends = [n // 3 for n in LENGTHS], [n - 1 for n in LENGTHS]
    part = parts_of([x], LENGTHS, none, heads)[0]
    _, history = long_convolution.prefill(part, taps, Packing(heads), torch.tensor(none))
    rest = Packing([e - h for e, h in zip(ends, heads, strict=True)])
    part = parts_of([x], LENGTHS, heads, ends)[0]
    y, history = long_convolution.prefill(part, taps, rest, torch.tensor(heads), history)
    torch.testing.assert_close(y, torch.cat([w[h:-1] for w, h in zip(want, heads, strict=True)]), **TIGHT)
    history = torch.nn.functional.pad(history, (0, 0, 0, 9))
    rows = torch.tensor([2, 0])
    step = torch.stack([x.split(LENGTHS)[row][-1] for row in rows])
    y = long_convolution.step(step, taps, torch.tensor(ends)[rows], history, rows)
    torch.testing.assert_close(y, torch.stack([want[row][-1] for row in rows]), **TIGHT)
    with pytest.raises(ValueError, match="151 tokens is longer than the filter, 150"):
        long_convolution.step(step[:1], taps, torch.tensor([150]), history, rows[:1])
    with pytest.raises(ValueError, match="151 tokens is longer than the filter, 150"):
        long_convolution.prefill(x[:151], taps, Packing([151]), torch.tensor([0]))


def test_token_shift_stays_within_its_sequence():
    x = torch.arange(1.0, 7.0)[:, None]
    before, last = wkv5.token_shift(x, Packing([2, 1, 3]))
    assert before[:, 0].tolist() == [0, 1, 0, 0, 4, 5] and last[:, 0].tolist() == [2, 3, 6]
    before, _ = wkv5.token_shift(x, Packing([2, 1, 3]), torch.tensor([[7.0], [8.0], [9.0]]))
    assert before[:, 0].tolist() == [7, 1, 8, 9, 4, 5]
