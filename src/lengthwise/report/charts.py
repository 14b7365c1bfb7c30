"""The charts of the results: perplexity and full history minus restart by position, training loss.

All position axes are logarithmic and count tokens read; the training length is marked on each, and what lies beyond it
is tinted. A chart whose data were not measured is not made: `all_charts` has a `Missing` in its place.
"""

from __future__ import annotations

import altair as alt

from lengthwise.report import _marks as marks
from lengthwise.report import charts_inside as inside
from lengthwise.report import words
from lengthwise.report._marks import Chart, Missing, Row
from lengthwise.report.records import Group


def all_charts(group: Group) -> dict[str, list[Chart | Missing]]:
    """Every chart of a group by section, in the order of the page."""
    context = _context(group)
    sections: dict[str, list[Chart | Missing]] = {}
    if group.models and context is not None:
        sections["perplexity"] = [perplexity(group, context)]
        sections["restart"] = [restart(group, context)]
        sections["remembrance"] = [inside.remembrance(group, context, "tv"), *inside.surfaces(group, context)]
        sections["distances"] = [chart for d in ("js", "cosine") for chart in [inside.remembrance(group, context, d)]]
        sections["states"] = [inside.states(group, context)]
        sections["heads"] = [inside.heads(group), *inside.head_lines(group, context)]
    sections["training"] = [training(group)]
    return sections


def drawn(group: Group) -> list[Chart]:
    """The charts of a group that could be made, in the order of the page."""
    return [chart for section in all_charts(group).values() for chart in section if isinstance(chart, Chart)]


def _context(group: Group) -> int | None:
    return min((model.context_length for model in group.models), default=None)


def _mostly(verdicts: list[str | None]) -> str:
    return ", ".join(words.VERDICT_WORDS[verdict] for verdict in verdicts)


def perplexity(group: Group, context: int) -> Chart | Missing:
    """Perplexity by position: Figure 1 (top) of the paper."""
    title = "Perplexity by position"
    rows: list[Row] = [
        {
            "name": m.name,
            "x": b.middle,
            "y": b.value,
            "low": b.low if b.low is not None else b.value,
            "high": b.high if b.high is not None else b.value,
            "where": f"{b.start:,} to {b.end:,}",
            "sure": words.interval(b.low, b.high) or "unknown",
        }
        for m in group.models
        for b in m.perplexity or ()
        if b.value is not None
    ]
    if not rows:
        return Missing("perplexity", title, "Perplexity by position was not measured.")
    shown = marks.signs(group.models, rows)
    # The first bins, where every model still guesses, would take most of the axis; they run off the top.
    settled = [row for row in rows if row["x"] >= context / 8] or rows
    values = [row[key] for row in settled for key in ("y", "low", "high")]
    log = max(values) > 4 * min(values)
    low, high = marks.padded(values, log=log)
    cut = any(row["y"] > high for row in rows)
    start = max(1.0, context / 16)
    end = float(max(m.length for m in group.models))
    high = marks.headroom(rows, context, start, end, low, high, log=log)
    x = marks.position_axis("position in tokens", start, end)

    def y(field: str = "y") -> alt.Y:
        scale = alt.Scale(type="log" if log else "linear", domain=[low, high], nice=False, zero=False)
        return alt.Y(f"{field}:Q", title="perplexity", scale=scale)

    tooltip = [
        alt.Tooltip("name:N", title="model"),
        alt.Tooltip("where:N", title="positions"),
        alt.Tooltip("y:Q", title="perplexity", format=".3f"),
        alt.Tooltip("sure:N", title="95 % interval"),
    ]
    lines = marks.lines(rows, shown, x, y, tooltip, band=True)
    labels = marks.end_labels(rows, shown, x, y, low, high, log=log, text=lambda row: words.level(row["y"]))
    chart = alt.layer(*marks.beyond(context, start, end), *lines, *labels)
    caption = (
        "Lower is better; a model that reads on stays level or falls to the right of the dashed line, "
        "and the bands are 95 % intervals over documents"
        + (" (the first positions, where every model still guesses, run off the top)." if cut else ".")
    )
    spec = marks.specification(chart, f"Perplexity by token position; {_mostly([m.verdict for m in group.models])}.")
    return Chart("perplexity", title, caption, spec, legend=shown)


def restart(group: Group, context: int) -> Chart | Missing:
    """Full history minus restart by position, in nats per token."""
    title = "Full history minus restart"
    rows: list[Row] = [
        {
            "name": m.name,
            "x": b.middle,
            "y": b.value,
            "low": b.low if b.low is not None else b.value,
            "high": b.high if b.high is not None else b.value,
            "where": f"{b.start:,} to {b.end:,}",
            "sure": words.interval(b.low, b.high, sign=True) or "unknown",
        }
        for m in group.models
        for b in (m.restart.bins if m.restart else ())
        if b.value is not None
    ]
    if not rows:
        return Missing("restart", title, "Full history against restart was not measured.")
    shown = marks.signs(group.models, rows)
    low, high = marks.padded([row[key] for row in rows for key in ("y", "low", "high")] + [0.0], log=False, share=0.1)
    start, end = max(1.0, context / 16), float(max(m.length for m in group.models))
    high = marks.headroom(rows, context, start, end, low, high)
    x = marks.position_axis("position in tokens", start, end)

    def y(field: str = "y") -> alt.Y:
        scale = alt.Scale(domain=[low, high], nice=False, zero=False)
        return alt.Y(
            f"{field}:Q",
            title="full − restart, nats per token",
            scale=scale,
            axis=alt.Axis(labelExpr="datum.value == 0 ? '0' : format(datum.value, '+~')"),
        )

    tooltip = [
        alt.Tooltip("name:N", title="model"),
        alt.Tooltip("where:N", title="positions"),
        alt.Tooltip("y:Q", title="nats per token", format="+.4f"),
        alt.Tooltip("sure:N", title="bounds, 97.5 % each"),
    ]
    zero = marks.table([{"y": 0.0, "up": "↑ hurts", "down": "↓ helps"}])
    level = alt.Chart(zero).mark_rule(color="@soft", strokeWidth=1).encode(y=y())
    up = alt.Chart(zero).mark_text(align="left", dx=8, dy=-10, color="@soft", fontSize=12)
    down = alt.Chart(zero).mark_text(align="left", dx=8, dy=12, color="@soft", fontSize=12)
    chart = alt.layer(
        *marks.beyond(context, start, end),
        level,
        up.encode(x=alt.value(0), y=y(), text="up:N"),
        down.encode(x=alt.value(0), y=y(), text="down:N"),
        *marks.lines(rows, shown, x, y, tooltip, band=True),
        *marks.end_labels(rows, shown, x, y, low, high, log=False, text=lambda row: words.signed(row["y"])),
    )
    caption = (
        f"On the same target tokens, the loss with the full history minus that with only the last {context:,} tokens: "
        "above zero the model would do better to forget, below zero it makes use of old text; "
        f"the bands are {words.BOUNDS}."
    )
    spec = marks.specification(chart, "Loss with full history minus loss with restart, by position")
    return Chart("restart", title, caption, spec, legend=shown)


def training(group: Group) -> Chart | Missing:
    """Training loss of the runs, step by step."""
    title = "Training loss"
    rows: list[Row] = [
        {"name": run.name, "x": step, "y": loss}
        for run in group.trainings
        for step, loss in zip(run.steps, run.losses, strict=True)
    ]
    if not rows:
        return Missing("training", title, "No training loss was recorded.")
    shown = marks.signs(group.trainings, rows)
    low, high = marks.padded([row["y"] for row in rows], log=False)
    x = alt.X("x:Q", title="training step", scale=alt.Scale(nice=False), axis=alt.Axis(format=",d", tickCount=6))

    def y(field: str = "y") -> alt.Y:
        scale = alt.Scale(domain=[low, high], nice=False, zero=False)
        return alt.Y(f"{field}:Q", title="loss in nats per token", scale=scale)

    tooltip = [
        alt.Tooltip("name:N", title="run"),
        alt.Tooltip("x:Q", title="step", format=",d"),
        alt.Tooltip("y:Q", title="loss", format=".4f"),
    ]
    chart = alt.layer(*marks.lines(rows, shown, x, y, tooltip))
    caption = (
        "Both runs see the same windows in the same order, so their ups and downs agree; they differ only in the state "
        "a window starts from."
        if {run.role for run in group.trainings} >= {"control", "after"}
        else "Loss of each logged step; lower is better."
    )
    return Chart("training", title, caption, marks.specification(chart, title, 220), legend=shown)
