"""Values of the wrong type, or without a meaning, in recipes and stored configs: refused, in four parts, everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from lengthwise.errors import InputError
from lengthwise.interventions.config import InterventionConfig
from lengthwise.layers.configs import (
    AttentionConfig,
    GatedMLPConfig,
    GLAConfig,
    Mamba1Config,
    Mamba2Config,
    RGLRUConfig,
    mixer_from_dict,
)
from lengthwise.models.config import ModelConfig
from lengthwise.settings import check_types
from lengthwise.train.config import TrainConfig

pytestmark = pytest.mark.usefixtures("unchecked")


@dataclass(frozen=True)
class Inner:
    kind: ClassVar[str] = "inner"


@dataclass(frozen=True, kw_only=True)
class Outer:
    whole: int = 1
    number: float = 1.0
    flag: bool = False
    text: str = "a"
    perhaps: float | None = None
    word: Literal["one", "two"] = "one"
    pair: tuple[float, float] = (0.0, 1.0)
    words: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)
    inners: tuple[tuple[int, Inner], ...] = ()
    mapping: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("whole", 1.5, "a whole number"),
        ("whole", 1.0, "a whole number"),
        ("whole", True, "a whole number"),
        ("whole", None, "a whole number"),
        ("number", "1e-3", "a number"),
        ("number", True, "a number"),
        ("number", None, "a number"),
        ("number", 10**400, "a number"),
        ("flag", "no", "true or false"),
        ("flag", 0, "true or false"),
        ("flag", None, "true or false"),
        ("text", 5, "a text that is not empty"),
        ("text", "", "a text that is not empty"),
        ("perhaps", "x", "a number or None"),
        ("word", 1, "one of one, two"),
        ("word", None, "one of one, two"),
        ("word", [], "one of one, two"),
        ("pair", (0.1,), "a list of 2 (a number, a number)"),
        ("pair", (0.1, "x"), "a list of 2 (a number, a number)"),
        ("pair", 0.1, "a list of 2 (a number, a number)"),
        ("pair", "ab", "a list of 2 (a number, a number)"),
        ("words", "ab", "a list (each: a text that is not empty)"),
        ("words", ("a", 1), "a list (each: a text that is not empty)"),
        ("inner", {}, "a record of Inner"),
        ("inners", [[0, {}]], "a list (each: a list of 2 (a whole number, a record of Inner))"),
        ("mapping", [], "a Mapping"),
    ],
)
def test_a_value_of_another_type(name: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError) as raised:
        Outer(**{name: value})
    error = raised.value
    assert (error.expected, error.where) == (f"{name}: {expected}", "Outer")
    assert error.fix == f"change {name}"
    assert error.got == (repr(value) if value != 10**400 else "1" + 199 * "0" + "...")


def test_what_fits_is_kept_and_lists_become_tuples() -> None:
    values = {"number": 3, "perhaps": 2, "pair": [0, math.inf], "words": ["a"], "inners": [[0, Inner()]]}
    outer = Outer(**values)  # type: ignore[arg-type]
    assert (outer.number, outer.perhaps, outer.pair, outer.words) == (3, 2, (0, math.inf), ("a",))
    assert outer.inners == ((0, Inner()),)
    assert hash((outer.pair, outer.words, outer.inners))
    assert math.isnan(Outer(number=math.nan).number)  # a range may refuse it


def test_the_way_out_is_named() -> None:
    with pytest.raises(InputError) as raised:
        Outer(word="onne")  # type: ignore[arg-type]
    assert raised.value.fix == "did you mean 'one'?"
    with pytest.raises(InputError) as raised:
        Outer(inner="inner")  # type: ignore[arg-type]
    assert raised.value.fix == 'write {"kind": "inner"} for inner'


MODEL: dict[str, Any] = {"d_model": 32, "num_layers": 1, "vocab_size": 256, "mixer": {"d_state": 8, "headdim": 16}}
RUN: dict[str, Any] = {"model": MODEL, "context_length": 16, "batch_size": 2, "steps": 2, "peak_lr": 1e-3}
NUMBERS = ("peak_lr", "min_lr", "warmup_frac", "weight_decay", "grad_clip", "seed")


@pytest.mark.parametrize("value", ["1e-3", None, True, [], {}])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_a_training_run(name: str, value: Any) -> None:
    with pytest.raises(InputError) as raised:
        TrainConfig.from_dict({**RUN, name: value})
    error = raised.value
    assert error.expected == f"{name}: {'a whole number' if name == 'seed' else 'a number'}"
    assert (error.got, error.where, error.fix) == (repr(value), "TrainConfig", f"change {name}")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"betas": None}, "betas: a list of 2"),
        ({"betas": "0.9"}, "betas: a list of 2"),
        ({"betas": [0.9]}, "betas: a list of 2"),
        ({"betas": [0.9, None]}, "betas: a list of 2"),
        ({"seed": 1.5}, "seed: a whole number"),
        ({"batch_size": 2.0}, "batch_size: a whole number"),
        ({"model": 5}, "model: a record of ModelConfig or None"),
        ({"intervention": "state-passing"}, "intervention: a record of InterventionConfig"),
        ({"intervention": None}, "intervention: a record of InterventionConfig"),
        ({"intervention": {"kind": "state-passing", "zero_prob": "x"}}, "zero_prob: a number or None"),
        ({"intervention": {"kind": "state-passing", "permute": "no"}}, "permute: true or false or None"),
        ({"intervention": {"kind": ["tbtt"]}}, "an intervention, one of"),
        ({"data": 5}, "data: a text that is not empty or None"),
        ({"data": ""}, "data: a text that is not empty or None"),
        ({"tokenizer": 5}, "tokenizer: a text that is not empty or None"),
        ({"tasks": "passkey"}, "tasks: a list (each: a text that is not empty)"),
        ({"tasks": 5}, "tasks: a list (each: a text that is not empty)"),
        ({"vary_length": "no"}, "vary_length: true or false"),
        ({"device": 0}, "device: a text that is not empty"),
        ({"dtype": ["float32"]}, "dtype: one of float32, bfloat16"),
        ({"loss_on": "answer"}, "loss_on: one of answers, all or None"),
    ],
)
def test_other_settings_of_a_training_run(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as raised:
        TrainConfig.from_dict({**RUN, **changes})
    assert raised.value.expected.startswith(expected)


def test_a_kind_of_intervention_in_place_of_its_record() -> None:
    with pytest.raises(InputError) as raised:
        TrainConfig.from_dict({**RUN, "intervention": "state-passing"})
    assert raised.value.got == "'state-passing'"
    assert raised.value.fix == 'write {"kind": "state-passing"} for intervention'


def test_whole_numbers_are_numbers() -> None:
    config = TrainConfig.from_dict({**RUN, "peak_lr": 1, "weight_decay": 0, "betas": [0, 0.5]})
    assert (config.peak_lr, config.weight_decay, config.betas) == (1, 0, (0, 0.5))
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert InterventionConfig(kind="state-passing", zero_prob=0).zero_prob == 0


@pytest.mark.parametrize(
    ("values", "expected", "got"),
    [
        ({}, "every setting without a default", "no d_model, num_layers, vocab_size"),
        ({**MODEL, "d_model": "32"}, "d_model: a whole number", "'32'"),
        ({**MODEL, "mixer": "mamba2"}, "mixer: a record of", "'mamba2'"),
        ({**MODEL, "mixer": {"kind": ["mamba2"]}}, "a mixer of a known kind", "['mamba2']"),
        ({**MODEL, "mixer": None}, "mixer: a record of", "None"),
        ({**MODEL, "mlp": {"kind": "gated"}}, "every setting without a default", "no width"),
        ({**MODEL, "mlp": "gated"}, "mlp: a record of", "'gated'"),
        ({**MODEL, "norm_eps": "1e-5"}, "norm_eps: a number", "'1e-5'"),
        ({**MODEL, "norm_eps": math.nan}, "a finite number of at least 0 for norm_eps", "nan"),
        ({**MODEL, "logit_softcap": 0.0}, "a finite number above 0 for logit_softcap", "0.0"),
        ({**MODEL, "norm": "batch"}, "norm: one of rms, rms-plus-one, layer", "'batch'"),
        ({**MODEL, "tie_embeddings": "no"}, "tie_embeddings: true or false", "'no'"),
        ({**MODEL, "other_mixers": 5}, "other_mixers: a list", "5"),
        ({**MODEL, "other_mixers": [0]}, "other_mixers: a list", "(0,)"),
        ({**MODEL, "other_mixers": [["0", {}]]}, "other_mixers: a list", "(('0', "),
    ],
)
def test_settings_of_a_model(values: dict[str, Any], expected: str, got: str) -> None:
    with pytest.raises(InputError) as raised:
        ModelConfig.from_dict(values)
    assert raised.value.expected.startswith(expected)
    assert raised.value.got.startswith(got)


def test_the_kind_of_a_mixer_in_place_of_its_record() -> None:
    with pytest.raises(InputError) as raised:
        ModelConfig.from_dict({**MODEL, "mixer": "mamba2"})
    assert raised.value.fix == 'write {"kind": "mamba2"} for mixer'


@pytest.mark.parametrize(
    ("config", "changes", "expected", "got"),
    [
        (Mamba2Config, {"dt_limit": [0.1]}, "dt_limit: a list of 2 (a number, a number)", "(0.1,)"),
        (Mamba2Config, {"dt_limit": 0.1}, "dt_limit: a list of 2 (a number, a number)", "0.1"),
        (Mamba2Config, {"dt_limit": [0.2, 0.1]}, "dt_limit: the lower limit first", "0.2 and 0.1"),
        (Mamba2Config, {"dt_limit": [math.nan, 0.1]}, "a number of at least 0 for dt_limit", "nan"),
        (Mamba2Config, {"dt_limit": [0.1, math.nan]}, "a number of at least 0 for dt_limit", "nan"),
        (Mamba2Config, {"dt_limit": [None, 0.1]}, "dt_limit: a list of 2 (a number, a number)", "(None, 0.1)"),
        (Mamba2Config, {"dt_min": 0}, "a finite number above 0 for dt_min", "0.0"),
        (Mamba2Config, {"dt_min": 0.5}, "dt_min <= dt_max", "0.5 and 0.1"),
        (Mamba2Config, {"A_init_range": [16, 1]}, "A_init_range: the lower limit first", "16 and 1"),
        (Mamba2Config, {"A_init_range": [0.0, 1.0]}, "a finite number above 0 for A_init_range", "0.0"),
        (Mamba2Config, {"A_init_range": [1.0, math.inf]}, "a finite number above 0 for A_init_range", "inf"),
        (Mamba2Config, {"bias": "no"}, "bias: true or false", "'no'"),
        (Mamba2Config, {"d_state": "8"}, "d_state: a whole number", "'8'"),
        (Mamba1Config, {"dt_min": 0.5}, "dt_min <= dt_max", "0.5 and 0.1"),
        (Mamba1Config, {"dt_max": math.inf}, "a finite number above 0 for dt_max", "inf"),
        (Mamba1Config, {"A_init_scale": 0.0}, "a finite number above 0 for A_init_scale", "0.0"),
        (GLAConfig, {"expand_k": math.nan}, "a finite number above 0 for expand_k", "nan"),
        (GLAConfig, {"gate_logit_normalizer": 0}, "a finite number above 0 for gate_logit_normalizer", "0.0"),
        (GLAConfig, {"clamp_min": "x"}, "clamp_min: a number or None", "'x'"),
        (RGLRUConfig, {"max_rad": 1.0}, "a number below 1 for max_rad", "1.0"),
        (RGLRUConfig, {"min_rad": 0.9995}, "min_rad <= max_rad", "0.9995 and 0.999"),
        (AttentionConfig, {"rotary_base": 0}, "a finite number above 0 for rotary_base", "0.0"),
        (AttentionConfig, {"window_reaches": 1}, "window_reaches: true or false", "1"),
        (GatedMLPConfig, {"width": 8, "activation": "relu"}, "activation: one of silu, gelu_tanh", "'relu'"),
    ],
)
def test_settings_of_mixers_and_mlps(config: Any, changes: dict[str, Any], expected: str, got: str) -> None:
    with pytest.raises(InputError) as raised:
        config.from_plain(changes)
    error = raised.value
    assert (error.expected, error.got, error.where) == (expected, got, config.__name__)


def test_limits_that_are_open_stay_open() -> None:
    config = Mamba2Config(dt_limit=(0.01, math.inf))
    assert config.to_dict()["dt_limit"] == [0.01, None]
    assert mixer_from_dict(config.to_dict()) == config
    assert Mamba2Config.from_plain({"dt_limit": [0, None]}) == Mamba2Config()
