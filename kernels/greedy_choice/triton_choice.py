"""The most likely token and its lead, in Triton: programs take parts of a row, the last to end takes the whole."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..devices import arrivals, overlapped

PART = 8192  # scores of a program


@triton.jit
def _choose(  # type: ignore[no-untyped-def]
    scores, tokens, leads,  # [B, V], [B], [B]
    best, second, place,  # [B, parts]
    arrived,  # [B], zeros before and after
    row_stride, V, parts,
    PART: tl.constexpr, PARTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i = tl.program_id(0).to(tl.int64)
    lowest = float("-inf")
    offset = tl.program_id(1) * PART + tl.arange(0, PART)
    x = tl.load(scores + i * row_stride + offset, mask=offset < V, other=lowest).to(tl.float32)
    largest, at = tl.max(x, axis=0, return_indices=True)  # of equal ones the first
    at += tl.program_id(1) * PART
    after = tl.max(tl.where(offset == at, lowest, x), axis=0)
    own = i * parts + tl.program_id(1)
    tl.store(best + own, largest)
    tl.store(second + own, after)
    tl.store(place + own, at)
    tl.debug_barrier()
    if tl.atomic_add(arrived + i, 1) == parts - 1:
        j = tl.arange(0, PARTS)
        bests = tl.load(best + i * parts + j, mask=j < parts, other=lowest, volatile=True)
        seconds = tl.load(second + i * parts + j, mask=j < parts, other=lowest, volatile=True)
        top, part = tl.max(bests, axis=0, return_indices=True)
        runner_up = tl.max(tl.maximum(tl.where(j == part, lowest, bests), seconds), axis=0)
        tl.store(tokens + i, tl.load(place + i * parts + part, volatile=True).to(tl.int64))
        tl.store(leads + i, top - runner_up)
        tl.store(arrived + i, 0)


def greedy_choice(scores: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.greedy_choice` of at most float32 scores `[B, V]`, the last dimension contiguous, in one kernel."""
    B, V = scores.shape
    tokens = torch.empty(B, dtype=torch.int64, device=scores.device)
    leads = torch.empty(B, dtype=torch.float32, device=scores.device)
    part = min(PART, triton.next_power_of_2(V))
    parts = triton.cdiv(V, part)
    best, second = leads.new_empty(2, B, parts)
    if B:
        _choose[(B, parts)](
            scores, tokens, leads, best, second, torch.empty_like(best, dtype=torch.int32), arrivals(B, scores.device),
            scores.stride(0), V, parts, PART=part, PARTS=triton.next_power_of_2(parts), num_warps=8,
            **overlapped(scores),
        )  # fmt: skip
    return tokens, leads
