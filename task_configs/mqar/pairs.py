"""Multi-query associative recall as text: a list of pairs of words, and some of its keys again, each for its value.

Zoology's task is a sequence k_1 v_1 ... k_K v_K and then keys again, after each of which its value is to be said. Here
keys and values are words, and each key that comes again makes a prompt of its own, whose beginning, the list, the
prompts share:

    Pairs: k_1 v_1, k_2 v_2, ..., k_K v_K.
    Pair: k_j

As there, all keys and values of a list differ, and a list depends on its seed alone. Which words are keys is drawn for
each list, so that nothing but the list tells.

Source: Arora et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models" (arXiv 2312.04927),
section 4.
"""

import re
from itertools import pairwise
from typing import Any

from ..mini.words import Draw
from .words import WORDS

SEED = "mqar 1"
QUERIES = 4  # asked of a list
MOST_PAIRS = 256


def prompts(pairs: int, lists: int) -> list[dict[str, Any]]:
    """The rows about so many lists of `pairs` pairs (4 to 256): 4 of each, one key from each quarter of the list.

    Returns:
        Rows with doc_id, key, value, depth (0 for the list's first pair to 1 for its last), pairs and text.
    """
    rows = []
    for number in range(lists):
        name = f"mqar-{pairs}-{number:03d}"
        draw = Draw(f"{SEED} {name}")
        words = draw.shuffled(WORDS)[: 2 * pairs]
        keys, values = words[:pairs], words[pairs:]
        listed = ", ".join([f"{key} {value}" for key, value in zip(keys, values, strict=True)])
        bounds = [pairs * part // QUERIES for part in range(QUERIES + 1)]
        for low, high in pairwise(bounds):
            asked = draw.integer(low, high - 1)
            rows.append(
                {
                    "doc_id": name,
                    "key": keys[asked],
                    "value": values[asked],
                    "depth": asked / (pairs - 1),
                    "pairs": pairs,
                    "text": f"Pairs: {listed}.\nPair: {keys[asked]}",
                }
            )
    return rows


def first_word(prediction: str) -> str:
    """The letters that a prediction begins with, after white space; empty where it begins with anything else."""
    found = re.match(r"\s*([A-Za-z]+)", prediction)
    return found[1] if found else ""
