"""Effective Remembrance: the one-pass surface against one forward per start, and distances by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.measure.models import CountingModel, random_tokens, tiny_model

from lengthwise.errors import InputError
from lengthwise.measure import remembrance
from lengthwise.measure.remembrance import (
    DISTANCES,
    area_under_curve,
    distances,
    remembrance_ends,
    remembrance_starts,
    remembrance_surface,
)
from lengthwise.models.lm import LanguageModel


def direct(model: LanguageModel, row: np.ndarray, starts: Sequence[int], ends: Sequence[int]) -> dict[str, np.ndarray]:
    """The definition as it stands: one forward pass per start, all logits, distances one pair at a time."""
    found = {name: np.full((len(starts), len(ends)), np.nan) for name in DISTANCES}

    def chances(start: int) -> np.ndarray:
        with torch.no_grad():
            return torch.softmax(model(torch.from_numpy(row[None, start:])).logits[0].double(), dim=-1).numpy()

    whole = chances(0)
    for i, start in enumerate(starts):
        part = chances(start)
        for j, end in enumerate(ends):
            if start > end:
                continue
            p, q = whole[end], part[end - start]
            middle = (p + q) / 2
            with np.errstate(divide="ignore", invalid="ignore"):
                bits = [np.where(x > 0, x * np.log2(x / middle), 0.0).sum() for x in (p, q)]
            found["tv"][i, j] = np.abs(p - q).sum() / 2
            found["js"][i, j] = math.sqrt(max(sum(bits) / 2, 0.0))
            found["cosine"][i, j] = 1 - p @ q / np.linalg.norm(p) / np.linalg.norm(q)
    return found


@pytest.mark.parametrize("alone", [0, 1, 8, 128])
@pytest.mark.parametrize("tokens_per_forward", [1, 7, 64, 100000])
def test_surface_equals_one_forward_per_start(
    tokens_per_forward: int, alone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rows enter among the others, or are read by themselves up to the next end; or some do this and some that.
    monkeypatch.setattr(remembrance, "ALONE", alone)
    # The padded vocabulary has 16 columns of which 5 are masked.
    model, tokens = tiny_model(), random_tokens(2, 47)
    starts, ends = [0, 1, 5, 20, 33, 44, 46], [2, 5, 19, 20, 46]
    surface = remembrance_surface(model, tokens, starts, ends, tokens_per_forward=tokens_per_forward)
    for row in range(2):
        expected = direct(model, tokens[row], starts, ends)
        for name in DISTANCES:
            np.testing.assert_allclose(surface[name][row], expected[name], atol=1e-5)
            assert np.nanmax(expected[name][1:]) > 0.05  # the comparison is not one of zeros


def test_start_zero_is_exactly_zero() -> None:
    surface = remembrance_surface(tiny_model(), random_tokens(3, 30), [0, 10], [9, 29])
    for name in DISTANCES:
        assert (surface[name][:, 0] == 0.0).all()
        assert np.isnan(surface[name][:, 1, 0]).all()


def test_full_context_is_the_yardstick_also_where_it_is_not_asked_for() -> None:
    model, tokens = tiny_model(), random_tokens(1, 30)
    asked = remembrance_surface(model, tokens, [7, 12], [29])
    whole = remembrance_surface(model, tokens, [0, 7, 12], [29])
    for name in DISTANCES:
        assert asked[name].shape == (1, 2, 1)
        np.testing.assert_allclose(asked[name], whole[name][:, 1:], atol=1e-6)


def test_forward_passes_do_not_grow_with_the_length() -> None:
    model = CountingModel(lambda count: 1.0)
    told: list[int] = []
    remembrance_surface(
        model,
        random_tokens(1, 5000, vocab_size=5),
        [0, 10, 4000],
        [4999],
        tokens_per_forward=60,
        advance=told.append,
    )
    assert model.largest_forward <= 60
    assert sum(told) == 5000 + 4990 + 1000


def test_distances_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64), torch.tensor([[[0.5, 0.0, 0.5]]], dtype=torch.float64)
    found = distances(p, q)
    assert found["tv"].item() == pytest.approx(0.5)
    assert found["js"].item() == pytest.approx(math.sqrt(0.5))
    assert found["cosine"].item() == pytest.approx(0.5)


def test_distances_of_the_extremes() -> None:
    p = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    apart, same = distances(p, torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)), distances(p, p[None])
    for name in DISTANCES:
        assert apart[name].item() == pytest.approx(1.0)
        assert same[name].item() == 0.0


@pytest.mark.parametrize(("end", "context"), [(8192, 2048), (4096, 64), (100, 64), (5, 2), (1, 4)])
def test_grids_hold_what_the_summary_needs(end: int, context: int) -> None:
    starts, ends = remembrance_starts(end, context), remembrance_ends(end, context)
    assert starts == sorted(set(starts))
    assert ends == sorted(set(ends))
    assert {0, max(end - context, 0), end} <= set(starts)
    assert ends[-1] == end
    if end >= 1000:
        assert len(starts) == 32
        assert len(ends) == 16
        assert end - starts[-4] < 20  # dense near the end


def test_area_is_the_mean_height() -> None:
    assert area_under_curve([0, 5, 10], np.array([0.0, 0.5, 1.0]), 10) == pytest.approx(0.5)
    assert area_under_curve([0, 10], np.array([0.2, np.nan]), 10) is None


@pytest.mark.parametrize(
    ("starts", "ends", "text"),
    [
        ([], [5], "expected increasing positions from 0 to 9; got []; in starts of Effective Remembrance"),
        ([0, 3, 3], [5], "got [0, 3, 3]; in starts"),
        ([0], [10], "got [10]; in ends"),
        ([-1], [5], "got [-1]; in starts"),
    ],
)
def test_refused_grids(starts: list[int], ends: list[int], text: str) -> None:
    with pytest.raises(InputError) as raised:
        remembrance_surface(tiny_model(), random_tokens(1, 10), starts, ends)
    assert text in str(raised.value)


def test_refused_sizes() -> None:
    with pytest.raises(InputError, match="an end of at least 1; got 0"):
        remembrance_starts(0, 64)
    with pytest.raises(InputError, match="at least 4 starts; got 2"):
        remembrance_starts(100, 64, number=2)
    with pytest.raises(InputError, match="at least 1 end; got 0"):
        remembrance_ends(100, 64, number=0)
