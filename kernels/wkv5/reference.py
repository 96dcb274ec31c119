"""RWKV-5's time mixing (Eagle, arXiv 2404.05892, section 4.1): matrix-valued states with a fixed decay a channel.

    y_t = r_t (S_{t-1} + diag(u) k_tᵀ v_t)          r_t, k_t, v_t: [N], a row each; S: [N, N]; one such a head
    S_t = diag(w) S_{t-1} + k_tᵀ v_t                0 < w < 1 and u: [N];   log w = -exp(omega), omega learned

`recurrent` goes token by token. `parallel` takes the tokens in chunks, of which every pair of tokens is compared: with
S before the chunk and n of its tokens present, from t = 0 on,

    y_t = r_t diag(w^t) S + sum_{s < t} (r_t diag(w^{t-1-s}) k_sᵀ) v_s + (r_t diag(u) k_tᵀ) v_t
    S  <- diag(w^n) S + sum_{s < n} diag(w^{n-1-s}) k_sᵀ v_s

No negative power of w appears, so that strong decays may underflow. The state S is float32 or better. Rounded to
float32 it would depend on where a sequence is cut, so float32 that must be exact goes token by token, as decoding does.

What stands around it in a layer is here too: the inputs of r, k, v and the gate are mixed with those of the token
before, by a mu `[D]` each, and y goes through a LayerNorm over each head and the gate:

    mix(x_t) = mu x_t + (1 - mu) x_{t-1},    out_t = (norm(y_t / divisor) * weight + bias) * silu(gate_t)
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..packing import Packing
from ..precision import state_dtype, sum_dtype, sums_are_exact

AT_ONCE = 1 << 19  # numbers of state that `recurrent` holds: only the recurrence itself goes token by token
CHUNK = 16  # tokens that are compared pair by pair: [B, CHUNK, CHUNK, H, N] numbers at once


class Heads(NamedTuple):
    """What the heads of a layer have: omega and u `[H, N]`, weight and bias `[H N]` of the norm after them."""

    omega: Tensor
    u: Tensor
    weight: Tensor
    bias: Tensor
    divisor: float
    eps: float

    def decays(self) -> tuple[Tensor, Tensor]:
        """log w and u `[H, N]`, float32 or better."""
        wide = sum_dtype(self.omega)
        return -self.omega.to(wide).exp(), self.u.to(wide)


def token_shift(x: Tensor, packing: Packing, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The token before each, x `[T, D]` -> `[T, D]`, and the last of each sequence, `last` of the next call `[B, D]`.

    Before the first token stands `last`, or zeros. Every sequence has a token.
    """
    before = x.roll(1, 0)
    before[packing.offsets[:-1]] = x.new_zeros(()) if last is None else last
    return before, packing.last(x)


def mix(x: Tensor, before: Tensor, mus: Sequence[Tensor]) -> list[Tensor]:
    """x and the tokens before, both `[., D]`, by each of the mus `[D]`."""
    return [x * mu + before * (1 - mu) for mu in mus]


def prefill(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, packing: Packing, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A packed batch of sequences.

    Args:
        r, k, v: `[T, H, N]`; log_w, u: `[H, N]`.
        state: `[B, H, N, N]` before these tokens, rows by k, columns by v; None for zeros.

    Returns:
        y `[T, H, N]` and the state after them.
    """
    by_token = r.dtype == torch.float32 and sums_are_exact()
    return (recurrent if by_token else parallel)(r, k, v, log_w, u, packing, state)


def recurrent(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, packing: Packing, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`prefill`, token by token: the state is rounded after each, as in `step`."""
    wide = sum_dtype(r)
    r_, k_, v_ = (packing.pad(x).to(wide).transpose(0, 1) for x in (r, k, v))  # [L, B, H, N]
    w, u = log_w.to(wide).exp()[..., None], u.to(wide)[..., None]
    after = _zeros(r, packing) if state is None else state.clone()
    s, outputs, size = after.to(wide), [r_[:0]], max(1, AT_ONCE // max(1, after.numel()))
    for start in range(0, packing.longest, size):
        now = slice(start, start + size)
        added = k_[now, ..., None] * v_[now, ..., None, :]
        states = [s]
        for x in added:
            states.append(torch.addcmul(x, w, states[-1]).to(after.dtype).to(wide))
        before, s = torch.stack(states[:-1]), states[-1]
        outputs.append((r_[now, ..., None] * (before + u * added)).sum(-2))
        for row, length in enumerate(packing.lengths):
            if start < length <= start + size:
                after[row] = states[length - start][row]
    return packing.unpad(torch.cat(outputs).transpose(0, 1)).to(r.dtype), after


def parallel(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, packing: Packing, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`prefill`, a chunk of tokens at a time."""
    wide = sum_dtype(r)
    r_, k_, v_ = (packing.pad(x).to(wide) for x in (r, k, v))
    log_w, u, lengths = log_w.to(wide), u.to(wide), packing.length_tensor
    held = _zeros(r, packing) if state is None else state
    s = held.to(wide)
    outputs = [r_[:, :0]]
    for start in range(0, packing.longest, CHUNK):
        rc, kc, vc = (x[:, start : start + CHUNK] for x in (r_, k_, v_))
        t = torch.arange(rc.shape[1], device=r.device)
        gap = t[:, None] - 1 - t  # t - 1 - s
        weight = _power(log_w, gap) + torch.where((gap == -1)[..., None, None], u, 0)
        scores = torch.einsum("bthn,bshn,tshn->bths", rc, kc, weight)
        y = torch.einsum("bths,bshn->bthn", scores, vc)
        outputs.append(y + torch.einsum("bthn,bhnm->bthm", rc * _power(log_w, t), s))
        present = (lengths - start).clamp(0, len(t))
        decayed = kc * _power(log_w, present[:, None] - 1 - t)
        s = _power(log_w, present)[..., None] * s + torch.einsum("bshn,bshm->bhnm", decayed, vc)
    return packing.unpad(torch.cat(outputs, dim=1)).to(r.dtype), s.to(held.dtype)


def step(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor) -> Tensor:
    """One token a sequence: r, k, v `[B, H, N]` -> y; `state` `[B, H, N, N]` is updated in place."""
    wide = sum_dtype(r)
    r_, k_, v_, s = (x.to(wide) for x in (r, k, v, state))
    added = k_[..., None] * v_[..., None, :]
    y = (r_[..., None] * (s + u.to(wide)[..., None] * added)).sum(-2)
    state.copy_(torch.addcmul(added, log_w.to(wide).exp()[..., None], s))
    return y.to(r.dtype)


def gated_norm(y: Tensor, gate: Tensor, heads: Heads) -> Tensor:
    """y `[., H, N]` and the gate `[., H N]` -> `[., H N]`."""
    wide = sum_dtype(y)
    normed = F.layer_norm(y.to(wide) / heads.divisor, y.shape[-1:], eps=heads.eps).flatten(-2)
    y = normed * heads.weight.to(wide) + heads.bias.to(wide)
    return y.to(gate.dtype) * F.silu(gate)


def gated_step(r: Tensor, k: Tensor, v: Tensor, gate: Tensor, heads: Heads, state: Tensor) -> Tensor:
    """`step` and `gated_norm`: r, k, v `[B, H, N]`, gate `[B, H N]` -> `[B, H N]`."""
    return gated_norm(step(r, k, v, *heads.decays(), state), gate, heads)


def _power(log_w: Tensor, exponent: Tensor) -> Tensor:
    """w^exponent `[*exponent, H, N]`, 0 for negative exponents."""
    exponent = exponent[..., None, None]
    return torch.where(exponent < 0, 0, (log_w * exponent.clamp(min=0)).exp())


def _zeros(r: Tensor, packing: Packing) -> Tensor:
    return r.new_zeros(packing.batch, *r.shape[1:], r.shape[2], dtype=state_dtype(r))
