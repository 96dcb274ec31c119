"""The Triton kernels compile for a GPU where there is none: the interpreter lets pass what the compiler refuses (a name
that changes its type, a shape that depends on data).

Run as a script in a process of its own, since it replaces Triton's driver.
"""

import importlib.util
import subprocess
import sys
from collections import Counter

import pytest
import torch

HOPPER = 90
FLOAT, HALF = torch.float32, torch.bfloat16


class NoDevice:
    """What Triton asks of a driver in order to compile."""

    def __init__(self) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", HOPPER, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def compile_all() -> None:
    import triton
    from triton.runtime.jit import JITFunction

    from recall_evals.kernels import devices
    from recall_evals.kernels.full_attention.triton_step import step as attend
    from recall_evals.kernels.gated_activation.triton_gate import silu_gate
    from recall_evals.kernels.greedy_choice.triton_choice import greedy_choice
    from recall_evals.kernels.linear.triton_few_rows import linear
    from recall_evals.kernels.rms_norm.triton_norm import add_rms_norm
    from recall_evals.kernels.selective_scan.reference import GatedInputs
    from recall_evals.kernels.selective_scan.triton_step import gated_step
    from recall_evals.kernels.short_convolution.triton_step import step as convolution
    from recall_evals.kernels.sliding_window_attention.triton_step import step as sliding
    from recall_evals.kernels.taylor_linear_attention.reference import TaylorState, n_features
    from recall_evals.kernels.taylor_linear_attention.triton_recurrence import recur
    from recall_evals.kernels.taylor_linear_attention.triton_step import MANY
    from recall_evals.kernels.taylor_linear_attention.triton_step import step as taylor

    compiled = []
    run = JITFunction.run

    def only_compile(self, *args, grid, warmup, **options):
        compiled.append(run(self, *args, grid=grid, warmup=True, **options).name)

    JITFunction.run = only_compile
    triton.runtime.driver.set_active(NoDevice())
    devices._overlaps = lambda device: True

    def rand(*shape, dtype=HALF):
        return torch.zeros(shape, dtype=dtype)

    position = torch.zeros(4, dtype=torch.int64)
    q, k = rand(2, 1, 2, 16)
    for state, decay, config in ((FLOAT, None, None), (HALF, rand(2), MANY)):
        s, z = rand(4, 2, n_features(16), 112, dtype=state), rand(4, 2, n_features(16), dtype=state)
        remembered = TaylorState(s, z, rand(4, 16, 2, 16), rand(4, 16, 2, 112))
        taylor(q, k, rand(1, 2, 112), 0.25, position, remembered, decay, config=config)
        recur(q, k, rand(1, 2, 112), 0.25, (s, z), decay)
    q, k, v = rand(1, 3, 2, 112).unbind(1)
    sliding(q, k, v, (rand(1, 56), rand(1, 56)), 0.1, position, (rand(4, 2, 129, 112), rand(4, 2, 129, 112)))
    for parts in (1, 4):
        attend(q, k, v, 0.1, position, (rand(4, 300, 2, 112), rand(4, 300, 2, 112)), parts=parts)
    convolution(rand(1, 64), rand(64, 3), rand(64), rand(1, 64), rand(4, 2, 64))
    silu_gate(rand(1, 64), rand(1, 64))
    greedy_choice(rand(2, 20_000))
    linear(rand(2, 1792), rand(64, 1792), rand(64))
    add_rms_norm(rand(1, 64, dtype=FLOAT), rand(1, 64), rand(64), 1e-5, True)
    inputs = GatedInputs(*(rand(1, 64) for _ in range(3)), rand(1, 16), rand(1, 16), rand(64), rand(64, 16), rand(64))
    gated_step(inputs, rand(4, 64, 16, dtype=FLOAT))
    wanted = {"_step", "_fold", "_recur", "_gate", "_choose", "_product", "_add_norm", "_attend", "_combine"}
    assert set(compiled) == wanted and len(compiled) == 16, compiled
    compiled.clear()
    compile_baseline_steps()
    assert Counter(compiled) == {"_mix": 2, "_wkv": 2, "_filter": 2, "_ssm": 2}, compiled
    compiled.clear()
    compile_prompts()
    wanted = {"_prefill": 3, "_rotate": 1, "_walk": 4, "_combine": 1, "_prefix": 2, "_recur": 1}
    assert Counter(compiled) == wanted, compiled


def compile_baseline_steps() -> None:
    """The steps of RWKV-5 and H3, at the sizes of their 1.3 B configurations, for few sequences and for many."""
    from recall_evals.kernels.causal_filter.triton_step import gated_step as causal_filter
    from recall_evals.kernels.diagonal_ssm.reference import DiagonalSSM
    from recall_evals.kernels.diagonal_ssm.triton_step import gated_step as diagonal_ssm
    from recall_evals.kernels.wkv5.reference import Heads
    from recall_evals.kernels.wkv5.triton_step import gated_step as wkv5
    from recall_evals.kernels.wkv5.triton_step import mix_step

    def rand(*shape, dtype=HALF):
        return torch.zeros(shape, dtype=dtype)

    for count in (2, 4):
        mix_step(rand(2, 2048), rand(count, 2048).unbind(), rand(4, 2048))
    for n in (64, 128):
        heads = Heads(rand(2, n), rand(2, n), rand(2 * n), rand(2 * n), 8, 1e-5)
        wkv5(*rand(2, 3, 2, n).unbind(1), rand(2, 2 * n), heads, rand(4, 2, n, n, dtype=FLOAT))
    numbers = (rand(2048, 32, dtype=torch.complex64) for _ in range(3))
    ssm, taps = DiagonalSSM(*numbers, rand(2048, dtype=FLOAT)), rand(2048, 64, dtype=FLOAT)
    for batch in (1, 64):
        x = rand(batch, 2048)
        causal_filter(x, taps, x, rand(batch, 63, 2048))
        diagonal_ssm(x, ssm, x, rand(batch, 2048, 32, 2, dtype=FLOAT))


def compile_prompts() -> None:
    """The kernels of `prefill`, at the sizes of the released 1.3 B models; from a state, too."""
    from recall_evals.kernels.packing import Packing
    from recall_evals.kernels.rotary.triton_prefill import rotate
    from recall_evals.kernels.selective_scan.reference import GatedInputs
    from recall_evals.kernels.selective_scan.triton_prefill import gated_prefill
    from recall_evals.kernels.short_convolution.triton_prefill import prefill as convolution
    from recall_evals.kernels.sliding_window_attention.triton_prefill import prefill as sliding
    from recall_evals.kernels.taylor_linear_attention.reference import TaylorState, n_features
    from recall_evals.kernels.taylor_linear_attention.triton_prefill import prefill as taylor
    from recall_evals.kernels.wkv5.triton_prefill import prefill as wkv5

    def rand(*shape, dtype=HALF):
        return torch.zeros(shape, dtype=dtype)

    tokens, position = 303, torch.zeros(2, dtype=torch.int64)
    packing = Packing([300, 3])
    x, gate = rand(tokens, 7168).chunk(2, dim=-1)
    convolution(x, rand(3584, 4), rand(3584), gate, packing, rand(2, 3, 3584))
    q, k, v = rand(tokens, 3, 16, 112).unbind(1)
    rotate(q, k, rand(tokens, 56), rand(tokens, 56))
    for ring in (None, (rand(2, 16, 129, 112), rand(2, 16, 129, 112))):
        sliding(q, k, v, 0.1, 129, packing, position, ring)
    bc, h = rand(tokens, 32), rand(2, 3584, 16, dtype=FLOAT)
    bias, skip, a = rand(3584), rand(3584), rand(3584, 16, dtype=FLOAT)
    inputs = GatedInputs(x, rand(tokens, 3584), gate, bc[:, :16], bc[:, 16:], bias, a, skip)
    gated_prefill(inputs, packing, h, 64)
    q, k = rand(2, tokens, 16, 16)
    s, z = rand(2, 16, n_features(16), 112, dtype=FLOAT), rand(2, 16, n_features(16), dtype=FLOAT)
    state = TaylorState(s, z, rand(2, 16, 16, 16), rand(2, 16, 16, 112))
    taylor(q, k, v, 0.25, packing, position, state, segment=128)
    r, k, v = rand(tokens, 3, 32, 64).unbind(1)
    wkv5(r, k, v, rand(32, 64, dtype=FLOAT), rand(32, 64, dtype=FLOAT), packing, rand(2, 32, 64, 64, dtype=FLOAT))


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton; would compile the kernels for a GPU",
)
def test_kernels_compile_for_a_gpu(tmp_path):
    from os import environ, pathsep

    there = environ | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, __file__], env=there, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    compile_all()
