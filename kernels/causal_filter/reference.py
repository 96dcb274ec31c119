"""A causal filter of N taps a channel, and the taps that a shift SSM has.

    y_t = sum_{l < N} c_l u_{t-l}                       (u before the first token is 0)

H3's shift SSM (arXiv 2212.14052, section 3.1), x_t = S x_{t-1} + B u_t and y_t = C·x_t + D u_t, where S moves every
number one place down, is such a filter: c_l = sum_n B_n C_{n+l}, and D on top of c_0. Its x is a linear function of
the last N inputs; the state kept here is those but the newest, N - 1 numbers a channel, and no cut changes them.
"""

import torch
from torch import Tensor

from ..packing import Packing
from ..precision import sum_dtype

FEW = 8  # taps that are summed one after the other; more go by FFT


def shift_taps(b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """The taps of a shift SSM, for inputs of the dtype of D: B and C `[D, N]`, D `[D]` -> `[D, N]`, by FFT."""
    n, wide = b.shape[1], sum_dtype(skip)
    b, c = (torch.fft.rfft(x.to(wide), 2 * n) for x in (b, c))
    taps = torch.fft.irfft(b.conj() * c, 2 * n)[:, :n]
    return torch.cat([taps[:, :1] + skip.to(wide)[:, None], taps[:, 1:]], dim=1)


def prefill(u: Tensor, taps: Tensor, packing: Packing, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A packed batch of sequences.

    Args:
        u: `[T, D]`; taps: `[D, N]`, the newest token's first.
        inputs: `[B, N - 1, D]`, the inputs before these; None for the start of a sequence.

    Returns:
        y `[T, D]` and the new `inputs` `[B, N - 1, D]`.
    """
    wide, n = sum_dtype(u), taps.shape[1]
    taps = taps.to(wide)
    if inputs is None:
        inputs = u.new_zeros(packing.batch, n - 1, u.shape[1])
    history = torch.cat([inputs, packing.pad(u)], dim=1)
    x = history.to(wide)
    if n <= FEW:
        y = sum(x[:, n - 1 - lag : n - 1 - lag + packing.longest] * taps[:, lag] for lag in range(n))
        assert isinstance(y, Tensor)
    else:
        size = x.shape[1] + n
        y = torch.fft.irfft(torch.fft.rfft(x, size, dim=1) * torch.fft.rfft(taps, size).T, size, dim=1)
        y = y[:, n - 1 : x.shape[1]]
    newest = packing.length_tensor[:, None] + torch.arange(n - 1, device=u.device)
    rows = torch.arange(packing.batch, device=u.device)[:, None]
    return packing.unpad(y).to(u.dtype), history[rows, newest]


def step(u: Tensor, taps: Tensor, inputs: Tensor) -> Tensor:
    """One token a sequence: u `[B, D]` -> y; `inputs` `[B, N - 1, D]` is updated in place."""
    wide = sum_dtype(u)
    history = torch.cat([inputs, u[:, None]], dim=1)
    y = (history.to(wide) * taps.to(wide).flip(1).T).sum(1)
    inputs.copy_(history[:, 1:])
    return y.to(u.dtype)
