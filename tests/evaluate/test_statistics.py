"""Intervals against known values and by their coverage; comparisons on the same samples."""

import numpy as np
import pytest

from lengthwise.evaluate.statistics import (
    bootstrap,
    effective_length,
    mean_of_means,
    mean_score,
    paired_difference,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # By the formula in high precision; 0 of 10 is the textbook's 0 to 0.278.
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (5, 10, 0.23659, 0.76341), (250, 250, 0.98487, 1.0)],
)
def test_wilson(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes, count) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_leaves_the_spread_unknown(count: int) -> None:
    assert wilson(count, count) is None
    assert bootstrap([0.5] * count) is None
    found = mean_score([1.0] * count, binary=True)
    assert (found.low, found.high, found.count) == (None, None, count)
    assert found.value == (1.0 if count else None)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_wilson_covers(share: float) -> None:
    random, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        low, high = wilson(int(random.binomial(40, share)), 40) or (0.0, 1.0)
        covered += low <= share <= high
    assert 0.92 < covered / 2000 < 0.985


def test_bootstrap_covers_the_mean_of_fractions() -> None:
    random, covered = np.random.default_rng(1), 0
    for trial in range(300):
        low, high = bootstrap(random.beta(2, 1, 60).tolist(), seed=trial) or (0.0, 0.0)
        covered += low <= 2 / 3 <= high
    assert 0.9 < covered / 300 < 0.985


def test_failures_count_as_zero_and_are_counted() -> None:
    found = mean_score([1.0, None, 1.0, 0.0], binary=True)
    assert (found.value, found.count, found.failures) == (0.5, 4, 1)


def test_fractions_are_not_taken_for_right_and_wrong() -> None:
    values = [0.5] * 20
    assert mean_score(values, binary=True).low == mean_score(values, binary=False).low == 0.5


def test_cells_count_alike_whatever_their_size() -> None:
    found = mean_of_means([[1.0] * 100, [0.0, 0.0]])
    assert (found.value, found.low, found.high, found.count) == (0.5, 0.5, 0.5, 102)
    assert mean_of_means([[1.0], [0.0, 1.0]]).low is None
    assert mean_of_means([]).value is None


def test_pairs_are_told_apart_better_than_means() -> None:
    random = np.random.default_rng(2)
    hard = random.random(200)
    first = {str(i): float(h < 0.60) for i, h in enumerate(hard)}
    second = {str(i): float(h < 0.52) for i, h in enumerate(hard)}
    found = paired_difference(first, second)
    assert found.low is not None
    assert found.low > 0
    assert found.worse == 0
    assert found.p_value == pytest.approx(2 * 0.5**found.better)
    apart = [mean_score(list(scores.values()), binary=True) for scores in (first, second)]
    assert apart[0].low < apart[1].high, "by their means alone the two are not told apart"


def test_only_common_samples_are_compared() -> None:
    found = paired_difference({"a": 1.0, "b": 0.0}, {"b": None, "c": 1.0})
    assert (found.value, found.count, found.better, found.worse, found.p_value) == (0.0, 1, 0, 0, None)
    assert paired_difference({"a": 1.0}, {"b": 1.0}).value is None


def test_effective_length_ends_at_the_first_failure() -> None:
    means = {1024: 0.9, 2048: 0.88, 4096: 0.6, 8192: 0.9}
    assert effective_length(means, 0.856) == 2048
    assert effective_length(means, 0.95) is None
    assert effective_length({1024: None}, 0.5) is None


def test_a_mean_of_means_that_are_all_alike_has_a_width() -> None:
    none = mean_of_means([[0.0] * 6, [0.0, 0.0, None]])
    assert (none.value, none.failures) == (0.0, 1)
    assert (none.low, none.high) == wilson(0, 9)
    every = mean_of_means([[1.0] * 6, [1.0] * 3])
    assert (every.low, every.high) == wilson(9, 9)


def test_equal_differences_leave_the_interval_unknown() -> None:
    found = paired_difference({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0})
    assert (found.value, found.low, found.high, found.p_value) == (0.0, None, None, None)
