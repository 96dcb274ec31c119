"""Rotary position embedding (arXiv 2104.09864), half-split (NeoX) layout, as flash-attn applies it.

    theta_i = base^(-2i / rotary_dim),  i = 0 .. ceil(rotary_dim / 2) - 1
    (x_i, x_{i+n}) <- (x_i cos - x_{i+n} sin,  x_i sin + x_{i+n} cos),   n = number of angles

An odd rotary_dim (the released attn-1b: 35) rounds up: 18 angles turn 36 dimensions, while 35 stays in the exponent.
Angles are computed in float32 from float32 positions and then cast to the activations' dtype, as in the original.
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def _frequencies(rotary_dim: int, base: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept beyond this call, which may be inference while a later one trains
        exponent = torch.arange(0, rotary_dim, 2, device=device, dtype=torch.float32) / rotary_dim
        return 1.0 / base**exponent


def rotary_angles(positions: Tensor, rotary_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of int64 positions `[...]`: two tensors `[..., ceil(rotary_dim / 2)]`."""
    angles = positions.to(torch.float32)[..., None] * _frequencies(rotary_dim, base, positions.device)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2n dimensions of each head. Shapes: x `[..., H, head_dim]`, cos and sin `[..., n]`."""
    n = cos.shape[-1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    first, second, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)
