"""Long texts of invented prose, and sentences hidden in them at a given depth.

The prose is that of the `mini` documents' validation split (`../mini`), without their fields. It is written in
passages, each with a cast of its own, and a haystack is passages in an order drawn for it, cut at the end of a
sentence. No passage comes twice in a haystack, but haystacks share passages, as RULER's share their essays; so one of
half a million characters takes milliseconds.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from itertools import accumulate

from ..mini import forms
from ..mini.pages import TOPIC_LIST
from ..mini.pages_prose import COMMON
from ..mini.words import Draw, Prose, Writer

SEED = "needle 1"
PASSAGES = 240  # together 0.8 million characters, half as much again as the longest haystack
SENTENCES = 40  # of a passage


@cache
def passage(number: int) -> tuple[str, ...]:
    """The sentences of a passage: about a page's subject where `number` is even, about a device where it is odd."""
    writer = Writer(f"{SEED} passage {number}", "validation")
    topic = writer.pick(TOPIC_LIST)
    name, product = writer.fill(topic.name), writer.word("product")
    people = ("scholar", "scholar2", "analyst", "analyst2")
    writer.cast = {
        **{person: f"{writer.word('first name')} {writer.word('surname')}" for person in people},
        **{place: writer.word("place") for place in ("town", "town2", "site", "site2")},
        "name": name,
        "it": topic.the + name,
        "It": topic.the.capitalize() + name,
        "writer": writer.word("surname"),
        "doctor": writer.word("surname"),
        "firm": writer.word("company"),
        "device": f"{product} {writer.integer(11, 989)}",
        "rival": writer.word("product"),
        "third": writer.word("product"),
        "agent": writer.word("analyte").lower(),
    }
    if number % 2:
        prose, themes = Prose(writer, forms.PROSE), list(forms.PROSE)
    else:
        prose, themes = Prose(writer, {"topic": topic.prose, "common": COMMON}), ["topic", "common", "common"]
    return tuple(prose.sentence(writer.pick(themes)) for _ in range(SENTENCES))


def haystack(draw: Draw, characters: int) -> list[str]:
    """Sentences that, joined by spaces, have at most that many characters and less than a sentence fewer.

    Raises:
        ValueError: more characters than all passages have.
    """
    sentences: list[str] = []
    length = -1
    for number in draw.shuffled(range(PASSAGES)):
        for sentence in passage(number):
            length += len(sentence) + 1
            if length > characters:
                return sentences
            sentences.append(sentence)
    raise ValueError(f"a haystack of {characters:,} characters is too long: all prose has {length:,}")


def hide(needles: Sequence[str], depths: Sequence[float], sentences: Sequence[str]) -> str:
    """The sentences as one line, each needle before the sentence that begins nearest to its depth.

    depths: of each needle, from 0 (before all sentences) to 1 (after them), as a share of the sentences' characters.
    """
    starts = list(accumulate((len(sentence) + 1 for sentence in sentences), initial=0))
    hidden: dict[int, list[str]] = {}
    for depth, needle in sorted(zip(depths, needles, strict=True)):
        sought = depth * starts[-1]
        after = bisect_left(starts, sought)
        before = max(0, after - 1)
        place = before if sought - starts[before] < starts[after] - sought else after
        hidden.setdefault(place, []).append(needle)
    parts: list[str] = []
    for place, sentence in enumerate([*sentences, ""]):
        parts += hidden.get(place, [])
        parts += [sentence] if sentence else []
    return " ".join(parts)
