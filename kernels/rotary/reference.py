"""Rotary position embedding (arXiv 2104.09864), half-split (NeoX) layout, as flash-attn applies it.

    theta_i = base^(-2i / rotary_dim),  i = 0 .. ceil(rotary_dim / 2) - 1
    (x_i, x_{i+n}) <- (x_i cos - x_{i+n} sin,  x_i sin + x_{i+n} cos),   n = number of angles

An odd rotary_dim (the released attn-1b: 35) rounds up: 18 angles turn 36 dimensions, while 35 stays in the exponent.
Angles are computed in float32 from float32 positions and then cast to the activations' dtype, as in the original.
"""

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, rotary_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of int64 positions `[...]`: two tensors `[..., ceil(rotary_dim / 2)]`."""
    exponent = torch.arange(0, rotary_dim, 2, device=positions.device, dtype=torch.float32) / rotary_dim
    angles = positions.to(torch.float32)[..., None] * (1.0 / base**exponent)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2n dimensions of each head. Shapes: x `[..., H, head_dim]`, cos and sin `[..., n]`."""
    n = cos.shape[-1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    first, second, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)
