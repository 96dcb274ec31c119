"""y = x Wᵀ + b for a few rows x, in Triton: decoding at small batches, where the time is that of reading W.

A program holds some rows of W, whole, in registers. W doesn't depend on what ran before, so it asks for W first and
only then waits for the kernel before it, which makes x: that kernel's time is W's on its way.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped


class Config(NamedTuple):
    """How the work is cut; numbers are powers of two."""

    outputs: int  # rows of W of a program
    warps: int


def config_for(inputs: int) -> Config:
    """Four rows of W where registers hold as many, 128 numbers a thread."""
    wide = triton.next_power_of_2(inputs)
    outputs = max(1, min(4, 16384 // wide))
    return Config(outputs, max(1, min(8, outputs * wide // 4096)))


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    x, w, bias, y,  # [M, K], [N, K], [N], [M, N]
    x_row,  # stride
    N, K: tl.constexpr, M: tl.constexpr, KP: tl.constexpr, OUTPUTS: tl.constexpr, BIAS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    n, k = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.arange(0, KP)
    in_n, in_k = n < N, k < K
    inside = in_n[:, None] & in_k[None, :]
    w_all = tl.load(w + n.to(tl.int64)[:, None] * K + k[None, :], mask=inside, other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
    for m in tl.static_range(M):
        x_now = tl.load(x + m * x_row + k, mask=in_k, other=0.0).to(tl.float32)
        y_now = tl.sum(w_all.to(tl.float32) * x_now[None, :], axis=1)
        if BIAS:
            y_now += tl.load(bias + n, mask=in_n, other=0.0).to(tl.float32)
        tl.store(y + m * N + n, y_now.to(y.dtype.element_ty), mask=in_n)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, config: Config | None = None) -> Tensor:
    """`reference.linear` of x `[M, in]`, few rows, and a contiguous weight `[out, in]`.

    Args:
        config: how the work is cut; None for what suits the sizes.
    """
    (M, K), N = x.shape, weight.shape[0]
    config = config or config_for(K)
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty(M, N)
    _product[(triton.cdiv(N, config.outputs),)](
        x, weight, weight if bias is None else bias, y, x.stride(0),
        N, K=K, M=M, KP=triton.next_power_of_2(K), OUTPUTS=config.outputs, BIAS=bias is not None,
        num_warps=config.warps, **overlapped(x),
    )  # fmt: skip
    return y
