"""How an answer is scored: `contains` is lm-eval's own, `exact` and `f1` are those of SQuAD 2.0.

Each is the best over the labels, as a fraction. SQuAD's program prints percent and may take a probability that there is
no answer; the published runs gave it one, but with a threshold of 1, which no probability exceeds, so it changes
nothing and isn't asked of the model here.

Source of `exact` and `f1`: Rajpurkar et al. 2018 (arXiv 1806.03822), the evaluation program of SQuAD 2.0.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from lm_eval.tasks.swde.task import contains_score

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def contains(prediction: str, labels: Sequence[str]) -> int:
    """1 if any label stands in the prediction, in any case; an empty label always does."""
    return int(contains_score(prediction, list(labels)))


def exact(prediction: str, labels: Sequence[str]) -> int:
    """1 if the prediction's words are those of a label, case, punctuation and articles aside."""
    return max(int(words(prediction) == words(label)) for label in _asked(labels))


def f1(prediction: str, labels: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the prediction's words, the best over the labels."""
    return max(_overlap(words(prediction), words(label)) for label in _asked(labels))


def words(text: str) -> list[str]:
    """Lower case, no ASCII punctuation, no articles."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split()


def _asked(labels: Sequence[str]) -> list[str]:
    return [label for label in labels if words(label)] or [""]


def _overlap(prediction: list[str], label: list[str]) -> float:
    if not prediction or not label:
        return float(prediction == label)
    common = (Counter(prediction) & Counter(label)).total()
    # 2 P R / (P + R) with P = common / |prediction| and R = common / |label|
    return 2 * common / (len(prediction) + len(label))
