"""Run folders of evaluations in, records out. A run that is not finished is read as far as it is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from lengthwise.errors import InputError
from lengthwise.evaluate.records import read_samples
from lengthwise.evaluate.statistics import OWN_SHARE, Mean, effective_length
from lengthwise.evaluate.summary import SUMMARY_VERSION, summarize
from lengthwise.models.presets import PRESETS, preset_of_repository
from lengthwise.report._reader import Reader
from lengthwise.report.evals import names
from lengthwise.report.evals.published import published_for
from lengthwise.report.evals.records import Answered, EvalGroup, Evaluated
from lengthwise.runs import RunFolder


def load_evals(runs: Sequence[RunFolder], labels: Sequence[str]) -> EvalGroup:
    """Runs of kind "eval" as one group.

    Args:
        runs: their folders.
        labels: what each is called, all different.

    Raises:
        InputError: a run holds no answer yet, was written by another version, or holds values of the wrong type.
    """
    notes: list[str] = []
    models = tuple(_evaluated(run, label, notes) for run, label in zip(runs, labels, strict=True))
    contexts = {model.context_length for model in models if model.context_length is not None}
    if len(contexts) > 1:
        shown = ", ".join(f"{context:,}" for context in sorted(contexts))
        notes.append(f"These models were trained with different lengths ({shown}); the charts mark the shortest.")
    if len({frozenset(model.tasks) for model in models}) > 1:
        notes.append("These runs do not have the same tasks: their means are over different ones, so compare by task.")
    return EvalGroup(
        title=", ".join(labels),
        models=models,
        notes=tuple(dict.fromkeys(notes)),
        manifests=tuple((label, run.manifest) for label, run in zip(labels, runs, strict=True)),
    )


def label_of(run: RunFolder) -> str:
    """How an evaluation is called: its label, else the last part of its model's name, else its folder."""
    config = run.manifest.get("config")
    config = config if isinstance(config, dict) else {}
    label, model = config.get("label"), config.get("model")
    if isinstance(label, str) and label:
        return label
    return (Path(model).name or model) if isinstance(model, str) and model else run.path.resolve().name


def _evaluated(run: RunFolder, name: str, notes: list[str]) -> Evaluated:
    where = str(run.path / "manifest.json")
    config = Reader(where, run.manifest.get("config"), "config")
    samples = tuple(_answered(record, run) for record in read_samples(run))
    complete = run.manifest.get("status") == "complete"
    summary = run.read_json("summary.json") if complete else None
    if summary is None and not samples:
        raise InputError(
            expected="an evaluation with at least one answer",
            got=f"an eval run with status '{run.manifest.get('status')}' and no line in samples.jsonl",
            where=str(run.path),
            fix="wait for its first answers, or go on with it by giving its command again with --resume",
        )
    if summary is None:
        values = {"seed": config.integer("seed") or 0, "model": config.text("model"), "num_samples": None}
        summary = summarize(values, [sample.raw for sample in samples], {})
        summary = json.loads(json.dumps(summary))
    planned = config.integer("num_samples")
    found = Reader(str(run.path / "summary.json"), summary)
    version = found.integer("format_version")
    if version != SUMMARY_VERSION:
        raise InputError(
            expected=f"summary format {SUMMARY_VERSION}",
            got=f"format {version}",
            where=found.where,
            fix="use the version of lengthwise that wrote it, or score it again with --rescore",
        )
    cells = {
        (task, int(length)): mean for task, row in _rows(found, "tasks").items() for length, mean in _means(row).items()
    }
    if complete and not samples:
        notes.append(f"The answers of '{name}' are gone (no samples.jsonl): only its means can be shown.")
    if not complete:
        status = run.manifest.get("status")
        state = "was not finished when this page was made" if status == "running" else f"ended with status '{status}'"
        total = _total(run, planned)
        of = f" of {total:,}" if total else ""
        notes.append(f"'{name}' {state}: partial results, from {len(samples):,}{of} answers.")
        tasks = {task for task, _ in cells}
        short = sorted(n for n in {n for _, n in cells} if not all((task, n) in cells for task in tasks))
        if short:
            shown = ", ".join(f"{length:,}" for length in short)
            notes.append(f"'{name}' lacks tasks at {shown} tokens: the means there are over fewer.")
    failures = found.integer("failures") or 0
    if failures:
        count = found.integer("num_records") or len(samples)
        notes.append(f"'{name}': {failures:,} of {count:,} samples failed; they count as 0.")
    model = config.text("model") or "unnamed model"
    published = published_for(model)
    mean = _means(_needed(found, "mean"))
    effective = found.part("effective_length")
    own = effective.integer("by_own_share") if effective else None
    if not complete:
        # Lengths that lack tasks have a mean over others: only those with all of them can be compared.
        whole = {n: mean[n].value for n in mean if n not in short}
        base = whole[min(whole)] if whole else None
        own = effective_length(whole, OWN_SHARE * base) if base else None
    ruler = found.part("ruler_mean")
    wording = config.text("wording")
    return Evaluated(
        name=name,
        role="run",
        path=str(run.path),
        model=model,
        context_length=_context(run, model, published.context if published else None),
        cells=cells,
        mean=mean,
        ruler=_means(ruler) if ruler is not None else {},
        by_own_share=own,
        by_threshold=effective.integer("by_ruler_threshold") if effective else None,
        planned=planned,
        samples=samples,
        failures=failures,
        complete=complete,
        published=published,
        own_wording=wording != "official",
        scorers={task: tuple(map(str, rules)) for task, rules in (summary.get("scorers") or {}).items()},
        manifest=run.manifest,
    )


def _answered(record: Mapping[str, Any], run: RunFolder) -> Answered:
    """A line of samples.jsonl, its types checked."""
    task, length, score, prompt = (record.get(key) for key in ("task", "length", "score", "prompt_sha256"))
    number = isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1
    if not isinstance(task, str) or not isinstance(length, int) or not (score is None or number):
        raise InputError(
            expected="a line with a task, a length and a score from 0 to 1 or null",
            got=f"task {task!r}, length {length!r}, score {score!r}"[:120],
            where=f"'{record.get('id')}' in {run.path / 'samples.jsonl'}",
            fix="score it again with --rescore, or use the version of lengthwise that wrote it",
        )
    return Answered(
        id=str(record["id"]),
        task=task,
        length=length,
        score=score,
        prompt=prompt if isinstance(prompt, str) else None,
        depth=_depth(task, record.get("meta")),
        raw=record,
    )


def _depth(task: str, meta: Any) -> float | None:
    fixed = names.fixed_depth(task)
    if fixed is not None or not isinstance(meta, dict):
        return fixed
    depths = meta.get("depths")
    if isinstance(depths, list) and len(depths) == 1:
        return _finite(depths[0])
    depth = _finite(meta.get("depth"))
    return 100 * depth if depth is not None and 0 <= depth <= 1 else None


def _finite(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _needed(reader: Reader, key: str) -> Reader:
    found = reader.part(key)
    if found is None:
        raise reader.wrong("an object", None, key)
    return found


def _rows(reader: Reader, key: str) -> dict[str, Reader]:
    inner = _needed(reader, key)
    return {name: _needed(inner, name) for name in inner.value}


def _means(reader: Reader) -> dict[int, Mean]:
    """Means by length."""
    found = {}
    for length in reader.value:
        cell = _needed(reader, length)
        if not length.isdigit():
            raise reader.wrong("lengths as keys", length, reader.key)
        low, high, value = cell.number("low"), cell.number("high"), cell.number("value")
        found[int(length)] = Mean(value, low, high, cell.index("count"), cell.integer("failures") or 0)
    return found


def _total(run: RunFolder, planned: int | None) -> int | None:
    """Answers that the run is to have: none where a task needs more tokens than a length has."""
    evaluation, config = run.manifest.get("evaluation"), run.manifest.get("config")
    tasks = evaluation.get("tasks") if isinstance(evaluation, dict) else None
    lengths = config.get("lengths") if isinstance(config, dict) else None
    if planned is None or not isinstance(tasks, dict) or not isinstance(lengths, list):
        return None
    left_out = evaluation.get("left_out") if isinstance(evaluation, dict) else None
    listed = left_out if isinstance(left_out, list) else []
    gone = [(each.get("task"), each.get("length")) for each in listed if isinstance(each, dict)]
    return planned * sum((task, length) not in gone for task in tasks for length in lengths)


def _context(run: RunFolder, model: str, published: int | None) -> int | None:
    """Length the model was trained on: what the run recorded, else what is published, else what a preset knows."""
    evaluation = run.manifest.get("evaluation")
    subject = evaluation.get("subject") if isinstance(evaluation, dict) else None
    if isinstance(subject, dict):
        # A server's context_length is what it takes, not what its model was trained on.
        for key in ("training_length", *(["context_length"] if subject.get("engine") != "server" else [])):
            value = subject.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    preset = preset_of_repository(model) or PRESETS.get(Path(model).name)
    if published is not None or preset is not None:
        return published if published is not None else preset.context_length if preset is not None else None
    return _shipped_context(model)


def _shipped_context(model: str) -> int | None:
    """Training length of a model that comes with the package."""
    if Path(model).name != model:
        return None
    file = resources.files("lengthwise").joinpath("shipped", model, "config.json")
    if not file.is_file():
        return None
    value = json.loads(file.read_text(encoding="utf-8")).get("lengthwise", {}).get("context_length")
    return value if isinstance(value, int) else None
