"""Selective state space scan (Mamba, arXiv 2312.00752, algorithm 2), token by token.

    h_t = exp(dt_t A) * h_{t-1} + dt_t B_t u_t        h: [D, N], A < 0: [D, N], B_t: [N], dt_t and u_t: [D]
    y_t = h_t C_t + D_skip * u_t                      C_t: [N]

The state h is float32 or better.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..packing import Packing
from ..precision import state_dtype, sum_dtype

AT_ONCE = 1 << 19  # numbers of state: only the recurrence itself goes token by token, in what a cache holds


def prefill(
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    packing: Packing,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A packed batch of sequences.

    Args:
        u, dt: `[T, D]`; b, c: `[T, N]`; a: `[D, N]`; skip: `[D]`.
        state: `[B, D, N]` before these tokens; None for zeros.

    Returns:
        y `[T, D]` and the state after them `[B, D, N]`.
    """
    wide = state_dtype(u)
    u_, dt_, b_, c_ = (packing.pad(x.to(wide)) for x in (u, dt, b, c))  # dt = 0 in the gaps: h stays as it is
    h = state if state is not None else u_.new_zeros(packing.batch, u.shape[1], a.shape[1])
    outputs = [u_.new_zeros(packing.batch, 0, u.shape[1], dtype=sum_dtype(h))]
    size = max(1, AT_ONCE // max(1, h.numel()))
    for start in range(0, packing.longest, size):
        now = slice(start, start + size)
        decays = torch.exp(dt_[:, now, :, None] * a)
        added = (dt_[:, now] * u_[:, now])[..., None] * b_[:, now, None]
        states = []
        for t in range(added.shape[1]):
            h = decays[:, t] * h + added[:, t]
            states.append(h)
        products = torch.stack(states, dim=1) * c_[:, now, None]
        outputs.append(products.to(sum_dtype(h)).sum(-1))
    return (packing.unpad(torch.cat(outputs, dim=1)) + skip * u.to(wide)).to(u.dtype), h


def step(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, state: Tensor) -> Tensor:
    """One token a sequence: u, dt `[B, D]`, b, c `[B, N]` -> y `[B, D]`; `state` `[B, D, N]` is updated in place."""
    wide = state.dtype
    u_, dt_, b_, c_ = (x.to(wide) for x in (u, dt, b, c))
    state.copy_(torch.exp(dt_[:, :, None] * a) * state + (dt_ * u_)[:, :, None] * b_[:, None])
    return ((state * c_[:, None]).sum(-1, dtype=sum_dtype(state)) + skip * u_).to(u.dtype)


def step_sizes(dt: Tensor, bias: Tensor) -> Tensor:
    """softplus(dt + bias) in float32 or better: the bias is added after the product that dt comes from is rounded."""
    wide = state_dtype(dt)
    return F.softplus(dt.to(wide) + bias.to(wide))


def decay_rates(a_log: Tensor, dtype: torch.dtype) -> Tensor:
    """A = -exp(A_log), rounded to float32 whatever the model's dtype, as in the original."""
    return -torch.exp(a_log.float()).to(dtype)


class GatedInputs(NamedTuple):
    """What a decoding step reads in Mamba's layer, one token a sequence.

    Attributes:
        u, dt, gate: `[B, D]`, dt before its bias and its softplus.
        b, c: `[B, N]`.
        dt_bias, skip: `[D]`; a_log: `[D, N]`.
    """

    u: Tensor
    dt: Tensor
    gate: Tensor
    b: Tensor
    c: Tensor
    dt_bias: Tensor
    a_log: Tensor
    skip: Tensor


def gated_step(x: GatedInputs, state: Tensor) -> Tensor:
    """`step` with what Mamba puts around it: y * silu(gate) `[B, D]`; `state` `[B, D, N]` is updated in place."""
    sizes = step_sizes(x.dt, x.dt_bias)
    return step(x.u, sizes, decay_rates(x.a_log, sizes.dtype), x.b, x.c, x.skip, state) * F.silu(x.gate)
