"""Lines that ask about a document, as they follow it in training: what the recall tasks ask, and of any text.

Three kinds, each a piece of text that begins with a newline and can be foretold from the document alone:

- a fact:     `\\n{key}: {value}` for the attributes that a corpus names;
- a label:    `\\n{phrase}: {what follows the phrase}` for phrases that stand once in the text;
- a sentence: `\\n{sentence}`, word for word.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from .corpus import Document

FACT, LABEL, SENTENCE = 0, 1, 2
SPACING = 200  # characters of text for each label, and for each sentence
_WORD = re.compile(r"\S+")
_HEADING = re.compile(r"\b([A-Z][A-Za-z()\-/' ]{2,40}):\s+(?=\S)")
_SENTENCE = re.compile(r"(?<=[.!?] )[A-Z][^.!?\n]{30,200}[.!?](?= |$)")


@dataclass(frozen=True)
class Line:
    """A line about a document, and the characters `start` to `end` of the text that it asks for."""

    kind: int
    text: str
    start: int
    end: int


def lines_about(document: Document) -> Iterator[Line]:
    """All lines about a document; which phrases and sentences are taken depends on its `doc_id` alone."""
    seen = set()
    for line in _candidates(document):
        if line.text not in seen:
            seen.add(line.text)
            yield line


def _candidates(document: Document) -> Iterator[Line]:
    text = document.text
    for key, value in document.attributes:
        start = text.find(value)
        if start >= 0 and value.strip() and "\n" not in key + value:
            yield Line(FACT, f"\n{key}: {value}", start, start + len(value))
    if not document.text.strip():
        return
    draw = Random(document.doc_id)
    headings = [(m.group(1), m.start(1), m.end()) for m in _HEADING.finditer(text)]
    for _ in range(len(text) // SPACING):
        if headings and draw.random() < 0.3:
            phrase, start, after = headings[int(draw.random() * len(headings))]
            line = _label(text, phrase, start, after, draw)
        else:
            line = _random_label(text, draw)
        if line is not None:
            yield line
    sentences = [m.span() for m in _SENTENCE.finditer(text)]
    for _ in range(min(len(sentences), len(text) // SPACING)):
        start, end = sentences[int(draw.random() * len(sentences))]
        yield Line(SENTENCE, "\n" + text[start:end], start, end)


def _random_label(text: str, draw: Random) -> Line | None:
    """One to four words from anywhere."""
    begin = _WORD.search(text, text.find(" ", int(draw.random() * len(text))) + 1)
    if begin is None:
        return None
    start = after = begin.start()
    for _ in range(1 + int(draw.random() * 4)):
        word = _WORD.search(text, after)
        if word is None:
            return None
        after = word.end()
    return _label(text, text[start:after], start, after, draw)


def _label(text: str, phrase: str, start: int, after: int, draw: Random) -> Line | None:
    """The phrase as a label of the up to eight words behind it; None if it stands twice or breaks over lines."""
    limit = after
    for _ in range(1 + int(draw.random() * 8)):
        word = _WORD.search(text, limit)
        if word is None:
            break
        limit = word.end()
        if word.group()[-1] in ".;:":
            break
    answer = text[after:limit].strip()
    phrase = phrase.rstrip(":;,. ")
    if not answer or not phrase or "\n" in phrase + answer or ":" in phrase or len(phrase) > 60:
        return None
    if text.find(phrase, max(0, start - 12_000), start) >= 0 or text.find(phrase, start + 1, after + 12_000) >= 0:
        return None
    return Line(LABEL, f"\n{phrase}: {answer}", start, limit)
