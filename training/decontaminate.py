"""The corpora without anything that also stands in an evaluated document.

Decision summaries and web pages share standard sentences. Whatever sequence of 30 words a training document has in
common with a document of a validation set is cut out of it, so that no evaluated text was seen in training.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from .corpus import CorpusError, Document, read_corpus

HELD_OUT = ("fda", "swde", "squad", "books")  # folders that each hold validation.jsonl[.xz]
WORDS = 30
_WORD = re.compile(r"\S+")


def sequences(words: list[str]) -> Iterator[int]:
    """A hash of every sequence of `WORDS` words, in order."""
    return (hash(tuple(words[i : i + WORDS])) for i in range(len(words) - WORDS + 1))


@lru_cache(maxsize=1)
def held_out_sequences(folder: Path) -> frozenset[int]:
    """The word sequences of all validation sets below `folder`.

    Raises:
        CorpusError: a validation set is missing: without it nobody can tell what must not be trained on.
    """
    missing = [name for name in HELD_OUT if not any((folder / name).glob("validation.jsonl*"))]
    if missing:
        raise CorpusError(
            f"{folder}: missing {', '.join(f'{name}/validation.jsonl[.xz]' for name in missing)}: what is evaluated "
            "must be known, so that it can be kept out of training; name the folder that holds them with --held-out"
        )
    found: set[int] = set()
    for name in HELD_OUT:
        texts = {document.text for document in read_corpus(folder / name, "validation")}
        if name != "books":  # a row is a prompt, and those of one document differ in their last line
            texts = {text.rpartition("\n")[0] for text in texts}
        for text in texts:
            found.update(sequences(text.split()))
    return frozenset(found)


def training_documents(corpus: Path, name: str, held_out: Path) -> Iterator[Document]:
    """The documents of a corpus, each without the words that belong to a held-out sequence."""
    forbidden = held_out_sequences(held_out)
    for document in read_corpus(corpus, name):
        yield replace(document, text=without(document.text, forbidden))


def without(text: str, forbidden: Collection[int]) -> str:
    """The text without every word of a forbidden sequence; what stood on both sides is joined by a space."""
    spans = [match.span() for match in _WORD.finditer(text)]
    words = [text[start:end] for start, end in spans]
    dropped = bytearray(len(words))
    for i, sequence in enumerate(sequences(words)):
        if sequence in forbidden:
            dropped[i : i + WORDS] = b"\1" * WORDS
    if not any(dropped):
        return text
    kept: list[str] = []
    begin = 0
    for i, (start, end) in enumerate(spans):
        if dropped[i]:
            if begin < start:
                kept.append(text[begin:start].strip())
            begin = end
    kept.append(text[begin:].strip())
    return " ".join(part for part in kept if part)
