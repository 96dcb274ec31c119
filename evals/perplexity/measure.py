"""Cross-entropies of windows, and their sums over every slice that is reported."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...adapters.scoring import LOGIT_ROWS
from ...kernels.packing import Packing
from ...models.sequence_model import SequenceModel

BUDGET = 8192  # most tokens in one call of a model, as in the adapter


@torch.inference_mode()
def cross_entropies(model: SequenceModel, windows: Tensor, budget: int = BUDGET, rows: int = LOGIT_ROWS) -> Tensor:
    """-ln p(x_t | x_0 ... x_{t-1}) of windows `[B, L + 1] -> [B, L]`, in float32 or wider.

    At most max(B, budget) tokens are read in a call and `rows` rows of scores, as wide as the vocabulary, are held. A
    model with an encoder (JRT) reads one token first, so that the encoder sees nothing that is predicted.
    """
    batch, length = windows.shape[0], windows.shape[1] - 1
    piece = max(1, budget // batch)
    cuts = [0, *range(1 if model.shortest_split else piece, length, piece), length]
    state, losses = None, []
    for start, end in pairwise(cuts):
        packing = Packing([end - start] * batch, windows.device)
        hidden, state = model.extend(windows[:, start:end].reshape(-1), packing, state)
        targets = windows[:, start + 1 : end + 1].reshape(-1, 1)
        parts = []
        for row in range(0, len(hidden), rows):
            scores = model.logits(hidden[row : row + rows])
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            parts.append(scores.logsumexp(-1) - scores.gather(1, targets[row : row + rows])[:, 0])
        losses.append(torch.cat(parts).reshape(batch, end - start))
    return torch.cat(losses, dim=1)


@dataclass(frozen=True)
class Slice:
    """A set of tokens: how many, and the sum of their cross-entropies in nats."""

    tokens: int
    loss: float

    @property
    def cross_entropy(self) -> float | None:
        """The mean, in nats; None where there is no token."""
        return self.loss / self.tokens if self.tokens else None

    @property
    def perplexity(self) -> float | None:
        """exp of the mean; None where there is no token, or where it is too large for a number."""
        mean = self.cross_entropy
        return None if mean is None or mean > 700 else math.exp(mean)


class Slices:
    """Sums of one model, kept in the cells that all slices are made of: position bucket x last half x hit.

    A token's position is the number of tokens before it in its window, 1 to L; bucket p holds positions 2^p to
    2^(p+1) - 1. The last half of a window of l predicted tokens are its last floor(l / 2).
    """

    def __init__(self, length: int):
        self.length = length
        self.tokens = np.zeros((length.bit_length(), 2, 2), dtype=np.int64)
        self.loss = np.zeros((length.bit_length(), 2, 2))

    def cells(self, hits: NDArray[np.bool_]) -> NDArray[np.int64]:
        """`[B, l] -> [B, l]`: the cell of each predicted token."""
        length = hits.shape[1]
        bucket = np.frexp(np.arange(1, length + 1))[1] - 1
        last = np.arange(length) >= length - length // 2
        return (4 * bucket + 2 * last)[None] + hits

    def add(self, losses: NDArray[np.float64], cells: NDArray[np.int64]) -> None:
        """Take up cross-entropies `[B, l]` in their cells."""
        size, shape = self.tokens.size, self.tokens.shape
        self.tokens += np.bincount(cells.ravel(), minlength=size).reshape(shape)
        self.loss += np.bincount(cells.ravel(), losses.ravel(), minlength=size).reshape(shape)

    @property
    def all(self) -> Slice:
        return self._slice(...)

    @property
    def last_half(self) -> Slice:
        return self._slice((slice(None), 1))

    @property
    def hits(self) -> Slice:
        return self._slice((..., 1))

    @property
    def others(self) -> Slice:
        return self._slice((..., 0))

    def by_position(self) -> list[tuple[int, int, Slice]]:
        """First and last position of each bucket, and its slice."""
        return [
            (1 << p, min((2 << p) - 1, self.length), self._slice((p,)))
            for p in range(len(self.tokens))
            if self.tokens[p].any()
        ]

    def bits_per_byte(self, size: int) -> float | None:
        """Of all predicted tokens, whose texts have `size` bytes of UTF-8."""
        return self.all.loss / math.log(2) / size if size else None

    def _slice(self, index: Any) -> Slice:
        return Slice(int(self.tokens[index].sum()), float(self.loss[index].sum()))


@dataclass(frozen=True)
class Gap:
    """How much more a model loses than another on the same tokens.

    Attributes:
        difference: of the mean cross-entropies, in nats; positive: the model is worse.
        hits: the share of it in hits: the sum of differences over hits / over all; None without a difference.
    """

    difference: float
    hits: float | None


def gap(model: Slices, reference: Slices) -> Gap:
    """The gap between two models that read the same windows.

    Raises:
        ValueError: they did not.
    """
    if not np.array_equal(model.tokens, reference.tokens):
        raise ValueError("the models predicted other tokens: their losses can't be compared")
    total = model.all.loss - reference.all.loss
    in_hits = model.hits.loss - reference.hits.loss
    return Gap(total / max(1, model.all.tokens), in_hits / total if total else None)
