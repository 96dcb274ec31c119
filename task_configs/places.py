"""Where in a prompt the answer stands: its depth, its distance to the question, how often it stands there.

Of a prompt of n units (tokens, characters) the model reads the last r = min(n, room), the rest being cut on the left.
Among what it reads, the answer first stands at units [f, ..) and last at [l, e), counted from the first unit read; the
question begins at unit q, after the prompt's last newline:

    depth    = f / r                  0 at the beginning of what was read, below 1
    distance = max(0, q - e)          units between the fact and the question

Which of several occurrences answers the question can't be known, so depth takes the first and distance the last. Where
the last one stands after the last newline (a prompt in one line), q is the prompt's end.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]
Bounds = tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True)
class Place:
    """Where the answer to a prompt stands.

    Attributes:
        length: units of the prompt as asked.
        read: units of it that the model reads.
        distance, depth: as above; of the prompt as asked where the answer was cut away; None where it stands nowhere.
        survived: whether the answer is whole in what is read; None where it stands nowhere.
        repeats: how often it stands in the prompt as asked, of several answers the rarest's number.
        answer_length: its units where it stands last, of several answers together; None where it stands nowhere.
    """

    length: int
    read: int
    distance: int | None
    depth: float | None
    survived: bool | None
    repeats: int
    answer_length: int | None


def answers_of(doc: Mapping[str, Any], target: Any) -> list[list[str]] | None:
    """All that a row asks for, each with its alternatives, any of which will do; None where that is no text.

    `values` are all asked for; of `value`, `answers` and the target the first that is there.
    """
    values = doc.get("values")
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return [[value] for value in values]
    for found in (doc.get("value"), doc.get("answers"), target):
        alternatives = [found] if isinstance(found, str) else found
        if isinstance(alternatives, list) and alternatives and all(isinstance(text, str) for text in alternatives):
            return [alternatives]
    return None


def occurrences(answer: str, text: str) -> list[Span]:
    """Characters [start, end) of the answer in the text, in any case, not overlapping.

    As whole words; only where there are none, also inside of words, so that `ear` isn't found in `bear, ear`.
    """
    answer = answer.strip()
    if not answer:
        return []
    inner = re.escape(answer)
    before = r"(?<!\w)" if re.match(r"\w", answer) else ""
    after = r"(?!\w)" if re.search(r"\w$", answer) else ""
    for pattern in (f"{before}{inner}{after}", inner):
        if found := [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]:
            return found
    return []


def repeats(answers: Sequence[Sequence[str]], text: str) -> int:
    """How often the answer stands in the text, of several answers the rarest's number."""
    return min((len(spans) for spans in _wanted(answers, text)), default=0)


def characters(text: str) -> Bounds:
    """The bounds where each character is a unit."""
    places = np.arange(len(text) + 1, dtype=np.int32)
    return places[:-1], places[1:]


def locate(prompt: str, answers: Sequence[Sequence[str]], bounds: Bounds, room: int | None = None) -> Place:
    """Where the answer stands in a prompt.

    Args:
        answers: what all is asked for, each with its alternatives, any of which will do.
        bounds: characters [n] at which the prompt's units start, and [n] at which they end, neither ever falling.
        room: units of a prompt that the model reads, the last ones; None: all.
    """
    starts, ends = bounds
    units = len(starts)
    cut = 0 if room is None else max(0, units - room)
    wanted = _wanted(answers, prompt)
    often = min((len(spans) for spans in wanted), default=0)
    if not often:
        return Place(units, units - cut, None, None, None, 0, None)

    def in_units(span: Span) -> Span:
        first = np.searchsorted(ends, span[0], side="right")  # the first that ends after the answer's start
        return int(first), int(np.searchsorted(starts, span[1], side="left"))

    stands = [[in_units(span) for span in spans] for spans in wanted]
    kept = [[span for span in spans if span[0] >= cut] for spans in stands]
    survived = all(kept)
    read, origin = (kept, cut) if survived else (stands, 0)
    first = min(spans[0][0] for spans in read)
    end = max(spans[-1][1] for spans in read)
    question = int(np.searchsorted(ends, prompt.rfind("\n") + 1, side="right"))
    return Place(
        length=units,
        read=units - cut,
        distance=(question if question >= end else units) - end,
        depth=(first - origin) / (units - origin),
        survived=survived,
        repeats=often,
        answer_length=sum(spans[-1][1] - spans[-1][0] for spans in read),
    )


def _wanted(answers: Sequence[Sequence[str]], text: str) -> list[list[Span]]:
    """Where each of all that is asked for stands, whichever of its alternatives it is."""
    return [_merged([span for alternative in texts for span in occurrences(alternative, text)]) for texts in answers]


def _merged(spans: Sequence[Span]) -> list[Span]:
    """The spans in order, those that overlap (of alternatives, `US` and `US Army`) as one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
