"""`lengthwise extend`: what it prints and leaves behind, and what is wrong with its input."""

import json
from pathlib import Path

import pytest

from lengthwise.cli.extend import INTERVENTION_SETTINGS, MEASURE_SETTINGS, SETTINGS, Options
from lengthwise.extend import ExtendConfig
from lengthwise.interventions.config import InterventionConfig
from lengthwise.measure.config import MeasureConfig


@pytest.fixture
def quick(corpus: Path) -> list[object]:
    """Options of an extension that takes two seconds."""
    measured = ["--length", 128, "--num-sequences", 2, "--metrics", "perplexity", "restart"]
    return ["--data", corpus, "--steps", 2, "--batch-size", 2, *measured]


def test_prints_before_control_and_after(lengthwise, tiny_model: Path, quick) -> None:
    done = lengthwise("extend", tiny_model, *quick, "--out", "run")
    assert done.code == 0
    for column in ("before", "control (zero states)", "after (State Passing)"):
        assert column in done.out
    assert "new model:  run/checkpoint" in done.out
    # The new model is a model: it can be measured again.
    assert lengthwise("measure", "run/checkpoint", "--dry-run").code == 0


def test_json_is_the_comparison(lengthwise, tiny_model: Path, quick) -> None:
    found = lengthwise("extend", tiny_model, *quick, "--out", "run", "--json").json
    assert found.pop("run") == "run"
    assert found == json.loads(Path("run/comparison.json").read_text())
    assert found["intervention"] == "state-passing"
    assert found["before"]["definition"] != found["after"]["definition"]


def test_resumes_a_run_stopped_in_the_middle(lengthwise, tiny_model: Path, quick, monkeypatch) -> None:
    from lengthwise.runs import RunFolder

    append = RunFolder.append_metrics

    def stop_in_the_control(self, record):
        append(self, record)
        if self.path.name == "train-control":
            raise KeyboardInterrupt

    words = ["extend", tiny_model, *quick, "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", stop_in_the_control)
        stopped = lengthwise(*words)
    assert stopped.code == 130
    assert stopped.err.rstrip().endswith("--out run --resume")
    resumed = lengthwise(*words, "--resume", "--json").json
    whole = lengthwise("extend", tiny_model, *quick, "--out", "whole", "--json").json
    assert {**resumed, "run": None} == {**whole, "run": None}


def test_dry_run_counts_both_trainings_and_all_measurements(lengthwise, tiny_model: Path, quick) -> None:
    plan = lengthwise("extend", tiny_model, *quick, "--dry-run", "--json").json
    assert plan["train_twice"]["interventions"] == ["state-passing", "zero"]
    assert plan["train_twice"]["tokens"] == 2 * 2 * 32
    assert plan["measure_three_times"]["tokens_read"]["stream"] == 2 * 128
    assert not Path("runs").exists()


def test_options_reach_the_intervention(lengthwise, tiny_model: Path, quick) -> None:
    words = ["--intervention", "tbtt", "--zero-prob", 0.25, "--carry-short", "no", "--seed", 5]
    lengthwise("extend", tiny_model, *quick, *words, "--out", "run")
    config = json.loads(Path("run/manifest.json").read_text())["config"]
    assert config["intervention"] == {"kind": "tbtt", "zero_prob": 0.25, "carry_short": False}
    assert config["seed"] == 5
    # Repeating the run with another intervention leaves the options of the first one behind.
    Path("again.json").write_text(json.dumps(config))
    plan = lengthwise("extend", "--config", "again.json", "--intervention", "fitted-noise", "--dry-run", "--json").json
    assert plan["train_twice"]["interventions"] == ["fitted-noise", "zero"]


def test_every_setting_option_is_a_field_of_a_config() -> None:
    assert set(SETTINGS) <= set(ExtendConfig.__dataclass_fields__)
    assert set(INTERVENTION_SETTINGS) | {"carry_short"} <= set(InterventionConfig.__dataclass_fields__)
    assert set(MEASURE_SETTINGS) <= set(MeasureConfig.__dataclass_fields__)
    others = {"intervention", "carry_short", "config", "out", "resume", "dry_run", "json"}
    assert set(Options.__dataclass_fields__) == others | {*SETTINGS, *INTERVENTION_SETTINGS, *MEASURE_SETTINGS}


def test_no_model(lengthwise) -> None:
    done = lengthwise("extend")
    assert done.code == 2
    assert done.part("expected") == "a model to extend"


def test_misspelled_intervention(lengthwise, tiny_model: Path) -> None:
    done = lengthwise("extend", tiny_model, "--intervention", "state-pasing")
    assert done.code == 2
    assert done.part("try") == "did you mean 'state-passing'?"


def test_the_control_is_no_intervention(lengthwise, tiny_model: Path) -> None:
    done = lengthwise("extend", tiny_model, "--intervention", "zero")
    assert done.code == 2
    assert done.part("expected").startswith("an intervention other than zero")


def test_option_without_effect(lengthwise, tiny_model: Path) -> None:
    done = lengthwise("extend", tiny_model, "--beta", 0.2)
    assert done.code == 2
    assert done.part("got") == "beta=0.2"


@pytest.mark.parametrize("option", ["--steps", "--batch-size", "--length", "--num-sequences"])
def test_zero_is_refused(lengthwise, tiny_model: Path, option: str) -> None:
    done = lengthwise("extend", tiny_model, option, 0)
    assert done.code == 2
    assert done.part("got") == "0"


def test_folder_that_holds_another_run(lengthwise, tiny_model: Path, recipe, quick) -> None:
    assert lengthwise("train", recipe(), "--out", "run").code == 0
    done = lengthwise("extend", tiny_model, *quick, "--out", "run")
    assert done.code == 2
    assert "a 'train' run" in done.part("got")
