"""Evaluations from plan to summary: what is recorded, what survives an interruption, what is refused."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.cramped import Cramped
from tests.evaluate.toy import EchoEngine, RepeatTask, subject
from tests.helpers import fill_disk
from tests.models.families import small_model

from lengthwise.data.tokenizers import ByteTokenizer
from lengthwise.distributed import World
from lengthwise.engines.native import NativeEngine
from lengthwise.errors import InputError, RunFailure
from lengthwise.evaluate import run as running
from lengthwise.evaluate.config import EvalConfig
from lengthwise.evaluate.run import Subject, evaluate, part_name
from lengthwise.evaluate.statistics import wilson
from lengthwise.evaluate.summary import summarize
from lengthwise.runs import RunFolder

TASKS = [RepeatTask("repeat"), RepeatTask("again")]


def config(**changes: Any) -> EvalConfig:
    values = {"model": "echo", "tasks": ("repeat", "again"), "lengths": (40, 20), "num_samples": 10, **changes}
    return EvalConfig(**values)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BLOCK", 4)


def test_every_sample_is_recorded_in_order(tmp_path: Path) -> None:
    summary = evaluate(config(), TASKS, subject(), tmp_path / "run", progress=False)
    records = lines(tmp_path / "run")
    assert [record["id"] for record in records] == [
        f"{task}/{length}/{index:05d}" for task in ("repeat", "again") for length in (20, 40) for index in range(10)
    ]
    first = records[0]
    assert first["prompt_head"][0] == first["answers"][0] == first["output"][0]
    assert first["scores"] == {"first": 1.0, "whole": 0.0}
    assert (first["score"], first["scorer"]) == (1.0, "first")
    assert (first["num_tokens"], first["num_prompt_tokens_seen"], first["finish"]) == (18, 18, "length")
    assert summary["tasks"]["repeat"]["20"]["value"] == 1.0
    assert (summary["tasks"]["repeat"]["20"]["low"], summary["tasks"]["repeat"]["20"]["high"]) == wilson(10, 10)
    assert summary["lengths"] == [20, 40]
    assert summary["effective_length"]["by_own_share"] == 40
    assert summary["ruler_mean"] is None
    manifest = RunFolder.open(tmp_path / "run").manifest
    assert (manifest["kind"], manifest["status"]) == ("eval", "complete")
    assert manifest["evaluation"]["tasks"]["repeat"] == {"version": 1, "least": 10}


def test_a_full_disk_is_told_by_what_met_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, 3)
    with pytest.raises(RunFailure, match="no space left on the device") as raised:
        evaluate(config(), TASKS, subject(), tmp_path / "run", progress=False)
    assert raised.value.where == str(tmp_path / "run/samples.jsonl")
    assert len(lines(tmp_path / "run")) == 3


def test_another_rule_of_scoring_counts_when_asked(tmp_path: Path) -> None:
    summary = evaluate(config(scorer="whole"), TASKS, subject(), tmp_path / "run", progress=False)
    assert summary["tasks"]["repeat"]["20"]["value"] == 0.0
    assert summary["scorers"]["repeat"] == ["whole"]


@pytest.mark.parametrize("answered", [0, 1, 5, 17, 39])
def test_an_interrupted_run_ends_with_the_same_file(tmp_path: Path, answered: int) -> None:
    evaluate(config(), TASKS, subject(wrong="abc"), tmp_path / "whole", progress=False)
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), TASKS, subject(wrong="abc", stop_after=answered), out, progress=False)
    kept = [record["id"] for record in lines(out)] if answered else []
    assert len(kept) == answered, "every finished sample is on disk at once"
    again = subject(wrong="abc")
    evaluate(config(), TASKS, again, out, resume=True, progress=False)
    assert (out / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    assert (out / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    assert again.engine.answered <= 40 - answered + 3, "finished blocks are not answered again"


def test_a_torn_line_is_answered_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), TASKS, subject(stop_after=9), out, progress=False)
    file = out / "samples.jsonl"
    file.write_text(file.read_text()[:-20])
    evaluate(config(), TASKS, subject(), out, resume=True, progress=False)
    assert len(lines(out)) == 40


def test_what_was_recorded_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), TASKS, subject(wrong="abcdefghij", stop_after=2), out, progress=False)
    before = {record["id"]: record for record in lines(out)}
    evaluate(config(), TASKS, subject(), out, resume=True, progress=False)
    after = {record["id"]: record for record in lines(out)}
    assert all(after[key] == record for key, record in before.items())


def test_failures_are_counted_and_stay_in_the_mean(tmp_path: Path) -> None:
    summary = evaluate(config(), TASKS, subject(failing="abcde"), tmp_path / "run", progress=False)
    failed = [record for record in lines(tmp_path / "run") if record["score"] is None]
    assert failed
    assert failed[0]["error"] == "out of memory"
    assert failed[0]["output"] is None
    cells = [cell for task in summary["tasks"].values() for cell in task.values()]
    assert sum(cell["failures"] for cell in cells) == summary["failures"] == len(failed)
    assert all(cell["value"] == pytest.approx(1 - cell["failures"] / 10) for cell in cells)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_several_processes_make_the_same_file(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(config(), TASKS, subject(wrong="abc"), tmp_path / "whole", progress=False)
    # Without real processes: each share is answered in turn, the first one last.
    monkeypatch.setattr(World, "barrier", lambda self: None)
    out = tmp_path / "shared"
    hashes = RunFolder.open(tmp_path / "whole").manifest["data_hashes"]
    RunFolder.create(out, "eval", config().to_dict(), data_hashes=hashes)
    for rank in reversed(range(size)):
        evaluate(config(), TASKS, subject(wrong="abc"), out, resume=True, progress=False, world=World(rank, size))
    assert (out / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    assert not list(out.glob("samples.rank-*"))


def test_parts_of_other_processes_count_on_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    evaluate(config(), TASKS, subject(), tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), TASKS, subject(stop_after=8), out, progress=False)
    (out / "samples.jsonl").rename(out / part_name(1))
    again = subject()
    evaluate(config(), TASKS, again, out, resume=True, progress=False)
    assert again.engine.answered == 32
    assert (out / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()


def test_a_missing_share_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "barrier", lambda self: None)
    with pytest.raises(RunFailure, match=r"expected 40 answers; got 2\d"):
        evaluate(config(), TASKS, subject(), tmp_path / "run", progress=False, world=World(0, 2))


def test_a_batch_that_was_halved_stands_in_the_manifest(tmp_path: Path) -> None:
    def cramped(most: int) -> Subject:
        engine = NativeEngine(small_model("mamba2", vocab_size=257), batch_size=4)
        engine.model = Cramped(engine.model, most, MemoryError)  # type: ignore[assignment]
        return Subject(engine, ByteTokenizer(), engine.facts())

    plain = evaluate(config(), TASKS, cramped(4), tmp_path / "plain", progress=False)
    assert "out_of_memory" not in RunFolder.open(tmp_path / "plain").manifest["evaluation"]
    with pytest.warns(UserWarning, match="memory ran out with up to 4 rows side by side") as warned:
        halved = evaluate(config(), TASKS, cramped(1), tmp_path / "run", progress=False)
    assert len(warned) == 1
    assert halved == plain  # answers are the same, and so is what is said of them
    manifest = RunFolder.open(tmp_path / "run").manifest
    assert manifest["evaluation"]["subject"]["batch_size"] == 4
    assert manifest["evaluation"]["out_of_memory"] == {"halvings": 2, "batch_size": 1}

    # What a resumed run did before is not forgotten, and what it does now is added.
    cut = "".join(line + "\n" for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()[:12])
    for most, expected in ((4, {"halvings": 2, "batch_size": 1}), (2, {"halvings": 4, "batch_size": 1})):
        (tmp_path / "run" / "samples.jsonl").write_text(cut)
        with nullcontext() if most == 4 else pytest.warns(UserWarning, match="memory ran out"):
            evaluate(config(), TASKS, cramped(most), tmp_path / "run", resume=True, progress=False)
        assert RunFolder.open(tmp_path / "run").manifest["evaluation"]["out_of_memory"] == expected


def test_lengths_beyond_the_context_are_refused_before_any_work(tmp_path: Path) -> None:
    one = subject(limit=30)
    with pytest.raises(InputError, match=r"at most 30 tokens, the context of echo; got 40; in lengths"):
        evaluate(config(), TASKS, one, tmp_path / "run", progress=False)
    assert one.engine.answered == 0
    assert not (tmp_path / "run").exists()


def test_lengths_too_short_for_a_task_are_refused(tmp_path: Path) -> None:
    tasks = [RepeatTask("repeat", least=25)]
    with pytest.raises(InputError, match=r"at least 25 tokens for repeat with the tokenizer bytes; got 20"):
        evaluate(config(tasks=("repeat",)), tasks, subject(), tmp_path / "run", progress=False)


def test_a_folder_of_other_parameters_is_refused(tmp_path: Path) -> None:
    evaluate(config(), TASKS, subject(), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match=r"differs in num_samples \(10 there, 11 here\)"):
        evaluate(config(num_samples=11), TASKS, subject(), tmp_path / "run", resume=True, progress=False)
    changed = [RepeatTask("repeat", least=11), TASKS[1]]
    with pytest.raises(InputError, match="tasks of the same names with other parameters or sources"):
        evaluate(config(), changed, subject(), tmp_path / "run", resume=True, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 0}, "num_samples"),
        ({"lengths": ()}, "at least one length"),
        ({"lengths": (20, 20)}, "each length once"),
        ({"tasks": ()}, "at least one task"),
        ({"engine": "nativ"}, "did you mean 'native'"),
        ({"engine": "server"}, "--server-url"),
        ({"server_url": "http://localhost:1/v1"}, "--engine server"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(InputError, match=message):
        config(**changes)
    with pytest.raises(InputError, match="num_sampels"):
        EvalConfig.from_dict({"model": "echo", "num_sampels": 3})


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an id of its own; got repeat more than once"):
        evaluate(config(), [RepeatTask("repeat"), RepeatTask("repeat")], subject(), tmp_path / "run", progress=False)


def test_the_mean_is_over_tasks_that_stand_at_every_length(tmp_path: Path) -> None:
    records = [
        {"task": task, "length": length, "score": score, "scorer": "first"}
        for task, length, score in (("easy", 20, 1.0), ("easy", 40, 1.0), ("hard", 40, 0.0))
        for _ in range(4)
    ]
    summary = summarize({"model": "m", "seed": 0, "num_samples": 4}, records, {})
    assert summary["mean_tasks"] == ["easy"]
    assert [summary["mean"][length]["value"] for length in ("20", "40")] == [1.0, 1.0]
    assert summary["effective_length"]["by_own_share"] == 40


def test_settings_survive_json() -> None:
    assert EvalConfig.from_dict(json.loads(json.dumps(config().to_dict()))) == config()


def test_the_toy_engine_is_what_the_loop_expects() -> None:
    assert isinstance(Subject(EchoEngine(), ByteTokenizer(), {}), Subject)


def test_a_row_of_the_vocabulary_that_no_token_belongs_to_spells_nothing(tmp_path: Path) -> None:
    class PaddingEngine(EchoEngine):
        def run(self, requests: Any) -> Any:
            for answer in super().run(requests):
                yield replace(answer, tokens=np.append(answer.tokens, 300))  # those of bytes end at 255

    engine = PaddingEngine()
    asked = Subject(engine, ByteTokenizer(), engine.facts())
    evaluate(config(), TASKS, asked, tmp_path / "run", progress=False)
    records = lines(tmp_path / "run")
    assert len(records) == 40
    for record in records:
        assert record["output"] == record["answers"][0] + "x"
        assert record["output_tokens"][-1] == 300
