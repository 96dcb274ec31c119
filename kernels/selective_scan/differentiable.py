"""Selective state space scan (Mamba, arXiv 2312.00752, algorithm 2) with gradients, for training.

    h_t = exp(dt_t A) * h_{t-1} + dt_t B_t u_t        h: [D, N], A < 0: [D, N], B_t: [N], dt_t and u_t: [D]
    y_t = h_t C_t + D_skip * u_t                      C_t: [N]

The states are not kept but recomputed, one chunk of tokens at a time. With g_t = dL/dh_t, from the last token back:

    g_t    = C_t dy_t + exp(dt_{t+1} A) * g_{t+1}
    du_t   = D_skip dy_t + dt_t (g_t . B_t)           ddt_t = u_t (g_t . B_t) + (z_t . A)
    dA     = sum_{b,t} dt_t z_t                       z_t   = g_t * exp(dt_t A) * h_{t-1}
    dB_t   = sum_d g_t dt_t u_t                       dC_t  = sum_d h_t dy_t          dD_skip = sum_{b,t} u_t dy_t
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 32  # tokens whose states [CHUNK, B, D, N] are held at once


def selective_scan(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """A dense batch of sequences from a zero state, differentiable once in every argument.

    On CUDA in Triton, elsewhere and in float64 in PyTorch. Both give the same bits when they are run again.

    Args:
        u, dt: `[B, L, D]`; a: `[D, N]`; b, c: `[B, L, N]`; skip: `[D]`; each of any floating dtype. The scan runs in
            float32, or in float64 where any of them is float64. dt >= 0 and a <= 0, so that nothing overflows.

    Returns:
        y `[B, L, D]` in the dtype of u.

    Raises:
        ValueError: shapes that don't fit together.
    """
    check_shapes(u, dt, a, b, c, skip)
    if u.is_cuda and u.numel() and scan_dtype(u, dt, a, b, c, skip) == torch.float32:
        from .triton_scan import triton_scan  # here, since only CUDA needs Triton

        return triton_scan(u, dt, a, b, c, skip)
    return torch_scan(u, dt, a, b, c, skip)


def torch_scan(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """`selective_scan` in PyTorch, for any device."""
    y: Tensor = _TorchScan.apply(u, dt, a, b, c, skip)
    return y


def check_shapes(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> None:
    """Raises ValueError unless u, dt `[B, L, D]`, a `[D, N]`, b, c `[B, L, N]`, skip `[D]`."""
    if u.dim() != 3 or a.dim() != 2:
        raise ValueError(f"selective_scan: u must be [B, L, D] and a [D, N]; got {list(u.shape)} and {list(a.shape)}")
    batch, length, channels = u.shape
    wanted = {
        "dt": (dt, [batch, length, channels]),
        "a": (a, [channels, a.shape[1]]),
        "b": (b, [batch, length, a.shape[1]]),
        "c": (c, [batch, length, a.shape[1]]),
        "skip": (skip, [channels]),
    }
    for name, (x, shape) in wanted.items():
        if list(x.shape) != shape:
            raise ValueError(f"selective_scan: {name} is {list(x.shape)}, must be {shape} for u {list(u.shape)}")


def scan_dtype(*inputs: Tensor) -> torch.dtype:
    """float64 where any input is float64, else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in inputs) else torch.float32


class _TorchScan(torch.autograd.Function):
    """Everything of a chunk at once, but for the recurrence itself: one `addcmul` a token. Time comes first.

    No quotient of cumulative decays appears, so that decays may underflow.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
        wide = scan_dtype(u, dt, a, b, c, skip)
        u_, dt_, b_, c_ = (x.to(wide).transpose(0, 1) for x in (u, dt, b, c))
        a_ = a.to(wide)
        h = a_.new_zeros(u.shape[0], *a.shape)
        y = torch.empty_like(u_)
        starts = []  # the state before each chunk
        for t in range(0, u.shape[1], CHUNK):
            part = slice(t, t + CHUNK)
            starts.append(h)
            states = _states(h, _decays(dt_[part], a_), dt_[part] * u_[part], b_[part])
            torch.sum(states[1:] * c_[part, :, None], -1, out=y[part])
            h = states[-1].clone()  # not a view, which would keep the chunk's other states
        ctx.save_for_backward(u, dt, a, b, c, skip, *starts)
        return (y + skip.to(wide) * u_).transpose(0, 1).to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        inputs, starts = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        u, dt, a, b, c, skip = inputs
        wide = scan_dtype(*inputs)
        u_, dt_, b_, c_, dy_ = (x.to(wide).transpose(0, 1) for x in (u, dt, b, c, dy))
        a_ = a.to(wide)
        du, ddt, db, dc = (torch.empty_like(x) for x in (u_, dt_, b_, c_))
        da = torch.zeros_like(a_)
        carried = a_.new_zeros(u.shape[0], *a.shape)  # exp(dt_t A) * g_t of the token after the chunk
        for i in reversed(range(len(starts))):
            part = slice(i * CHUNK, (i + 1) * CHUNK)
            decays, dtu = _decays(dt_[part], a_), dt_[part] * u_[part]
            states = _states(starts[i], decays, dtu, b_[part])
            dc[part] = (states[1:] * dy_[part, :, :, None]).sum(2)
            g = c_[part, :, None] * dy_[part, :, :, None]
            g[-1] += carried
            for t in reversed(range(len(g) - 1)):
                g[t].addcmul_(decays[t + 1], g[t + 1])
            db[part] = (g * dtu[..., None]).sum(2)
            gb = (g * b_[part, :, None]).sum(-1)
            du[part] = dt_[part] * gb
            decayed = g.mul_(decays)
            carried = decayed[0].clone()
            z = decayed.mul_(states[:-1])
            ddt[part] = u_[part] * gb + (z * a_).sum(-1)
            da += (z * dt_[part, :, :, None]).sum((0, 1))
        du += skip.to(wide) * dy_
        dskip = (u_ * dy_).sum((0, 1))
        grads = (du.transpose(0, 1), ddt.transpose(0, 1), da, db.transpose(0, 1), dc.transpose(0, 1), dskip)
        return tuple(grad.to(x.dtype) for grad, x in zip(grads, inputs, strict=True))


def _decays(dt: Tensor, a: Tensor) -> Tensor:
    """exp(dt A) `[T, B, D, N]`."""
    return (dt[..., None] * a).exp_()


def _states(h: Tensor, decays: Tensor, dtu: Tensor, b: Tensor) -> Tensor:
    """h and the states after each of the T tokens: `[T + 1, B, D, N]`."""
    states = h.new_empty(len(decays) + 1, *h.shape)
    states[0] = h
    torch.mul(dtu[..., None], b[:, :, None], out=states[1:])
    for t in range(len(decays)):
        states[t + 1].addcmul_(decays[t], states[t])
    return states
