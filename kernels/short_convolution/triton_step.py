"""Short convolution, SiLU and gate, one token a sequence, in Triton: the equations of `reference.py`."""

import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped, slots_of

BLOCK = 512  # channels of a program


@triton.jit
def _step(  # type: ignore[no-untyped-def]
    x, gate, y, x_row, gate_row,  # [B, D], and strides of rows
    weight, bias,  # [D, K], [D]
    rows, inputs,  # [B], [slots, K - 1, D]
    D, K: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i = tl.program_id(0)
    slot = tl.load(rows + i).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_d = d < D
    inputs += slot * (K - 1) * D + d
    now = tl.load(x + i * x_row + d, mask=in_d, other=0.0)
    c = now.to(tl.float32) * tl.load(weight + d * K + (K - 1), mask=in_d, other=0.0).to(tl.float32)
    for tap in tl.static_range(K - 1):
        then = tl.load(inputs + tap * D, mask=in_d, other=0.0)
        c += then.to(tl.float32) * tl.load(weight + d * K + tap, mask=in_d, other=0.0).to(tl.float32)
        if tap > 0:
            tl.store(inputs + (tap - 1) * D, then, mask=in_d)
    if K > 1:
        tl.store(inputs + (K - 2) * D, now, mask=in_d)
    if BIAS:
        c += tl.load(bias + d, mask=in_d, other=0.0).to(tl.float32)
    out = c / (1.0 + tl.exp(-c))
    if GATE:
        out *= tl.load(gate + i * gate_row + d, mask=in_d, other=0.0).to(tl.float32)
    tl.store(y + i * D + d, out.to(y.dtype.element_ty), mask=in_d)


def step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    inputs: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    """`reference.step` in one kernel: x, gate `[B, D]` -> y `[B, D]`; `inputs` `[slots, K - 1, D]` is updated in place.

    Args:
        inputs: of all slots, contiguous.
        rows: `[B]`, the slot of each sequence, none twice; None: row i is slot i.
    """
    B, D = x.shape
    rows = slots_of(rows, x)
    x = x if x.stride(1) == 1 else x.contiguous()
    if gate is not None and gate.stride(1) != 1:
        gate = gate.contiguous()
    y = x.new_empty(B, D)
    block = min(BLOCK, triton.next_power_of_2(D))
    if B:
        _step[(B, triton.cdiv(D, block))](
            x, x if gate is None else gate, y, x.stride(0), 0 if gate is None else gate.stride(0),
            weight.contiguous(), weight if bias is None else bias, rows, inputs,
            D, K=weight.shape[1], BLOCK=block, BIAS=bias is not None, GATE=gate is not None,
            num_warps=4, **overlapped(x),
        )  # fmt: skip
    return y
