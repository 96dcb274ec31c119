"""RULER's needles in a haystack: what is hidden, what is asked, and the rows of a task.

    single      one needle, which the question is about             (RULER's niah_single_2)
    multikey    four needles of four keys, each of them asked       (niah_multikey_1, which asks of one)
    multivalue  four needles of one key; all four values are asked  (niah_multivalue)

Source: Hsieh et al. 2024, "RULER: What's the Real Context Size of Your Long-Context Language Models?"
(arXiv 2404.06654), section 3.1, and the wording of its program. A document depends on its kind, its length, the depths
of its needles and its index alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from ..mini.words import ADJECTIVES, CREATURES, THINGS, Draw
from .haystacks import SEED, haystack, hide

Kind = Literal["single", "multikey", "multivalue"]
Row = dict[str, Any]

LENGTHS = {"512": 512} | {f"{thousands}k": thousands * 1024 for thousands in (1, 2, 4, 8, 16, 32, 64, 128)}
# GPT-2's tokenizer takes 4.2 to 4.3 characters of these prompts a token. With 3.9, prompt and answer fit in the
# tokens that a length names, from 2k on.
CHARACTERS_PER_TOKEN = 3.9
NEEDLES: dict[Kind, int] = {"single": 1, "multikey": 4, "multivalue": 4}

NEEDLE = "One of the special magic numbers for {key} is: {value}."
ONE = (
    "A special magic number is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the number afterwards.\n{context}\n"
    "What is the special magic number for {key} mentioned in the provided text? "
    "The special magic number for {key} mentioned in the provided text is"
)
ALL = (
    "Some special magic numbers are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the numbers afterwards.\n{context}\n"
    "What are all the special magic numbers for {key} mentioned in the provided text? "
    "The special magic numbers for {key} mentioned in the provided text are"
)


def prompts(kind: Kind, length: str, depths: int, haystacks: int) -> list[Row]:
    """The rows of a task: `haystacks` at each of `depths` depths from 0 to 1, in even steps.

    Rows go through all depths before any comes again, so that the first rows (`--limit`) have them all. The needles
    of a haystack with several stand as far apart as may be, round the end, and each depth has as many as every other.

    Returns:
        Rows with doc_id, key, value (of several the first in the text), values, depth (of `value`), depths (of
        `values`), length (as given) and text. There are depths * haystacks of them, four times as many in multikey.
    """
    rows, needles = [], NEEDLES[kind]
    for index in range(haystacks):
        for first in range(depths):
            places = [(first + needle * depths // needles) % depths / (depths - 1) for needle in range(needles)]
            rows += _ask(kind, length, places, index)
    return rows


def recall(prediction: str, values: Sequence[str]) -> float:
    """The share of the values that the prediction contains, whatever the case: RULER's score."""
    return sum(value.lower() in prediction.lower() for value in values) / len(values)


def _ask(kind: Kind, length: str, depths: Sequence[float], index: int) -> list[Row]:
    """The rows about one haystack: one for each of its keys."""
    name = f"{kind}-{length}-{'-'.join(f'{100 * depth:.4g}' for depth in depths)}-{index}"
    draw, needles = Draw(f"{SEED} {name}"), NEEDLES[kind]
    values = _distinct(needles, lambda: str(draw.integer(10**6, 10**7 - 1)))
    keys = _distinct(
        needles if kind == "multikey" else 1, lambda: f"{draw.pick(ADJECTIVES)}-{draw.pick(THINGS + CREATURES)}"
    )
    keys *= needles // len(keys)
    hidden = [NEEDLE.format(key=key, value=value) for key, value in zip(keys, values, strict=True)]
    template = ALL if kind == "multivalue" else ONE
    framing = max(len(template.format(context="", key=key)) for key in keys) + sum(len(needle) + 1 for needle in hidden)
    sentences = haystack(draw, int(LENGTHS[length] * CHARACTERS_PER_TOKEN) - framing)
    context = hide(hidden, depths, sentences)
    needle_of: dict[str, list[tuple[float, str]]] = {}
    for key, value, depth in zip(keys, values, depths, strict=True):
        needle_of.setdefault(key, []).append((depth, value))
    rows = []
    for key, found in needle_of.items():
        places, expected = [list(column) for column in zip(*sorted(found), strict=True)]
        rows.append(
            {
                "doc_id": f"needle-{name}",
                "key": key,
                "value": expected[0],
                "values": expected,
                "depth": places[0],
                "depths": places,
                "length": length,
                "text": template.format(context=context, key=key),
            }
        )
    return rows


def _distinct(count: int, draw: Callable[[], str]) -> list[str]:
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[draw()] = None
    return list(drawn)
