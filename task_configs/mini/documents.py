"""Synthetic documents whose facts can only be known from reading them, and the questions of the two `mini` tasks.

`documents("fda", ...)` are form-like reports (forms.py), `documents("swde", ...)` pages with fields (pages.py). Every
document is one line. A fact is a key and its value, and its key stands right before its value, which stands nowhere
else in the document. A document depends on kind, split and number alone, whatever the Python version; only in the
validation split are values drawn again that a former document has for the same key.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count as counted
from itertools import pairwise
from typing import Any, Literal, get_args

from . import forms, pages
from .words import Draw, Split, Writer

Kind = Literal["fda", "swde"]
SEED = "mini 1"
VALIDATION_DOCUMENTS = 80
QUESTIONS = 6  # asked of a validation document
CHARACTERS = range(3000, 6501)
FACTS = range(12, 19)
_DRAFT = {"fda": forms.draft, "swde": pages.draft}


@dataclass(frozen=True)
class Fact:
    key: str
    value: str


@dataclass(frozen=True)
class Document:
    """One line of text that begins with a title, and its facts in their order there."""

    doc_id: str
    text: str
    facts: tuple[Fact, ...]


def documents(kind: Kind, split: Split, count: int | None = None, start: int = 0) -> Iterator[Document]:
    """`count` documents from number `start` on: of `train` there is no end, of `validation` there are 80.

    Args:
        count: None for all of `validation`, or for `train` without end.

    Raises:
        ValueError: there is no such split.
    """
    if split not in get_args(Split):  # no word would ever belong to it
        raise ValueError(f"no split {split!r}: there are {' and '.join(get_args(Split))}")
    stop = None if count is None else start + count
    if split == "validation":
        return iter(_validation(kind)[start:stop])
    numbers = counted(start) if stop is None else iter(range(start, stop))
    return (_document(kind, split, number, set()) for number in numbers)


def prompts(kind: Kind) -> list[dict[str, str]]:
    """The rows of the validation split: doc_id, key, value, and text, which is the document, a newline and `{key}:`."""
    rows = []
    for document in documents(kind, "validation"):
        draw = Draw(f"{SEED} questions {document.doc_id}")
        # One from each sixth of the document's facts, so that early and late ones are asked alike.
        bounds = [len(document.facts) * part // QUESTIONS for part in range(QUESTIONS + 1)]
        for low, high in pairwise(bounds):
            fact = draw.pick(document.facts[low:high])
            text = f"{document.text}\n{fact.key}:"
            rows.append({"doc_id": document.doc_id, "key": fact.key, "value": fact.value, "text": text})
    return rows


def rows_sha256(rows: Sequence[dict[str, Any]]) -> str:
    """SHA-256 of the rows as JSON, one a line, keys sorted."""
    lines = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
    return hashlib.sha256(lines.encode()).hexdigest()


@cache
def _validation(kind: Kind) -> tuple[Document, ...]:
    taken: set[tuple[str, str]] = set()
    return tuple(_document(kind, "validation", number, taken) for number in range(VALIDATION_DOCUMENTS))


def _document(kind: Kind, split: Split, number: int, taken: set[tuple[str, str]]) -> Document:
    """The first sound draft of that number with no (key, value) pair in `taken`, to which its own are added."""
    for attempt in counted():
        title, text, facts = _DRAFT[kind](Writer(f"{SEED} {kind} {split} {number} {attempt}", split))
        pairs = {(key, value.lower()) for key, value in facts}
        if _is_sound(title, text, facts) and not pairs & taken:
            taken |= pairs
            return Document(f"mini-{kind}-{split}-{number:06d}", text, tuple(Fact(*fact) for fact in facts))
    raise AssertionError("unreachable")


def _is_sound(title: str, text: str, facts: Sequence[tuple[str, str]]) -> bool:
    """Sizes in their ranges; every value once in the text, whatever its case, after the title, and in no key."""
    if len(text) not in CHARACTERS or len(facts) not in FACTS or "\n" in text:
        return False
    lower, start = text.lower(), len(title)
    for key, value in facts:
        sought = value.lower()
        start = lower.find(sought)
        if start < len(title) or lower.find(sought, start + 1) >= 0 or sought in key.lower():
            return False
    return True
