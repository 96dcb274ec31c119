"""The most likely token and its lead, in Triton: a program walks a row once, keeping the two largest so far."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096


@triton.jit
def _choose(scores, tokens, leads, row_stride, V, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0).to(tl.int64)
    lowest = float("-inf")
    best = tl.full((), lowest, tl.float32)
    second = tl.full((), lowest, tl.float32)
    token = tl.full((), 0, tl.int32)
    offset = tl.arange(0, BLOCK)
    for start in range(0, V, BLOCK):
        x = tl.load(scores + i * row_stride + start + offset, mask=start + offset < V, other=lowest).to(tl.float32)
        largest = tl.max(x, axis=0)
        place = tl.argmax(x, axis=0).to(tl.int32)
        after = tl.max(tl.where(offset == place, lowest, x), axis=0)
        second = tl.maximum(tl.minimum(best, largest), tl.maximum(second, after))
        token = tl.where(largest > best, start + place, token)
        best = tl.maximum(best, largest)
    tl.store(tokens + i, token.to(tl.int64))
    tl.store(leads + i, best - second)


def greedy_choice(scores: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.greedy_choice` of at most float32 scores `[B, V]`, the last dimension contiguous, in one kernel."""
    B, V = scores.shape
    tokens = torch.empty(B, dtype=torch.int64, device=scores.device)
    leads = torch.empty(B, dtype=torch.float32, device=scores.device)
    if B:
        block = min(BLOCK, triton.next_power_of_2(V))
        _choose[(B,)](scores, tokens, leads, scores.stride(0), V, BLOCK=block, num_warps=8)
    return tokens, leads
