"""Tables of evaluations in the form of the papers: models by length, tasks by length, depth rows, the format grid.

Numbers are percent with 95 % intervals. A row "published" holds the figures that a paper printed for the model above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lengthwise.evaluate.statistics import OWN_SHARE, RULER_THRESHOLD, Mean
from lengthwise.evaluate.summary import RULER
from lengthwise.report.evals import names, paired
from lengthwise.report.evals.published import FORMATS_MEAN, MEAN, SOURCE
from lengthwise.report.evals.records import EvalGroup, Evaluated
from lengthwise.report.tables import Cell, Estimate, Row, Table, Value
from lengthwise.report.words import count, plural

WIDE = 10
"""Most columns of a grid of formats and depths before the formats become rows."""
PUBLISHED = "published"


def estimate(mean: Mean | None, planned: int | None = None, *, mark: bool = False) -> Estimate | None:
    """A mean as a cell in percent; None where there is none.

    Args:
        mean: of shares.
        planned: samples that are to come together; what is missing is noted.
        mark: see `Estimate`.
    """
    if mean is None or mean.value is None:
        return None
    notes = [f"{mean.failures:,} failed"] if mean.failures else []
    notes += [f"{mean.count:,} of {planned:,}"] if planned is not None and mean.count < planned else []
    low, high = (None if end is None else 100 * end for end in (mean.low, mean.high))
    return Estimate(100 * mean.value, low, high, ", ".join(notes), mark)


def board(group: EvalGroup) -> tuple[Row, ...]:
    """What a reader wants to know first, one column per model."""
    first, last = group.lengths[0], group.lengths[-1]

    def score(model: Evaluated, length: int) -> Cell:
        found = estimate(model.mean.get(length))
        if found is None or found.value is None:
            return Cell("not evaluated")
        return Cell(f"{found.value:.1f} %", f"({found.interval})" if found.interval else "")

    def effective(length: int | None, model: Evaluated) -> Cell:
        return Cell("none" if length is None else f"{length:,} tokens", f"of {model.lengths[-1]:,}" if length else "")

    rows = [Row(f"Mean score at {first:,} tokens", tuple(score(model, first) for model in group.models))]
    if last != first:
        rows.append(Row(f"Mean score at {last:,} tokens", tuple(score(model, last) for model in group.models)))
        question = f"Effective length: keeps {100 * OWN_SHARE:g}\u00a0% of its own score at its shortest length up to"
        rows.append(Row(question, tuple(effective(model.by_own_share, model) for model in group.models)))
    if group.has_ruler:
        cells = (effective(m.by_threshold, m) if m.ruler else Cell("not all 13 tasks") for m in group.models)
        rows.append(
            Row(
                f"Effective length by RULER: mean of 13 tasks at least {100 * RULER_THRESHOLD:g}\u00a0% up to",
                (*cells,),
            )
        )
    failed = (Cell(f"{model.failures:,}", f"of {_answers(model):,}") for model in group.models)
    rows.append(Row("Samples that failed (they count as 0)", (*failed,)))
    return tuple(rows)


def _answers(model: Evaluated) -> int:
    return sum(cell.count for cell in model.cells.values())


def sections(group: EvalGroup) -> dict[str, list[Table]]:
    """Every table that has something to show, by section of the page."""
    found: dict[str, list[Table | None]] = {
        "length": [_means(group), _effective(group)],
        "tasks": [_tasks(group)],
        "depth": _depths(group),
        "formats": [_formats(group)],
        "paired": [_paired(group, by_task=False), _paired(group, by_task=True)],
        "failures": [_failures(group)],
        "cells": [_cells(group)],
    }
    return {key: [table for table in tables if table is not None and table.rows] for key, tables in found.items()}


def all_tables(group: EvalGroup) -> tuple[Table, ...]:
    """The same in one row."""
    return tuple(table for tables in sections(group).values() for table in tables)


def _over_lengths(
    model: Evaluated, lengths: Sequence[int], found: Iterable[Mean | None], planned: int | None
) -> list[Estimate | None]:
    pairs = zip(lengths, found, strict=True)
    return [estimate(mean, planned, mark=length == model.context_length) for length, mean in pairs]


def _published_note(group: EvalGroup) -> str:
    """What a reader has to know before comparing; empty where nothing is published."""
    with_them = [model for model in group.models if model.published is not None]
    if not with_them:
        return ""
    loose = [model.name for model in with_them if model.published is not None and not model.published.exact]
    own = [model.name for model in with_them if model.own_wording]
    parts = [f"Published: {SOURCE}, 250 samples a cell, without intervals, RULER's code of mid-2024."]
    parts += [f"Our prompts have our own wording ({', '.join(own)})."] if own else []
    parts += [f"Matched by the name alone: {', '.join(loose)}."] if loose else []
    return " ".join(parts)


def _underlined(rows: Sequence[Sequence[Value]]) -> str:
    """What an underlined number means, where there is one."""
    marked = any(isinstance(value, Estimate) and value.mark for row in rows for value in row)
    return "Underlined: the length the model was trained on." if marked else ""


def _caption(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _means(group: EvalGroup) -> Table:
    """Models by length, as Table 1 of the paper."""
    ruler = group.has_ruler
    rows: list[tuple[Value, ...]] = []
    quiet = set()
    for model in group.models:
        means = model.ruler if ruler else model.mean
        planned = None if model.planned is None else model.planned * (len(RULER) if ruler else len(model.tasks))
        rows.append((model.name, *_over_lengths(model, group.lengths, (means.get(n) for n in group.lengths), planned)))
        if model.published and ruler:
            values = [model.published.score(MEAN, length) for length in group.lengths]
            if any(value is not None for value in values):
                quiet.add(len(rows))
                rows.append((PUBLISHED, *values))
    what = "RULER: mean of the thirteen tasks" if ruler else f"Mean of {plural(len(group.tasks), 'task')}"
    caption = _caption(
        "Percent, every task counting alike, with 95 % intervals.",
        _underlined(rows),
        _published_note(group) if quiet else "",
    )
    columns = ("model", *map(count, group.lengths))
    return Table("mean", f"{what} by length", caption, columns, tuple(rows), frozenset(quiet))


def _effective(group: EvalGroup) -> Table | None:
    if len(group.lengths) < 2:
        return None
    rows = tuple(
        (model.name, model.context_length, model.by_own_share, model.by_threshold if model.ruler else None)
        for model in group.models
    )
    columns = ("model", "training length", "by own score", "by RULER's threshold")
    caption = (
        f"Longest length such that it and all shorter ones keep {100 * OWN_SHARE:g} % of the model's own score at the "
        f"shortest length, or reach {100 * RULER_THRESHOLD:g} % on RULER's thirteen tasks; by the means, without "
        "their intervals. A dash: not even the first length, or not all thirteen tasks."
    )
    return Table("effective-length", "Effective length, in tokens", caption, columns, rows)


def _tasks(group: EvalGroup) -> Table:
    """Tasks by length; tasks that differ in depth alone are one row."""
    rows: list[tuple[Value, ...]] = []
    quiet = set()
    several = len(group.models) > 1
    for label, tasks in group.series().items():
        for model in group.models:
            means = [model.mean_over(tasks, length) for length in group.lengths]
            if not any(means):
                continue
            planned = None if model.planned is None else model.planned * len(tasks)
            head = (label, model.name) if several else (label,)
            rows.append((*head, *_over_lengths(model, group.lengths, means, planned)))
            if model.published is None or len(tasks) > 1:
                continue
            values = [model.published.score(tasks[0], length) for length in group.lengths]
            if any(value is not None for value in values):
                quiet.add(len(rows))
                rows.append(((label, PUBLISHED) if several else (f"{label}, {PUBLISHED}",)) + tuple(values))
    merged = any(len(tasks) > 1 for tasks in group.series().values())
    caption = _caption(
        "Percent with 95 % intervals (Wilson's for right and wrong, bootstrap otherwise).",
        "Tasks that differ in depth alone are averaged." if merged else "",
        _underlined(rows),
        _published_note(group) if quiet else "",
    )
    columns = ("task", *(["model"] if several else []), *map(count, group.lengths))
    return Table("tasks", "Task by length", caption, columns, tuple(rows), frozenset(quiet))


def fixed_depths(group: EvalGroup) -> dict[str, dict[float, list[str]]]:
    """Tasks with a fixed depth: by what is averaged, then by depth.

    One entry per family; where the formats of the paper are among others, one for them alone as well. Only depths that
    have every format are kept, so that each mean is over the same formats.
    """
    families: dict[str, dict[float, dict[str, str]]] = {}
    for task in group.tasks:
        depth = names.fixed_depth(task)
        if depth is not None:
            families.setdefault(names.split(task)[0], {}).setdefault(depth, {})[names.label(task)] = task
    found: dict[str, dict[float, list[str]]] = {}
    for family, depths in families.items():
        formats = {form for row in depths.values() for form in row}
        choices = [formats]
        if formats > names.PAPER:
            choices.append(set(names.PAPER))
        for chosen in choices:
            rows = {
                d: [row[form] for form in sorted(chosen)] for d, row in sorted(depths.items()) if chosen <= set(row)
            }
            if rows:
                found[_format_title(family, chosen)] = rows
    return found


def needle_formats(group: EvalGroup) -> dict[str, dict[float, str]]:
    """Tasks of one needle with a fixed depth: by format, then by depth."""
    grid: dict[str, dict[float, str]] = {}
    for task in group.tasks:
        depth = names.fixed_depth(task)
        if depth is not None and names.split(task)[0] == "niah_grid":
            grid.setdefault(names.label(task), {})[depth] = task
    return grid


def _format_title(family: str, formats: set[str]) -> str:
    if len(formats) == 1:
        return next(iter(formats))
    return (
        "mean of the paper's three formats" if formats == names.PAPER else f"{family}, mean of {len(formats)} formats"
    )


def _depths(group: EvalGroup) -> list[Table | None]:
    """Models by depth, a block of rows for each length: Tables 2 and 3 of the paper."""
    tables: list[Table | None] = []
    for index, (title, depths) in enumerate(fixed_depths(group).items()):
        if len(depths) < 2:
            continue
        labels = {names.label(task) for tasks in depths.values() for task in tasks}
        paper = FORMATS_MEAN if labels == names.PAPER else next(iter(labels)) if len(labels) == 1 else None
        rows: list[tuple[Value, ...]] = []
        quiet = set()
        for length in group.lengths:
            for model in group.models:
                means = [model.mean_over(tasks, length) for tasks in depths.values()]
                if not any(means):
                    continue
                over = model.mean_over([task for tasks in depths.values() for task in tasks], length)
                rows.append((f"{length:,}", model.name, *map(estimate, means), estimate(over)))
                if model.published is None or paper is None:
                    continue
                values = [model.published.score(paper, length, depth) for depth in depths]
                if any(value is not None for value in values):
                    quiet.add(len(rows))
                    rows.append((f"{length:,}", PUBLISHED, *values, None))
        columns = ("length", "model", *(f"{depth:g} %" for depth in depths), "mean")
        caption = _caption(
            "Percent by the place of what is asked for: 0 % is the beginning of the prompt, 100 % its end.",
            _published_note(group) if quiet else "",
        )
        key = "depth" if index == 0 else f"depth-{index + 1}"
        tables.append(Table(key, f"Depth: {title}", caption, columns, tuple(rows), frozenset(quiet)))
    return tables


def _formats(group: EvalGroup) -> Table | None:
    """The grid of formats and depths at every length: Table 4 of the paper."""
    grid = needle_formats(group)
    if len(grid) < 2:
        return None
    depths = sorted({depth for row in grid.values() for depth in row})
    narrow = len(grid) * len(depths) <= WIDE
    rows: list[tuple[Value, ...]] = []
    quiet = set()
    for model in group.models:
        for length in group.lengths:
            lines = [[(form, depth) for form in grid for depth in depths]]
            lines = lines if narrow else [[(form, depth) for depth in depths] for form in grid]
            for line in lines:
                tasks = [grid[form].get(depth) for form, depth in line]
                cells = [model.cells.get((task, length)) if task else None for task in tasks]
                if not any(cells):
                    continue
                head = () if narrow else (line[0][0],)
                rows.append((model.name, f"{length:,}", *head, *(estimate(cell, model.planned) for cell in cells)))
                if model.published is None:
                    continue
                values = [model.published.score(form, length, depth) for form, depth in line]
                if any(value is not None for value in values):
                    quiet.add(len(rows))
                    rows.append((PUBLISHED, f"{length:,}", *head, *values))
    columns = (
        ("model", "length", *(f"{form}, {depth:g} %" for form in grid for depth in depths))
        if narrow
        else ("model", "length", "format", *(f"{depth:g} %" for depth in depths))
    )
    caption = _caption(
        "Percent for each haystack, key and value at each depth.", _published_note(group) if quiet else ""
    )
    return Table("formats", "Formats of one needle", caption, columns, tuple(rows), frozenset(quiet))


def _paired(group: EvalGroup, *, by_task: bool) -> Table | None:
    """Every other model minus the first, on the prompts that both were given."""
    if len(group.models) < 2:
        return None
    rows: list[tuple[Value, ...]] = []
    for found in paired.differences(group, by_task=by_task):
        delta = found.difference
        low, high = (None if end is None else 100 * end for end in (delta.low, delta.high))
        value = None if delta.value is None else Estimate(100 * delta.value, low, high, signed=True)
        head = (found.label,) if by_task else ()
        rows.append(
            (found.name, *head, f"{found.length:,}", value, delta.count, delta.better, delta.worse, delta.p_value)
        )
    columns = (
        f"against {group.models[0].name}",
        *(["task"] if by_task else []),
        "length",
        "difference in points",
        "samples",
        "better on",
        "worse on",
        "p (sign test)",
    )
    caption = "Score of the model minus that of the first, sample by sample, on the very same prompts."
    if by_task:
        caption += f" Of so many comparisons ({len(rows)}), one in twenty falls below p = 0.05 by chance alone."
    key, title = ("paired-tasks", "Model against model by task") if by_task else ("paired", "Model against model")
    return Table(key, title, caption, columns, tuple(rows))


def _failures(group: EvalGroup) -> Table:
    """Errors by task, length and text."""
    counted: dict[tuple[str, str, int, str], int] = {}
    for model in group.models:
        for sample in model.samples:
            if sample.score is None:
                key = (model.name, sample.task, sample.length, " ".join(str(sample.raw.get("error")).split())[:120])
                counted[key] = counted.get(key, 0) + 1
    rows = tuple((name, task, f"{length:,}", number, error) for (name, task, length, error), number in counted.items())
    columns = ("model", "task", "length", "samples", "error")
    return Table("failures", "Samples that failed", "They have no answer and count as 0 in every mean.", columns, rows)


def _cells(group: EvalGroup) -> Table:
    """Every cell with everything that is known of it: the table for machines."""
    rows = tuple(
        (
            model.name,
            task,
            length,
            estimate(cell),
            cell.count,
            cell.failures,
            "/".join(model.scorers.get(task, ())) or None,
            model.published.score(task, length) if model.published else None,
        )
        for model in group.models
        for (task, length), cell in model.cells.items()
    )
    columns = ("model", "task", "length", "score", "samples", "failed", "scorer", "published")
    return Table("cells", "Every task at every length", "Percent; depths apart.", columns, rows)
