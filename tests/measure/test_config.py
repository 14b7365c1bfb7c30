"""Settings of a measurement: defaults that depend on the model, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lengthwise.errors import InputError
from lengthwise.measure import MeasureConfig


def test_lengths_follow_the_context() -> None:
    found = MeasureConfig(model="m").resolved(64)
    assert (found.context_length, found.length, found.remembrance_length) == (64, 4096, 4096)
    found = MeasureConfig(model="m").resolved(2048)
    assert (found.length, found.remembrance_length) == (131072, 8192)
    assert MeasureConfig(model="m", context_length=32).resolved(64).context_length == 32


def test_round_trip() -> None:
    config = MeasureConfig(model="m", metrics=("states",), length=500, restart_stride=3)
    assert MeasureConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"length": 0}, "a whole number of at least 1; got 0; in MeasureConfig.length"),
        ({"batch_size": 0}, "got 0; in MeasureConfig.batch_size"),
        (
            {"num_sequences": 2.5},
            "expected num_sequences: a whole number or None; got 2.5; in MeasureConfig",
        ),
        ({"tolerance": -0.1}, "a finite number of at least 0; got -0.1; in MeasureConfig.tolerance"),
        ({"metrics": ()}, "at least one of perplexity, restart, remembrance, states; got ()"),
        ({"metrics": ("perplexty",)}, "got 'perplexty'; in MeasureConfig; did you mean 'perplexity'?"),
    ],
)
def test_refused_values(unchecked: None, options: Any, text: str) -> None:
    with pytest.raises(InputError) as raised:
        MeasureConfig(model="m", **options)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("options", "context", "text"),
    [
        ({"length": 64}, 64, "a length above the training context 64; got 64"),
        ({}, None, "give --context-length"),
        ({"length": 100, "remembrance_length": 101}, 64, "within the length 100; got 101"),
        ({"restart_stride": 65}, 64, "at most the training context 64; got 65"),
    ],
)
def test_refused_lengths(options: Any, context: int | None, text: str) -> None:
    with pytest.raises(InputError) as raised:
        MeasureConfig(model="m", **options).resolved(context)
    assert text in str(raised.value)


def test_unknown_key() -> None:
    with pytest.raises(InputError, match="did you mean 'num_sequences'"):
        MeasureConfig.from_dict({"model": "m", "num_sequence": 3})
