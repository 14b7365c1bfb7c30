"""Run folders to records, and every way in which a folder can be wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.fabricate import CONTEXT, LENGTH, write_measure, write_train

from lengthwise.errors import InputError
from lengthwise.report.load import MAX_LOSS_POINTS, load_groups
from lengthwise.runs import RunFolder


def edit(path: Path, **changes: Any) -> None:
    """Replace keys of a JSON file; a value that is a function gets the old value."""
    value = json.loads(path.read_text())
    for key, change in changes.items():
        value[key] = change(value[key]) if callable(change) else change
    path.write_text(json.dumps(value))


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A fresh measure run that a test may damage."""
    write_measure(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def extended(runs: Path, tmp_path: Path) -> Path:
    """A fresh extend run that a test may damage."""
    return Path(shutil.copytree(runs / "extend", tmp_path / "extend"))


def test_extend_run_has_three_models_and_two_trainings(runs: Path) -> None:
    (group,) = load_groups([runs / "extend"])
    assert [model.role for model in group.models] == ["before", "control", "after"]
    assert [model.name for model in group.models] == ["before", "control (zero states)", "after (State Passing)"]
    assert [run.role for run in group.trainings] == ["control", "after"]
    assert (group.intervention, group.num_steps, group.notes) == ("State Passing", 100, ())
    assert [model.verdict for model in group.models] == ["fail", "fail", "pass"]


def test_values_are_those_of_the_summary(measured: Path) -> None:
    summary = json.loads((measured / "summary.json").read_text())
    ((model,),) = [group.models for group in load_groups([measured])]
    assert (model.context_length, model.length, model.num_sequences) == (CONTEXT, LENGTH, 64)
    assert model.perplexity is not None
    assert [b.value for b in model.perplexity] == [b["perplexity"] for b in summary["perplexity"]["bins"]]
    assert model.definition is not None
    assert model.definition.first_failing == summary["verdicts"]["definition"]["first_failing_position"]
    assert model.restart is not None
    assert model.restart.difference == summary["verdicts"]["restart"]["difference"]
    assert model.remembrance is not None
    assert model.remembrance.curve("tv")[0] == (0, 0.0)
    assert model.states is not None
    assert model.states.std_at(CONTEXT) == pytest.approx(
        summary["states"]["whole"]["std"][summary["states"]["positions"].index(CONTEXT)]
    )
    assert model.states.std_at(LENGTH + 1) is None


def test_measure_runs_share_a_group_and_extend_runs_do_not(runs: Path) -> None:
    groups = load_groups([runs / "broken", runs / "extend", runs / "partial", runs / "train"])
    assert [group.kind for group in groups] == ["extend", "measure"]
    assert [model.name for model in groups[1].models] == ["large-24m", "perplexity only"]
    assert [run.name for run in groups[1].trainings] == ["train"]


def test_what_was_not_measured_is_none(runs: Path) -> None:
    (group,) = load_groups([runs / "partial"])
    (model,) = group.models
    assert model.restart is None
    assert model.remembrance is None
    assert model.states is None
    assert model.verdict == "pass"


def test_training_run_alone(runs: Path) -> None:
    (group,) = load_groups([runs / "train"])
    assert (group.kind, group.models) == ("train", ())
    assert len(group.trainings[0].losses) == 100


def test_long_training_is_averaged_not_cut(tmp_path: Path) -> None:
    write_train(tmp_path / "run", steps=3000)
    (group,) = load_groups([tmp_path / "run"])
    (run,) = group.trainings
    assert len(run.steps) == MAX_LOSS_POINTS
    assert run.steps[-1] == 3000
    every = [record["loss"] for record in RunFolder.open(tmp_path / "run").read_metrics()]
    assert np.mean(run.losses) == pytest.approx(np.mean(every), abs=1e-3)


def test_same_names_are_numbered(tmp_path: Path) -> None:
    write_measure(tmp_path / "a")
    write_measure(tmp_path / "b")
    (group,) = load_groups([tmp_path / "a", tmp_path / "b"])
    assert [model.name for model in group.models] == ["small-python-4m (1)", "small-python-4m (2)"]


def test_different_contexts_are_noted(tmp_path: Path) -> None:
    write_measure(tmp_path / "a", context=128)
    write_measure(tmp_path / "b", context=256)
    (group,) = load_groups([tmp_path / "a", tmp_path / "b"])
    assert "different context lengths (128, 256); the charts mark the shortest" in group.notes[0]


@pytest.mark.parametrize(
    ("status", "words"), [("running", "was not finished"), ("failed", "ended with status 'failed'")]
)
def test_unfinished_run_with_a_result_is_noted(measured: Path, status: str, words: str) -> None:
    edit(measured / "manifest.json", status=status)
    (group,) = load_groups([measured])
    assert len(group.notes) == 1
    assert words in group.notes[0]


def test_unfinished_extend_run_shows_what_exists(extended: Path) -> None:
    shutil.rmtree(extended / "after")
    (extended / "control" / "summary.json").unlink()
    (extended / "comparison.json").unlink()
    edit(extended / "manifest.json", status="running")
    (group,) = load_groups([extended])
    assert [model.role for model in group.models] == ["before"]
    assert (group.intervention, group.num_steps) == ("State Passing", 100)  # from the manifest
    text = " ".join(group.notes)
    assert "This run was not finished" in text
    assert "'after' is missing" in text
    assert "'control' has no result yet" in text


def test_summary_without_version_is_noted(measured: Path) -> None:
    edit(measured / "summary.json", format_version=None)
    (group,) = load_groups([measured])
    assert "carries no format version" in group.notes[0]


@pytest.mark.parametrize(("reading", "noted"), [("one-shot", True), ("streamed", False)])
def test_a_model_read_in_one_pass_is_noted(measured: Path, reading: str, noted: bool) -> None:
    edit(measured / "summary.json", outside={"reading": reading, "why": "reading in pieces changes logits"})
    (group,) = load_groups([measured])
    assert any("read in one pass per text" in note and "changes logits" in note for note in group.notes) == noted


def test_array_that_is_absent_is_not_measured(measured: Path) -> None:
    (measured / "arrays.safetensors").unlink()
    ((model,),) = [group.models for group in load_groups([measured])]
    assert model.remembrance is not None
    assert model.remembrance.curve("tv") == []
    assert model.states is not None
    assert model.states.per_head is None


def refused(*paths: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_groups(list(paths))
    assert caught.value.exit_code == 2
    return caught.value


def test_no_run_given() -> None:
    error = refused()
    assert error.expected == "at least one run folder"
    assert error.got == "none"


def test_same_run_twice(measured: Path) -> None:
    error = refused(measured, measured / ".." / "run")
    assert error.expected == "each run once"
    assert error.fix == "drop one"


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert error.expected == "a run folder with a readable manifest.json"
    assert error.where == str(tmp_path)
    assert "measure, extend, train, demo or eval" in error.fix


def test_missing_folder(tmp_path: Path) -> None:
    assert "FileNotFoundError" in refused(tmp_path / "nowhere").got


def test_newer_run_folder(measured: Path) -> None:
    edit(measured / "manifest.json", format_version=99)
    error = refused(measured)
    assert error.got == "format 99"
    assert "use the version of lengthwise that wrote it" in error.fix


def test_check_run_has_no_page(measured: Path) -> None:
    edit(measured / "manifest.json", kind="check")
    error = refused(measured)
    assert error.got == "kind 'check'"
    assert error.fix == "a check has no page: its outcome is in results.json, and `lengthwise check` prints it"


def test_newer_summary(measured: Path) -> None:
    edit(measured / "summary.json", format_version=2)
    error = refused(measured)
    assert (error.expected, error.got) == ("summary format 1", "format 2")
    assert error.where.endswith("summary.json")
    assert error.fix == "use the version of lengthwise that wrote it, or measure again"


def test_unknown_kind(measured: Path) -> None:
    edit(measured / "manifest.json", kind="sing")
    error = refused(measured)
    assert error.expected == "a run of kind measure, extend, train, demo or eval"
    assert error.got == "kind 'sing'"


def test_measurement_still_running(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", "measure", {})
    error = refused(tmp_path / "run")
    assert error.expected == "a finished measurement with a summary.json"
    assert error.got == "a measure run with status 'running' and no summary.json"
    assert "--resume" in error.fix


def test_extend_run_without_any_result(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", "extend", {})
    error = refused(tmp_path / "run")
    assert error.expected == "at least one finished measurement (before, control or after)"
    assert "status 'running'" in error.got


def test_torn_summary(measured: Path) -> None:
    (measured / "summary.json").write_text('{"format_version": 1, "model"')
    error = refused(measured)
    assert error.expected == "valid JSON"
    assert error.where.endswith("summary.json")


def test_truncated_arrays(measured: Path) -> None:
    file = measured / "arrays.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    assert refused(measured).expected == "a whole safetensors file"


def test_arrays_of_another_run(measured: Path) -> None:
    RunFolder.open(measured).write_arrays({"remembrance_tv": np.zeros((3, 2))})
    error = refused(measured)
    assert error.expected.startswith("an array of shape [")
    assert error.got == "shape [3, 2]"
    assert "'remembrance_tv'" in error.where
    assert "do not belong to this summary" in error.fix


@pytest.mark.parametrize(
    ("changes", "expected", "got"),
    [
        ({"context_length": None}, "a whole number above zero at 'context_length'", "None"),
        ({"length": "long"}, "a finite number or null at 'length'", "'long'"),
        ({"length": float("nan")}, "a finite number or null at 'length'", "nan"),
        ({"model": 3}, "a text at 'model'", "3"),
        ({"num_sequences": True}, "a finite number or null at 'num_sequences'", "True"),
        ({"perplexity": []}, "an object at 'perplexity'", "[]"),
        ({"perplexity": {"bins": {}}}, "a list at 'perplexity.bins'", "{}"),
        (
            {"perplexity": {"bins": [{"start": 0, "end": 0}]}},
            "a whole number above zero at 'perplexity.bins[0].end'",
            "0",
        ),
        (
            {"verdicts": {"definition": {"verdict": "maybe"}}},
            "pass or fail or undecided at 'verdicts.definition.verdict'",
            "'maybe'",
        ),
        (
            {"verdicts": {"definition": {"worst_bin": [1, 2, 3]}}},
            "a pair [start, end] at 'verdicts.definition.worst_bin'",
            "[1, 2, 3]",
        ),
        ({"verdicts": {"restart": {"uses_history": 1}}}, "true, false or null at 'verdicts.restart.uses_history'", "1"),
        ({"states": {"positions": [1.5]}}, "whole numbers at 'states.positions'", "[1.5]"),
        (
            {"states": {"positions": [1, 2], "whole": {"std": [1.0]}}},
            "2 numbers, one per position, at 'states.whole.std'",
            "'1'",
        ),
    ],
)
def test_wrong_value_names_its_key(measured: Path, changes: dict[str, Any], expected: str, got: str) -> None:
    edit(measured / "summary.json", **changes)
    error = refused(measured)
    assert (error.expected, error.got) == (expected, got)
    assert error.where.endswith("summary.json")
    assert error.fix == "measure again, or use the version of lengthwise that wrote this run"
