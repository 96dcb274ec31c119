"""Standard errors, bootstrap, McNemar and Holm against statsmodels, SciPy, lm-eval, plain loops and their own laws."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.metrics import mean_stderr
from numpy.typing import NDArray
from scipy.stats import binomtest
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from recall_evals.results.statistics import (
    McNemar,
    PairedBootstrap,
    clustered_standard_error,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    standard_error,
)

Scores = NDArray[np.float64]

scores = st.floats(-100, 100, allow_subnormal=False)
samples = st.lists(st.tuples(scores, scores, st.integers(0, 6)), min_size=2, max_size=40)
binary_pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def clustered_scores(rng: np.random.Generator, groups: int = 50) -> tuple[Scores, NDArray[np.intp]]:
    """Scores of mean 0 in clusters of 4 to 12, with an effect of their cluster as large as their own noise."""
    labels = np.repeat(np.arange(groups), rng.integers(4, 13, size=groups))
    return rng.normal(size=groups)[labels] + rng.normal(size=labels.size), labels


def close(first: PairedBootstrap, second: PairedBootstrap) -> bool:
    def values(result: PairedBootstrap) -> list[float]:
        return [result.difference, result.low, result.high, result.p_value, result.standard_error]

    return values(first) == pytest.approx(values(second), rel=1e-9, abs=1e-9, nan_ok=True)


# Standard errors


@pytest.mark.parametrize("n", [2, 3, 100])
def test_standard_error_is_that_of_lm_eval(n: int) -> None:
    for values in (np.random.default_rng(n).normal(size=n), np.arange(n) % 2 == 0):
        assert standard_error(values) == pytest.approx(mean_stderr(values.astype(float).tolist()), rel=1e-12)


def test_one_sample_or_one_cluster_has_no_standard_error() -> None:
    assert math.isnan(standard_error([0.5]))
    assert math.isnan(clustered_standard_error([0.0, 1.0, 1.0], ["a", "a", "a"]))


def test_clustered_standard_error_against_a_plain_loop() -> None:
    values, labels = clustered_scores(np.random.default_rng(0), groups=9)
    mean = sum(values) / len(values)
    total = 0.0
    for cluster in set(labels.tolist()):
        total += sum(value - mean for value, label in zip(values, labels, strict=True) if label == cluster) ** 2
    expected = math.sqrt(9 / 8) * math.sqrt(total) / len(values)
    assert clustered_standard_error(values, labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("groups", [2, 9, 60])
def test_clustered_standard_error_is_that_of_statsmodels(groups: int) -> None:
    values, labels = clustered_scores(np.random.default_rng(groups), groups)
    model = OLS(values, np.ones(values.size))
    ours = clustered_standard_error(values, labels)

    # CR0 has no factor; statsmodels' default is G / (G - 1) * (n - 1) / (n - k), where k = 1 for a constant.
    cr0 = model.fit(cov_type="cluster", cov_kwds={"groups": labels, "use_correction": False}).bse[0]
    cr1 = model.fit(cov_type="cluster", cov_kwds={"groups": labels}).bse[0]
    assert ours == pytest.approx(cr0 * math.sqrt(groups / (groups - 1)), rel=1e-10)
    assert ours == pytest.approx(cr1, rel=1e-10)


@given(st.lists(scores, min_size=2, max_size=40))
def test_singleton_clusters_give_the_plain_standard_error(values: list[float]) -> None:
    assert clustered_standard_error(values, range(len(values))) == standard_error(values)


@given(samples, st.randoms(use_true_random=False))
def test_order_of_rows_and_names_of_clusters_do_not_matter(
    rows: list[tuple[float, float, int]], random: Random
) -> None:
    a, _, labels = zip(*rows, strict=True)
    shuffled = list(rows)
    random.shuffle(shuffled)
    a_shuffled, _, labels_shuffled = zip(*shuffled, strict=True)
    renamed = [("document", str(-label)) for label in labels_shuffled]
    assert standard_error(a_shuffled) == pytest.approx(standard_error(a), rel=1e-9, abs=1e-9)
    expected = pytest.approx(clustered_standard_error(a, labels), rel=1e-9, abs=1e-9, nan_ok=True)
    assert clustered_standard_error(a_shuffled, renamed) == expected


def test_labels_of_mixed_types_are_accepted() -> None:
    mixed = clustered_standard_error([0, 1, 1, 0, 1], ["page", 3, ("page", 2), "page", 3])
    assert mixed == clustered_standard_error([0, 1, 1, 0, 1], [0, 1, 2, 0, 1])


def test_clustered_interval_covers_where_the_plain_one_does_not() -> None:
    rng = np.random.default_rng(0)
    trials, plain, clustered = 1000, 0, 0
    for _ in range(trials):
        values, labels = clustered_scores(rng)
        plain += abs(values.mean()) < 1.96 * standard_error(values)
        clustered += abs(values.mean()) < 1.96 * clustered_standard_error(values, labels)
    assert 0.92 < clustered / trials < 0.97
    assert plain / trials < 0.75


# Paired bootstrap


def test_bootstrap_against_every_resample_there_is() -> None:
    a, b = np.array([1.0, 0.0, 0.5, 1.0, 0.25, 0.0]), np.array([0.0, 0.5, 0.25, 0.0, 1.0, 0.25])
    labels = np.array(["x", "x", "x", "y", "z", "z"])
    exact = []
    for chosen in itertools.product("xyz", repeat=3):
        rows = np.concatenate([np.flatnonzero(labels == cluster) for cluster in chosen])
        exact.append((a[rows] - b[rows]).mean())
    result = paired_bootstrap(a, b, labels, resamples=40_000)
    assert result.difference == pytest.approx(a.mean() - b.mean())
    assert result.standard_error == pytest.approx(np.std(exact), rel=0.02)
    assert result.p_value == pytest.approx(2 * np.mean(np.array(exact) <= 0), abs=0.02)
    assert [result.low, result.high] == pytest.approx([min(exact), max(exact)])  # each has chance 1/27 > 2.5 %


def test_bootstrap_against_a_plain_loop_and_the_clustered_standard_error() -> None:
    rng = np.random.default_rng(1)
    a, labels = clustered_scores(rng, groups=60)
    b = rng.normal(-0.3, 1, size=a.size)
    rows_of = [np.flatnonzero(labels == cluster) for cluster in range(60)]
    drawn = []
    for _ in range(3000):
        rows = np.concatenate([rows_of[cluster] for cluster in rng.integers(60, size=60)])
        drawn.append((a[rows] - b[rows]).mean())
    result = paired_bootstrap(a, b, labels)
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert [result.low, result.high] == pytest.approx([low, high], abs=0.15 * result.standard_error)
    assert result.standard_error == pytest.approx(np.std(drawn), rel=0.05)
    assert result.standard_error == pytest.approx(clustered_standard_error(a - b, labels), rel=0.05)


def test_bootstrap_without_clusters_resamples_samples() -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 200))
    result = paired_bootstrap(a, b)
    assert result == paired_bootstrap(a, b, [f"page {index}" for index in range(200)])
    assert result.standard_error == pytest.approx(standard_error(a - b), rel=0.05)


def test_bootstrap_blocks_join_without_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(3).normal(size=(2, 30))
    whole = paired_bootstrap(a, b, resamples=1001)
    for indices in (1, 64, 30 * 1001):
        monkeypatch.setattr("recall_evals.results.statistics._INDICES_PER_BLOCK", indices)
        assert close(paired_bootstrap(a, b, resamples=1001), whole)


def test_bootstrap_is_decided_by_its_seed() -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 50))
    assert paired_bootstrap(a, b, seed=7) == paired_bootstrap(a, b, seed=7)
    assert paired_bootstrap(a, b, seed=7) != paired_bootstrap(a, b, seed=8)


@settings(max_examples=60, deadline=None)
@given(samples, st.randoms(use_true_random=False))
def test_bootstrap_ignores_order_and_names_and_mirrors_a_swap(
    rows: list[tuple[float, float, int]], random: Random
) -> None:
    a, b, labels = zip(*rows, strict=True)
    result = paired_bootstrap(a, b, labels, resamples=200)
    shuffled = list(rows)
    random.shuffle(shuffled)
    a_shuffled, b_shuffled, labels_shuffled = zip(*shuffled, strict=True)
    assert close(
        paired_bootstrap(a_shuffled, b_shuffled, [f"page {x}" for x in labels_shuffled], resamples=200), result
    )
    if abs(result.difference) > 1e-9:
        swapped = paired_bootstrap(b, a, labels, resamples=200)
        mirrored = PairedBootstrap(
            -result.difference, -result.high, -result.low, result.p_value, result.standard_error, 200
        )
        assert close(swapped, mirrored)


@settings(max_examples=60, deadline=None)
@given(samples, st.sampled_from([0.5, 0.9, 0.95]))
def test_bootstrap_p_value_and_interval_agree(rows: list[tuple[float, float, int]], confidence: float) -> None:
    a, b, _ = zip(*rows, strict=True)
    result = paired_bootstrap(a, b, resamples=400, confidence=confidence)
    assert 2 / 401 <= result.p_value <= 1
    assert result.low <= result.high
    if result.low > 1e-9 or result.high < -1e-9:
        assert result.p_value <= 1 - confidence + 4 / 401
    if result.low < -1e-9 and result.high > 1e-9:
        assert result.p_value >= 1 - confidence - 4 / 401


def test_bootstrap_p_value_is_never_zero_and_one_for_equals() -> None:
    ones, zeros = np.ones(40), np.zeros(40)
    assert paired_bootstrap(ones, zeros, resamples=999).p_value == 2 / 1000
    assert paired_bootstrap(ones, ones).p_value == 1
    assert paired_bootstrap(zeros, zeros).p_value == 1
    noise = np.random.default_rng(5).random(40)
    assert paired_bootstrap(noise + 0.2 + 0.1, noise + (0.1 + 0.2)).p_value == 1  # they differ by rounding alone


def test_bootstrap_standard_error_divides_by_resamples_less_one() -> None:
    result = paired_bootstrap([0.1, 0.7, 0.4], [0.2, 0.2, 0.9], resamples=2, confidence=0.5)
    apart = 2 * (result.high - result.low)  # of two numbers, the quartiles lie half as far apart
    assert apart > 0
    assert result.standard_error == pytest.approx(apart / math.sqrt(2))


def test_bootstrap_of_one_cluster_knows_the_difference_only() -> None:
    result = paired_bootstrap([1, 1, 0], [0, 0, 0], ["page"] * 3)
    assert result.difference == pytest.approx(2 / 3)
    assert all(math.isnan(x) for x in (result.low, result.high, result.p_value, result.standard_error))


def test_bootstrap_interval_covers_clustered_differences() -> None:
    rng = np.random.default_rng(6)
    trials, clustered, plain = 400, 0, 0
    for seed in range(trials):
        a, labels = clustered_scores(rng)
        b = rng.normal(size=a.size)
        by_document = paired_bootstrap(a, b, labels, resamples=400, seed=seed)
        by_prompt = paired_bootstrap(a, b, resamples=400, seed=seed)
        clustered += by_document.low < 0 < by_document.high
        plain += by_prompt.low < 0 < by_prompt.high
    assert 0.90 < clustered / trials < 0.98
    assert plain / trials < 0.85


def test_bootstrap_of_5000_samples_takes_under_2_seconds() -> None:
    a, b = np.random.default_rng(7).random((2, 5000))
    start = time.process_time()  # not wall time: others may share the machine
    paired_bootstrap(a, b)
    assert time.process_time() - start < 2  # 0.2 s on one idle core


# McNemar


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (0, 5), (3, 3), (4, 3), (10, 25), (700, 600)])
def test_mcnemar_against_scipy_and_statsmodels(only_a: int, only_b: int) -> None:
    a = np.array([1] * only_a + [0] * only_b + [1, 1, 0])
    b = np.array([0] * only_a + [1] * only_b + [1, 1, 0])
    result = mcnemar_exact(a, b)
    assert (result.only_a, result.only_b) == (only_a, only_b)
    if only_a + only_b:
        assert result.p_value == pytest.approx(binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)
        table = [[2, only_a], [only_b, 1]]
        assert result.p_value == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue, rel=1e-9)
    else:
        assert result.p_value == 1


@given(binary_pairs, st.randoms(use_true_random=False))
def test_mcnemar_is_the_binomial_sum_whatever_the_order(pairs: list[tuple[bool, bool]], random: Random) -> None:
    counts = Counter(pairs)
    only_a, only_b = counts[True, False], counts[False, True]
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    shuffled = list(pairs)
    random.shuffle(shuffled)
    a, b = zip(*shuffled, strict=True)
    result = mcnemar_exact(a, b)
    assert (result.only_a, result.only_b) == (only_a, only_b)
    assert result.p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert mcnemar_exact(b, a) == McNemar(only_b, only_a, result.p_value)


# Holm


@pytest.mark.parametrize("m", [1, 2, 5, 30])
def test_holm_is_that_of_statsmodels(m: int) -> None:
    # A few cases only: each call of multipletests takes 50 ms, in gc.collect().
    rng = np.random.default_rng(m)
    for values in (rng.random(m), rng.random(m) / 50, rng.integers(0, 4, size=m) / 100):
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1], rel=1e-12)


@given(p_values, st.randoms(use_true_random=False))
def test_holm_is_monotone_and_keeps_the_order_given(values: list[float], random: Random) -> None:
    adjusted = holm(values)
    ascending = np.argsort(values)
    assert np.all(adjusted >= values)
    assert np.all(adjusted <= 1)
    assert np.all(np.diff(adjusted[ascending]) >= 0)
    assert adjusted[ascending[0]] == min(1.0, len(values) * min(values))  # the smallest is Bonferroni's
    order = list(range(len(values)))
    random.shuffle(order)
    assert np.array_equal(holm(np.array(values)[order]), adjusted[order])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == pytest.approx([0.2])


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: standard_error([]), "scores is empty: give at least one value"),
        (lambda: standard_error([[0.0, 1.0]]), r"scores has shape \(1, 2\): give a one-dimensional array"),
        (lambda: standard_error([0, math.nan, math.inf]), r"scores holds 2 NaN or infinite .* \(first at index 1\)"),
        (lambda: clustered_standard_error([], []), "scores is empty"),
        (lambda: clustered_standard_error([0, math.inf], [1, 2]), "scores holds 1 NaN or infinite"),
        (lambda: clustered_standard_error([0, 1], [1]), "clusters has 1 labels for 2 samples: give one label a sample"),
        (lambda: clustered_standard_error([0, 1], ["a", None]), "no label at index 1 .* its document's name"),
        (lambda: clustered_standard_error([0, 1], np.array([math.nan, 1])), "no label at index 0"),
        (
            lambda: clustered_standard_error([0, 1], [1, ["page"]]),  # type: ignore[list-item]
            "a list at index 1: give hashable labels",
        ),
        (lambda: paired_bootstrap([], []), "a is empty"),
        (lambda: paired_bootstrap([0, 1], [1]), "a has 2 scores and b 1: pair them by sample first"),
        (lambda: paired_bootstrap([0, 1], [1, math.nan]), "b holds 1 NaN or infinite"),
        (lambda: paired_bootstrap([0, 1], [1, 1], [1]), "clusters has 1 labels for 2 samples"),
        (lambda: paired_bootstrap([0, 1], [1, 1], resamples=1), "resamples is 1: give at least 2"),
        (lambda: paired_bootstrap([0, 1], [1, 1], confidence=95), "confidence is 95: give a fraction"),
        (lambda: mcnemar_exact([], []), "a is empty"),
        (lambda: mcnemar_exact([1], [1, 0]), "a has 1 scores and b 2"),
        (lambda: mcnemar_exact([1, 0], [1, math.nan]), "b holds 1 NaN or infinite"),
        (
            lambda: mcnemar_exact([1, 0.5], [1, 0]),
            r"a holds 1 scores other .* \(first 0.5 at index 1\): threshold them",
        ),
        (lambda: holm([]), "p_values is empty"),
        (lambda: holm([0.1, math.nan]), "p_values holds 1 NaN or infinite"),
        (lambda: holm([0.1, 1.5]), "p_values span 0.1 to 1.5: give probabilities between 0 and 1"),
    ],
)
def test_refusals_say_what_is_wrong_and_what_to_do(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
