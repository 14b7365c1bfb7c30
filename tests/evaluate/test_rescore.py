"""Scores made again from recorded outputs: what changes, what stays, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.toy import RepeatTask, subject

from lengthwise.errors import InputError
from lengthwise.evaluate.config import EvalConfig
from lengthwise.evaluate.records import part_name
from lengthwise.evaluate.rescore import rescore
from lengthwise.evaluate.run import evaluate
from lengthwise.runs import RunFolder
from lengthwise.tasks.base import Sample, Score

TASKS = [RepeatTask("repeat"), RepeatTask("again")]


class Lenient(RepeatTask):
    """A later version whose rules let everything pass."""

    version = 2

    def score(self, sample: Sample, text: str, scorer: str | None = None) -> Score:
        return Score(value=1.0, scorer=scorer or "first")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run: letters a to c answered wrong, d failing."""
    config = EvalConfig(model="echo", tasks=("repeat", "again"), lengths=(20, 40), num_samples=12)
    evaluate(config, TASKS, subject(wrong="abc", failing="d"), tmp_path / "run", progress=False)
    return tmp_path / "run"


def content(path: Path) -> tuple[bytes, bytes]:
    return (path / "samples.jsonl").read_bytes(), (path / "summary.json").read_bytes()


def test_the_same_rules_change_nothing(run: Path) -> None:
    before = content(run)
    found = rescore(run, TASKS)
    assert (found.count, found.changed, found.rewritten, found.cells, found.versions) == (48, 0, False, (), {})
    assert found.failures > 0
    assert content(run) == before
    assert "rescored" not in RunFolder.open(run).manifest


def test_scores_that_were_spoilt_are_made_again(run: Path) -> None:
    before = content(run)
    folder = RunFolder.open(run)
    folder.replace_samples([{**line, "score": 0.5, "scores": {}} for line in folder.read_samples()])
    folder.write_json("summary.json", {})
    found = rescore(run, TASKS)
    assert found.rewritten
    assert found.changed == 48
    assert content(run) == before


def test_another_rule_moves_means_and_failures_stay(run: Path) -> None:
    lines = RunFolder.open(run).read_samples()
    old = [line["score"] for line in lines]
    found = rescore(run, [Lenient("repeat"), Lenient("again")])
    after = RunFolder.open(run)
    new = [line["score"] for line in after.read_samples()]
    assert [score is None for score in new] == [score is None for score in old]
    assert all(score in (None, 1.0) for score in new)
    assert found.changed == sum(score == 0.0 for score in old) > 0
    assert found.failures == sum(score is None for score in old) == after.read_json("summary.json")["failures"]
    assert found.versions == {"repeat": (1, 2), "again": (1, 2)}
    cell = next(cell for cell in found.cells if (cell.task, cell.length) == ("repeat", 20))
    part = [line["score"] for line in lines if (line["task"], line["length"]) == ("repeat", 20)]
    assert cell.before == sum(score or 0 for score in part) / 12
    assert cell.after == sum(score is not None for score in part) / 12
    assert (cell.changed, cell.count) == (part.count(0.0), 12)
    assert after.read_json("summary.json")["tasks"]["repeat"]["20"]["value"] == cell.after
    assert after.manifest["rescored"] == {"versions": {"repeat": 2, "again": 2}, "changed": found.changed}
    assert after.manifest["status"] == "complete"


def test_the_rule_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    config = EvalConfig(model="echo", tasks=("repeat",), lengths=(20,), num_samples=3, scorer="whole")
    evaluate(config, TASKS[:1], subject(), tmp_path / "run", progress=False)
    assert rescore(tmp_path / "run", TASKS[:1]).changed == 0
    assert RunFolder.open(tmp_path / "run").read_json("summary.json")["scorers"] == {"repeat": ["whole"]}


@pytest.mark.parametrize("name", ["copying", "copying_free"])
def test_tasks_are_made_by_name_and_continuations_are_judged_as_such(tmp_path: Path, name: str) -> None:
    """The gold letters and one more: right for a continuation, which is cut there; too long for a generation."""
    config = EvalConfig(model="m", tasks=(name,), lengths=(220,), num_samples=1).to_dict()
    folder = RunFolder.create(tmp_path / "run", "eval", config)
    line: dict[str, Any] = {
        "id": f"{name}/220/00000",
        "task": name,
        "length": 220,
        "index": 0,
        "num_tokens": 110,
        "max_new_tokens": 110,
        "prompt_head": "",
        "prompt_tail": "",
        "answers": ["abcd"],
        "meta": {},
        "continuation": name == "copying",
        "output": "abcde",
        "error": None,
        "score": None,
        "scorer": "",
        "scores": {},
    }
    folder.replace_samples([line])
    folder.finish()
    rescore(tmp_path / "run")
    (after,) = folder.read_samples()
    assert after["score"] == (1.0 if name == "copying" else 0.8)
    assert after["scores"]["string"] == (1.0 if name == "copying" else 0.0)


def test_no_model_and_no_source_are_needed(tmp_path: Path) -> None:
    from tests.report.fabricate_evals import write_eval

    write_eval(tmp_path / "run", num_samples=2, failing=1)
    before = content(tmp_path / "run")
    code = (
        f"from lengthwise.evaluate.rescore import rescore; import sys; print(rescore({str(tmp_path / 'run')!r}).count)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + "; sys.exit('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=False,
        env={"LENGTHWISE_DATA": str(tmp_path / "nothing"), "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "78"), done.stderr
    found = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [line["score"] for line in found] == [json.loads(line)["score"] for line in before[0].splitlines()]


def test_a_run_that_goes_on_is_refused(run: Path) -> None:
    RunFolder.open(run).update_manifest(status="running")
    with pytest.raises(InputError, match=r"expected a finished evaluation; got one with status 'running'.*--resume"):
        rescore(run, TASKS)
    RunFolder.open(run).update_manifest(status="complete")
    (run / part_name(1)).write_text("")
    with pytest.raises(InputError, match="expected a finished evaluation"):
        rescore(run, TASKS)


def test_what_cannot_be_scored_is_refused(run: Path, tmp_path: Path) -> None:
    before = content(run)
    with pytest.raises(InputError, match=r"tasks of this run: repeat; got 'again'; in 'again/20/00000'"):
        rescore(run, TASKS[:1])
    with pytest.raises(InputError, match=r"got 'repeat'; in the task repeat"):
        rescore(run)  # the toy is not among the tasks that names stand for
    assert content(run) == before
    (run / "samples.jsonl").unlink()
    with pytest.raises(InputError, match=r"a samples.jsonl with the outputs of the run; got none"):
        rescore(run, TASKS)
    RunFolder.create(tmp_path / "trained", "train", {})
    with pytest.raises(InputError, match=r"expected a run of kind eval; got kind 'train'"):
        rescore(tmp_path / "trained")
