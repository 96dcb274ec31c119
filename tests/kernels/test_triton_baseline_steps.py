"""The Triton forms of RWKV-5's and H3's decoding steps against their references in float64.

The same checks run under Triton's interpreter (this file as a script, float32, small shapes) and on a GPU.
"""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from interpreter import needs_interpreter, run_interpreted
from kernel_inputs import SLOTS, Inputs, assert_close, poison
from recall_evals.kernels.causal_filter import reference as causal_filter
from recall_evals.kernels.diagonal_ssm import reference as diagonal_ssm
from recall_evals.kernels.wkv5 import dispatch as mixing
from recall_evals.kernels.wkv5 import reference as wkv5

STEPS = 3


def behind(slots: int, state: Tensor) -> Tensor:
    """A state with as many slots of ones before its own, which nobody touches."""
    return torch.cat([state.new_ones(slots, *state.shape[1:]), state])


def check_mixing(dtype: torch.dtype, device: str, batch: int, width: int, count: int) -> None:
    from recall_evals.kernels.wkv5.triton_step import mix_step

    inputs = Inputs(dtype, device)
    (mus_, mus), (wanted, given) = inputs.rand(count, 1, 1, width), inputs.rand(batch + SLOTS, width)
    rows = inputs.rows(batch)
    for _ in range(STEPS):
        x_, x = inputs.rand(batch, 2 * width)
        want = mixing.mix_step(x_[:, width:], mus_[:, 0, 0], wanted, rows)
        got = mix_step(x[:, width:], mus[:, 0, 0].unbind(), given, rows.to(device))
        assert len(got) == count
        for i in range(count):
            assert_close(f"mix {i}", got[i], want[i], dtype)
    assert torch.equal(given.double().cpu(), wanted), "last"


def check_wkv(dtype: torch.dtype, device: str, batch: int, heads: int, n: int, before: int = 0) -> None:
    """Decays from almost 1 to 0; r, k, v and the gate strided."""
    from recall_evals.kernels.wkv5.triton_step import gated_step

    inputs = Inputs(dtype, device)
    omega = torch.linspace(-8, 3, heads * n).reshape(heads, n).to(dtype)
    (u_, u), (weight_, weight), (bias_, bias) = inputs.rand(heads, n), inputs.rand(heads * n), inputs.rand(heads * n)
    wanted, given = inputs.rand(batch + SLOTS, heads, n, n, wide=True)
    wanted, given = wanted * 3, behind(before, given * 3)
    heads_ = wkv5.Heads(omega.double(), u_, weight_, bias_, 8, 0.1)
    parts = wkv5.Heads(omega.to(device), u, weight, bias, 8, 0.1)
    rows = inputs.rows(batch)
    for _ in range(STEPS):
        (x_, x), (z_, z) = inputs.rand(batch, 3, heads + 1, n), inputs.rand(batch, 2 * heads * n)
        part = wanted[rows]
        want = wkv5.gated_step(*x_[:, :, 1:].unbind(1), z_[:, heads * n :], heads_, part)
        wanted[rows] = part
        got = gated_step(*x[:, :, 1:].unbind(1), z[:, heads * n :], parts, given, (rows + before).to(device))
        assert_close("y", got, want, dtype)
    assert_close("state", given[before:], wanted, torch.float32)
    assert (given[:before] == 1).all(), "other slots"


def check_filter(
    dtype: torch.dtype, device: str, batch: int, width: int, n: int, before: int = 0,
    cut: tuple[int, int, int] | None = None,
) -> None:  # fmt: skip
    from recall_evals.kernels.causal_filter.triton_step import Config, gated_step

    inputs = Inputs(dtype, device)
    (taps_, taps), (wanted, given) = inputs.rand(width, n, wide=True), inputs.rand(batch + SLOTS, n - 1, width)
    rows, given = inputs.rows(batch), behind(before, given)
    for _ in range(STEPS):
        (u_, z_), (u, z) = (x.chunk(2, dim=-1) for x in inputs.rand(batch, 2 * width))
        part = wanted[rows]
        want = causal_filter.step(u_, taps_, part) * z_
        wanted[rows] = part
        got = gated_step(u, taps, z, given, (rows + before).to(device), cut and Config(*cut))
        assert_close("y", got, want, dtype)
    assert torch.equal(given[before:].double().cpu(), wanted), "inputs"
    assert (given[:before] == 1).all(), "other slots"


def check_ssm(
    dtype: torch.dtype, device: str, batch: int, width: int, n: int, before: int = 0,
    cut: tuple[int, int, int] | None = None,
) -> None:  # fmt: skip
    """Rates and phases from slow to fast."""
    from recall_evals.kernels.diagonal_ssm.triton_step import Config, gated_step

    inputs = Inputs(dtype, device)
    log_dt = torch.linspace(-6, -1, width).double()
    a = torch.stack([-torch.linspace(0.1, 3, n), 3.0 * torch.arange(n)], -1).expand(width, n, 2).double()
    exact = diagonal_ssm.discretize(log_dt, a, *(inputs.rand(width, *x, wide=True)[0] for x in ((n, 2), (n, 2), ())))
    near = [x.to(torch.complex64 if x.is_complex() else torch.float32) for x in exact]
    ssm = diagonal_ssm.DiagonalSSM(*(x.to(device) for x in near))
    ssm_ = diagonal_ssm.DiagonalSSM(*(x.to(torch.complex128 if x.is_complex() else torch.float64) for x in near))
    wanted, given = inputs.rand(batch + SLOTS, width, n, 2, wide=True)
    rows, given = inputs.rows(batch), behind(before, given)
    for _ in range(STEPS):
        (u_, z_), (u, z) = (x.chunk(2, dim=-1) for x in inputs.rand(batch, 2 * width))
        part = wanted[rows]
        want = diagonal_ssm.step(u_, ssm_, part) * z_
        wanted[rows] = part
        got = gated_step(u, ssm, z, given, (rows + before).to(device), cut and Config(*cut))
        assert_close("y", got, want, dtype)
    assert_close("state", given[before:], wanted, torch.float32)
    assert (given[:before] == 1).all(), "other slots"


FLOAT, HALF = torch.float32, torch.bfloat16
SMALL: list[tuple[Callable[..., None], tuple]] = [
    *((check_mixing, case) for case in ((3, 20, 4), (2, 600, 2))),
    *((check_wkv, case) for case in ((3, 2, 16), (2, 3, 5, 4), (1, 1, 64), (1, 1, 70))),
    *((check_filter, case) for case in ((3, 20, 12), (2, 70, 64), (2, 5, 1), (5, 20, 8, 2, (128, 4, 4)))),
    *((check_ssm, case) for case in ((3, 20, 8), (2, 5, 32), (2, 3, 1), (5, 20, 7, 2, (64, 4, 4)))),
]  # fmt: skip


@needs_interpreter("the decoding steps of RWKV-5 and H3 on small shapes against their references in float64")
def test_steps_under_the_interpreter():
    run_interpreted(__file__)


def check_small(device: str) -> None:
    for check, case in SMALL:
        check(FLOAT, device, *case)


WHAT = "the decoding steps of RWKV-5 and H3 at real sizes, in float32 and bfloat16, against their references in float64"
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason=f"needs a GPU; would check {WHAT}")
FAR = 2**31  # numbers of state before ours
REAL: list[tuple[Callable[..., None], tuple]] = [
    *((check_mixing, case) for case in ((128, 2048, 4), (128, 2048, 2), (1, 1030, 4))),
    *((check_wkv, case) for case in ((128, 32, 64), (1, 32, 64), (513, 3, 20), (5, 2, 128), (2, 32, 64, FAR >> 17))),
    *((check_filter, case) for case in (
        (128, 2048, 64), (1, 2048, 64), (33, 1030, 64), (513, 100, 3), (3, 70, 600), (3, 1024, 65, FAR >> 16),
        (31, 1030, 64, 0, (4096, 4, 4)),
    )),
    *((check_ssm, case) for case in (
        (128, 2048, 32), (1, 2048, 32), (33, 1030, 32), (513, 100, 7), (3, 70, 600), (3, 1024, 32, FAR >> 16),
        (31, 1030, 32, 0, (1024, 4, 4)),
    )),
]  # fmt: skip


poisoned = pytest.fixture(poison)


@on_cuda
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize(("check", "case"), REAL, ids=lambda x: x.__name__ if callable(x) else str(x))
def test_steps_on_a_gpu(poisoned, check, case, dtype):
    check(dtype, "cuda", *case)


if __name__ == "__main__":
    check_small("cuda" if sys.argv[1:] == ["cuda"] else "cpu")  # on a GPU: under a memory checker
