"""Checks of the Triton forms of RWKV-5's and H3's decoding steps, which kernels/test_triton_steps.py makes."""

from collections.abc import Callable

import torch
from torch import Tensor

from kernel_inputs import SLOTS, Inputs, assert_close
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


def gated_steps(
    inputs: Inputs, batch: int, width: int, state: tuple[Tensor, Tensor], before: int,
    reference: Callable[[Tensor, Tensor], Tensor], step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Steps of an operation and its gate, by the reference and by the form under test; their states after them."""
    (wanted, given), rows = state, inputs.rows(batch)
    given = behind(before, given)
    for _ in range(STEPS):
        (u_, z_), (u, z) = (x.chunk(2, dim=-1) for x in inputs.rand(batch, 2 * width))
        part = wanted[rows]
        want = reference(u_, part) * z_
        wanted[rows] = part
        assert_close("y", step(u, z, given, (rows + before).to(given.device)), want, inputs.dtype)
    return wanted, given


def check_filter(
    dtype: torch.dtype, device: str, batch: int, width: int, n: int, before: int = 0,
    cut: tuple[int, int, int] | None = None,
) -> None:  # fmt: skip
    from recall_evals.kernels.causal_filter.triton_step import Config, gated_step

    inputs = Inputs(dtype, device)
    (taps_, taps), (wanted, given) = inputs.rand(width, n, wide=True), inputs.rand(batch + SLOTS, n - 1, width)
    wanted, given = gated_steps(
        inputs, batch, width, (wanted, given), before,
        lambda u, state: causal_filter.step(u, taps_, state),
        lambda u, z, state, rows: gated_step(u, taps, z, state, rows, cut and Config(*cut)),
    )  # fmt: skip
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
    wanted, given = gated_steps(
        inputs, batch, width, (wanted, given), before,
        lambda u, state: diagonal_ssm.step(u, ssm_, state),
        lambda u, z, state, rows: gated_step(u, ssm, z, state, rows, cut and Config(*cut)),
    )  # fmt: skip
    assert_close("state", given[before:], wanted, torch.float32)
    assert (given[:before] == 1).all(), "other slots"
