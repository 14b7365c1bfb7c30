"""State statistics against numpy on states whose figures are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tests.measure.models import random_tokens, tiny_model

from lengthwise.engines.base import evaluating
from lengthwise.errors import RunFailure
from lengthwise.measure.states import STATISTICS, StateStatistics, rank_drift, state_positions
from lengthwise.measure.stream import stream
from lengthwise.shapes import Tensor
from lengthwise.state import MixerState, State, tensor_field


@dataclass(frozen=True)
class MatrixState(MixerState):
    """A recurrent matrix and a buffer that must not enter."""

    matrix: Tensor = tensor_field("recurrent")
    buffer: Tensor = tensor_field("short")


def made_state(rows: int = 3, heads: tuple[int, ...] = (2, 4), seed: int = 0) -> State:
    random = torch.Generator().manual_seed(seed)
    return State(
        tuple(
            MatrixState(
                matrix=torch.randn(rows, count, 3, 5, generator=random) * (index + 1) + 0.3,
                buffer=torch.full((rows, 7), 1e6),
            )
            for index, count in enumerate(heads)
        )
    )


def by_numpy(values: np.ndarray) -> dict[str, float]:
    """Statistics of each row of [rows, elements], averaged over rows."""
    return {
        "std": values.std(axis=1).mean(),
        "mean": values.mean(),
        "max_abs": np.abs(values).max(axis=1).mean(),
        "norm": np.linalg.norm(values, axis=1).mean(),
    }


def test_positions_are_a_log_grid_with_context_and_length() -> None:
    assert state_positions(40, 8) == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 40]
    assert state_positions(131072, 2048, per_octave=1)[-7:] == [2048, 4096, 8192, 16384, 32768, 65536, 131072]


def test_statistics_of_heads_layers_and_model() -> None:
    state = made_state()
    found = StateStatistics([10])
    found.look(10, state)
    layers = [tensor.double().numpy() for _, tensor in state.named_tensors("recurrent")]
    for name in STATISTICS:
        heads = found.means("heads", name)[0]
        assert heads.shape == (2, 4)
        assert np.isnan(heads[0, 2:]).all()
        for layer, values in enumerate(layers):
            for head in range(values.shape[1]):
                expected = by_numpy(values[:, head].reshape(3, -1))[name]
                assert heads[layer, head] == pytest.approx(expected, rel=1e-12)
            by_layer = by_numpy(values.reshape(3, -1))[name]
            assert found.means("layers", name)[0, layer, 0] == pytest.approx(by_layer, rel=1e-12)
        whole = by_numpy(np.concatenate([values.reshape(3, -1) for values in layers], axis=1))[name]
        assert found.means("whole", name)[0, 0, 0] == pytest.approx(whole, rel=1e-12)


def test_batches_add_up_and_records_carry_them() -> None:
    state = made_state(rows=5)
    together, first, second = StateStatistics([4, 9]), StateStatistics([4, 9]), StateStatistics([4, 9])
    for position in (4, 7, 9):
        together.look(position, state)
        first.look(position, state.rows(torch.arange(2)))
        second.look(position, state.rows(torch.tensor([2, 3, 4, 0, 1])), num_rows=3)
    first.add_record(second.to_record())
    assert first.num_sequences == together.num_sequences == 5
    for level in ("heads", "layers", "whole"):
        np.testing.assert_allclose(first.means(level, "std"), together.means(level, "std"), rtol=1e-12)


def test_a_state_without_heads_is_one_head() -> None:
    @dataclass(frozen=True)
    class FlatState(MixerState):
        vector: Tensor = tensor_field("recurrent")

    found = StateStatistics([1])
    found.look(1, State((FlatState(vector=torch.tensor([[1.0, 3.0], [5.0, 5.0]])),)))
    assert found.means("heads", "std").tolist() == [[[0.5]]]
    assert found.means("heads", "norm")[0, 0, 0] == pytest.approx((math.sqrt(10) + math.sqrt(50)) / 2)


def test_taken_from_the_stream_at_the_right_positions() -> None:
    model, tokens = tiny_model(), random_tokens(2, 41)
    positions = state_positions(40, 8)
    found = StateStatistics(positions)
    with evaluating(model):
        for piece in stream(model, tokens, chunk=16, cuts=positions):
            found.look(piece.end, piece.state)
    for index, position in enumerate(positions):
        with torch.no_grad():
            state = model(torch.from_numpy(tokens[:, :position])).state
        ssm = state.named_tensors("recurrent")[1][1].double()
        expected = ssm.flatten(2).std(dim=2, correction=0).mean(dim=0)
        np.testing.assert_allclose(found.means("heads", "std")[index, 1], expected, rtol=1e-5)


def test_drift_is_the_largest_change_of_the_log_beyond_the_context() -> None:
    positions = [2, 4, 8, 16]
    std = np.full((4, 1, 4), 2.0)
    std[:, 0, 0] = [9.0, 2.0, 3.0, 2.5]  # grows by half, then comes back; what precedes the context is ignored
    std[:, 0, 1] = [2.0, 2.0, 1.0, 0.5]  # shrinks to a quarter
    std[:, 0, 3] = np.nan  # no such head
    first, second, third = rank_drift(positions, std, 4)
    assert (first.head, second.head, third.head) == (1, 0, 2)
    assert first.score == pytest.approx(math.log(4))
    assert first.ratio == pytest.approx(0.25)
    assert second.score == pytest.approx(math.log(1.5))
    assert second.ratio == pytest.approx(1.5)
    assert third.score == 0.0


def test_a_constant_state_has_no_drift_score_and_comes_last() -> None:
    std = np.array([[[0.0, 1.0]], [[1.0, 1.0]]])
    ranked = rank_drift([4, 8], std, 4)
    assert [(found.head, found.score, found.ratio) for found in ranked] == [(1, 0.0, 1.0), (0, None, None)]


def test_a_state_that_overflows_is_reported() -> None:
    state = made_state()
    state.layers[1].matrix[0, 0, 0, 0] = math.inf
    with pytest.raises(RunFailure, match="NaN or infinity in layer 1 after 10 tokens; in state statistics"):
        StateStatistics([10]).look(10, state)
