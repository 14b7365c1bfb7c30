from typing import Any

import pytest
from tests.train.tiny import MODEL, tiny_config

from lengthwise.errors import InputError
from lengthwise.interventions import InterventionConfig
from lengthwise.train import TrainConfig


@pytest.mark.parametrize("kind", ["zero", "random-noise", "fitted-noise", "state-passing", "tbtt"])
def test_a_config_survives_the_way_through_json(kind: str) -> None:
    import json

    config = tiny_config(kind, betas=(0.8, 0.9), dtype="bfloat16")
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_and_missing_settings_are_named() -> None:
    plain = tiny_config().to_dict()
    with pytest.raises(InputError, match=r"got 'peak_lrr'.*did you mean 'peak_lr'"):
        TrainConfig.from_dict({**plain, "peak_lrr": 1.0})
    del plain["steps"]
    with pytest.raises(InputError, match="got no steps"):
        TrainConfig.from_dict(plain)


def test_exactly_one_origin_of_the_weights() -> None:
    with pytest.raises(InputError, match=r"either a model config.*got neither"):
        tiny_config(model=None)
    with pytest.raises(InputError, match="got both"):
        tiny_config(init_from="somewhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"steps: a whole number of at least 1; got 0"),
        ({"batch_size": 0}, r"batch_size: a whole number of at least 1; got 0"),
        ({"context_length": 0}, r"context_length: a whole number of at least 1; got 0"),
        ({"context_length": None}, r"context_length: a number of tokens for a model trained from scratch; got None"),
        ({"grad_accum": 3}, r"grad_accum: a divisor of batch_size \(8\); got 3"),
        ({"peak_lr": 0.0}, r"peak_lr: a positive finite number; got 0.0"),
        ({"peak_lr": float("nan")}, r"peak_lr: a positive finite number; got nan"),
        ({"grad_clip": -1.0}, r"grad_clip: a positive finite number"),
        ({"min_lr": 0.1}, r"min_lr: a floor not above peak_lr \(0.003\); got 0.1"),
        ({"weight_decay": -0.1}, r"weight_decay: a finite number of at least 0"),
        ({"warmup_frac": 1.5}, r"warmup_frac: a share in \[0, 1\]; got 1.5"),
        ({"betas": (0.9, 1.0)}, r"betas: two numbers in \[0, 1\)"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_config(**changes)


def test_misspelt_choices_name_their_neighbours(unchecked: None) -> None:
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        tiny_config(dtype="bf16loat")
    with pytest.raises(InputError, match="did you mean 'lanes'"):
        tiny_config(reader="lane")


def test_tbtt_reads_lanes_and_others_windows_unless_told() -> None:
    assert tiny_config("tbtt").uses_lanes
    assert not tiny_config("state-passing").uses_lanes
    assert tiny_config("zero", reader="lanes").uses_lanes
    with pytest.raises(InputError, match=r"lanes \(or auto\) for tbtt"):
        tiny_config("tbtt", reader="windows")


def test_defaults_are_those_of_the_paper() -> None:
    config = TrainConfig(model=MODEL, context_length=16, batch_size=8, steps=8, peak_lr=1e-3)
    assert (config.betas, config.weight_decay, config.grad_clip) == ((0.9, 0.95), 0.01, 1.0)
    assert (config.min_lr, config.warmup_frac) == (1e-5, 0.1)
    assert config.intervention == InterventionConfig(kind="zero")
