"""What others do in the place of our kernels: written from their equations, or imported from their packages."""

from collections.abc import Callable
from importlib import import_module
from math import sqrt
from typing import Any

import torch
from torch import Tensor


class MissingPeerError(Exception):
    """A peer that can't run here; the message says why."""


def failure(error: Exception) -> str:
    """What a row says of a peer that broke: which must not end the run."""
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first[:200]}"


def fla(module: str) -> Any:
    """A module of flash-linear-attention.

    Raises:
        MissingPeerError: the package is not installed.
    """
    try:
        return import_module(f"fla.{module}")
    except ImportError as error:
        raise MissingPeerError(f"flash-linear-attention ({error})") from error


def original_features(x: Tensor) -> Tensor:
    """The published feature map, 1 + d + d² features: `[..., d] -> [..., F]`; phi(q)·phi(k) = 1 + s + s²/2."""
    d = x.shape[-1]
    pairs = (x[..., :, None] * x[..., None, :]).flatten(-2) / (sqrt(2) * sqrt(d))
    return torch.cat([torch.ones_like(x[..., :1]), x / d**0.25, pairs], dim=-1)


def original_step(q: Tensor, k: Tensor, v: Tensor, kv: Tensor, k_sum: Tensor) -> Tensor:
    """The published recurrence: kv `[B, H, dv, F]` and k_sum `[B, H, F]` are updated in place; q, k `[B, H, d]`."""
    q, k = original_features(q), original_features(k)
    k_sum += k
    kv += k[:, :, None] * v[..., None]
    return (q[:, :, None] * kv).sum(-1) / ((q * k_sum).sum(-1, keepdim=True) + 1e-12)


def fla_step() -> Callable[[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]], Tensor]:
    """flash-linear-attention's recurrent linear attention on mapped features with its normaliser, one token.

    Raises:
        MissingPeerError: the package is not installed.
    """
    fused_recurrent_linear_attn = fla("ops.linear_attn").fused_recurrent_linear_attn

    def step(q: Tensor, k: Tensor, v: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        q, k = (original_features(x)[:, None] for x in (q, k))  # sequence first, then heads
        y, _ = fused_recurrent_linear_attn(
            q, k, v[:, None], scale=1.0, initial_state=state, output_final_state=True, normalize=True
        )
        return y

    return step
