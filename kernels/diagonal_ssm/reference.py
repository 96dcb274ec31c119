"""H3's diagonal SSM (S4D, arXiv 2206.11893; arXiv 2212.14052) with its skip term: N complex numbers a channel.

    h_t = dA * h_{t-1} + dB u_t,    y_t = 2 Re(C·h_t) + D u_t          h, dA, dB, C: [N], complex
    dA = (1 + dt A/2) / (1 - dt A/2),   dB = dt B / (1 - dt A/2)       (bilinear)

`recurrent` goes token by token. `parallel` takes the tokens in chunks: within one, y is the convolution of u with
K_l = 2 Re(C dA^l dB), by FFT; h passes from chunk to chunk in closed form. The state h is float32 or better, as
`[B, D, N, 2]`: real and imaginary parts. Rounded to float32 it would depend on where a sequence is cut, so float32
that must be exact goes token by token, as decoding does.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..packing import Packing
from ..precision import state_dtype, sum_dtype, sums_are_exact

AT_ONCE = 1 << 19  # numbers of state that `recurrent` holds: only the recurrence itself goes token by token
CHUNK = 64  # tokens whose powers of dA [D, N, CHUNK] are held at once


class DiagonalSSM(NamedTuple):
    """A discrete SSM: dA, dB and C `[D, N]` complex, the skip D `[D]`."""

    da: Tensor
    db: Tensor
    c: Tensor
    skip: Tensor


def discretize(log_dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> DiagonalSSM:
    """log dt and D `[D]`, A, B and C `[D, N, 2]` (real and imaginary parts), for inputs of the dtype of D."""
    dtype = sum_dtype(skip)
    dt, skip = log_dt.to(dtype).exp()[:, None], skip.to(dtype)
    a, b, c = (torch.view_as_complex(x.to(dtype).contiguous()) for x in (a, b, c))
    half = dt * a / 2
    return DiagonalSSM((1 + half) / (1 - half), dt * b / (1 - half), c, skip)


def prefill(u: Tensor, ssm: DiagonalSSM, packing: Packing, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A packed batch of sequences: u `[T, D]`, state `[B, D, N, 2]` or None for zeros -> y `[T, D]`, the new state."""
    by_token = u.dtype == torch.float32 and sums_are_exact()
    return (recurrent if by_token else parallel)(u, ssm, packing, state)


def recurrent(u: Tensor, ssm: DiagonalSSM, packing: Packing, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`prefill`, token by token: the state is rounded after each, as in `step`."""
    wide = sum_dtype(u)
    padded = packing.pad(u).to(wide).transpose(0, 1)  # [L, B, D]
    after = _zeros(u, ssm, packing) if state is None else state.clone()
    h, outputs, size = after.to(wide), [padded[:0]], max(1, AT_ONCE // max(1, after.numel()))
    for start in range(0, packing.longest, size):
        states = []
        for x in ssm.db * padded[start : start + size, ..., None]:
            h = torch.view_as_real(torch.addcmul(x, ssm.da, torch.view_as_complex(h))).to(after.dtype).to(wide)
            states.append(h)
        outputs.append(_read(torch.stack(states), ssm))
        for row, length in enumerate(packing.lengths):
            if start < length <= start + size:
                after[row] = states[length - start - 1][row]
    y = packing.unpad(torch.cat(outputs).transpose(0, 1)) + ssm.skip * u.to(wide)
    return y.to(u.dtype), after


def parallel(u: Tensor, ssm: DiagonalSSM, packing: Packing, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`prefill`, a chunk of tokens at a time.

    With h before the chunk and n of its tokens present, from t = 0 on:
        y_t = sum_{s <= t} K_{t-s} u_s + 2 Re(C dA^{t+1}·h),    h <- dA^n h + sum_{s < n} dA^{n-1-s} dB u_s
    """
    wide, size = sum_dtype(u), max(1, min(CHUNK, packing.longest))
    padded, lengths = packing.pad(u).to(wide).transpose(1, 2), packing.length_tensor  # [B, D, L]
    held = _zeros(u, ssm, packing) if state is None else state
    h = torch.view_as_complex(held.to(wide))
    places = torch.arange(size, device=u.device)
    powers = ssm.da[..., None] ** places  # dA^t [D, N, size]
    kernel = 2 * ((ssm.c * ssm.db)[..., None] * powers).real.sum(1)
    transform = torch.fft.rfft(kernel, 2 * size)
    read_out = torch.view_as_real((2 * ssm.c * ssm.da)[..., None] * powers)  # 2 C dA^{t+1} [D, N, size, 2]
    read_in = torch.view_as_real(ssm.db[..., None] * powers.flip(-1))  # dA^{size-1-s} dB
    outputs = [padded[..., :0]]
    for start in range(0, packing.longest, size):
        chunk = padded[..., start : start + size]
        local = torch.fft.irfft(torch.fft.rfft(chunk, 2 * size) * transform, 2 * size)[..., : chunk.shape[-1]]
        parts = torch.view_as_real(h)
        carried = torch.einsum("bdn,dnt->bdt", parts[..., 0], read_out[..., 0])
        carried = carried - torch.einsum("bdn,dnt->bdt", parts[..., 1], read_out[..., 1])
        outputs.append(local + carried[..., : chunk.shape[-1]])
        present = (lengths - start).clamp(0, size)
        source = places - (size - present[:, None])  # the chunk's tokens, moved to its end
        index = source.clamp(0, chunk.shape[-1] - 1)[:, None].expand(-1, u.shape[1], -1)
        moved = chunk.gather(2, index) * (source >= 0)[:, None]
        added = [torch.einsum("bdt,dnt->bdn", moved, part) for part in read_in.unbind(-1)]
        h = ssm.da ** present[:, None, None] * h + torch.complex(added[0], added[1])
    y = packing.unpad(torch.cat(outputs, dim=-1).transpose(1, 2)) + ssm.skip * u.to(wide)
    return y.to(u.dtype), torch.view_as_real(h).to(held.dtype)


def step(u: Tensor, ssm: DiagonalSSM, state: Tensor) -> Tensor:
    """One token a sequence: u `[B, D]` -> y `[B, D]`; `state` `[B, D, N, 2]` is updated in place."""
    wide = sum_dtype(u)
    added = ssm.db * u.to(wide)[..., None]
    h = torch.addcmul(added, ssm.da, torch.view_as_complex(state.to(wide)))
    state.copy_(torch.view_as_real(h))
    return (_read(state.to(wide), ssm) + ssm.skip * u.to(wide)).to(u.dtype)


def _read(h: Tensor, ssm: DiagonalSSM) -> Tensor:
    """2 Re(C·h): `[..., D, N, 2] -> [..., D]`."""
    return 2 * (ssm.c * torch.view_as_complex(h)).real.sum(-1)


def _zeros(u: Tensor, ssm: DiagonalSSM, packing: Packing) -> Tensor:
    return u.new_zeros(packing.batch, *ssm.da.shape, 2, dtype=state_dtype(u))
