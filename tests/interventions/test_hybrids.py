"""States of several kinds: what is passed on, what is dropped, and what must not be zero."""

from dataclasses import dataclass

import pytest
import torch
from tests.interventions.toy import batch_of

from lengthwise.errors import InputError
from lengthwise.interventions import (
    TBTT,
    FittedNoise,
    InterventionConfig,
    RandomNoise,
    StatePassing,
    build_intervention,
)
from lengthwise.models.config import AttentionConfig, ModelConfig
from lengthwise.state import MixerState, State, tensor_field


@dataclass(frozen=True)
class LRUState(MixerState):
    """A vector and the position at which the recurrence stands."""

    lru: torch.Tensor = tensor_field("recurrent")
    position: torch.Tensor = tensor_field("position")


@dataclass(frozen=True)
class KVState(MixerState):
    """Keys of past tokens."""

    keys: torch.Tensor = tensor_field("attention")
    position: torch.Tensor = tensor_field("position")


@dataclass(frozen=True)
class Shift(MixerState):
    """What an MLP carries."""

    shift: torch.Tensor = tensor_field("short")


def zero_state(batch: int) -> State:
    position = torch.zeros(batch, dtype=torch.int64)
    layers = (LRUState(torch.zeros(batch, 6), position), KVState(torch.zeros(batch, 0, 2, 3), position))
    return State(layers, (Shift(torch.zeros(batch, 4)), None))


def final_state(batch: int, slots: int = 5) -> State:
    position = torch.full((batch,), 9)
    layers = (LRUState(torch.randn(batch, 6), position), KVState(torch.randn(batch, slots, 2, 3), position))
    return State(layers, (Shift(torch.randn(batch, 4)), None))


@pytest.mark.parametrize("carry_short", [False, True])
def test_state_passing_keeps_positions_and_drops_keys(carry_short: bool) -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.0, carry_short=carry_short)
    given = final_state(3)
    passing.initial_state(0, batch_of(3))
    passing.observe(given)
    passed = passing.initial_state(1, batch_of(3))
    assert passed is not None
    (lru, keys), (shift, nothing) = passed.layers, passed.channels
    assert torch.equal(lru.lru, given.layers[0].lru)
    assert lru.position.tolist() == [9, 9, 9]
    assert keys.keys.shape == (3, 0, 2, 3)
    assert keys.position.tolist() == [0, 0, 0], "without its keys an attention layer counts anew"
    assert bool(shift.shift.any()) == carry_short
    assert nothing is None


def test_tbtt_carries_everything() -> None:
    tbtt = TBTT(zero_state, seed=0)
    given = final_state(2)
    tbtt.initial_state(0, batch_of(2))
    tbtt.observe(given)
    passed = tbtt.initial_state(1, batch_of(2, reset=[False, True]))
    assert passed is not None
    for (name, ours), (_, theirs) in zip(passed.named_tensors(), given.named_tensors(), strict=True):
        assert torch.equal(ours[0], theirs[0]), name
        assert not ours[1].any(), f"{name} of a row that was reset"


def test_what_tbtt_carries_survives_a_resume() -> None:
    first, second = TBTT(zero_state, seed=0), TBTT(zero_state, seed=0)
    first.initial_state(0, batch_of(2))
    first.observe(final_state(2))
    second.load_state_dict(first.state_dict())
    expected, actual = (one.initial_state(1, batch_of(2, reset=[False, False])) for one in (first, second))
    for (name, ours), (_, theirs) in zip(actual.named_tensors(), expected.named_tensors(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("noise", [RandomNoise, FittedNoise])
def test_noise_stands_behind_position_zero(noise: type) -> None:
    options = {"sigma": 0.5} if noise is RandomNoise else {}
    made = noise(zero_state, seed=0, **options)
    made.initial_state(0, batch_of(4))
    made.observe(final_state(4))
    drawn = made.initial_state(1, batch_of(4))
    assert drawn.layers[0].lru.any()
    assert drawn.layers[0].position.tolist() == [1, 1, 1, 1]
    assert drawn.layers[1].keys.shape[1] == 0
    assert not drawn.channels[0].shift.any()


class _Transformer:
    config = ModelConfig(d_model=8, num_layers=2, vocab_size=5, mixer=AttentionConfig(num_heads=2))
    init_state = staticmethod(zero_state)


@pytest.mark.parametrize("kind", ["random-noise", "fitted-noise", "state-passing", "tbtt"])
def test_a_transformer_has_nothing_to_pass(kind: str, unchecked: None) -> None:
    with pytest.raises(InputError, match=r"with a recurrent state; got a Transformer \(2 layers of attention\)"):
        build_intervention(InterventionConfig(kind=kind), _Transformer(), 0)
    build_intervention(InterventionConfig(kind="zero"), _Transformer(), 0)
