"""Intervals over documents: quantiles by table, coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from lengthwise.measure.bootstrap import Resamples, small_sample_factor, student_quantile, sum_by_document


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (7, 2.3646), (30, 2.0423), (1000, 1.9623)]
)
def test_student_quantiles_of_the_printed_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(quantile, abs=1e-4)


def test_small_samples_are_stretched() -> None:
    assert small_sample_factor(3) == pytest.approx(4.3027 / 1.95996 * np.sqrt(3 / 2), abs=1e-3)
    assert 1.0 < small_sample_factor(1000) < 1.003


def test_sequences_of_one_document_are_one_unit() -> None:
    table = np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    np.testing.assert_array_equal(sum_by_document(table, np.array([7, 3, 7])), [[10.0, 20.0], [101.0, 202.0]])


def test_draws_depend_on_seed_and_documents_alone() -> None:
    first, again = Resamples.draw(5, resamples=50, seed=1), Resamples.draw(5, resamples=50, seed=1)
    other = Resamples.draw(5, resamples=50, seed=2)
    assert first.weights is not None
    assert again.weights is not None
    assert other.weights is not None
    np.testing.assert_array_equal(first.weights, again.weights)
    assert (first.weights != other.weights).any()
    np.testing.assert_array_equal(first.weights.sum(axis=1), 5)


def test_one_document_has_no_interval() -> None:
    assert Resamples.draw(1).weights is None


def test_means_weight_documents_by_their_tokens() -> None:
    draws = Resamples(np.array([[2.0, 0.0], [1.0, 1.0]]), 2)
    means = draws.means(np.array([[6.0], [1.0]]), np.array([[3.0], [1.0]]))
    np.testing.assert_allclose(means, [[2.0], [7 / 4]])


@pytest.mark.parametrize("num_documents", [4, 30])
def test_coverage_of_the_two_sided_interval(num_documents: int) -> None:
    random, trials, covered = np.random.default_rng(0), 250, 0
    for trial in range(trials):
        values = random.gamma(4.0, size=(num_documents, 1))  # skewed, mean 4
        draws = Resamples.draw(num_documents, resamples=400, seed=trial)
        point = values.mean(axis=0)
        low, high = draws.interval(point, draws.means(values, np.ones_like(values)))
        covered += int(low[0] <= 4.0 <= high[0])
    assert 0.90 <= covered / trials <= 0.98


def test_simultaneous_bounds_hold_for_all_bins_at_once() -> None:
    # Twelve independent bins: bins taken one by one would be wrong somewhere in 1 - 0.975^12 = 26 % of trials.
    random, trials, wrong, wrong_alone = np.random.default_rng(1), 150, 0, 0
    for trial in range(trials):
        values = random.normal(size=(40, 12))
        draws = Resamples.draw(40, resamples=600, seed=trial)
        point, resampled = values.mean(axis=0), draws.means(values, np.ones_like(values))
        wrong += int((draws.simultaneous_low(point, resampled) > 0).any())
        wrong_alone += int((draws.interval(point, resampled)[0] > 0).any())
    assert wrong / trials <= 0.07
    assert wrong_alone / trials >= 0.15


def test_identical_documents_have_an_interval_of_no_width() -> None:
    values = np.full((6, 2), 3.0)
    draws = Resamples.draw(6, resamples=100)
    resampled = draws.means(values, np.ones_like(values))
    point = np.array([3.0, 3.0])
    np.testing.assert_allclose(draws.interval(point, resampled), 3.0)
    np.testing.assert_allclose(draws.simultaneous_low(point, resampled), 3.0)
