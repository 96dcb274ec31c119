"""Paired comparisons against SciPy, statsmodels and a bootstrap written out by hand."""

import dataclasses
import random
import time

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from recall_evals.results.comparison import adjusted, compare_pairs, flips, pair
from recall_evals.results.samples import Sample
from recall_evals.results.statistics import detectable_difference


def sample(i: int, score: float, document: str | None = None, **fields) -> Sample:
    text = fields.pop("text", f"prompt {i}")
    made = Sample(i, (f"doc {i}", text, "answer"), "none", document, {}, text, "42", "42", {"contains": score})
    return dataclasses.replace(made, **fields)


def systems(n: int, groups: int, seed: int = 0, lift: float = 0.1):
    """Right or wrong answers of two systems, dependent within a document."""
    rng = np.random.default_rng(seed)
    documents = np.sort(rng.integers(groups, size=n))
    ease = rng.normal(size=groups)[documents]
    a = (ease + rng.normal(size=n) + 3 * lift > 0).astype(float)
    b = (ease + rng.normal(size=n) > 0).astype(float)
    pairs = [
        (sample(i, x, f"d{d}"), sample(i, y, f"d{d}"))
        for i, (x, y, d) in enumerate(zip(a.tolist(), b.tolist(), documents.tolist(), strict=True))
    ]
    return a, b, documents, pairs


def test_against_scipy_and_statsmodels():
    a, b, documents, pairs = systems(400, 60)
    found = compare_pairs(pairs, "contains")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    table = [[int(((a == 1) & (b == 1)).sum()), only_a], [only_b, int(((a == 0) & (b == 0)).sum())]]
    assert (found.wins, found.losses, found.ties) == (only_a, only_b, 400 - only_a - only_b)
    assert found.mcnemar is not None
    assert found.mcnemar.p_value == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)
    assert found.mcnemar.p_value == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)
    # The mean of differences, its errors clustered by document.
    model = OLS(a - b, np.ones(400)).fit(cov_type="cluster", cov_kwds={"groups": documents})
    assert found.bootstrap.difference == pytest.approx(model.params[0])
    assert found.bootstrap.standard_error == pytest.approx(model.bse[0], rel=0.05)
    assert found.bootstrap.low == pytest.approx(model.params[0] - 1.96 * model.bse[0], abs=0.2 * model.bse[0])
    assert found.detectable == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * model.bse[0])
    assert found.documents == len(set(documents.tolist())) and found.n == 400


def test_against_a_bootstrap_by_hand():
    _, _, _, pairs = systems(90, 15, seed=3)
    by_document: dict[str | None, list[float]] = {}
    for one, other in pairs:
        by_document.setdefault(one.document, []).append(one.scores["contains"] - other.scores["contains"])
    groups, rng, drawn = list(by_document.values()), random.Random(5), []
    for _ in range(20_000):
        chosen = [difference for _ in groups for difference in rng.choice(groups)]
        drawn.append(sum(chosen) / len(chosen))
    found = compare_pairs(pairs, "contains").bootstrap
    low, high = np.quantile(drawn, [0.025, 0.975])
    # Quantiles of 10,000 and 20,000 draws differ by chance, by a few per cent of a standard error.
    assert found.low == pytest.approx(low, abs=0.08 * found.standard_error)
    assert found.high == pytest.approx(high, abs=0.08 * found.standard_error)
    share = min(np.mean(np.array(drawn) <= 1e-12), np.mean(np.array(drawn) >= -1e-12))
    assert found.p_value == pytest.approx(2 * share, abs=0.02)


def test_the_detectable_difference_is_detected_four_times_in_five():
    error = 0.03
    found = detectable_difference(error)
    assert NormalIndPower().power(found / error, 1, 0.05, ratio=0) == pytest.approx(0.8, abs=1e-3)
    trials = np.random.default_rng(0).normal(found, error, 100_000)
    assert np.mean(np.abs(trials) > 1.959964 * error) == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ValueError, match="power 80"):
        detectable_difference(0.03, power=80)


def test_corrected_for_several_tests():
    p = [0.01, None, 0.04, float("nan"), 0.03]
    found = adjusted(p)
    expected = multipletests([0.01, 0.04, 0.03], method="holm")[1]
    assert [found[0], found[2], found[4]] == pytest.approx(expected.tolist())
    assert found[1] is None and found[3] != found[3]
    assert adjusted([None]) == [None]


def test_paired_by_content_whatever_the_order():
    a = [sample(i, i % 2) for i in range(6)]
    b = [sample(i, 1) for i in (5, 0, 3, 2, 9)]
    found = pair(a, b, "contains")
    assert [(one.id, other.id) for one, other in found.pairs] == [(0, 0), (2, 2), (3, 3), (5, 5)]
    assert (found.alone_a, found.alone_b, found.by_document) == (2, 1, False)
    # Rows that are the same are paired in order, and one without a score not at all.
    twice = [dataclasses.replace(a[0], id=i, scores={"contains": float(i)}) for i in range(3)]
    found = pair(twice, [*twice[:2], dataclasses.replace(twice[2], scores={})], "contains")
    assert [(one.id, other.id) for one, other in found.pairs] == [(0, 0), (1, 1)]
    # Of another protocol: other prompts, the same documents.
    found = pair(a, [dataclasses.replace(s, hashes=(s.hashes[0], "other", s.hashes[2])) for s in a[:3]], "contains")
    assert found.by_document and [(one.id, other.id) for one, other in found.pairs] == [(0, 0), (1, 1), (2, 2)]


def test_graded_scores_and_documents_that_are_unknown():
    pairs = [(sample(i, i / 8), sample(i, 0.5)) for i in range(9)]
    found = compare_pairs(pairs, "contains")
    assert found.mcnemar is None and found.documents == 9
    told = [(one, dataclasses.replace(other, document="d")) for one, other in pairs]
    assert compare_pairs(told, "contains").documents == 1  # where one run tells them, that is enough
    assert (found.wins, found.losses, found.ties) == (4, 4, 1)
    assert [one.id for one, _ in flips(pairs, "contains")] == [0, 8, 1, 7, 2, 6, 3, 5]
    alone = compare_pairs(pairs[:1], "contains")
    assert alone.bootstrap.difference == -0.5 and alone.bootstrap.low != alone.bootstrap.low


def test_five_thousand_prompts_in_two_seconds():
    _, _, _, pairs = systems(5000, 5000)
    began = time.process_time()
    compare_pairs(pairs, "contains")
    assert time.process_time() - began < 2
