"""Residual add and root-mean-square norm in one kernel: the equations of `reference.py`, a row a program."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..devices import overlapped

WARPS = 4  # of a row of up to 2,048


@triton.jit
def _add_norm(  # type: ignore[no-untyped-def]
    stream, hidden, weight, new_stream, y,  # [B, D], [B, D], [D], [B, D], [B, D]
    D, EPS: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64) * D
    d = tl.arange(0, BLOCK)
    in_d = d < D
    r = tl.load(hidden + row + d, mask=in_d, other=0.0)
    if ADD:
        r = (tl.load(stream + row + d, mask=in_d, other=0.0) + r.to(stream.dtype.element_ty)).to(
            new_stream.dtype.element_ty
        )
        tl.store(new_stream + row + d, r, mask=in_d)
    r = r.to(y.dtype.element_ty).to(tl.float32)  # rounded to the weight's dtype before it is normalised
    mean = tl.sum(r * r, axis=0) / D
    out = (r / tl.sqrt(mean + EPS)).to(y.dtype.element_ty)
    tl.store(y + row + d, out * tl.load(weight + d, mask=in_d, other=0.0), mask=in_d)


def add_rms_norm(
    stream: Tensor | None, hidden: Tensor, weight: Tensor, eps: float, in_float32: bool
) -> tuple[Tensor, Tensor]:
    """`reference.add_rms_norm` in one kernel."""
    D = hidden.shape[-1]
    B = hidden.numel() // D
    hidden = hidden.contiguous()
    wide = torch.promote_types(hidden.dtype, torch.float32) if in_float32 else hidden.dtype
    y = torch.empty_like(hidden, dtype=weight.dtype)
    if stream is not None:
        stream = stream.to(wide).contiguous()  # after the first layer it is both already
    summed = hidden if stream is None else torch.empty_like(stream)
    if B:
        _add_norm[(B,)](
            hidden if stream is None else stream, hidden, weight, summed, y,
            D, EPS=eps, BLOCK=triton.next_power_of_2(D), ADD=stream is not None,
            num_warps=WARPS if D <= 2048 else 8, **overlapped(hidden),
        )  # fmt: skip
    return summed, y
