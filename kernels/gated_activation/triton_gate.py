"""SwiGLU's gate in one kernel: the equation of `reference.py`."""

import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped

BLOCK = 1024


@triton.jit
def _gate(  # type: ignore[no-untyped-def]
    value, gate, y, value_row, gate_row, D, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_d = d < D
    a = tl.load(value + i * value_row + d, mask=in_d, other=0.0).to(tl.float32)
    b = tl.load(gate + i * gate_row + d, mask=in_d, other=0.0).to(tl.float32)
    tl.store(y + i * D + d, (a * b / (1.0 + tl.exp(-b))).to(y.dtype.element_ty), mask=in_d)


def silu_gate(value: Tensor, gate: Tensor) -> Tensor:
    """`reference.silu_gate` of `[B, D]`, the last dimension contiguous."""
    B, D = value.shape
    y = value.new_empty(B, D)
    block = min(BLOCK, triton.next_power_of_2(D))
    if B:
        _gate[(B, triton.cdiv(D, block))](
            value, gate, y, value.stride(0), gate.stride(0), D, BLOCK=block, **overlapped(value)
        )
    return y
