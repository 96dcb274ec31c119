"""The networks of `models/` as training runs them: whole sequences at once, no state, gradients.

The same modules and the same functions as `SequenceModel.forward`, which reads a sequence as evaluation does, through
states and in sums of float64. Here every mixer is computed in its parallel form, in the precision of its inputs (under
autocast bfloat16), by fused kernels where the device has them. The tests hold both to the same scores in float64.

Shapes: B sequences of L tokens, H heads; x is `[B, L, D]`.
"""

from functools import cache, singledispatch
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.rotary.reference import apply_rotary, rotary_angles
from ..kernels.selective_scan.differentiable import selective_scan
from ..models.attention import MHA, RotaryProjections
from ..models.based import BaseConv, LinearAttention, SlidingAttention
from ..models.decoder import Decoder
from ..models.mamba import MambaMixer, MambaModel
from ..models.sequence_model import SequenceModel

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def scores(model: SequenceModel, tokens: Tensor) -> Tensor:
    """Scores of the next token at every position: `[B, L] -> [B, L, V]`.

    Meant to be called inside `plain_sums`, which is not entered here so that this function can be compiled.

    Raises:
        TypeError: a mixer that has no parallel form here.
    """
    if isinstance(model, MambaModel):
        return model.logits(model._blocks(tokens, lambda i, mixer, x: mix(mixer, x)))
    assert isinstance(model, Decoder)
    position = torch.arange(tokens.shape[1], device=tokens.device)
    return model.logits(model._blocks(tokens, position, lambda i, mixer, x: mix(mixer, x)))


@singledispatch
def mix(mixer: nn.Module, x: Tensor) -> Tensor:
    """The mixer's output `[B, L, D]` for its input."""
    raise TypeError(f"{type(mixer).__name__} can't be trained here; there is no parallel form of it")


def _rotated(mixer: RotaryProjections, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `[B, H, L, head_dim]`."""
    q, k, v = mixer.Wqkv(x).unflatten(-1, (3, mixer.heads, mixer.head_dim)).unbind(2)
    if mixer.rotary_dim:
        position = torch.arange(x.shape[1], device=x.device)
        cos, sin = rotary_angles(position, mixer.rotary_dim, mixer.rotary_base, q.dtype)
        q, k = apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


@mix.register
def _(mixer: MHA, x: Tensor) -> Tensor:
    q, k, v = _rotated(mixer, x)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=mixer.scale)
    return mixer.out_proj(y.transpose(1, 2).flatten(2))


@mix.register
def _(mixer: SlidingAttention, x: Tensor) -> Tensor:
    q, k, v = _rotated(mixer, x)
    return mixer.out_proj(weighted(q, k, v, mixer.scale, mixer.window, taylor=False).transpose(1, 2).flatten(2))


@mix.register
def _(mixer: LinearAttention, x: Tensor) -> Tensor:
    if mixer.gamma is not None:
        raise TypeError("LinearAttention with a decay can't be trained here; there is no parallel form of it")
    q, k, v = (y.transpose(1, 2) for y in mixer.project(x))
    return mixer.out_proj(weighted(q, k, v, mixer.scale, None, taylor=True).transpose(1, 2).flatten(2))


@mix.register
def _(mixer: BaseConv, x: Tensor) -> Tensor:
    a, b = mixer.in_proj(x).split(mixer.width, dim=-1)
    return mixer.out_proj(F.silu(convolution(a, mixer.conv.conv)) * b)


@mix.register
def _(mixer: MambaMixer, x: Tensor) -> Tensor:
    u, z = mixer.in_proj(x).chunk(2, dim=-1)
    u = F.silu(convolution(u, mixer.conv1d))
    dt, a, b, c = mixer.parameters_of_scan(u)
    return mixer.out_proj(selective_scan(u, dt, a, b, c, mixer.D) * F.silu(z))


def convolution(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Causal depthwise convolution as a sum of shifted inputs, which a compiler makes one pass: `[B, L, D]`."""
    taps, length = conv.kernel_size[0], x.shape[1]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    weight = conv.weight[:, 0].to(x.dtype)
    y = sum(padded[:, i : i + length] * weight[:, i] for i in range(taps))
    assert isinstance(y, Tensor)
    return y if conv.bias is None else y + conv.bias.to(x.dtype)


def weighted(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, taylor: bool) -> Tensor:
    """y_i = sum_j w_ij v_j / sum_j w_ij over the `window` (None: all) keys j <= i.

    w = exp(s) or, of the Taylor map, 1 + s + s²/2, with s = q_i·k_j * scale. Since the latter is at least 1/2, it is
    exp(log(1 + s + s²/2)): a softmax of other scores, for which PyTorch generates a fused kernel (FlexAttention).
    q, k: `[B, H, L, d]`, v: `[B, H, L, dv]`. On a CPU the weights are laid out as they are, `[B, H, L, L]`.
    """
    length = q.shape[2]
    if q.is_cuda:
        from torch.nn.attention.flex_attention import flex_attention

        mask = _block_mask(length, window, q.device)
        return flex_attention(q, k, v, score_mod=_log_taylor if taylor else None, block_mask=mask, scale=scale)
    i = torch.arange(length)
    seen = (i[:, None] >= i) & (i[:, None] - i < (window or length))
    s = q @ k.transpose(-1, -2) * scale
    if not taylor:
        return s.masked_fill(~seen, float("-inf")).softmax(-1) @ v
    w = (1 + s + s.square() / 2) * seen
    return w @ v / w.sum(-1, keepdim=True)


def _log_taylor(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return torch.log(1 + score + score * score * 0.5)


@cache
def _block_mask(length: int, window: int | None, device: torch.device) -> "BlockMask":
    from torch.nn.attention.flex_attention import create_block_mask

    reach = window or length

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (i - j < reach)

    return create_block_mask(seen, None, None, length, length, device=device)
