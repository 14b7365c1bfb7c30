"""Restarted losses against a brute-force computation, window by window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.measure.models import CountingModel, losses_one_pass, random_tokens, tiny_model

from lengthwise.errors import InputError
from lengthwise.measure.restart import restart_sums, windows


@pytest.mark.parametrize("context", [1, 2, 5, 8])
@pytest.mark.parametrize("extra", [1, 3, 4, 17])
def test_every_position_beyond_the_context_is_scored_once(context: int, extra: int) -> None:
    length = context + extra
    for stride in {1, max(1, context // 2), context}:
        scored = [p for start, first in windows(length, context, stride) for p in range(first, start + context)]
        assert scored == list(range(context, length))
        assert all(start >= 0 and start + context <= length for start, _ in windows(length, context, stride))


@pytest.mark.parametrize(("context", "stride", "chunk", "batch"), [(8, None, 64, 4), (7, None, 3, 1), (6, 1, 2, 2)])
def test_equals_one_forward_per_window(context: int, stride: int | None, chunk: int, batch: int) -> None:
    model, tokens, length = tiny_model(), random_tokens(3, 30), 29
    edges = np.array([context, context + 9, length])
    sums = restart_sums(model, tokens, edges, context, stride=stride, chunk=chunk, batch_size=batch)
    step = max(1, context // 2) if stride is None else stride
    for row in range(3):
        expected = np.zeros(2)
        for position in range(context, length):
            # The window that scores this position: restarts at context - step, then every step; the last ends at T.
            end = min(context + ((position - context) // step + 1) * step, length)
            window = tokens[row, end - context : end + 1]
            loss = losses_one_pass(model, window)[position - (end - context)]
            expected[np.searchsorted(edges, position, side="right") - 1] += float(loss)
        np.testing.assert_allclose(sums[row], expected, rtol=1e-5)


def test_history_lies_between_half_a_context_and_a_whole_one() -> None:
    seen: list[int] = []

    def loss(count: int) -> float:
        seen.append(count)
        return 1.0

    model = CountingModel(loss)
    restart_sums(model, random_tokens(1, 65, vocab_size=5), np.array([8, 64]), 8, chunk=64, batch_size=1)
    assert set(seen) == {5, 6, 7, 8}
    assert len(seen) == 64 - 8


def test_long_contexts_are_read_in_chunks() -> None:
    model = CountingModel(lambda count: 1.0)
    restart_sums(model, random_tokens(2, 1501, vocab_size=5), np.array([1000, 1500]), 1000, chunk=32, batch_size=2)
    assert model.largest_forward == 32


def test_stride_outside_the_context() -> None:
    with pytest.raises(InputError, match=r"from 1 to the training context 8; got 9; in restart_stride"):
        restart_sums(
            CountingModel(lambda count: 1.0),
            random_tokens(1, 20, vocab_size=5),
            np.array([8, 19]),
            8,
            stride=9,
            chunk=8,
            batch_size=1,
        )


def test_a_model_that_forgets_at_once_scores_the_same_restarted() -> None:
    model, tokens = tiny_model(), random_tokens(2, 41)
    with torch.no_grad():
        for block in model.backbone.layers:
            block.mixer.A_log.fill_(12.0)  # the state decays to nothing at every token
            block.mixer.conv1d.weight[..., :-1] = 0.0  # and the convolution sees one token
    edges = np.array([8, 20, 40])
    restarted = restart_sums(model, tokens, edges, 8, chunk=16, batch_size=2)
    full = [[losses_one_pass(model, row)[a:b].sum().item() for a, b in ((8, 20), (20, 40))] for row in tokens]
    np.testing.assert_allclose(restarted, full, rtol=1e-5)
