"""How the Triton forms of `prefill` cut a packed batch: a program takes a piece of one sequence."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .packing import Packing


class Pieces(NamedTuple):
    """All pieces of a batch, sequence after sequence; an empty sequence has one, which is empty.

    Attributes:
        row, place: `[P]` int32: the sequence of each piece, and its place among the pieces of that sequence.
        first: `[B + 1]` int32: the pieces of sequence b are first[b] to first[b + 1].
        most: the most pieces of a sequence.
    """

    row: Tensor
    place: Tensor
    first: Tensor
    most: int

    def __len__(self) -> int:
        return self.row.shape[0]


def pieces(packing: Packing, size: int) -> Pieces:
    """Pieces of `size` tokens, the last of each sequence of at most as many. All layers of a model share them."""
    return _pieces(tuple(packing.lengths), size, packing.device)


@lru_cache(maxsize=16)
def _pieces(lengths: tuple[int, ...], size: int, device: torch.device) -> Pieces:
    with torch.inference_mode(False):  # kept beyond this call, which may be inference while a later one trains
        counts = torch.tensor([max(1, -(-n // size)) for n in lengths], dtype=torch.int64)
        first = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        row = torch.arange(len(lengths)).repeat_interleave(counts)
        place = torch.arange(len(row)) - first[row]
        n, width = len(row), -(-max(len(row), len(first)) // 4) * 4
        table = torch.zeros(3, width, dtype=torch.int32)  # rows begin at multiples of 16 bytes, whatever the batch
        table[0, :n], table[1, :n], table[2, : len(first)] = row, place, first
        table = table.to(device)
        return Pieces(table[0, :n], table[1, :n], table[2, : len(first)], int(counts.max()) if lengths else 0)
