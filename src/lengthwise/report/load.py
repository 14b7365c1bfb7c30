"""Run folders in, records out. Reads files only; never imports torch, never runs a model.

A report is made of groups. An extend or demo run is a group of its own (before, control, after); all measure runs
given together form one group, and so do all training runs and all evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lengthwise.errors import InputError
from lengthwise.report._reader import Reader
from lengthwise.report.evals.load import label_of, load_evals
from lengthwise.report.evals.records import EvalGroup
from lengthwise.report.records import (
    DISTANCES,
    Bin,
    Definition,
    Group,
    Head,
    Measured,
    Remembrance,
    Restart,
    States,
    Training,
)
from lengthwise.runs import KINDS, RunFolder

SUMMARY_VERSION = 1
ROLES = ("before", "control", "after")
VERDICTS = ("pass", "fail", "undecided")
MAX_LOSS_POINTS = 400
INTERVENTIONS = {
    "zero": "zero states",
    "random-noise": "random noise",
    "fitted-noise": "fitted noise",
    "state-passing": "State Passing",
    "tbtt": "TBTT",
}
"""Names of the interventions as the paper writes them."""


def load_groups(paths: Sequence[str | Path]) -> tuple[Group | EvalGroup, ...]:
    """Read run folders of any kind.

    Raises:
        InputError: where a path is not a run folder, was written by a version this one cannot read, holds values of
            the wrong type, or holds nothing to show yet; where no path is given, or one twice.
    """
    if not paths:
        raise InputError(
            expected="at least one run folder",
            got="none",
            where="the arguments of report",
            fix="give the folder that a measure, extend, train, demo or eval run wrote",
        )
    resolved = [Path(path).resolve() for path in paths]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise InputError(
                expected="each run once", got=f"'{paths[index]}' twice", where="the arguments of report", fix="drop one"
            )
    runs = [RunFolder.open(path) for path in paths]
    unknown = [run for run in runs if run.manifest.get("kind") not in KINDS]
    if unknown:
        kind = unknown[0].manifest.get("kind")
        raise InputError(
            expected="a run of kind measure, extend, train, demo or eval",
            got=f"kind {kind!r}",
            where=str(unknown[0].path / "manifest.json"),
            fix="a check has no page: its outcome is in results.json, and `lengthwise check` prints it"
            if kind == "check"
            else "use the version of lengthwise that wrote it",
        )
    groups: list[Group | EvalGroup] = [_extended(run) for run in runs if run.manifest.get("kind") in ("extend", "demo")]
    measured = [run for run in runs if run.manifest.get("kind") == "measure"]
    trained = [run for run in runs if run.manifest.get("kind") == "train"]
    if measured or (trained and not groups):
        groups.append(_together(measured, trained))
    elif trained:
        groups.append(_together([], trained))
    evaluated = [run for run in runs if run.manifest.get("kind") == "eval"]
    if evaluated:
        groups.append(load_evals(evaluated, _distinct([label_of(run) for run in evaluated])))
    return tuple(groups)


def _together(measured: list[RunFolder], trained: list[RunFolder]) -> Group:
    """The measure and train runs given side by side."""
    notes: list[str] = []
    names = _distinct([_label(run) for run in measured])
    models = tuple(_measured(run, name, "run", notes) for run, name in zip(measured, names, strict=True))
    contexts = {model.context_length for model in models}
    if len(contexts) > 1:
        notes.append(
            "These models were trained with different context lengths "
            f"({', '.join(f'{c:,}' for c in sorted(contexts))}); the charts mark the shortest."
        )
    loss_names = _distinct([run.path.resolve().name for run in trained])
    trainings = tuple(_training(run, name, "run", notes) for run, name in zip(trained, loss_names, strict=True))
    everyone = [*zip(names, measured, strict=True), *zip(loss_names, trained, strict=True)]
    return Group(
        title=", ".join(names) if models else "Training",
        kind="measure" if models else "train",
        intervention=None,
        num_steps=None,
        models=models,
        trainings=trainings,
        notes=tuple(notes),
        manifests=tuple((name, run.manifest) for name, run in everyone),
    )


def _extended(run: RunFolder) -> Group:
    """An extend or demo run: three measured models and two training runs, as far as they exist."""
    notes: list[str] = []
    _note_status(run, "This run", notes)
    comparison = run.read_json("comparison.json")
    digest = Reader(str(run.path / "comparison.json"), comparison or {})
    intervention = digest.text("intervention") or _configured(run.manifest, "intervention", "kind")
    steps = digest.integer("steps")
    if steps is None:
        configured = run.manifest.get("config", {}).get("steps")
        steps = configured if isinstance(configured, int) else None
    named = INTERVENTIONS.get(intervention or "", intervention or "intervention")
    display = {"before": "before", "control": "control (zero states)", "after": f"after ({named})"}
    models: list[Measured] = []
    manifests: list[tuple[str, dict[str, Any]]] = [(run.manifest["kind"], run.manifest)]
    for role in ROLES:
        inner = _inner(run.path / role, f"The measurement '{role}'", notes)
        if inner is None:
            continue
        manifests.append((role, inner.manifest))
        if inner.read_json("summary.json") is None:
            notes.append(f"The measurement '{role}' has no result yet; its column is missing.")
            continue
        models.append(_measured(inner, display[role], role, notes))
    trainings = []
    for folder, role, name in (
        ("train-control", "control", display["control"]),
        ("train-intervention", "after", display["after"]),
    ):
        inner = _inner(run.path / folder, f"The training '{folder}'", notes)
        if inner is not None:
            manifests.append((folder, inner.manifest))
            trainings.append(_training(inner, name, role, notes))
    if not models:
        raise InputError(
            expected="at least one finished measurement (before, control or after)",
            got=f"a run with status '{run.manifest.get('status')}' and no summary.json in it",
            where=str(run.path),
            fix="wait for it, or go on with it by giving its command again with --resume",
        )
    return Group(
        title=Path(digest.text("model") or models[0].model).name or models[0].model,
        kind=run.manifest["kind"],
        intervention=named,
        num_steps=steps,
        models=tuple(models),
        trainings=tuple(trainings),
        notes=tuple(dict.fromkeys(notes)),
        manifests=tuple(manifests),
    )


def _inner(path: Path, name: str, notes: list[str]) -> RunFolder | None:
    """A run inside an extend run; a note where it does not exist."""
    if not (path / "manifest.json").exists():
        notes.append(f"{name} is missing from this run.")
        return None
    return RunFolder.open(path)


def _configured(manifest: dict[str, Any], *keys: str) -> str | None:
    """A text from the configuration of a manifest, through nested keys; None where there is none."""
    value: Any = manifest.get("config", {})
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _note_status(run: RunFolder, name: str, notes: list[str]) -> None:
    status = run.manifest.get("status")
    if status == "running":
        notes.append(f"{name} was not finished when this page was made: its numbers are what existed at that moment.")
    elif status != "complete":
        notes.append(f"{name} ended with status '{status}': its numbers may be incomplete.")


def _label(run: RunFolder) -> str:
    """How a measure run is called on the page: its label, else the last part of its model's path, else its folder."""
    summary = run.read_json("summary.json")
    label, model = (summary.get("label"), summary.get("model")) if isinstance(summary, dict) else (None, None)
    if isinstance(label, str) and label:
        return label
    return (Path(model).name or model) if isinstance(model, str) and model else run.path.resolve().name


def _distinct(names: list[str]) -> list[str]:
    """The names, numbered where two are the same: a line of a chart is known by its name."""
    return [
        f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _measured(run: RunFolder, name: str, role: str, notes: list[str]) -> Measured:
    value = run.read_json("summary.json")
    if value is None:
        raise InputError(
            expected="a finished measurement with a summary.json",
            got=f"a measure run with status '{run.manifest.get('status')}' and no summary.json",
            where=str(run.path),
            fix="wait for it, or go on with it by giving its command again with --resume",
        )
    _note_status(run, f"The measurement '{name}'", notes)
    where = str(run.path / "summary.json")
    reader = Reader(where, value)
    version = reader.integer("format_version")
    if version is None:
        notes.append(f"The summary of '{name}' carries no format version; it was read as version {SUMMARY_VERSION}.")
    elif version != SUMMARY_VERSION:
        raise InputError(
            expected=f"summary format {SUMMARY_VERSION}",
            got=f"format {version}",
            where=where,
            fix="use the version of lengthwise that wrote it, or measure again",
        )
    outside = reader.part("outside")
    if outside is not None and outside.text("reading") == "one-shot":
        notes.append(
            f"'{name}' was read in one pass per text, because its state cannot be carried: {outside.text('why')}."
        )
    arrays = run.read_arrays()
    verdicts = reader.part("verdicts")
    bins = _bins(reader.part("perplexity"), "bins", "perplexity")
    return Measured(
        name=name,
        role=role,
        path=str(run.path),
        model=reader.text("model") or "unnamed model",
        context_length=reader.needed("context_length"),
        length=reader.needed("length"),
        num_sequences=reader.integer("num_sequences"),
        bytes_per_token=reader.number("bytes_per_token"),
        perplexity=bins or None,
        definition=_definition(verdicts.part("definition") if verdicts else None),
        restart=_restart(verdicts.part("restart") if verdicts else None),
        words=tuple(str(word) for word in (verdicts.items("words") if verdicts else [])),
        remembrance=_remembrance(reader.part("remembrance"), arrays, where),
        states=_states(reader.part("states"), arrays, where),
        manifest=run.manifest,
    )


def _bins(reader: Reader | None, key: str, value: str) -> tuple[Bin, ...]:
    if reader is None:
        return ()
    return tuple(
        Bin(
            start=item.index("start"),
            end=item.needed("end"),
            value=item.number(value),
            low=item.number("low"),
            high=item.number("high"),
            tokens=item.integer("tokens"),
            nll=item.number("nll"),
            bits_per_byte=item.number("bits_per_byte"),
        )
        for item in reader.objects(key)
    )


def _definition(reader: Reader | None) -> Definition | None:
    if reader is None:
        return None
    return Definition(
        verdict=reader.text("verdict", VERDICTS),
        strict=reader.flag("strict"),
        tolerance=reader.number("tolerance"),
        worst_ratio=reader.number("worst_ratio"),
        worst_low=reader.number("worst_low"),
        worst_high=reader.number("worst_high"),
        worst_bin=reader.span("worst_bin"),
        first_failing=reader.integer("first_failing_position"),
        best_bin=reader.span("best_bin"),
        best_perplexity=reader.number("best_perplexity"),
        ratios=_bins(reader, "ratios", "ratio"),
    )


def _restart(reader: Reader | None) -> Restart | None:
    if reader is None:
        return None
    return Restart(
        verdict=reader.text("verdict", VERDICTS),
        tolerance=reader.number("tolerance"),
        difference=reader.number("difference"),
        low=reader.number("low"),
        high=reader.number("high"),
        uses_history=reader.flag("uses_history"),
        first_failing=reader.integer("first_failing_position"),
        bins=_bins(reader, "bins", "difference"),
    )


def _shaped(arrays: dict[str, np.ndarray], name: str, shape: tuple[int | None, ...], where: str) -> np.ndarray | None:
    """An array of the run as float64, None where it is absent; the shape must agree with the summary."""
    array = arrays.get(name)
    if array is None:
        return None
    if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(
            expected=f"an array of shape [{wanted}]",
            got=f"shape {list(array.shape)}",
            where=f"'{name}' in {Path(where).with_name('arrays.safetensors')}",
            fix="measure again: the arrays do not belong to this summary.json",
        )
    return array.astype(np.float64)


def _remembrance(reader: Reader | None, arrays: dict[str, np.ndarray], where: str) -> Remembrance | None:
    if reader is None:
        return None
    starts, ends = reader.integers("starts"), reader.integers("ends")
    surfaces = {}
    for distance in DISTANCES:
        surface = _shaped(arrays, f"remembrance_{distance}", (len(starts), len(ends)), where)
        if surface is not None:
            surfaces[distance] = surface
    if not starts or not ends:
        return None
    out, area = reader.part("out_of_window"), reader.part("area")
    return Remembrance(
        starts=starts,
        ends=ends,
        final_end=reader.integer("final_end") or max(ends),
        out_of_window={distance: out.number(distance) if out else None for distance in DISTANCES},
        area={distance: area.number(distance) if area else None for distance in DISTANCES},
        num_documents=reader.integer("num_documents"),
        surfaces=surfaces,
    )


def _states(reader: Reader | None, arrays: dict[str, np.ndarray], where: str) -> States | None:
    if reader is None:
        return None
    positions = reader.integers("positions")
    whole = reader.part("whole")
    series = {key: whole.numbers(key) for key in ("std", "mean", "max_abs", "norm")} if whole else {}
    for key, values in series.items():
        if values and len(values) != len(positions):
            raise reader.wrong(f"{len(positions)} numbers, one per position,", f"{len(values)}", f"states.whole.{key}")
    drift = tuple(
        Head(layer=item.index("layer"), head=item.index("head"), score=item.number("score"))
        for item in reader.objects("drift")
    )
    return States(
        positions=positions,
        whole={key: values for key, values in series.items() if values},
        drift=drift,
        per_head=_shaped(arrays, "states_std", (len(positions), None, None), where),
    )


def _training(run: RunFolder, name: str, role: str, notes: list[str]) -> Training:
    """The losses of a training run; a long run is averaged down to `MAX_LOSS_POINTS` points."""
    _note_status(run, f"The training '{name}'", notes)
    points = []
    for record in run.read_metrics():
        step, loss = (record.get("step"), record.get("loss")) if isinstance(record, dict) else (None, None)
        if isinstance(step, int) and isinstance(loss, int | float) and not isinstance(loss, bool):
            points.append((step, float(loss)))
    if len(points) > MAX_LOSS_POINTS:
        parts = np.array_split(np.array(points), MAX_LOSS_POINTS)
        points = [(int(part[-1, 0]), float(part[:, 1].mean())) for part in parts]
    return Training(
        name=name,
        role=role,
        steps=tuple(step for step, _ in points),
        losses=tuple(loss for _, loss in points),
        manifest=run.manifest,
    )
