"""Perplexity and verdicts of models whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.measure.models import CountingModel, random_tokens, tiny_model

from lengthwise.errors import InputError
from lengthwise.measure import evaluate_length


def test_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    model = tiny_model()
    model.backbone.embedding.weight.data.zero_()  # tied: all logits are equal
    found = evaluate_length(model, random_tokens(3, 129), 32)
    for bin_ in (*found.perplexity.bins, found.perplexity.overall):
        assert bin_.perplexity == pytest.approx(11, rel=1e-5)
        assert bin_.nll == pytest.approx(math.log(11), rel=1e-6)
    assert found.definition.verdict == "pass"
    assert found.restart.verdict == "pass"
    assert not found.restart.uses_history


def test_model_that_breaks_beyond_its_context_fails_both() -> None:
    model = CountingModel(lambda count: 2.0 if count <= 32 else 2.5)
    found = evaluate_length(model, random_tokens(4, 129, vocab_size=5), 32)
    assert found.definition.verdict == "fail"
    assert found.definition.first_failing_position == 32
    assert found.definition.worst_ratio == pytest.approx(math.exp(0.5), rel=1e-6)
    assert found.restart.verdict == "fail"
    assert found.restart.difference == pytest.approx(0.5, rel=1e-6)


def test_text_that_becomes_harder_fails_the_definition_only() -> None:
    # The loss depends on the text, not on what was read: every token 4 costs more, and only late text holds it.
    class ByText(CountingModel):
        def nll(self, tokens, state=None):  # type: ignore[no-untyped-def]
            losses, new = super().nll(tokens, state)
            return losses + (tokens[:, 1:] == 4), new

    tokens = np.zeros((4, 129), dtype=np.int64)
    tokens[:, 65:] = 4
    found = evaluate_length(ByText(lambda count: 2.0), tokens, 32, control_text=False)
    assert found.definition.verdict == "fail"
    assert found.definition.first_failing_position == 64
    assert found.restart.verdict == "pass"
    assert found.restart.difference == 0.0


def test_control_spreads_the_difficulty_of_the_text_over_all_bins() -> None:
    # One stretch of hard text in the middle: beyond the context, plain ratios see it, controlled ones its mean.
    class ByText(CountingModel):
        def nll(self, tokens, state=None):  # type: ignore[no-untyped-def]
            losses, new = super().nll(tokens, state)
            return losses + 0.1 * (tokens[:, 1:] == 4), new

    tokens = np.zeros((4, 129), dtype=np.int64)
    tokens[:, 65:92] = 4
    found = evaluate_length(ByText(lambda count: 2.0), tokens, 32).definition
    assert found.controlled
    expected = 2 + 0.1 * 27 / 96
    controlled = [math.log(r.ratio * found.best_perplexity) for r in found.ratios]
    assert controlled == pytest.approx([expected] * len(controlled))
    # The bin of the hard stretch, less what the stretch adds to p* in the second window of 64: 11 of 3 x 16 losses.
    assert max(math.log(r.plain) for r in found.ratios) == pytest.approx(0.1 - 0.1 * 11 / 48)


def test_bits_per_byte_by_hand() -> None:
    model = CountingModel(lambda count: math.log(4))  # 2 bits a token
    tokens = np.array([[0, 1] * 32 + [0], [1, 0] * 32 + [1]])
    found = evaluate_length(model, tokens, 32, token_bytes=np.array([1, 3, 9, 9, 9]))
    assert found.perplexity.overall.bits_per_byte == pytest.approx(2 / 2)
    assert found.perplexity.overall.tokens == 128
    assert evaluate_length(model, tokens, 32).perplexity.overall.bits_per_byte is None


@pytest.mark.parametrize(("chunk", "batch_size"), [(5, 1), (13, 2), (512, 16)])
def test_chunk_and_batch_change_nothing(chunk: int, batch_size: int) -> None:
    model, tokens = tiny_model(), random_tokens(3, 80)
    ours = evaluate_length(model, tokens, 16, chunk=chunk, batch_size=batch_size)
    whole = evaluate_length(model, tokens, 16, chunk=1000, batch_size=3)
    for one, other in zip(ours.perplexity.bins, whole.perplexity.bins, strict=True):
        assert one.nll == pytest.approx(other.nll, rel=1e-5)
    assert ours.restart.difference == pytest.approx(whole.restart.difference, abs=1e-5)


def test_sequences_of_one_document_give_no_interval() -> None:
    model, tokens = tiny_model(), random_tokens(3, 80)
    found = evaluate_length(model, tokens, 16, documents=np.array([5, 5, 5]))
    assert found.perplexity.overall.low is None
    assert found.definition.verdict == "undecided"
    assert found.restart.verdict == "undecided"


def test_progress_counts_the_tokens_read() -> None:
    told: list[int] = []
    evaluate_length(tiny_model(), random_tokens(2, 65), 16, advance=told.append)
    # Full history: 2 x 64. The same text once more as 2 windows of 32. Restarts: 6 windows of 16 tokens for each row.
    assert sum(told) == 2 * 64 + 2 * 64 + 2 * 6 * 16


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"context_length": 64}, "a length above the training context 64; got 64"),
        ({"documents": np.array([1])}, "a document id for each of 2 sequences; got 1 ids"),
        ({"token_bytes": np.array([1, 1])}, "token sizes for ids up to 10; got 2 sizes"),
        ({"batch_size": 0}, "expected at least 1; got 0; in batch_size"),
    ],
)
def test_refused(unchecked: None, options: dict, text: str) -> None:
    arguments = {"context_length": 16, **options}
    with pytest.raises(InputError) as raised:
        evaluate_length(tiny_model(), random_tokens(2, 65), **arguments)
    assert text in str(raised.value)
