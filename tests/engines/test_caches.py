"""Caches as values: copied, walked, changed by kind."""

from __future__ import annotations

import pytest
import torch
from tests.engines.models import small, tokens
from torch import nn

from lengthwise.engines import caches


class Shared:
    """Looks like an object of a cache library."""


Shared.__module__ = "transformers.cache_utils"


def test_a_copy_shares_no_tensor_and_keeps_the_structure() -> None:
    inner = Shared()
    inner.keys, inner.size = torch.ones(2), 3
    cache = Shared()
    cache.layers, cache.again, cache.pair = [inner, {"a": torch.zeros(1)}], inner, (torch.ones(1), None)
    copy = caches.copied(cache)
    assert type(copy) is Shared
    assert copy.layers[0] is copy.again
    assert copy.layers[0] is not inner
    assert copy.layers[0].size == 3
    assert copy.pair[1] is None
    for (path, mine), (same, theirs) in zip(caches.tensors(copy), caches.tensors(cache), strict=True):
        assert path == same
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
    copy.layers[0].keys.zero_()
    assert inner.keys.sum() == 2


def test_a_tensor_at_two_places_stays_one() -> None:
    tensor = torch.ones(3)
    first, second = caches.copied([tensor, tensor])
    assert first is second


def test_named_tuples_and_cycles_survive() -> None:
    from collections import namedtuple

    cache = Shared()
    cache.pair = namedtuple("Pair", "key value")(torch.ones(1), torch.zeros(1))
    cache.self = cache
    copy = caches.copied(cache)
    assert copy.self is copy
    assert copy.pair.value.item() == 0


def test_gradients_go_through_a_copy() -> None:
    leaf = torch.ones(2, requires_grad=True)
    (caches.copied([leaf * 2])[0] * 3).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [6, 6]
    assert not caches.detached([leaf * 2])[0].requires_grad


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (("layers", "0", "keys"), "attention"),
        (("layers", "3", "conv_states", "0"), "short"),
        (("layers", "3", "recurrent_states", "0"), "recurrent"),
        (("rnn_state", "1", "0"), "recurrent"),
        (("ssm_states", "0"), "recurrent"),
        (("0",), "short"),
        (("3",), "recurrent"),
        (("2", "1"), "attention"),
    ],
)
def test_kinds_are_told_by_names(path: tuple[str, ...], kind: str) -> None:
    assert caches.kind_of(path, torch.zeros(1)) == kind


def test_integers_are_positions() -> None:
    assert caches.kind_of(("layers", "0", "keys"), torch.zeros(1, dtype=torch.int64)) == "position"


@pytest.mark.parametrize(
    ("model_type", "kinds"),
    [
        ("llama", {"attention"}),
        ("mamba2", {"recurrent", "short"}),
        ("jamba", {"recurrent", "short", "attention"}),
        ("recurrent_gemma", {"recurrent", "short", "attention"}),
        ("rwkv", {"recurrent", "short"}),
        ("lfm2", {"short", "attention"}),
    ],
)
def test_kinds_of_real_caches(model_type: str, kinds: set[str]) -> None:
    with torch.no_grad():
        state = small(model_type)(tokens(1, 5)).state
    assert {kind for kind in ("recurrent", "short", "attention") if state.named_tensors(kind)} == kinds


def test_held_finds_what_a_forward_pass_leaves_behind() -> None:
    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.state: torch.Tensor | None = None
            self.constant = torch.ones(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.state = x + (0 if self.state is None else self.state)
            return self.linear(self.state)

    model = nn.Sequential(Keeper())
    held = caches.Held(model)
    assert held.names == []
    model(torch.ones(2))
    held.learn()
    assert held.names == ["0.state"]
    kept = held.take()
    model(torch.ones(2))
    held.put(kept)
    assert held.take()["0.state"].tolist() == [1, 1]
    assert held.take()["0.state"] is not kept["0.state"]
    held.put(None)
    assert held.take() == {}
