"""Means of scores with intervals, comparisons on the same samples, and the length up to which a model is good.

All intervals are two-sided at 95 % and None where fewer than two samples leave the spread unknown.

- Scores that are 0 or 1 get Wilson's interval (Wilson 1927), which stays inside [0, 1] and has a width at 0 and 1.
- Others get the percentile bootstrap over samples.
- Two models that answered the same samples are compared pair by pair: what is hard for one is hard for the other, so
  the difference is known better than either score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lengthwise.seeds import numpy_rng

LEVEL = 0.95
RULER_THRESHOLD = 0.856
"""Mean over RULER's 13 tasks that counts as passing: what Llama-2-7B reaches at 4K (arXiv 2404.06654)."""
OWN_SHARE = 0.85
"""Share of a model's own score at the shortest length that counts as passing (arXiv 2502.05167)."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class Mean:
    """A mean score.

    Args:
        value: 0 to 1; None without samples.
        low, high: ends of the interval; None where it is unknown.
        count: samples, failed ones included.
        failures: samples that gave no answer and count as 0.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int
    failures: int = 0


def wilson(successes: int, count: int, level: float = LEVEL) -> tuple[float, float] | None:
    """Wilson's interval for a share; None for fewer than two samples."""
    if count < 2:
        return None
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # Rounding must not leave the interval a hair outside of what is possible, or beside its own mean.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def bootstrap(values: Sequence[float], *, seed: int = 0, level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval of the mean over resamples of `values`; None for fewer than two."""
    if len(values) < 2:
        return None
    array = np.asarray(values, dtype=np.float64)
    random = numpy_rng(seed, "score-bootstrap", len(values))
    # The number of times each sample is drawn decides a resample's mean.
    counts = random.multinomial(len(array), np.full(len(array), 1 / len(array)), size=_RESAMPLES)
    means = counts @ array / len(array)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_score(scores: Sequence[float | None], *, binary: bool, seed: int = 0) -> Mean:
    """Mean of the scores of one cell.

    Args:
        scores: one per sample, None for a sample that failed; it counts as 0 and is counted apart.
        binary: whether scores are 0 or 1, so that Wilson's interval applies.
        seed: of the bootstrap.
    """
    values = [0.0 if score is None else score for score in scores]
    if not values:
        return Mean(None, None, None, 0)
    binary = binary and all(value in (0.0, 1.0) for value in values)
    ends = wilson(round(sum(values)), len(values)) if binary else bootstrap(values, seed=seed)
    low, high = ends if ends is not None else (None, None)
    return Mean(sum(values) / len(values), low, high, len(values), sum(score is None for score in scores))


def mean_of_means(cells: Sequence[Sequence[float | None]], *, seed: int = 0) -> Mean:
    """Plain mean over cells (as RULER averages its tasks); resampled within each cell, so cells count alike.

    Where every score is 0, or every score 1, the interval is Wilson's over all samples.
    """
    filled = [[0.0 if score is None else score for score in cell] for cell in cells if cell]
    if not filled:
        return Mean(None, None, None, 0)
    value = sum(sum(cell) / len(cell) for cell in filled) / len(filled)
    count = sum(map(len, filled))
    failures = sum(score is None for cell in cells for score in cell)
    if any(len(cell) < 2 for cell in filled):
        return Mean(value, None, None, count, failures)
    if value in (0.0, 1.0):
        # All alike: resampling sees no spread at all. Wilson's interval over all samples has a width here too.
        low, high = wilson(round(value * count), count) or (None, None)
        return Mean(value, low, high, count, failures)
    total = np.zeros(_RESAMPLES)
    for place, cell in enumerate(filled):
        random = numpy_rng(seed, "cells-bootstrap", place, len(cell))
        counts = random.multinomial(len(cell), np.full(len(cell), 1 / len(cell)), size=_RESAMPLES)
        total += counts @ np.asarray(cell) / len(cell)
    low, high = np.quantile(total / len(filled), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Mean(value, float(low), float(high), count, failures)


@dataclass(frozen=True)
class Difference:
    """Score of one model minus that of another on the samples both answered.

    Args:
        value: mean difference; None without common samples.
        low, high: ends of its interval; None where it is unknown.
        count: common samples.
        better, worse: samples on which the first model scored higher, and lower.
        p_value: two-sided; the exact sign test (McNemar's for right and wrong); None where no sample differs.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int
    better: int
    worse: int
    p_value: float | None


def paired_difference(
    first: Mapping[str, float | None], second: Mapping[str, float | None], *, seed: int = 0
) -> Difference:
    """Compare two models sample by sample.

    Args:
        first, second: score of each sample by its id; None for a failure, which counts as 0.
        seed: of the bootstrap.
    """
    common = sorted(first.keys() & second.keys())
    deltas = [(first[key] or 0.0) - (second[key] or 0.0) for key in common]
    if not deltas:
        return Difference(None, None, None, 0, 0, 0, None)
    better, worse = sum(delta > 0 for delta in deltas), sum(delta < 0 for delta in deltas)
    # Where all differ alike, resampling sees no spread: the interval is unknown, not of no width.
    ends = bootstrap(deltas, seed=seed) if len(set(deltas)) > 1 else None
    low, high = ends if ends is not None else (None, None)
    return Difference(sum(deltas) / len(deltas), low, high, len(deltas), better, worse, _sign_test(better, worse))


def _sign_test(better: int, worse: int) -> float | None:
    """Chance that a fair coin is as uneven as this or more."""
    count = better + worse
    if count == 0:
        return None
    tail = sum(math.comb(count, k) for k in range(min(better, worse) + 1)) / 2**count
    return min(1.0, 2 * tail)


def effective_length(means: Mapping[int, float | None], threshold: float) -> int | None:
    """Longest length such that it and all shorter ones reach the threshold; None where not even the first does.

    Args:
        means: mean score by length.
        threshold: least score that counts.
    """
    found = None
    for length in sorted(means):
        mean = means[length]
        if mean is None or mean < threshold:
            break
        found = length
    return found
