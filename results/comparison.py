"""Two models on the same prompts, paired: is the difference real, and which prompts make it?"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .samples import Sample
from .statistics import (
    McNemar,
    PairedBootstrap,
    clustered_standard_error,
    detectable_difference,
    holm,
    mcnemar_exact,
    paired_bootstrap,
)


@dataclass(frozen=True)
class Pairing:
    """Samples of two runs, prompt by prompt.

    Attributes:
        alone_a, alone_b: prompts that only one run has, or that have no score in the other.
        by_document: whether they were paired by document because no prompt is the same.
    """

    pairs: list[tuple[Sample, Sample]]
    alone_a: int
    alone_b: int
    by_document: bool


@dataclass(frozen=True)
class Comparison:
    """A metric of a task, mean(a) - mean(b).

    Attributes:
        documents: clusters of the bootstrap; n where no document is known.
        wins, losses: prompts that a scores higher, lower than b; ties: the rest.
        mcnemar: exact; None for scores other than 0 and 1.
        detectable: the difference that such prompts tell from none with 80 % power at 5 %.
    """

    n: int
    documents: int
    mean_a: float
    mean_b: float
    bootstrap: PairedBootstrap
    mcnemar: McNemar | None
    wins: int
    losses: int
    ties: int
    detectable: float


def pair(a: Iterable[Sample], b: Iterable[Sample], metric: str) -> Pairing:
    """Pair by the hashes of document, prompt and answer; repeats of one in order.

    Where two runs have no prompt in common (another protocol, on purpose), by document and answer.
    """
    first, second = ([s for s in samples if metric in s.scores] for samples in (a, b))
    for by_document in (False, True):
        one, other = _keyed(first, by_document), _keyed(second, by_document)
        if common := [key for key in one if key in other]:
            break
    return Pairing(
        [(one[key], other[key]) for key in common], len(one) - len(common), len(other) - len(common), by_document
    )


def _keyed(samples: Sequence[Sample], by_document: bool) -> dict[tuple[Any, ...], Sample]:
    keyed: dict[tuple[Any, ...], Sample] = {}
    seen: Counter[tuple[str, ...]] = Counter()
    for sample in sorted(samples, key=lambda s: s.id):
        hashes = (sample.hashes[0], sample.hashes[2]) if by_document else sample.hashes
        keyed[(*hashes, seen[hashes])] = sample
        seen[hashes] += 1
    return keyed


def compare_pairs(pairs: Sequence[tuple[Sample, Sample]], metric: str, resamples: int = 10_000) -> Comparison:
    """The paired statistics of at least one pair; positive differences mean that a scores higher."""
    a = np.array([one.scores[metric] for one, _ in pairs])
    b = np.array([other.scores[metric] for _, other in pairs])
    documents = [other.document if one.document is None else one.document for one, other in pairs]
    clusters = [i if document is None else document for i, document in enumerate(documents)]
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    return Comparison(
        n=len(pairs),
        documents=len(set(clusters)),
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        bootstrap=paired_bootstrap(a, b, clusters, resamples=resamples),
        mcnemar=mcnemar_exact(a, b) if binary else None,
        wins=int(np.count_nonzero(a > b)),
        losses=int(np.count_nonzero(a < b)),
        ties=int(np.count_nonzero(a == b)),
        detectable=detectable_difference(clustered_standard_error(a - b, clusters)),
    )


def adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's p-values over those that are known (neither None nor NaN); the others stay as they are."""
    known = [p for p in p_values if p is not None and p == p]
    corrected = iter(holm(known)) if known else iter(())
    return [float(next(corrected)) if p is not None and p == p else p for p in p_values]


def flips(pairs: Sequence[tuple[Sample, Sample]], metric: str) -> list[tuple[Sample, Sample]]:
    """The pairs whose scores differ, the largest difference first, then in the task's order."""
    changed = [pair for pair in pairs if pair[0].scores[metric] != pair[1].scores[metric]]
    return sorted(changed, key=lambda pair: (-abs(pair[0].scores[metric] - pair[1].scores[metric]), pair[0].id))
