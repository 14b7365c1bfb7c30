"""Scores made again from the recorded outputs, without the model: after a rule of scoring was mended, for instance.

Everything a rule looks at stands in the line of a sample: its answers, its facts, the raw output. The tasks are made
again by name for their rules alone; no prompt is built, so no source of theirs is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lengthwise.errors import InputError
from lengthwise.evaluate.config import EvalConfig
from lengthwise.evaluate.records import PARTS, score_record
from lengthwise.evaluate.summary import summarize
from lengthwise.runs import RunFolder
from lengthwise.tasks.base import Sample, Task
from lengthwise.tasks.library import TaskOptions
from lengthwise.tasks.registry import make_tasks


@dataclass(frozen=True)
class CellChange:
    """What changed in one task at one length; means of shares from 0 to 1, failures as 0."""

    task: str
    length: int
    before: float
    after: float
    changed: int
    """Samples whose score is another one."""
    count: int


@dataclass(frozen=True)
class Rescored:
    """What scoring again did to a run."""

    path: str
    count: int
    changed: int
    """Samples whose score is another one."""
    failures: int
    """Samples without an output, which stay as they are."""
    rewritten: bool
    """Whether any byte of samples.jsonl or summary.json changed."""
    cells: tuple[CellChange, ...]
    """Tasks and lengths in which a score changed."""
    versions: Mapping[str, tuple[int, int]]
    """Tasks whose version is another one now: that of the run, and ours."""


def rescore(path: str | Path, tasks: Sequence[Task] | None = None) -> Rescored:
    """Score the outputs of an evaluation again and rewrite samples.jsonl and summary.json, each as a whole.

    Args:
        path: run folder of kind "eval".
        tasks: the run's tasks; None: made by name from its settings.

    Raises:
        InputError: no evaluation, one that is not finished, a task or a rule that this version does not know. Nothing
            was written then.
    """
    run = RunFolder.open(path)
    config = _config(run)
    _check_finished(run)
    known = {task.name: task for task in (_tasks(config) if tasks is None else tasks)}
    before = run.read_samples()
    if not before:
        raise InputError(
            expected="a samples.jsonl with the outputs of the run",
            got="none, or an empty one",
            where=str(run.path),
            fix="restore the file; scores cannot be made without outputs",
        )
    after = [_again(record, known, config.scorer, run) for record in before]
    floors = {name: task.floor for name, task in known.items()}
    left_out = (run.manifest.get("evaluation") or {}).get("left_out") or ()
    summary = summarize(config.to_dict(), after, floors, left_out)
    rewritten = after != before or summary != run.read_json("summary.json")
    if rewritten:
        run.replace_samples(after)
        run.write_json("summary.json", summary)
        versions = {name: task.version for name, task in known.items()}
        run.update_manifest(rescored={"versions": versions, "changed": _num_changed(before, after)})
    return Rescored(
        path=str(run.path),
        count=len(after),
        changed=_num_changed(before, after),
        failures=sum(record["score"] is None for record in after),
        rewritten=rewritten,
        cells=_cells(before, after),
        versions=_versions(run, known),
    )


def _config(run: RunFolder) -> EvalConfig:
    if run.manifest.get("kind") != "eval":
        raise InputError(
            expected="a run of kind eval",
            got=f"kind {run.manifest.get('kind')!r}",
            where=str(run.path),
            fix="leave it out: only the answers of an evaluation are scored",
        )
    return EvalConfig.from_dict(run.manifest["config"])


def _check_finished(run: RunFolder) -> None:
    """Refuse a run that may still be written to: what it appends meanwhile would be lost."""
    status = run.manifest.get("status")
    if status != "complete" or list(run.path.glob(PARTS)):
        raise InputError(
            expected="a finished evaluation",
            got=f"one with status '{status}'",
            where=str(run.path),
            fix="let it end, or go on with it by giving its command again with --resume; then score it again",
        )


def _tasks(config: EvalConfig) -> list[Task]:
    """The tasks of a run, for their rules: sources and wording do not matter to them."""
    options = TaskOptions(data_dir=None if config.data_dir is None else Path(config.data_dir))
    return make_tasks(config.tasks, options)


def _again(record: Mapping[str, Any], known: Mapping[str, Task], scorer: str | None, run: RunFolder) -> dict[str, Any]:
    """The line with its scores made again."""
    task = known.get(record["task"])
    if task is None:
        raise InputError(
            expected=f"tasks of this run: {', '.join(known)}",
            got=f"'{record['task']}'",
            where=f"'{record['id']}' in {run.path / 'samples.jsonl'}",
            fix="use the version of lengthwise that wrote the run",
        )
    sample = Sample(
        id=record["id"],
        task=record["task"],
        index=record["index"],
        length=record["length"],
        prompt=record["prompt_head"] + record["prompt_tail"],
        answers=tuple(record["answers"]),
        num_tokens=record["num_tokens"],
        max_new_tokens=record["max_new_tokens"],
        meta=record["meta"],
    )
    if record.get("continuation", "logprob" in record):
        sample = replace(sample, continuation=sample.answers[0])
    output = None if record["error"] is not None else record["output"]
    return {**record, **score_record(task, sample, output, scorer)}


def _num_changed(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> int:
    return sum(old["score"] != new["score"] for old, new in zip(before, after, strict=True))


def _cells(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> tuple[CellChange, ...]:
    found: dict[tuple[str, int], list[tuple[float | None, float | None]]] = {}
    for old, new in zip(before, after, strict=True):
        found.setdefault((old["task"], old["length"]), []).append((old["score"], new["score"]))
    changes = []
    for (task, length), pairs in found.items():
        changed = sum(old != new for old, new in pairs)
        if changed:
            olds, news = (sum(pair[side] or 0.0 for pair in pairs) / len(pairs) for side in (0, 1))
            changes.append(CellChange(task, length, olds, news, changed, len(pairs)))
    return tuple(changes)


def _versions(run: RunFolder, known: Mapping[str, Task]) -> dict[str, tuple[int, int]]:
    recorded = run.manifest.get("evaluation", {}).get("tasks", {})
    return {
        name: (recorded[name]["version"], task.version)
        for name, task in known.items()
        if name in recorded and recorded[name].get("version") != task.version
    }
