"""Settings read from a file: one that is unknown, and one that is missing, are told in four parts by every config."""

from typing import Any

import pytest

from lengthwise.check.config import CheckConfig
from lengthwise.errors import InputError
from lengthwise.evaluate.config import EvalConfig
from lengthwise.extend import ExtendConfig
from lengthwise.interventions.config import InterventionConfig
from lengthwise.measure.config import MeasureConfig
from lengthwise.train.config import TrainConfig

CONFIGS: list[tuple[Any, str, str]] = [
    (MeasureConfig, "measurement", "model"),
    (EvalConfig, "evaluation", "model"),
    (CheckConfig, "check", "model"),
    (ExtendConfig, "extension", "model"),
    (TrainConfig, "training run", "batch_size, steps, peak_lr"),
]


@pytest.mark.parametrize(("config", "what", "needed"), CONFIGS)
def test_a_missing_setting(config: Any, what: str, needed: str) -> None:
    with pytest.raises(InputError) as raised:
        config.from_dict({"seed": 1})
    error = raised.value
    assert (error.expected, error.got) == ("every setting without a default", f"no {needed}")
    assert (error.where, error.fix) == (config.__name__, f"add {needed}")


@pytest.mark.parametrize(("config", "what", "needed"), [*CONFIGS, (InterventionConfig, "intervention", "")])
def test_an_unknown_setting(config: Any, what: str, needed: str) -> None:
    known = "kind" if config is InterventionConfig else "seed"
    with pytest.raises(InputError) as raised:
        config.from_dict({f"{known}s": 1})
    error = raised.value
    assert error.expected.startswith("a known ")
    assert error.expected.endswith(f" of a{'n' if what[0] in 'aeiou' else ''} {what}")
    assert (error.got, error.where) == (f"'{known}s'", config.__name__)
    assert error.fix.startswith(f"did you mean '{known}'")
