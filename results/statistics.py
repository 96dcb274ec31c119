"""Uncertainty of scores: standard errors, paired comparisons and correction for many tests.

Symbols: n samples (prompts), s_i the score of sample i, G clusters (documents; SWDE asks about 8 prompts of each),
R bootstrap resamples. Scores are in whatever unit the metric has (a fraction for accuracy and `contains`), and so are
differences, intervals and standard errors.

Every function refuses, with a ValueError, scores that are empty, not one-dimensional, NaN or infinite, and paired
arrays of unequal lengths.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri

# A block of indices this long (2 MiB) stays in a core's cache, and bounds memory whatever n and R are.
_INDICES_PER_BLOCK = 2**18


@dataclass(frozen=True)
class PairedBootstrap:
    """mean(a) - mean(b) with its percentile interval [low, high], two-sided p-value and bootstrap standard error."""

    difference: float
    low: float
    high: float
    p_value: float
    standard_error: float
    resamples: int


@dataclass(frozen=True)
class McNemar:
    """Counts of the discordant pairs (right in one system only) and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


def standard_error(scores: ArrayLike) -> float:
    """Standard error of the mean of independent scores [n]: sqrt(sum_i (s_i - mean)^2 / (n - 1) / n).

    Equals lm-eval's `mean_stderr`, except that one score, whose error is unknown, gives NaN where lm-eval divides by 0.
    Source: Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640).
    """
    values = _scores("scores", scores)
    return _error_of_mean(values - values.mean(), values.size)


def clustered_standard_error(scores: ArrayLike, clusters: Iterable[Hashable]) -> float:
    """Standard error of the mean of scores [n] that are dependent within a cluster (labels [n], any hashable).

    sqrt(G / (G - 1) * sum_c (sum_{i in c} (s_i - mean))^2) / n

    This is the sandwich estimator CR0 (Miller's) times a small-sample factor sqrt(G / (G - 1)). With the factor, one
    sample a cluster gives exactly `standard_error`; and for a mean it is CR1, the default of Stata and statsmodels,
    whose other factor (n - 1) / (n - k) is 1 for k = 1 regressor. Fewer than 2 clusters give NaN: the error between
    clusters can't be seen. With fewer than about 30 it tends to be too small.
    ValueError also for a missing label (None or NaN), one that can't be hashed, and labels that aren't n.
    Source: Miller 2024 (arXiv 2411.00640); Cameron & Miller 2015, J. Human Resources 50(2).
    """
    values = _scores("scores", scores)
    codes = _codes(clusters, values.size)
    return _error_of_mean(_cluster_totals(codes, values - values.mean()), values.size)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Iterable[Hashable] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedBootstrap:
    """Is a better than b? Scores a [n] and b [n] of the same samples, resampled by whole clusters (labels [n]).

    Each of R resamples draws G clusters C_1..C_G with replacement, and its difference is the mean over their prompts:

        d* = sum_g sum_{i in C_g} (a_i - b_i) / sum_g |C_g|

    difference = mean(a) - mean(b), so positive means that a scores higher; [low, high] are the (1 -+ confidence) / 2
    quantiles of d*; standard_error is the standard deviation of d*;
    p_value = min(1, 2 (1 + min(#{d* <= 0}, #{d* >= 0})) / (R + 1)), the percentile interval turned round; the 1 counts
    the data themselves, so it is never 0, and a d* that is 0 but for rounding counts as 0.
    No clusters: every sample is its own. Fewer than 2 clusters give NaN for all but the difference. With fewer than
    about 30, intervals are too narrow and p-values too small.

    The same seed gives the same answer, up to rounding, whatever the order of rows and the names of clusters;
    swapping a and b mirrors it, unless the difference is 0. Time grows with R * G, memory only with n + R.
    ValueError also for the labels that `clustered_standard_error` refuses, resamples < 2, a confidence outside (0, 1).
    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap"; the +1: Davison & Hinkley 1997, "Bootstrap
    Methods and their Application", ch. 4; whole clusters: Cameron & Miller 2015.
    """
    first, second = _pair(a, b)
    if resamples < 2:
        raise ValueError(f"resamples is {resamples}: give at least 2 (10,000 for a p-value near 0.05)")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a fraction between 0 and 1, such as 0.95")

    differences = first - second
    difference = float(differences.mean())
    codes = np.arange(differences.size) if clusters is None else _codes(clusters, differences.size)
    sizes = np.bincount(codes)
    if sizes.size < 2:
        return PairedBootstrap(difference, math.nan, math.nan, math.nan, math.nan, resamples)

    # Sums that cancel on paper leave rounding behind; they are ties, and count on both sides of the p-value.
    rounding = np.finfo(np.float64).eps * differences.size * max(np.abs(first).max(), np.abs(second).max())

    # Clusters are put in an order of the data's own, signed towards the better system, so that neither the order of
    # rows nor that of a and b decides which random number meets which cluster.
    totals = _cluster_totals(codes, differences)
    order = np.lexsort((-totals if difference < -rounding else totals, sizes))
    drawn = _resampled_means(totals[order], sizes[order], resamples, seed)

    tail = int(min(np.count_nonzero(drawn <= rounding), np.count_nonzero(drawn >= -rounding)))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedBootstrap(
        difference=difference,
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2 * (1 + tail) / (resamples + 1)),
        standard_error=float(drawn.std(ddof=1)),
        resamples=resamples,
    )


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> McNemar:
    """Exact test that two systems are right equally often: a [n], b [n] are booleans or 0/1 of the same samples.

    With n_a samples that only a has right and n_b that only b has, under the null n_a ~ Binomial(n_a + n_b, 1/2):

        p_value = min(1, 2 P(X <= min(n_a, n_b))), and 1 where no pair is discordant

    It takes samples as independent; where several share a document, use `paired_bootstrap` with clusters.
    ValueError also for any score other than 0 or 1.
    Source: McNemar 1947, Psychometrika 12(2), in its exact binomial form.
    """
    first, second = _pair(a, b)
    for name, values in (("a", first), ("b", second)):
        other = np.flatnonzero((values != 0) & (values != 1))
        if other.size:
            raise ValueError(
                f"{name} holds {other.size} scores other than 0 and 1 (first {values[other[0]]} at index {other[0]}): "
                "threshold them, or use paired_bootstrap for graded scores"
            )
    only_a = int(np.count_nonzero(first > second))
    only_b = int(np.count_nonzero(second > first))
    return McNemar(only_a, only_b, min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))))


def detectable_difference(standard_error: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test at level alpha finds with probability `power`.

        (z_{1 - alpha / 2} + z_power) * standard_error

    with the standard error of the difference (of paired scores: that of the mean of a_i - b_i). A difference found to
    be none says nothing about true ones below this. NaN for a standard error of NaN.
    ValueError: an alpha or power outside (0, 1).
    Source: Miller 2024 (arXiv 2411.00640), section 5.
    """
    if not (0 < alpha < 1 and 0 < power < 1):
        raise ValueError(f"alpha is {alpha} and power {power}: give fractions between 0 and 1, such as 0.05 and 0.8")
    return float(ndtri(1 - alpha / 2) + ndtri(power)) * standard_error


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values [m], in the order given: reject those at most alpha to hold the family-wise error there.

    With p_(1) <= ... <= p_(m):  adjusted_(i) = min(1, max_{j <= i} (m - j + 1) p_(j)).

    Valid under any dependence between the tests. ValueError also for a p-value outside [0, 1].
    Source: Holm 1979, Scandinavian J. Statistics 6(2).
    """
    values = _scores("p_values", p_values)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"p_values span {values.min()} to {values.max()}: give probabilities between 0 and 1")
    order = np.argsort(values)
    scaled = values[order] * np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted


def _error_of_mean(residual_totals: NDArray[np.float64], n: int) -> float:
    """The clustered standard error from each cluster's summed residuals [G]; plain where each holds one sample."""
    groups = residual_totals.size
    if groups < 2:
        return math.nan
    return math.sqrt(groups / (groups - 1) * float(np.sum(residual_totals**2))) / n


def _resampled_means(
    totals: NDArray[np.float64], sizes: NDArray[np.intp], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Means [R] over the samples of G clusters drawn with replacement from those of these totals [G] and sizes [G]."""
    rng = np.random.default_rng(seed)
    groups = totals.size
    rows = max(1, _INDICES_PER_BLOCK // groups)
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        block = means[start : start + rows]
        chosen = rng.integers(groups, size=(block.size, groups))
        block[:] = totals[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return means


def _cluster_totals(codes: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.bincount(codes, weights=values).astype(np.float64, copy=False)


def _scores(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: give a one-dimensional array")
    if not array.size:
        raise ValueError(f"{name} is empty: give at least one value")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"{name} holds {bad.size} NaN or infinite values (first at index {bad[0]}): repair or drop those samples"
        )
    return array


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _scores("a", a), _scores("b", b)
    if first.size != second.size:
        raise ValueError(
            f"a has {first.size} scores and b {second.size}: pair them by sample first, one score of each a sample"
        )
    return first, second


def _codes(clusters: Iterable[Hashable], n: int) -> NDArray[np.intp]:
    """Each label's number [n], counted by first appearance; unlike np.unique, labels need not be sortable."""
    labels = list(clusters)
    if len(labels) != n:
        raise ValueError(f"clusters has {len(labels)} labels for {n} samples: give one label a sample")
    numbers: dict[Hashable, int] = {}
    for index, label in enumerate(labels):
        if label is None or (isinstance(label, (float, np.floating)) and math.isnan(label)):
            raise ValueError(f"clusters has no label at index {index} ({label}): give every sample its document's name")
        try:
            numbers.setdefault(label, len(numbers))
        except TypeError as error:
            kind = type(label).__name__
            raise ValueError(f"clusters holds a {kind} at index {index}: give hashable labels, such as str") from error
    return np.array([numbers[label] for label in labels], dtype=np.intp)
