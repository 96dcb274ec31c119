"""Packed batches: sequences of different lengths laid end to end, without padding.

A packed tensor is `[T, ...]` with T = sum(lengths). The Triton kernels read it as it is, through `offsets`; the
references lay it out as `[B, max(lengths), ...]` for a moment, and never let what fills the gaps reach a result.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Packing:
    """Where each of B sequences lies in a packed tensor.

    Args:
        lengths: tokens of each sequence, all >= 0.
        device: where the index tensors live.

    Raises:
        ValueError: a negative length.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu"):
        self.lengths = [int(n) for n in lengths]
        if any(n < 0 for n in self.lengths):
            raise ValueError(f"lengths must be >= 0, got {self.lengths}")
        self.device = torch.device(device)
        self.batch = len(self.lengths)
        self.total = sum(self.lengths)
        self.longest = max(self.lengths, default=0)
        self.uniform = all(n == self.longest for n in self.lengths)

    @cached_property
    def length_tensor(self) -> Tensor:
        """`[B]` int64."""
        return torch.tensor(self.lengths, dtype=torch.int64, device=self.device)

    @cached_property
    def offsets(self) -> Tensor:
        """`[B + 1]` int64: sequence b is rows offsets[b] to offsets[b + 1]."""
        return torch.nn.functional.pad(self.length_tensor.cumsum(0), (1, 0))

    @cached_property
    def mask(self) -> Tensor:
        """`[B, L]` bool: which places of the padded layout hold a token."""
        return torch.arange(self.longest, device=self.device) < self.length_tensor[:, None]

    @cached_property
    def within(self) -> Tensor:
        """`[T]` int64: the index of each token inside its own sequence."""
        return torch.arange(self.longest, device=self.device).expand(self.batch, -1)[self.mask]

    @cached_property
    def row(self) -> Tensor:
        """`[T]` int64: the sequence each token belongs to."""
        rows = torch.arange(self.batch, device=self.device)
        return rows.repeat_interleave(self.length_tensor, output_size=self.total)

    def pad(self, packed: Tensor) -> Tensor:
        """`[T, ...] -> [B, L, ...]`, zeros after the end of each sequence."""
        if self.uniform:
            return packed.reshape(self.batch, self.longest, *packed.shape[1:])
        padded = packed.new_zeros(self.batch, self.longest, *packed.shape[1:])
        padded[self.mask] = packed
        return padded

    def unpad(self, padded: Tensor) -> Tensor:
        """`[B, L, ...] -> [T, ...]`."""
        if self.uniform:
            return padded.reshape(self.total, *padded.shape[2:])
        return padded[self.mask]

    def last(self, packed: Tensor) -> Tensor:
        """`[T, ...] -> [B, ...]`: the last token of each sequence; every length must be >= 1."""
        return packed[self.offsets[1:] - 1]
