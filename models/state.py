"""State: everything a model remembers of a batch of sequences, one row a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Tensors of these names are `[B, capacity, ...]`: they grow with the sequence and are unused from `position` on.
GROWING = frozenset({"cached_keys", "cached_values", "cached_inputs"})
GROWTH = 64  # tokens of room added at a time
# Sums over everything read, in float32 or better: what a `state_dtype` may round. Not linear attention's normaliser: it
# grows by about 1 a token, which bfloat16 loses from some hundreds on, and it is a hundredth of the state.
ACCUMULATED = frozenset({"kv"})


@dataclass
class State:
    """What a model remembers of B sequences.

    Attributes:
        position: `[B]` int64, tokens each sequence has read.
        layers: for each layer its tensors by name, the first dimension being the row.
    """

    position: Tensor
    layers: list[dict[str, Tensor]]

    def __len__(self) -> int:
        """The number of sequences B."""
        return self.position.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, as they are held (not a formula)."""
        return self.position.nbytes + sum(t.nbytes for layer in self.layers for t in layer.values())

    @property
    def grows(self) -> bool:
        """Whether a tensor of it grows with the sequence, so that room must be made (`reserve`)."""
        return any(GROWING & layer.keys() for layer in self.layers)

    def select(self, rows: Sequence[int] | Tensor) -> "State":
        """A new state of the named rows in their order: reorders, drops and forks (a row may be named again).

        Raises:
            IndexError: a row outside 0 .. B - 1.
        """
        index = self._index(rows)
        position = self.position[index]
        longest = int(position.max()) if len(index) else 0
        layers = [
            {name: (t[:, :longest] if name in GROWING else t)[index] for name, t in layer.items()}
            for layer in self.layers
        ]
        return State(position, layers)

    def write(self, rows: Sequence[int] | Tensor, other: "State") -> None:
        """Overwrite the named rows (slots) with the rows of `other`, in place."""
        index = self._index(rows)
        self.position[index] = other.position
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            for name, new in theirs.items():
                if name in GROWING:
                    if mine[name].shape[1] < new.shape[1]:
                        mine[name] = _extend(mine[name], new.shape[1])
                    mine[name][index, : new.shape[1]] = new
                else:
                    mine[name][index] = new.to(mine[name].dtype)

    def accumulated_in(self, dtype: torch.dtype) -> "State":
        """The same state with the sums that linear attention keeps stored in `dtype`; the other tensors are shared."""
        layers = [{n: t.to(dtype) if n in ACCUMULATED else t for n, t in layer.items()} for layer in self.layers]
        return State(self.position, layers)

    @property
    def accumulates(self) -> bool:
        """Whether there are sums that `accumulated_in` stores otherwise."""
        return any(ACCUMULATED & layer.keys() for layer in self.layers)

    def _index(self, rows: Sequence[int] | Tensor) -> Tensor:
        index = torch.as_tensor(rows, device=self.position.device).reshape(-1)
        if index.dtype == torch.bool:
            raise IndexError("rows are numbers, not a mask")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"rows must lie in 0 .. {len(self) - 1}, got {index.tolist()}")
        return index.to(torch.int64)

    def count(self, rows: Tensor | None = None) -> None:
        """One more token read by each of the named rows `[n]`, none twice; by all for None."""
        if rows is None:
            self.position += 1
        else:
            self.position.index_add_(0, rows, torch.ones_like(rows))

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens a row in the tensors that grow."""
        for layer in self.layers:
            for name in GROWING & layer.keys():
                if layer[name].shape[1] < tokens:
                    layer[name] = _extend(layer[name], -(-tokens // GROWTH) * GROWTH)


def _extend(cache: Tensor, capacity: int) -> Tensor:
    return F.pad(cache, (0, 0) * (cache.dim() - 2) + (0, capacity - cache.shape[1]))
