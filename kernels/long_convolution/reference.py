"""A causal convolution with a filter as long as the context (Hyena, arXiv 2302.10866), by FFT.

    y_t = sum_{j <= t} h_{t-j} x_j                    h: [L, D], one filter a channel; no more than L tokens

A filter of no known structure has no finite state: what is remembered is every input, `[B, capacity, D]`, of which
places from `position` on are unused. A step costs as much as it has tokens before it.
"""

import torch
from torch import Tensor

from ..packing import Packing
from ..precision import sum_dtype


def prefill(
    x: Tensor, taps: Tensor, packing: Packing, position: Tensor, history: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A packed batch of sequences.

    Args:
        x: `[T, D]`; taps: h `[L, D]`; position: `[B]` int64, tokens read before these.
        history: `[B, capacity, D]`, the inputs before these; None for the start of a sequence.

    Returns:
        y `[T, D]` and a new history that just holds the longest sequence.

    Raises:
        ValueError: a sequence longer than the filter.
    """
    ends = (position + packing.length_tensor).tolist()
    capacity, wide = max(ends, default=0), sum_dtype(x)
    _check(capacity, taps)
    inputs = x.new_zeros(packing.batch, capacity, x.shape[1])
    if history is not None:
        kept = min(history.shape[1], capacity)
        inputs[:, :kept] = history[:, :kept]
    inputs[packing.row, position[packing.row] + packing.within] = x
    y, start = torch.empty_like(x), 0
    for b, (n, end) in enumerate(zip(packing.lengths, ends, strict=True)):  # one by one: none is padded to the longest
        if n == 0:
            continue
        signal = torch.fft.rfft(inputs[b, :end].to(wide), 2 * end, dim=0)
        spectrum = signal * torch.fft.rfft(taps[:end].to(wide), 2 * end, dim=0)
        y[start : start + n] = torch.fft.irfft(spectrum, 2 * end, dim=0)[end - n : end]
        start += n
    return y, inputs


def step(x: Tensor, taps: Tensor, position: Tensor, history: Tensor, rows: Tensor | None = None) -> Tensor:
    """One token a sequence: x `[B, D]` -> y; the history, which must have room, is updated in place.

    Args:
        position: `[B]` int64, tokens each sequence read before this one.
        rows: `[B]`, where in the history each sequence lies; None: in order.
    """
    wide = sum_dtype(x)
    rows = torch.arange(x.shape[0], device=x.device) if rows is None else rows
    history[rows, position] = x
    if x.device.type == "cpu":  # one by one, without a copy of the filter for each
        y, flipped = torch.empty_like(x), taps.flip(0)
        for i, (row, n) in enumerate(zip(rows.tolist(), (position + 1).tolist(), strict=True)):
            _check(n, taps)
            y[i] = (history[row, :n].to(wide) * flipped[len(taps) - n :].to(wide)).sum(0)
        return y
    lag = position[:, None] - torch.arange(min(history.shape[1], taps.shape[0]), device=x.device)
    weights = taps[lag.clamp(min=0)].to(wide) * (lag >= 0)[..., None]
    return (history[rows, : lag.shape[1]].to(wide) * weights).sum(1).to(x.dtype)


def _check(tokens: int, taps: Tensor) -> None:
    if tokens > taps.shape[0]:
        raise ValueError(f"a sequence of {tokens} tokens is longer than the filter, {taps.shape[0]}")
