"""Streaming gives what one pass gives."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.helpers import assert_close
from tests.measure.models import CountingModel, losses_one_pass, random_tokens, tiny_model

from lengthwise.engines.base import evaluating
from lengthwise.errors import InputError, RunFailure
from lengthwise.measure.stream import check_tokens, full_history_sums, pieces, read_only, stream

EDGES = np.array([0, 5, 16, 23])


def test_pieces_cut_at_chunks_and_positions() -> None:
    assert pieces(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert pieces(10, 4, cuts=(0, 1, 8, 10, 99)) == [(0, 1), (1, 4), (4, 8), (8, 10)]
    assert pieces(3, 100) == [(0, 3)]


@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 23, 500])
def test_streamed_losses_equal_one_pass(chunk: int) -> None:
    model, tokens = tiny_model(), random_tokens(3, 24)
    streamed = torch.cat([piece.nll for piece in stream(model, tokens, chunk=chunk)], dim=1)
    for row in range(3):
        assert_close(f"row {row}", streamed[row], losses_one_pass(model, tokens[row]), rel_rms=1e-5)


@pytest.mark.parametrize("chunk", [3, 23])
def test_bin_sums_are_those_of_one_pass(chunk: int) -> None:
    model, tokens = tiny_model(), random_tokens(4, 24)
    sums = full_history_sums(model, tokens, EDGES, chunk=chunk)
    for row in range(4):
        whole = losses_one_pass(model, tokens[row]).double()
        expected = [whole[a:b].sum().item() for a, b in pairwise(EDGES)]
        np.testing.assert_allclose(sums[row], expected, rtol=1e-5)


def test_state_after_a_piece_is_that_of_its_end() -> None:
    model, tokens = tiny_model(), random_tokens(2, 13)
    *_, last = stream(model, tokens, chunk=5, cuts=(7,))
    direct = read_only(model, tokens[:, :-1], chunk=100)
    assert direct is not None
    assert last.end == 12
    for (name, ours), (_, theirs) in zip(last.state.named_tensors(), direct.named_tensors(), strict=True):
        assert_close(name, ours, theirs, rel_rms=1e-5)


def test_forward_passes_do_not_grow_with_the_length() -> None:
    model = CountingModel(lambda count: 1.0)
    full_history_sums(model, random_tokens(2, 5001, vocab_size=5), np.array([0, 16, 5000]), chunk=64)
    assert model.largest_forward == 2 * 64


def test_sums_are_exact_where_float32_would_drift() -> None:
    model = CountingModel(lambda count: 0.1)
    sums = full_history_sums(model, random_tokens(1, 40001, vocab_size=5), np.array([0, 40000]), chunk=4096)
    assert abs(sums[0, 0] - 40000 * float(np.float32(0.1))) < 1e-8


def test_mode_is_restored() -> None:
    model = tiny_model().train()
    with evaluating(model):
        assert not model.training
    assert model.training


def test_non_finite_loss_names_the_position() -> None:
    model = CountingModel(lambda count: float("nan") if count == 18 else 1.0)
    with pytest.raises(RunFailure) as raised:
        full_history_sums(model, random_tokens(2, 24, vocab_size=5), EDGES, chunk=8)
    assert raised.value.got == "nan at position 17 of sequence 0"
    assert "measure a shorter length" in str(raised.value)


@pytest.mark.parametrize(
    ("tokens", "batch_size", "chunk", "text"),
    [
        (np.zeros((2, 1), dtype=np.int64), 1, 1, "at least one sequence of at least one input and one target"),
        (np.zeros((0, 9), dtype=np.int64), 1, 1, "got shape [0, 9]"),
        (np.zeros((2, 9)), 1, 1, "got float64 of shape [2, 9]"),
        (np.zeros((2, 9), dtype=np.int64), 0, 1, "in batch_size; give a positive batch_size"),
        (np.zeros((2, 9), dtype=np.int64), 1, 0, "in chunk; give a positive chunk"),
        (np.full((2, 9), 11), 1, 1, "token ids from 0 to 10; got ids from 11 to 11"),
    ],
)
def test_unusable_tokens(tokens: np.ndarray, batch_size: int, chunk: int, text: str) -> None:
    with pytest.raises(InputError) as raised:
        check_tokens(tokens, 11, batch_size=batch_size, chunk=chunk)
    assert text in str(raised.value)
