"""The sentences of every verdict, with their numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lengthwise.measure.verdict import BinDifference, BinRatio, DefinitionVerdict, RestartVerdict, Verdict
from lengthwise.measure.words import definition_words, restart_words

RATIOS = (BinRatio(64, 512, 1.0, 0.97, 1.03, 1.0), BinRatio(2048, 4096, 1.3149, 1.2501, 1.3841, 1.31))
DEFINITION = DefinitionVerdict(
    verdict="fail",
    strict=False,
    tolerance=0.05,
    worst_ratio=1.3149,
    worst_low=1.2501,
    worst_high=1.3841,
    worst_bin=(2048, 4096),
    first_failing_position=512,
    best_bin=(32, 64),
    best_perplexity=4.0,
    ratios=RATIOS,
)
RESTART = RestartVerdict(
    verdict="pass",
    tolerance=0.01,
    difference=-0.0412,
    low=-0.0503,
    high=-0.0301,
    uses_history=True,
    first_failing_position=None,
    bins=(BinDifference(64, 512, -0.04, -0.05, -0.03), BinDifference(512, 4096, 0.0834, 0.0711, 0.0955)),
)


def test_definition_fail() -> None:
    assert definition_words(DEFINITION, 64, 40) == (
        "Its perplexity holds up to 512 tokens, then gets worse: at 2,048 to 4,096 tokens its perplexity is 1.31 times "
        "(1.25 to 1.38) its best inside the training context of 64."
    )
    at_once = replace(DEFINITION, first_failing_position=64)
    assert definition_words(at_once, 64, 40).startswith("Reads no further than its training context of 64 tokens: at")


@pytest.mark.parametrize(
    ("highs", "opening"),
    [
        ((1.03, 1.05), "Its perplexity holds up to 362 tokens, then gets worse: at 362"),
        (
            (1.03, 1.09),
            "Its perplexity is shown to hold up to 181 tokens and to be worse from 362, undecided between: at 362",
        ),
        (
            (1.06, 1.03),
            "Its perplexity is shown to be worse from 362 tokens, undecided from 64 up to there: at 362",
        ),
    ],
)
def test_definition_fail_claims_no_more_than_is_shown(highs: tuple[float, float], opening: str) -> None:
    ratios = (
        BinRatio(64, 181, 1.02, 0.99, highs[0], 1.0),
        BinRatio(181, 362, 1.04, 0.99, highs[1], 1.0),
        BinRatio(362, 512, 1.2, 1.1, 1.3, 1.2),
    )
    found = replace(DEFINITION, ratios=ratios, worst_bin=(362, 512), first_failing_position=362)
    assert definition_words(found, 64, 40).startswith(opening)


def test_definition_pass() -> None:
    found = replace(DEFINITION, verdict="pass", first_failing_position=None)
    assert definition_words(found, 64, 40).startswith(
        "Reads up to 4,096 tokens, 64 times its training context of 64: its perplexity stays within 5% of its best"
    )
    assert "2.5 times its training context of 1,638:" in definition_words(found, 1638, 40)


def test_definition_undecided_names_the_bin_that_blocks_and_the_limit() -> None:
    found = replace(
        DEFINITION,
        verdict="undecided",
        ratios=(BinRatio(64, 512, 1.01, 0.9, 1.2, 1.0), BinRatio(512, 4096, 1.02, 1.01, 1.03, 1.0)),
        worst_bin=(512, 4096),
        first_failing_position=None,
    )
    assert definition_words(found, 64, 40) == (
        "How far it reads is undecided with 40 documents: at 64 to 512 tokens its perplexity is 1.01 times "
        "(0.90 to 1.20) its best inside the training context of 64, and the limit is 1.05. More documents would tell."
    )


@pytest.mark.parametrize("verdict", ["fail", "pass", "undecided"])
def test_controlled_ratios_are_said_to_have_the_text_taken_out(verdict: Verdict) -> None:
    found = replace(DEFINITION, verdict=verdict, first_failing_position=512 if verdict == "fail" else None)
    how = "its perplexity, the difficulty of the text taken out, "
    assert definition_words(replace(found, controlled=True), 64, 40).count(how) == 1
    assert "taken out" not in definition_words(found, 64, 40)
    alone = replace(found, worst_low=None, worst_high=None, controlled=True)
    assert definition_words(alone, 64, 1).count(how) == 1


def test_one_document_gives_no_interval() -> None:
    found = replace(
        DEFINITION,
        verdict="undecided",
        worst_low=None,
        worst_high=None,
        ratios=tuple(replace(each, low=None, high=None) for each in RATIOS),
    )
    assert "one document gives no interval. At 2,048 to 4,096 tokens" in definition_words(found, 64, 1)
    alone = replace(RESTART, verdict="undecided", low=None, high=None, uses_history=False)
    assert "one document gives no interval" in restart_words(alone, 64, 1)


def test_restart_fail_names_the_worst_bin_and_from_where_harm_is_shown() -> None:
    found = replace(RESTART, verdict="fail", first_failing_position=512, uses_history=False)
    assert restart_words(found, 64, 40) == (
        "What it read long ago harms it: at 512 to 4,096 tokens it predicts worse by 0.083 nats per token "
        "(0.071 to 0.096) with everything before than with at most 64 tokens of history and a fresh state. "
        "The harm is shown from 512 tokens on."
    )


@pytest.mark.parametrize(
    ("low", "high", "uses", "text"),
    [
        (-0.0503, -0.0301, True, "It gains from text further back than its training context: with everything before"),
        (-0.001, 0.002, False, "neither harms nor helps it measurably"),
        (0.001, 0.004, False, "costs it a little, less than 1% of perplexity in every bin"),
    ],
)
def test_restart_pass(low: float, high: float, uses: bool, text: str) -> None:
    assert text in restart_words(replace(RESTART, low=low, high=high, uses_history=uses), 64, 40)


def test_restart_undecided() -> None:
    found = replace(RESTART, verdict="undecided", difference=0.00001, low=-0.02, high=0.03, uses_history=False)
    assert restart_words(found, 64, 40) == (
        "Whether its history harms it is undecided with 40 documents: with everything before, its loss changes by "
        "0.0000 nats per token (−0.0200 to +0.0300) against at most 64 tokens of history, and in some bin the limit "
        "of 1% lies inside the interval. More documents would tell."
    )
