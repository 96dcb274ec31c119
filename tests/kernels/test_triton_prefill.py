"""Taylor linear attention over packed prompts in Triton against its reference in float64.

The same check runs under Triton's interpreter (this file as a script, float32, small shapes) and on a GPU.
"""

import pytest
import torch

from interpreter import needs_interpreter, run_interpreted
from kernel_inputs import BOUNDS
from recall_evals.kernels.packing import Packing
from recall_evals.kernels.taylor_linear_attention import reference as taylor

FLOAT, HALF = torch.float32, torch.bfloat16


def check(
    dtype: torch.dtype, device: str, lengths: list[int], heads: int, d: int, dv: int, chunk: int,
    segment: int | None = None, continued: tuple[int, ...] = (0, 7),
) -> None:  # fmt: skip
    """Prompts from nothing, then prompts of as many and a few more tokens from the state after them."""
    from recall_evals.kernels.taylor_linear_attention.triton_prefill import Config, prefill

    draw = torch.Generator().manual_seed(0)
    position = torch.zeros(len(lengths), dtype=torch.int64, device=device)
    state = wanted_state = None
    for more in continued:
        sizes = [n + more if n else 0 for n in lengths]
        drawn = [torch.randn(sum(sizes), 2 * heads, n, generator=draw).to(dtype) for n in (d, d, dv)]
        inputs, packing = [x.to(device)[:, heads:] for x in drawn], Packing(sizes, device)
        wide = [x.double() for x in inputs]
        want, wanted_state = taylor.prefill(*wide, d**-0.5, packing, position, wanted_state)
        got, state = prefill(*inputs, d**-0.5, packing, position, state, Config(chunk), segment)
        position = position + packing.length_tensor
        beside = torch.arange(taylor.FOLD, device=device) < (position % taylor.FOLD)[:, None]
        pairs = {"y": (got, want)} | {n: (getattr(state, n), getattr(wanted_state, n)) for n in ("kv", "k_sum")}
        pairs |= {n: (getattr(state, n)[beside], getattr(wanted_state, n)[beside]) for n in state._fields[2:]}
        for name, (mine, theirs) in pairs.items():
            assert mine.isfinite().all(), name
            error = ((mine.double() - theirs).norm() / theirs.norm().clamp(min=1e-30)).item()
            assert error <= BOUNDS[dtype], f"{name}: error {error:.1e}"


SMALL = [
    ([5, 1, 40, 33], 2, 16, 20, 16), ([70, 0, 3], 1, 8, 16, 16, 32), ([100], 2, 16, 8, 32, 64),
    ([17, 64], 1, 5, 7, 16, 16), ([50, 9], 1, 16, 70, 16), ([1, 3, 15], 1, 16, 16, 16, None, (0, 0, 12)),
]  # fmt: skip
REAL = [
    ([2048] * 16, 16, 16, 64, 64), ([2048], 16, 16, 64, 64), ([1, 700, 0, 33, 2047], 16, 16, 112, 64),
    ([65_536] + [3] * 60, 2, 16, 64, 64), ([40, 3000], 2, 5, 20, 32), ([513, 512, 511], 2, 12, 128, 32),
]  # fmt: skip
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; would check prompts at real sizes")


@needs_interpreter("packed prompts on small shapes against the reference in float64")
def test_prompts_under_the_interpreter():
    run_interpreted(__file__)


@on_cuda
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("case", REAL, ids=lambda case: str(case[1:4]))
def test_prompts_on_a_gpu(case, dtype):
    check(dtype, "cuda", *case)


if __name__ == "__main__":
    for case in SMALL:
        check(FLOAT, "cpu", *case)
