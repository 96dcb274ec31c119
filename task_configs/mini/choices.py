"""The four values to choose from of `mini_fda_choice`: the right one and three wrong ones, each plausible in one way.

A wrong value of sort `document` is the value of another key of the same document: it stands in what was read, but
answers another question. One of sort `key` is the value of the same key in another document of the split: it answers
such a question, but isn't in what was read. A question has one of either sort, and a third of a sort drawn evenly:

    who knows only what stands in the document has 1/3 or 1/2 of the questions right, 5/12 on average
    who knows only what answers to a key look like, the same

Two of the one sort and one of the other throughout would give one of these two readers 1/2.
"""

import re
from typing import Any

from .documents import SEED, Kind, documents, prompts
from .words import Draw

RIGHT, OF_DOCUMENT, OF_KEY = "right", "document", "key"  # sorts of choices


def choice_rows(kind: Kind) -> list[dict[str, Any]]:
    """The rows of `prompts`, each with `choices` (4 texts), `sorts` (what each is) and `gold` (the right one's number).

    A row's choices depend on its document, its key and the validation split's values alone. No wrong value equals
    another or the right one, contains the right one or is contained in it, whatever their case; one of another document
    stands nowhere in the row's text.
    """
    values = {
        document.doc_id: {fact.key: fact.value for fact in document.facts} for document in documents(kind, "validation")
    }
    rows: list[dict[str, Any]] = []
    for row in prompts(kind):
        doc_id, key, value = row["doc_id"], row["key"], row["value"]
        draw = Draw(f"{SEED} choices {doc_id} {key}")
        # No value of a document contains another of it. First those that look like the right one, such as the name of
        # another person, where there are any.
        here = draw.shuffled([other for name, other in values[doc_id].items() if name != key])
        here.sort(key=lambda other: form(other) != form(value))
        elsewhere = draw.shuffled([facts[key] for name, facts in values.items() if name != doc_id and key in facts])
        elsewhere = [other for other in elsewhere if _apart(other.lower(), value.lower(), row["text"].lower())]
        from_here = draw.integer(1, 2)
        wrong = [(other, OF_DOCUMENT) for other in here[:from_here]]
        wrong += [(other, OF_KEY) for other in elsewhere[: 3 - from_here]]
        choices = draw.shuffled([(value, RIGHT), *wrong])
        sorts = [sort for _, sort in choices]
        rows.append({**row, "choices": [text for text, _ in choices], "sorts": sorts, "gold": sorts.index(RIGHT)})
    return rows


def form(value: str) -> str:
    """What a value looks like: runs of capitals, of small letters and of digits each as one character."""
    for run, character in (("[A-Z]+", "A"), ("[a-z]+", "a"), ("[0-9]+", "9")):
        value = re.sub(run, character, value)
    return value


def _apart(other: str, value: str, text: str) -> bool:
    """Stands nowhere in the text, thus not in the value, and doesn't contain the value."""
    return other not in text and value not in other
