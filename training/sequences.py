"""Training sequences: which documents, cut where, followed by which lines. Sequence i depends on the seed and i alone.

So every architecture reads the same tokens in the same order, and training goes on after an interruption as if there
had been none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray
from torch import Tensor, from_numpy
from torch.utils.data import Dataset

from .lines import FACT
from .prepared import Source


@dataclass(frozen=True)
class Mix:
    """Where sequences come from.

    Attributes:
        shares: of examples by source; sums to 1.
        plain: share of the real documents that are followed by no lines.
        from_beginning: share of the pieces of longer documents that begin where the document does.
        shortest, longest: piece of a longer document, as shares of the sequence.
        most_lines: about one document.
    """

    shares: Mapping[str, float]
    plain: float = 0.2
    from_beginning: float = 0.6
    shortest: float = 0.1
    longest: float = 0.9
    most_lines: int = 32


class Sequences(Dataset[Tensor]):
    """Item i is `[length + 1]` int64: inputs are all but the last token, targets all but the first.

    An example is a piece of a document, lines about that piece in random order and the end-of-text token; a sequence
    is examples end to end, cut at its length.

    Args:
        sources: what `load_prepared` gives.
        length: tokens a sequence.
        seed: of the order, one number or several.
        end: the end-of-text token.
    """

    def __init__(self, sources: Mapping[str, Source], mix: Mix, length: int, seed: Sequence[int], end: int = 0):
        self.sources, self.mix, self.length, self.seed, self.end = dict(sources), mix, length, list(seed), end
        self.names = list(mix.shares)
        self.cumulative = np.cumsum([mix.shares[name] for name in self.names])
        if abs(self.cumulative[-1] - 1) > 1e-6:
            raise ValueError(f"the shares of the mix sum to {self.cumulative[-1]:.4f}, not 1: {dict(mix.shares)}")

    def __getitem__(self, index: int) -> Tensor:
        draw = Generator(PCG64([*self.seed, index]))
        parts: list[NDArray[np.uint16]] = []
        room = self.length + 1
        while room > 0:
            for part in self._example(draw):
                parts.append(part[:room])
                room -= len(parts[-1])
        return from_numpy(np.concatenate(parts).astype(np.int64))

    def _example(self, draw: Generator) -> list[NDArray[np.uint16]]:
        name = self.names[min(int(np.searchsorted(self.cumulative, draw.random(), "right")), len(self.names) - 1)]
        source = self.sources[name]
        if name == "books":  # of very different lengths: each part of the corpus as often
            at = int(draw.integers(len(source.tokens)))
            document = int(np.searchsorted(source.offsets, at, "right")) - 1
        else:
            document = int(draw.integers(len(source)))
        begin, end = int(source.offsets[document]), int(source.offsets[document + 1])
        generated = name.startswith("mini")
        plain = not generated and draw.random() < self.mix.plain
        if plain:
            size = self.length
        else:
            share = self.mix.shortest + (self.mix.longest - self.mix.shortest) * draw.random()
            size = max(1, int(share * self.length))
        first = 0
        if name == "books":
            first = min(at - begin, max(0, end - begin - size))
        elif end - begin > size and draw.random() >= self.mix.from_beginning:
            first = int(draw.integers(end - begin - size + 1))
        last = min(first + size, end - begin)
        parts = [source.tokens[begin + first : begin + last]]
        if not plain:
            parts += self._lines(source, document, first, last, draw)
        return [*parts, np.array([self.end], dtype=np.uint16)]

    def _lines(self, source: Source, document: int, first: int, last: int, draw: Generator) -> list[NDArray[np.uint16]]:
        """Lines whose answers stand in the piece: all facts, and some of the others."""
        numbers = np.arange(source.document_lines[document], source.document_lines[document + 1])
        span = source.line_span[numbers]
        numbers = numbers[(span[:, 0] >= first) & (span[:, 1] <= last)]
        facts = numbers[source.line_kind[numbers] == FACT]
        others = numbers[source.line_kind[numbers] != FACT]
        wanted = min(len(others), int(draw.integers(self.mix.most_lines + 1)))
        chosen = np.concatenate([facts, draw.permutation(others)[:wanted]])
        return [
            source.line_tokens[source.line_offsets[i] : source.line_offsets[i + 1]] for i in draw.permutation(chosen)
        ]
