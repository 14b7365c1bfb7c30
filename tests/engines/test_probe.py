"""Yardstick and quick part: what rounding explains, and whether a cache is right."""

from __future__ import annotations

import math

import pytest
import torch
from tests.engines.models import fresh, small, tokens
from tests.models.families import small_model

from lengthwise.engines import probe
from lengthwise.engines.hf import HFModel
from lengthwise.engines.opening import quiet


def yardstick(tolerance: float = 0.1, spread: float = 2.0) -> probe.Yardstick:
    return probe.Yardstick(spread=spread, rounding=0.0, tolerance=tolerance, how="by hand")


def test_the_spread_is_that_of_what_softmax_sees() -> None:
    logits = torch.tensor([[[1.0, 3.0], [101.0, 103.0]]])
    assert probe.spread_of(logits) == pytest.approx(1.0)


def test_a_comparison_names_the_first_place_beyond_the_tolerance() -> None:
    expected, actual = torch.zeros(2, 5, 3), torch.zeros(2, 5, 3)
    actual[1, 1, 0], actual[0, 3, 2] = 0.1, -1.0
    found = probe.compare(actual, expected, yardstick(), offset=10)
    assert (found.difference, found.error, found.first, found.passes) == (1.0, 0.5, 13, False)
    assert probe.compare(expected, expected, yardstick()) == probe.Comparison(0.0, 0.0, None, True)


def test_nan_is_the_largest_difference() -> None:
    actual = torch.zeros(1, 2, 2)
    actual[0, 1, 1] = math.nan
    found = probe.compare(actual, torch.zeros(1, 2, 2), yardstick())
    assert found.difference == math.inf
    assert found.first == 1


@pytest.mark.parametrize("exact", [True, False])
def test_rounding_is_small_and_not_zero(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exact:
        monkeypatch.setattr(probe, "EXACT_PARAMETERS", 0)
    with torch.no_grad():
        found = probe.take_yardstick(small("jamba"), tokens(3, 20))
    assert 0 < found.rounding < 1e-3
    assert found.tolerance == max(1e-5 if exact else 1e-4, 16 * found.rounding)
    assert ("float64" in found.how) == exact


def test_lower_precision_has_a_wider_yardstick() -> None:
    model = HFModel(fresh("llama").to(torch.bfloat16))
    with torch.no_grad():
        found = probe.take_yardstick(model, tokens(3, 20))
    assert 1e-3 < found.rounding < 0.1
    assert found.tolerance >= 1e-2


def test_probe_tokens_avoid_special_ones() -> None:
    model = small("llama")
    ids = probe.probe_tokens(model, 8, 200, seed=0)
    special = {model.config.bos_token_id, model.config.eos_token_id}
    assert not special & set(ids.unique().tolist())
    assert torch.equal(ids, probe.probe_tokens(model, 8, 200, seed=0))
    assert not torch.equal(ids, probe.probe_tokens(model, 8, 200, seed=1))


@pytest.mark.parametrize(
    ("model_type", "right"),
    [
        ("llama", True),
        ("mamba2", True),
        ("bamba", True),
        ("mamba", False),
        ("recurrent_gemma", False),
        ("zamba2", False),
    ],
)
def test_the_quick_part_tells_right_from_wrong(model_type: str, right: bool) -> None:
    with quiet():
        found = probe.carries(small(model_type))
    assert found.right == right
    assert (found.error <= found.tolerance) == right
    assert ("agree" if right else "changes logits by") in found.why


def test_our_models_pass_and_keep_their_mode() -> None:
    model = small_model("mamba2", dtype=torch.float32).train()
    assert probe.carries(model).right
    assert model.training


def test_an_exception_counts_as_a_state_that_is_not_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    with quiet():
        found = probe.carries(small("rwkv"))
    assert not found.right
    assert "logits of shape" in found.why
    assert found.error is None


def test_uneven_pieces_have_one_token_and_add_up() -> None:
    for length in (24, 63, 64, 1000):
        pieces = probe.several(length)
        assert sum(pieces) == length
        assert 1 in pieces
        assert min(pieces) >= 1
