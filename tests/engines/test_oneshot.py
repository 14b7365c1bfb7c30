"""Reading without a cache: right for models whose cache is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.engines.models import small, tokens
from tests.helpers import assert_close

from lengthwise.engines import OneShot
from lengthwise.measure.restart import restart_sums
from lengthwise.measure.stream import SequenceModel, full_history_sums, stream

ROUNDING = 1e-5
BROKEN = ("mamba", "recurrent_gemma")


@pytest.mark.parametrize("model_type", BROKEN)
@torch.no_grad()
def test_any_pieces_give_the_whole(model_type: str) -> None:
    model, text = OneShot(small(model_type)), tokens(2, 30)
    assert isinstance(model, SequenceModel)
    whole = model.inner(text).logits
    state, outputs = None, []
    for first, last in ((0, 11), (11, 12), (12, 30)):
        output = model(text[:, first:last], state)
        outputs.append(output.logits)
        state = output.state
    assert_close("logits", torch.cat(outputs, dim=1), whole, ROUNDING)
    assert_close("last", model(text[:, 12:], model(text[:, :12]).state, logits="last").logits, whole[:, -1:], ROUNDING)
    assert state.batch_size == 2


@pytest.mark.parametrize("model_type", BROKEN)
def test_streams_and_restarts_give_the_losses_of_one_pass(model_type: str) -> None:
    model, text = OneShot(small(model_type)), tokens(2, 33)
    expected = model.inner.nll(text)[0].detach()
    found = torch.cat([piece.nll for piece in stream(model, text.numpy(), chunk=7)], dim=1)
    assert_close("streamed", found, expected, ROUNDING)
    edges = np.array([0, 8, 32])
    sums = full_history_sums(model, text.numpy(), edges, chunk=32)
    np.testing.assert_allclose(sums[:, 1], expected[:, 8:].sum(dim=1), rtol=1e-4)
    restarted = restart_sums(model, text.numpy(), np.array([8, 32]), 8, stride=4, chunk=32, batch_size=1)
    by_hand = torch.zeros(2)
    for scored in range(8, 32, 4):
        window = text[:, scored + 4 - 8 : scored + 5]
        by_hand += model.inner.nll(window)[0][:, 4:].sum(dim=1).detach()
    np.testing.assert_allclose(restarted[:, 0], by_hand, rtol=1e-4)


def test_reading_past_costs_nothing_until_something_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = OneShot(small("mamba"))
    with monkeypatch.context() as patch:
        patch.setattr(model.inner, "_forward", None)
        state = model(tokens(1, 9), logits="none").state
    assert state.tokens.shape == (1, 9)
