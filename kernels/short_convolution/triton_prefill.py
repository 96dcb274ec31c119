"""Short convolution, SiLU and gate over packed prompts, in Triton: the equations of `reference.py`.

A program has a piece of one sequence and a block of channels. It reads each input once a tap, all but once from the
cache; inputs from before the piece lie in the packed tensor, those from before the sequence in its state.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..packing import Packing
from ..pieces import pieces


class Config(NamedTuple):
    """How the work is cut; numbers are powers of two."""

    tokens: int = 32  # of a piece
    channels: int = 128
    warps: int = 4


DEFAULT = Config()


@triton.jit
def _history(  # type: ignore[no-untyped-def]
    x, x_row, old, t, n, d, in_d, D, K: tl.constexpr, OLD: tl.constexpr
):  # fmt: skip
    """Inputs t `[tokens]` of a sequence of n, at the channels d; those before the first, t < 0, from the state."""
    inside = (t >= 0) & (t < n)
    tile = tl.load(x + t[:, None] * x_row + d[None, :], mask=inside[:, None] & in_d[None, :], other=0.0)
    if OLD:
        before = (t < 0) & (t >= 1 - K)
        tile += tl.load(old + (t + K - 1)[:, None] * D + d[None, :], mask=before[:, None] & in_d[None, :], other=0.0)
    return tile


@triton.jit
def _prefill(  # type: ignore[no-untyped-def]
    x, gate, y, x_row, gate_row,  # [T, D], and strides of rows
    weight, bias,  # [D, K], [D]
    offsets, piece_row, piece_place,  # [B + 1], [P], [P]
    old, new,  # [B, K - 1, D]; old if OLD
    D, K: tl.constexpr, TAPS: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    BIAS: tl.constexpr, GATE: tl.constexpr, OLD: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0)
    b = tl.load(piece_row + piece).to(tl.int64)
    start = tl.load(piece_place + piece).to(tl.int64) * TOKENS
    first, end = tl.load(offsets + b), tl.load(offsets + b + 1)
    n = (end - first - start).to(tl.int32)  # tokens from the piece's first on
    begin = tl.minimum(start, K).to(tl.int32)  # tokens before it that a tap may reach
    at = first + start  # from here on everything counts from the piece's first token
    x += at * x_row
    gate += at * gate_row
    y += at * D
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_d = d < D
    old += b * (K - 1) * D
    t = tl.arange(0, TOKENS)
    c = tl.zeros([TOKENS, BLOCK], tl.float32)
    for tap in tl.static_range(K):
        u = t + (tap - (K - 1))
        w = tl.load(weight + d * K + tap, mask=in_d, other=0.0).to(tl.float32)
        # Counted from the sequence's first token, as far as a tap reaches.
        tile = _history(x - begin * x_row, x_row, old, u + begin, n + begin, d, in_d, D, K, OLD)
        c += tile.to(tl.float32) * w[None, :]
    if BIAS:
        c += tl.load(bias + d, mask=in_d, other=0.0).to(tl.float32)[None, :]
    out = c / (1.0 + tl.exp(-c))
    inside = (t < n)[:, None] & in_d[None, :]
    if GATE:
        out *= tl.load(gate + t[:, None] * gate_row + d[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(y + t[:, None] * D + d[None, :], out.to(y.dtype.element_ty), mask=inside)
    if (n <= TOKENS) & (K > 1):  # the last piece
        j = tl.arange(0, TAPS)
        left = _history(x - begin * x_row, x_row, old, n + begin + j - (K - 1), n + begin, d, in_d, D, K, OLD)
        place = new + b * (K - 1) * D + j[:, None] * D + d[None, :]
        tl.store(place, left, mask=(j < K - 1)[:, None] & in_d[None, :])


def prefill(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    packing: Packing,
    inputs: Tensor | None = None,
    config: Config = DEFAULT,
) -> tuple[Tensor, Tensor]:
    """`reference.prefill` in one kernel: x, gate `[T, D]`, inputs `[B, K - 1, D]` -> y `[T, D]`, the new inputs."""
    (T, D), K = x.shape, weight.shape[1]
    x = x if x.stride(1) == 1 else x.contiguous()
    if gate is not None and gate.stride(1) != 1:
        gate = gate.contiguous()
    y, new = x.new_empty(T, D), x.new_empty(packing.batch, K - 1, D)
    cut = pieces(packing, config.tokens)
    if packing.batch:
        _prefill[(len(cut), triton.cdiv(D, config.channels))](
            x, x if gate is None else gate, y, x.stride(0), 0 if gate is None else gate.stride(0),
            weight.contiguous(), weight if bias is None else bias, packing.offsets, cut.row, cut.place,
            new if inputs is None else inputs.contiguous(), new,
            D, K=K, TAPS=triton.next_power_of_2(max(1, K - 1)), TOKENS=config.tokens, BLOCK=config.channels,
            BIAS=bias is not None, GATE=gate is not None, OLD=inputs is not None, num_warps=config.warps,
        )  # fmt: skip
    return y, new
