"""The trainable selective scan against autograd through the sequential reference, in float64: every form, one check.

Run as a script with TRITON_INTERPRET=1, this file checks the Triton form on the CPU.
"""

import pytest
import torch
from torch import Tensor

from interpreter import needs_interpreter, run_interpreted
from recall_evals.kernels.packing import Packing
from recall_evals.kernels.selective_scan import reference
from recall_evals.kernels.selective_scan.differentiable import CHUNK, selective_scan, torch_scan

NAMES = ("y", "du", "ddt", "da", "db", "dc", "dskip")
SHAPES = [(2, 1, 3, 16), (2, CHUNK, 3, 5), (2, CHUNK + 1, 3, 16), (1, 77, 5, 1), (3, 100, 4, 5)]  # B, L, D, N
WHAT_CUDA_CHECKS = "B 2, L 2560, D 512, N 16 against float64 in float32 and bfloat16, the same bits twice"
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason=f"needs a GPU; the Triton form: {WHAT_CUDA_CHECKS}")


def random_inputs(
    batch: int, length: int, channels: int, n: int, largest_exponent: float | None = None
) -> list[Tensor]:
    """u, dt, a, b, c, skip in float64; the most negative dt * a is -largest_exponent, where that is given."""
    torch.manual_seed(0)
    u, dt = torch.randn(2, batch, length, channels, dtype=torch.float64)
    dt, a = torch.nn.functional.softplus(dt - 2), -torch.exp(torch.randn(channels, n, dtype=torch.float64))
    if largest_exponent is not None:
        dt = dt * (largest_exponent / (dt.max() * -a.min()))
    b, c = torch.randn(2, batch, length, n, dtype=torch.float64)
    return [u, dt, a, b, c, torch.randn(channels, dtype=torch.float64)]


def sequential(*inputs: Tensor) -> Tensor:
    u, dt, a, b, c, skip = inputs
    packing = Packing([u.shape[1]] * u.shape[0], u.device)
    y, _ = reference.prefill(*(x.flatten(0, 1) for x in (u, dt)), a, *(x.flatten(0, 1) for x in (b, c)), skip, packing)
    return y.view_as(u)


def output_and_gradients(form, inputs: list[Tensor]) -> list[Tensor]:
    """y, and the gradients of sum(y * dy) for a fixed random dy, in the order of NAMES."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = form(*leaves)
    dy = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(y, leaves, dy.to(y))
    for gradient, x in zip(gradients, inputs, strict=True):
        assert gradient.dtype == x.dtype and gradient.shape == x.shape
    assert y.dtype == inputs[0].dtype
    return [y.detach(), *gradients]


def assert_close(got: list[Tensor], want: list[Tensor], forward: float, backward: float) -> None:
    """Relative errors, in the 2-norm over a whole tensor; absolute where it should be zero."""
    for name, x, x_want in zip(NAMES, got, want, strict=True):
        assert x.isfinite().all(), name
        size = x_want.norm().item() or 1.0
        error = (x.double() - x_want.to(x.device)).norm().item() / size
        assert error <= (forward if name == "y" else backward), f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("largest_exponent", [None, 80.0, 2000.0])  # decays of 1e-35 and of 0
def test_torch_form_equals_the_sequential_reference(shape, largest_exponent):
    inputs = random_inputs(*shape, largest_exponent)
    want = output_and_gradients(sequential, inputs)
    assert_close(output_and_gradients(torch_scan, inputs), want, 1e-10, 1e-9)
    assert_close(output_and_gradients(torch_scan, [x.float() for x in inputs]), want, 1e-5, 1e-5)


def test_gradcheck():
    inputs = [x.requires_grad_() for x in random_inputs(2, 5, 3, 4)]
    assert torch.autograd.gradcheck(torch_scan, inputs)


def test_only_some_inputs_need_gradients():
    inputs = random_inputs(2, 7, 3, 4)
    leaf = inputs[3].clone().requires_grad_()
    (got,) = torch.autograd.grad(torch_scan(*inputs[:3], leaf, *inputs[4:]).sum(), leaf)
    (want,) = torch.autograd.grad(sequential(*inputs[:3], leaf, *inputs[4:]).sum(), leaf)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_half_precision_inputs_are_summed_in_float32():
    inputs = half_where_autocast_makes_it(random_inputs(2, 50, 4, 5))
    want = output_and_gradients(sequential, [x.double() for x in inputs])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = output_and_gradients(selective_scan, inputs)
    assert_close(got, want, 4e-3, 4e-3)  # of bfloat16: y, du, db, dc are rounded to it
    for i in (2, 3, 6):  # ddt, da, dskip; dy is rounded too
        assert got[i].dtype == torch.float32


def half_where_autocast_makes_it(inputs: list[Tensor]) -> list[Tensor]:
    u, dt, a, b, c, skip = inputs
    return [u.bfloat16(), dt.float(), a.float(), b.bfloat16(), c.bfloat16(), skip.float()]


def test_strided_inputs_and_the_same_bits_twice():
    inputs = [x.float() for x in random_inputs(2, 90, 4, 5)]
    u, dt, a, b, c, skip = inputs
    both = torch.cat([b, c], dim=-1)
    strided = [u.transpose(1, 2).contiguous().transpose(1, 2), dt, a, *both.split(5, dim=-1), skip]
    first, second = output_and_gradients(torch_scan, inputs), output_and_gradients(torch_scan, inputs)
    assert all(map(torch.equal, first, second))
    assert_close(output_and_gradients(torch_scan, strided), [x.double() for x in first], 1e-6, 1e-6)


def test_no_tokens():
    assert selective_scan(*random_inputs(2, 0, 3, 4)).shape == (2, 0, 3)


def test_shapes_that_do_not_fit_are_named():
    u, dt, a, b, c, skip = random_inputs(2, 6, 3, 4)
    with pytest.raises(ValueError, match=r"b is \[2, 5, 4\], must be \[2, 6, 4\]"):
        selective_scan(u, dt, a, b[:, 1:], c, skip)
    with pytest.raises(ValueError, match=r"u must be \[B, L, D\]"):
        selective_scan(u[0], dt, a, b, c, skip)


@needs_interpreter("the Triton form on tiny shapes against float64")
def test_triton_form_under_the_interpreter():
    run_interpreted(__file__)


def check_triton_under_the_interpreter() -> None:
    """float32 alone: the interpreter is silently wrong in bfloat16."""
    from recall_evals.kernels.selective_scan.triton_scan import DEFAULT, Config, triton_scan

    # The interpreter takes milliseconds a token and block: two full segments, then three and blocks that are not full.
    small = Config(segment=8, group=4, forward_block=4, backward_block=8)
    for config, shape, largest_exponent in (
        (small, (1, 1, 1, 1), None),
        (small, (2, 5, 3, 4), None),
        (small, (2, 16, 8, 16), None),
        (small, (2, 19, 9, 5), None),
        (small, (1, 19, 9, 5), 80.0),
        (small, (1, 9, 3, 2), 2000.0),
        (DEFAULT, (1, DEFAULT.segment + 3, 2, 3), None),
    ):
        inputs = random_inputs(*shape, largest_exponent)
        want = output_and_gradients(sequential, inputs)
        floats = [x.float() for x in inputs]

        def form(*leaves: Tensor, config: Config = config) -> Tensor:
            return triton_scan(*leaves, config=config)

        got = output_and_gradients(form, floats)
        assert_close(got, want, 1e-5, 1e-5)
        if shape == (2, 19, 9, 5):
            assert all(map(torch.equal, got, output_and_gradients(form, floats)))


@on_cuda
@pytest.mark.parametrize("shape", [(2, 2560, 512, 16), (3, 301, 75, 5), (1, 1, 1, 1)])
@pytest.mark.parametrize("largest_exponent", [None, 80.0])
def test_triton_form_on_a_gpu(shape, largest_exponent):
    inputs = [x.cuda() for x in random_inputs(*shape, largest_exponent)]
    want = output_and_gradients(torch_scan, inputs)  # float64; itself held to the sequential reference above
    floats = [x.float() for x in inputs]
    got = output_and_gradients(selective_scan, floats)
    assert_close(got, want, 1e-5, 1e-5)
    assert all(map(torch.equal, got, output_and_gradients(selective_scan, floats)))


@on_cuda
def test_triton_form_in_half_precision_on_a_gpu():
    inputs = half_where_autocast_makes_it([x.cuda() for x in random_inputs(2, 2560, 512, 16)])
    want = output_and_gradients(torch_scan, [x.double() for x in inputs])
    with torch.autocast("cuda", dtype=torch.bfloat16):
        got = output_and_gradients(selective_scan, inputs)
    assert_close(got, want, 4e-3, 4e-3)
    assert all(map(torch.equal, got, output_and_gradients(selective_scan, inputs)))


if __name__ == "__main__":
    check_triton_under_the_interpreter()
