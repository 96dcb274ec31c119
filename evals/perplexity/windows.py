"""Texts as one stream of tokens, and the stream in windows of a model's context.

The stream is the documents' tokens in order, the tokenizer's end token before each: what a model saw between documents
in training. Windows hold L + 1 tokens and don't overlap; the first token of each is read and not predicted. The last
may be shorter, and is left out if it holds a single token, which nothing predicts.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...adapters.tokenizer import encode
from .texts import Piece

Ids = NDArray[np.int64]
BATCH = 1 << 20  # characters that are tokenised together, on all cores


class Tokens(NamedTuple):
    """A run of the stream: the ids `[n]`, and the bytes of UTF-8 that each stands for `[n]`, 0 for an end token."""

    ids: Ids
    sizes: Ids


@dataclass
class Tally:
    """What was read, in full while the stream is read to its end.

    Attributes:
        documents: with text, of which the last may have been cut by `limit`.
        empty: documents without text, which are skipped.
        tokens: end tokens included.
        sha256: of the UTF-8 of all texts that were used, whole, each preceded by a zero byte.
    """

    documents: int = 0
    empty: int = 0
    tokens: int = 0
    sha256: str = ""


class TokenStream:
    """The tokens of `texts`, at most `limit` of them; every iteration starts anew, its tally too.

    Args:
        tokenizer: a Transformers tokenizer with an end token.

    Raises:
        ValueError: a tokenizer without an end token.
    """

    def __init__(self, texts: Iterable[Piece], tokenizer: Any, limit: int | None = None):
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end token, which stands between documents; set its eos_token")
        self.texts, self.tokenizer, self.limit = texts, tokenizer, limit
        self.tally = Tally()
        self._end = int(tokenizer.eos_token_id)
        self._token_bytes = token_bytes(tokenizer)

    def __iter__(self) -> Iterator[Tokens]:
        self.tally = tally = Tally()
        digest = hashlib.sha256()
        pieces = iter(self.texts)
        while self.limit is None or tally.tokens < self.limit:
            if not (batch := list(_take(pieces))):
                break
            encoded = encode(self.tokenizer, [piece.text for piece in batch])
            for piece, ids in zip(batch, encoded, strict=True):
                if piece.begins and not piece.text:
                    tally.empty += 1
                    continue
                run = self._run(piece, ids)
                if self.limit is not None:
                    run = Tokens(*(part[: self.limit - tally.tokens] for part in run))
                digest.update(b"\0" * piece.begins + piece.text.encode())
                tally.documents += piece.begins
                tally.tokens += len(run.ids)
                tally.sha256 = digest.hexdigest()
                yield run
                if tally.tokens == self.limit:
                    break

    def _run(self, piece: Piece, ids: list[int]) -> Tokens:
        found = np.array(ids, dtype=np.int64)
        sizes = self._token_bytes[found]
        if sizes.sum() != len(piece.text.encode()):  # no byte-level tokenizer, or one that changes the text first
            sizes = _sizes_by_offset(self.tokenizer, piece.text)
        if piece.begins:
            found, sizes = np.insert(found, 0, self._end), np.insert(sizes, 0, 0)
        return Tokens(found, sizes)


def _take(pieces: Iterator[Piece]) -> Iterator[Piece]:
    held = 0
    for piece in pieces:
        yield piece
        held += len(piece.text)
        if held >= BATCH:
            return


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest id."""
    return max(tokenizer.get_vocab().values()) + 1


def token_bytes(tokenizer: Any) -> Ids:
    """`[V]` bytes of UTF-8 behind each id, if the tokenizer is byte-level: its entries then have a character a byte."""
    sizes = np.zeros(vocabulary_size(tokenizer), dtype=np.int64)
    added = tokenizer.get_added_vocab()
    for token, i in tokenizer.get_vocab().items():
        sizes[i] = len(token.encode()) if token in added else len(token)
    return sizes


def _sizes_by_offset(tokenizer: Any, text: str) -> Ids:
    """`[n]` bytes from where the token before ended to where each token ends; the text's last bytes are the last's."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if not offsets:
        return np.zeros(0, dtype=np.int64)
    ends = np.maximum.accumulate(np.array([end for _, end in offsets]))
    ends[-1] = len(text)
    bytes_before = np.concatenate([[0], np.cumsum([len(character.encode()) for character in text])])
    return np.diff(bytes_before[ends], prepend=0)


def windows(stream: Iterable[Tokens], length: int, batch: int) -> Iterator[Tokens]:
    """The stream in windows: ids and sizes `[B, length + 1]`, B at most `batch`; a shorter last window comes alone.

    Raises:
        ValueError: windows of less than two tokens.
    """
    if min(length, batch) < 1:
        raise ValueError(f"a window of {length} predicted tokens, {batch} at once: both must be at least 1")
    width = length + 1
    group = width * batch
    held, runs = 0, [Tokens(np.zeros(0, np.int64), np.zeros(0, np.int64))]

    def joined() -> Tokens:
        return Tokens(np.concatenate([run.ids for run in runs]), np.concatenate([run.sizes for run in runs]))

    for run in stream:
        runs.append(run)
        held += len(run.ids)
        if held >= group:
            whole = joined()
            for start in range(0, held - held % group, group):
                yield Tokens(*(part[start : start + group].reshape(batch, width) for part in whole))
            held %= group
            runs = [Tokens(*(part[len(part) - held :] for part in whole))]
    rest = joined()
    full = held - held % width
    if full:
        yield Tokens(*(part[:full].reshape(-1, width) for part in rest))
    if held - full >= 2:
        yield Tokens(*(part[full:][None] for part in rest))
