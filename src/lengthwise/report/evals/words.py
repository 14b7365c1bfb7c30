"""Evaluations in words: the headline and the few sentences below it, each of which follows from numbers of the runs."""

from __future__ import annotations

from lengthwise.evaluate.statistics import OWN_SHARE
from lengthwise.report.evals import paired
from lengthwise.report.evals.published import MEAN
from lengthwise.report.evals.records import EvalGroup, Evaluated
from lengthwise.report.words import Line, plural

SECTIONS = {
    "length": "Score by length",
    "tasks": "Task by length",
    "depth": "Score by depth",
    "formats": "Formats of one needle",
    "paired": "Model against model",
    "failures": "Samples that failed",
}
"""Titles of the sections, in the order of the page."""


def headline(group: EvalGroup) -> str:
    """The result of a group in one short sentence; "so far" where a run is not finished."""
    text = _headline(group)
    return text if all(model.complete for model in group.models) else f"So far: {text[:1].lower()}{text[1:]}"


def _headline(group: EvalGroup) -> str:
    if len(group.models) > 1:
        if len(group.lengths) == 1:
            ranked = sorted(group.models, key=lambda model: -(_score(model, group.lengths[0]) or 0))
            shown = ", ".join(f"{model.name} {_percent(_score(model, group.lengths[0]))}" for model in ranked)
            return f"At {group.lengths[0]:,} tokens: {shown}"
        shown = ", ".join(
            f"{model.name} to {model.by_own_share:,} tokens" if model.by_own_share else f"{model.name} at no length"
            for model in group.models
        )
        return f"Keeping {100 * OWN_SHARE:g} % of their short-length score: {shown}"
    model = group.models[0]
    first, last = model.lengths[0], model.lengths[-1]
    if not _score(model, first):
        if first != last and not any(_score(model, length) for length in model.lengths):
            # The score is a mean over the tasks that all lengths have; another task may have an answer right.
            amount = "next to nothing" if any(cell.value for cell in model.cells.values()) else "nothing"
            return f"Scores {amount} at any length from {first:,} to {last:,} tokens"
        return f"Scores nothing at {first:,} tokens" + (", more at greater lengths" if first != last else "")
    if first == last:
        return f"Scores {_percent(_score(model, first))} at {first:,} tokens"
    kept = model.by_own_share
    share = f"{100 * OWN_SHARE:g} % of its short-length score"
    if kept == last:
        return f"Keeps {share} to {last:,} tokens, the longest tried"
    return f"Falls below {share} past {kept:,} tokens" if kept else f"Never keeps {share}"


def standing(group: EvalGroup) -> str:
    """What was evaluated: the line below the headline."""
    lengths = group.lengths
    reach = f"{lengths[0]:,} tokens" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,} tokens"
    parts = [f"evaluated on {plural(len(group.tasks), 'task')} at {reach}"]
    counts = sorted({cell.count for model in group.models for cell in model.cells.values()})
    if counts:
        shown = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        parts.append(f"{shown} samples each")
    if group.context is not None and len({model.context_length for model in group.models}) == 1:
        parts.append(f"trained on {group.context:,} tokens at a time")
    return ", ".join(parts)


def story(group: EvalGroup) -> tuple[Line, ...]:
    """How the score falls, how models compare, how ours compare with published figures."""
    lines = [_score_line(model, named=len(group.models) > 1) for model in group.models]
    lines += _compared(group)
    lines += [line for model in group.models if (line := _published(model, named=len(group.models) > 1)) is not None]
    return tuple(lines)


def section_title(section: str) -> str:
    """The title of a section."""
    return SECTIONS[section]


def _score(model: Evaluated, length: int) -> float | None:
    found = model.mean.get(length)
    return None if found is None else found.value


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _score_line(model: Evaluated, *, named: bool) -> Line:
    first, last = model.lengths[0], model.lengths[-1]
    start, end = _percent(_score(model, first)), _percent(_score(model, last))
    text = f"{start} at {first:,} tokens" + (f", {end} at {last:,}" if last != first else "")
    best = max(model.lengths, key=lambda length: _score(model, length) or 0)
    if best not in (first, last) and (_score(model, best) or 0) > max(
        _score(model, first) or 0, _score(model, last) or 0
    ):
        text += f"; most, {_percent(_score(model, best))}, at {best:,}"
    worst = _steepest(model)
    if worst:
        text += f". {worst}"
    return Line("Score", f"{model.name}: {text}." if named else f"Mean {text}.", "plain")


def _steepest(model: Evaluated) -> str:
    """Between which two lengths most is lost; empty where nothing is."""
    pairs = list(zip(model.lengths, model.lengths[1:], strict=False))
    drops = {pair: (_score(model, pair[0]) or 0) - (_score(model, pair[1]) or 0) for pair in pairs}
    if len(pairs) < 2 or max(drops.values()) <= 0:
        return ""
    (low, high), drop = max(drops.items(), key=lambda item: item[1])
    context = model.context_length
    where = ""
    if context is not None:
        where = (
            ", past the training length" if low >= context else ", across the training length" if high > context else ""
        )
    return f"The steepest fall, {100 * drop:.1f} points, lies between {low:,} and {high:,} tokens{where}"


def _compared(group: EvalGroup) -> list[Line]:
    """Where each model differs from the first beyond chance."""
    lines = []
    first = group.models[0]
    found = paired.differences(group, by_task=False)
    for model in group.models[1:]:
        mine = {item.length: item.difference for item in found if item.name == model.name}
        if not mine:
            text = f"{model.name} and {first.name} have no prompt in common: they cannot be compared one by one."
            lines.append(Line("Compared", text, "plain"))
            continue
        better = [length for length, delta in mine.items() if delta.low is not None and delta.low > 0]
        worse = [length for length, delta in mine.items() if delta.high is not None and delta.high < 0]
        parts = [f"better at {_listed(better)}"] if better else []
        parts += [f"worse at {_listed(worse)}"] if worse else []
        told = " and ".join(parts) + " tokens" if parts else "not told apart at any length"
        lines.append(Line("Compared", f"On the same prompts, {model.name} is {told} against {first.name}.", "plain"))
    return lines


def _listed(lengths: list[int]) -> str:
    return ", ".join(f"{length:,}" for length in lengths)


def _published(model: Evaluated, *, named: bool) -> Line | None:
    """How many published figures lie inside our intervals."""
    if model.published is None:
        return None
    pairs = [(mean, model.published.score(task, length)) for (task, length), mean in model.cells.items()]
    pairs += [(mean, model.published.score(MEAN, length)) for length, mean in model.ruler.items()]
    known = [(mean, value) for mean, value in pairs if value is not None and mean.low is not None]
    if not known:
        return None
    inside = sum(100 * (mean.low or 0) - 0.05 <= value <= 100 * (mean.high or 0) + 0.05 for mean, value in known)
    of = f"{model.name}: " if named else ""
    text = f"{of}{inside} of {plural(len(known), 'published figure')} lie within our 95 % intervals."
    return Line("Published", text, "plain")
