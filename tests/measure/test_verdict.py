"""Synthetic loss tables that must pass, fail or stay undecided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lengthwise.errors import InputError
from lengthwise.measure.bootstrap import Resamples
from lengthwise.measure.verdict import (
    Control,
    DefinitionVerdict,
    RestartVerdict,
    definition_verdict,
    restart_verdict,
)

EDGES = np.array([0, 16, 32, 64, 128])  # context 32: two bins inside, two beyond
WIDTHS = np.diff(EDGES).astype(np.float64)


def table(means: Any, noise: Any = 0.0, documents: int = 40, common: float = 0.3) -> np.ndarray:
    """Summed losses: the bins' means, an offset per document common to its bins, and noise per document and bin."""
    random = np.random.default_rng(0)
    offsets = random.normal(scale=common, size=(documents, 1))
    offsets -= offsets.mean()
    own = random.normal(size=(documents, len(means)))
    own -= own.mean(axis=0)  # so that the point estimates are the means, exactly
    return np.asarray(np.asarray(means) + offsets + np.asarray(noise) * own) * WIDTHS[-len(means) :]


def judge(means: Any, noise: Any = 0.0, documents: int = 40, **options: Any) -> DefinitionVerdict:
    sums = table(means, noise, documents)
    tokens = np.broadcast_to(WIDTHS, sums.shape)
    return definition_verdict(sums, tokens, EDGES, 32, Resamples.draw(documents), **options)


def judge_restart(differences: Any, noise: Any = 0.0, documents: int = 40, **options: Any) -> RestartVerdict:
    restarted = table([2.0, 2.0])
    random = np.random.default_rng(1)
    own = random.normal(size=(40, 2))
    own -= own.mean(axis=0)
    full = restarted + (np.asarray(differences) + np.asarray(noise) * own) * WIDTHS[2:]
    tokens = np.broadcast_to(WIDTHS[2:], full.shape)
    return restart_verdict(
        full[:documents], restarted[:documents], tokens[:documents], EDGES[2:], Resamples.draw(documents), **options
    )


def test_flat_losses_pass() -> None:
    found = judge([2.5, 2.0, 2.0, 2.0], 0.02)
    assert found.verdict == "pass"
    assert found.best_bin == (16, 32)
    assert found.best_perplexity == pytest.approx(np.exp(2.0))
    assert found.first_failing_position is None
    assert [(r.start, r.end) for r in found.ratios] == [(32, 64), (64, 128)]
    assert all(r.low is not None and r.high is not None and r.low <= r.ratio <= r.high for r in found.ratios)


def test_documents_that_differ_do_not_blur_the_ratio() -> None:
    # Each document's level cancels in its own ratio: without noise of its own the interval has no width.
    found = judge([2.5, 2.0, 2.0, 2.02])
    assert found.verdict == "pass"
    assert found.worst_low == pytest.approx(np.exp(0.02))
    assert found.worst_high == pytest.approx(np.exp(0.02))


def test_growing_losses_fail_where_they_first_exceed_the_tolerance() -> None:
    found = judge([2.5, 2.0, 2.02, 2.3], 0.05)
    assert found.verdict == "fail"
    assert found.first_failing_position == 64
    assert found.worst_bin == (64, 128)
    assert found.worst_ratio == pytest.approx(np.exp(0.3))
    assert found.worst_low is not None
    assert 1.25 < found.worst_low < found.worst_ratio
    assert judge([2.5, 2.0, 2.2, 2.3], 0.05).first_failing_position == 32


@pytest.mark.parametrize("last", [2.04, 2.06])
def test_noise_around_the_tolerance_is_undecided(last: float) -> None:
    found = judge([2.5, 2.0, 2.0, last], 0.2)
    assert found.verdict == "undecided"
    assert found.first_failing_position is None


def test_one_undecided_bin_spoils_a_pass_but_not_a_fail() -> None:
    assert judge([2.5, 2.0, 2.05, 2.0], [0, 0, 0.3, 0]).verdict == "undecided"
    assert judge([2.5, 2.0, 2.05, 2.5], [0, 0, 0.3, 0]).verdict == "fail"


def test_tolerance_is_a_ratio_of_perplexities() -> None:
    assert judge([2.5, 2.0, 2.0, 2.0 + np.log(1.049)]).verdict == "pass"
    assert judge([2.5, 2.0, 2.0, 2.0 + np.log(1.051)]).verdict == "fail"
    assert judge([2.5, 2.0, 2.0, 2.0 + np.log(1.051)], tolerance=0.1).verdict == "pass"


def test_strict_is_the_definition_without_tolerance() -> None:
    assert judge([2.5, 2.0, 2.0, 1.9]).strict
    assert not judge([2.5, 2.0, 2.0, 2.001]).strict


@pytest.mark.parametrize("documents", [1])
def test_one_document_decides_nothing(documents: int) -> None:
    found = judge([2.5, 2.0, 2.0, 9.0], documents=documents)
    assert found.verdict == "undecided"
    assert (found.worst_low, found.worst_high, found.first_failing_position) == (None, None, None)
    assert found.worst_ratio == pytest.approx(np.exp(7.0))
    assert all(r.low is None and r.high is None for r in found.ratios)


def test_bins_must_have_an_edge_at_the_context() -> None:
    with pytest.raises(InputError, match="an edge at the training context 33"):
        definition_verdict(np.ones((2, 4)), np.ones((2, 4)), EDGES, 33, Resamples.draw(2))


def test_history_that_helps_passes_and_is_said_so() -> None:
    found = judge_restart([-0.02, -0.05], 0.02)
    assert found.verdict == "pass"
    assert found.uses_history
    # Weighted by tokens: 32 positions at -0.02 and 64 at -0.05.
    assert found.difference == pytest.approx(-0.04)


def test_history_that_does_nothing_passes_without_use() -> None:
    found = judge_restart([0.0, 0.0], 0.005)
    assert found.verdict == "pass"
    assert not found.uses_history


def test_history_that_hurts_fails_even_where_the_mean_is_good() -> None:
    found = judge_restart([-0.2, 0.05], 0.02)
    assert found.verdict == "fail"
    assert found.first_failing_position == 64
    assert found.difference < 0
    assert judge_restart([0.05, 0.05], 0.02).first_failing_position == 32


def test_restart_tolerance_is_one_percent_of_perplexity() -> None:
    assert judge_restart([0.0, np.log(1.0099)]).verdict == "pass"
    assert judge_restart([0.0, np.log(1.0101)]).verdict == "fail"


def test_noisy_difference_is_undecided() -> None:
    found = judge_restart([0.0, 0.01], 0.1)
    assert found.verdict == "undecided"
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high


def test_one_document_leaves_the_restart_verdict_undecided() -> None:
    found = judge_restart([1.0, 1.0], documents=1)
    assert (found.verdict, found.low, found.high, found.uses_history) == ("undecided", None, None, False)
    assert found.difference == pytest.approx(1.0)


def test_good_models_are_rarely_failed_and_rarely_passed_at_the_limit() -> None:
    # Twelve bins beyond the context, all exactly at the tolerance: "fail" and "pass" are both wrong.
    edges = np.concatenate([[0, 16, 32], 32 + 16 * np.arange(1, 13)])
    widths = np.diff(edges).astype(np.float64)
    means = np.concatenate([[2.5, 2.0], np.full(12, 2.0 + np.log(1.05))])
    random, verdicts = np.random.default_rng(0), []
    for trial in range(120):
        sums = (means + random.normal(scale=0.1, size=(40, 14))) * widths
        draws = Resamples.draw(40, resamples=400, seed=trial)
        verdicts.append(definition_verdict(sums, np.broadcast_to(widths, sums.shape), edges, 32, draws).verdict)
    assert verdicts.count("fail") <= 9
    assert verdicts.count("pass") <= 9


def controlled(excess: float, seed: int, documents: int = 40) -> tuple[DefinitionVerdict, DefinitionVerdict]:
    """Verdicts with and without control on text whose hard and easy stretches weigh more than the tolerance.

    Inside: 2.0 nats known exactly. Beyond: the restarted model 2.1 and the full history 2.0 + `excess`, both with the
    difficulty of the stretch on top, and a little noise of their own.
    """
    random = np.random.default_rng(seed)
    widths = np.full(6, 32.0)
    edges = np.concatenate([[0, 16, 32], 32 + 32 * np.arange(1, 7)])
    hard = random.normal(scale=0.4, size=(documents, 6))
    full = 2.0 + excess + hard + random.normal(scale=0.02, size=(documents, 6))
    restarted = 2.1 + hard + random.normal(scale=0.02, size=(documents, 6))
    # p* rests on windows all over the text, so it holds the mean difficulty of the document.
    inside = np.stack([np.full(documents, 2.5), 2.0 + hard.mean(axis=1)], axis=1)
    sums = np.concatenate([inside * 16, full * widths], axis=1)
    tokens = np.broadcast_to(np.diff(edges), sums.shape).astype(np.float64)
    draws = Resamples.draw(documents, resamples=400, seed=seed)
    control = Control(full=full * widths, restarted=restarted * widths, tokens=tokens[:, 2:])
    plain = definition_verdict(sums, tokens, edges, 32, draws)
    return definition_verdict(sums, tokens, edges, 32, draws, control=control), plain


def test_strict_goes_by_the_perplexities_as_they_are() -> None:
    good, plain = controlled(-0.1, seed=1)
    # Every controlled ratio is below 1, yet the perplexity of some bin of hard text is above p*.
    assert max(r.ratio for r in good.ratios) < 1
    assert max(r.plain for r in good.ratios) > 1
    assert not good.strict
    assert not plain.strict
    both = [found for excess in (-0.1, -0.5) for found in controlled(excess, seed=1)]
    assert {found.strict for found in both} == {True, False}
    assert all(found.strict == all(r.plain <= 1 for r in found.ratios) for found in both)


def test_control_takes_the_difficulty_of_the_text_out() -> None:
    good, noisy = controlled(0.0, seed=1)
    assert (good.verdict, noisy.verdict) == ("pass", "undecided")
    assert good.controlled
    assert not noisy.controlled
    bad, noisy = controlled(0.12, seed=1)
    assert bad.verdict == "fail"
    widths = [[r.high - r.low for r in found.ratios if r.high and r.low] for found in (bad, noisy)]
    assert max(widths[0]) < 0.2 * min(widths[1])
    for found, excess in ((good, 0.0), (bad, 0.12)):
        assert all(abs(np.log(r.ratio) - excess) < 0.02 for r in found.ratios)


def test_control_is_as_careful_at_the_limit() -> None:
    verdicts = [controlled(float(np.log(1.05)), seed)[0].verdict for seed in range(60)]
    assert verdicts.count("fail") <= 5
    assert verdicts.count("pass") <= 5
