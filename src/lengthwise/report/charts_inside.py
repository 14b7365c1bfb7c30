"""The charts of the reasons: Effective Remembrance, the spread of the state, the heads that drift."""

from __future__ import annotations

import itertools
import math

import altair as alt
import numpy as np

from lengthwise.report import _marks as marks
from lengthwise.report import words
from lengthwise.report._marks import Chart, Missing, Row
from lengthwise.report.records import DISTANCES, Group, Measured

SMALL_HEIGHT = 150
TOP_HEADS = 8
SMALL_MULTIPLES = 6


def remembrance(group: Group, context: int, distance: str) -> Chart | Missing:
    """Effective Remembrance at the final end: Figure 1 (bottom) and 13 of the paper, over the distance back."""
    key = "remembrance" if distance == "tv" else f"remembrance-{distance}"
    title = "Effective Remembrance" if distance == "tv" else f"Effective Remembrance ({DISTANCES[distance]})"
    rows: list[Row] = [
        {"name": m.name, "x": m.remembrance.final_end - start + 1, "y": value, "end": m.remembrance.final_end}
        for m in group.models
        if m.remembrance
        for start, value in m.remembrance.curve(distance)
        # Zero cannot stand on a logarithmic axis; it occurs at start 0, where nothing is left out.
        if value > 0
    ]
    if not rows:
        measured = any(m.remembrance.was_measured(distance) for m in group.models if m.remembrance)
        reason = "was measured, but the arrays of its curves are missing" if measured else "was not measured"
        return Missing(key, title, f"Effective Remembrance ({DISTANCES[distance]}) {reason}.", measured)
    drawn = marks.signs(group.models, rows)
    rows.sort(key=lambda row: (row["name"], row["x"]))
    # Below a ten-thousandth a line leaves the chart.
    low = min(max(min(row["y"] for row in rows) * 0.8, 1e-4), 0.5)
    last = max(row["end"] for row in rows)
    end = float(last + 1)
    top = marks.headroom(rows, context, 1.0, end, low, 1.0, log=True)
    x = marks.position_axis("only the last … tokens are read", 1.0, end)

    def y(field: str = "y") -> alt.Y:
        scale = alt.Scale(type="log", domain=[low, top], nice=False)
        steps = (0.0001, 0.001, 0.01, 0.1, 1.0) if low < 0.003 else (0.01, 0.03, 0.1, 0.3, 1.0)
        ticks = [tick for tick in steps if tick >= low]
        return alt.Y(f"{field}:Q", title=DISTANCES[distance], scale=scale, axis=alt.Axis(values=ticks, format="~g"))

    tooltip = [
        alt.Tooltip("name:N", title="model"),
        alt.Tooltip("x:Q", title="tokens kept", format=",d"),
        alt.Tooltip("y:Q", title=DISTANCES[distance], format=".3f"),
        alt.Tooltip("end:Q", title="prediction at", format=",d"),
    ]
    chart = alt.layer(
        *marks.beyond(context, 1.0, end),
        *marks.lines(rows, drawn, x, y, tooltip),
        *marks.end_labels(rows, drawn, x, y, low, top, log=True, text=lambda row: words.share(row["y"])),
    )
    counts = {m.remembrance.num_documents for m in group.models if m.remembrance and m.remembrance.num_documents}
    mean = f", mean of {words.plural(min(counts), 'text')}," if counts else ""
    caption = (
        f"How much the prediction at token {last:,} changes (0 not at all, 1 entirely){mean} when only the last tokens "
        "are read; a line that stays high to the right of the dashed line clings to text beyond the reach of training."
    )
    spec = marks.specification(chart, title)
    return Chart(key, title, caption, spec, small=distance != "tv", legend=drawn)


def _borders(grid: list[float], low: float, high: float) -> list[tuple[float, float]]:
    """Cell around each point of an increasing grid: half way to its neighbours, ending at the limits."""
    middles = [low, *((a + b) / 2 for a, b in itertools.pairwise(grid)), high]
    return list(itertools.pairwise(middles))


def _cells(model: Measured) -> list[Row]:
    """One rectangle per (start, end) of the surface where something is left out and something is read."""
    r = model.remembrance
    if r is None or "tv" not in r.surfaces:
        return []
    surface, high = r.surfaces["tv"], float(max(*r.ends, *r.starts))
    across = _borders([float(end) for end in r.ends], 0.0, high)
    along = _borders([float(start) for start in r.starts], 0.0, high)
    return [
        {
            "x": across[j][0],
            "x2": across[j][1],
            "y": along[i][0],
            "y2": along[i][1],
            "v": float(surface[i, j]),
            "start": start,
            "end": end,
        }
        for j, end in enumerate(r.ends)
        for i, start in enumerate(r.starts)
        # Start 0 leaves nothing out and is 0 by definition.
        if 0 < start <= end and math.isfinite(float(surface[i, j]))
    ]


def surfaces(group: Group, context: int) -> list[Chart | Missing]:
    """The whole surface of Effective Remembrance (total variation), one heat map per model on one colour scale."""
    found = [(model, rows) for model in group.models if (rows := _cells(model))]
    if not found:
        return []
    top = max(row["v"] for _, rows in found for row in rows)
    high = max(row["x2"] for _, rows in found for row in rows)
    colour = alt.Color(
        "v:Q",
        scale=alt.Scale(type="sqrt", domain=[0, top], range=[f"@ramp{i}" for i in range(5)], interpolate="rgb"),
        title="change of the prediction",
        legend=alt.Legend(gradientLength=140, gradientThickness=9, values=_color_ticks(top), format="~g"),
    )
    tooltip = [
        alt.Tooltip("end:Q", title="prediction at token", format=",d"),
        alt.Tooltip("start:Q", title="reading starts at", format=",d"),
        alt.Tooltip("v:Q", title="change", format=".3f"),
    ]
    scale = alt.Scale(domain=[0, high], nice=False)
    axis = alt.Axis(format=",d", values=[high * quarter / 4 for quarter in range(5)], grid=False, labelFlush=True)
    x = alt.X("x:Q", title="prediction at token", scale=scale, axis=axis)
    y = alt.Y("y:Q", title="reading starts at token", scale=scale, axis=axis)
    charts: list[Chart | Missing] = []
    for index, (model, rows) in enumerate(found):
        cells = alt.Chart(marks.table(rows)).mark_rect(stroke=None)
        cells = cells.encode(x=x, x2="x2:Q", y=y, y2="y2:Q", color=colour, tooltip=tooltip)
        edge = alt.Chart(marks.table([{"x": context, "y": 0}, {"x": high, "y": high - context}]))
        line = edge.mark_line(strokeDash=[3, 3], strokeWidth=1.2, color="@ink").encode(x="x:Q", y="y:Q")
        caption = (
            "The same for predictions at every token: each cell leaves out all text before a start, and the stronger "
            f"its colour, the more the prediction changes; below the dashed line at least the last {context:,} tokens "
            "are read, and a healthy model is faint."
            if index == 0
            else ""
        )
        spec = marks.specification(alt.layer(cells, line), f"Effective Remembrance surface, {model.name}", 230)
        title = model.name if model.role == "run" else model.name[:1].upper() + model.name[1:]
        charts.append(Chart(f"surface-{index}-{model.role}", title, caption, spec, small=True, ramp=top))
    return charts


def _color_ticks(top: float) -> list[float]:
    return [tick for tick in (0.0, 0.05, 0.2, 0.5, 1.0) if tick <= top * 1.02]


def states(group: Group, context: int) -> Chart | Missing:
    """Std of the whole state over time: Figure 4 of the paper."""
    title = "Spread of the state over time"
    rows: list[Row] = [
        {"name": m.name, "x": position, "y": value}
        for m in group.models
        if m.states
        for position, value in zip(m.states.positions, m.states.whole.get("std", ()), strict=False)
        if value is not None and position >= 1
    ]
    if not rows:
        return Missing("states", title, "State statistics were not measured.")
    drawn = marks.signs(group.models, rows)
    values = [row["y"] for row in rows]
    log = min(values) > 0 and max(values) > 6 * min(values)
    low, high = marks.padded(values, log=log)
    low = low if log else min(low, 0.0) if min(values) < 0.25 * max(values) else low
    start, end = float(min(row["x"] for row in rows)), float(max(row["x"] for row in rows))
    high = marks.headroom(rows, context, start, end, low, high, log=log)
    x = marks.position_axis("position in tokens", start, end)

    def y(field: str = "y") -> alt.Y:
        scale = alt.Scale(type="log" if log else "linear", domain=[low, high], nice=False, zero=False)
        return alt.Y(f"{field}:Q", title="std of all state elements", scale=scale)

    tooltip = [
        alt.Tooltip("name:N", title="model"),
        alt.Tooltip("x:Q", title="position", format=",d"),
        alt.Tooltip("y:Q", title="std", format=".3f"),
    ]
    chart = alt.layer(
        *marks.beyond(context, start, end),
        *marks.lines(rows, drawn, x, y, tooltip),
        *marks.end_labels(rows, drawn, x, y, low, high, log=log, text=lambda row: words.level(row["y"])),
    )
    caption = (
        "A line that keeps rising past the dashed line means states that training never showed the model; what matters "
        "is that it levels off, not that it is low."
    )
    return Chart("states", title, caption, marks.specification(chart, title), legend=drawn)


def heads(group: Group) -> Chart | Missing:
    """The heads that drift most in the model as it came, and the same heads in the others: a ranked dot plot."""
    title = "Heads that drift most"
    subject = group.subject
    if subject is None or subject.states is None or not subject.states.drift:
        return Missing("heads", title, "The drift of the heads was not measured.")
    chosen = [head.name for head in subject.states.drift[:TOP_HEADS]]
    rows: list[Row] = [
        {"name": m.name, "head": head.name, "y": math.exp(min(head.score, 50.0))}
        for m in group.models
        if m.states
        for head in m.states.drift
        if head.name in chosen and head.score is not None
    ]
    drawn = marks.signs(group.models, rows)
    limit = max(row["y"] for row in rows) * 1.05
    x = alt.X(
        "y:Q",
        title="largest change of std past training",
        scale=alt.Scale(type="log", domain=[1, max(limit, 1.2)], nice=False),
        axis=alt.Axis(format=".2~f", labelExpr="'×' + datum.label", values=_factors(1.0, max(limit, 1.2)), grid=True),
    )
    y = alt.Y("head:N", sort=chosen, title=None, axis=alt.Axis(grid=False, labelColor="@ink"))
    data = marks.table(rows)
    link = alt.Chart(data).mark_rule(color="@rule", strokeWidth=3).encode(x="low:Q", x2="high:Q", y=y)
    link = link.transform_aggregate(low="min(y)", high="max(y)", groupby=["head"])
    shapes = alt.Scale(domain=[sign.name for sign in drawn], range=[sign.shape for sign in drawn])
    dots = (
        alt.Chart(data)
        .mark_point(filled=True, size=110, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "name:N", scale=marks.colour_scale(drawn), legend=alt.Legend(symbolType="circle", symbolSize=110)
            ),
            shape=alt.Shape("name:N", scale=shapes),
            tooltip=[
                alt.Tooltip("name:N", title="model"),
                alt.Tooltip("head:N", title="head"),
                alt.Tooltip("y:Q", title="factor", format=".3f"),
            ],
        )
    )
    caption = (
        f"The {len(chosen)} heads of '{subject.name}' whose spread moves furthest from that at the training length; "
        "×1 is no drift at all, and the line joins the same head in the models compared."
    )
    spec = marks.specification(alt.layer(link, dots), title, max(28 * len(chosen), 90))
    return Chart("heads", title, caption, spec, legend=drawn)


def _factors(low: float, high: float) -> list[float]:
    """A few round factors between the limits, 1 among them where it lies between."""
    choices = ([1.1, 1.2, 1.3, 1.4], [1.5, 2.0], [2.0, 3.0, 4.0], [2.0, 5.0, 10.0], [10.0, 100.0, 1000.0])
    steps = next((steps for steps in choices if max(high, 1 / low) <= 1.3 * steps[-1]), choices[-1])
    return [tick for tick in sorted({1.0, *steps, *(1 / step for step in steps)}) if low <= tick <= high]


def head_lines(group: Group, context: int) -> list[Chart | Missing]:
    """Std of the top drifting heads over time, relative to the training length: Figure 9 of the paper."""
    subject = group.subject
    if subject is None or subject.states is None or not subject.states.drift:
        return []
    if subject.states.per_head is None:
        reason = "The lines of single heads were measured, but their arrays are missing."
        return [Missing("head-lines", "Single heads over time", reason, measured=True)]
    picked = subject.states.drift[:SMALL_MULTIPLES]
    per_head = {head.name: _head_rows(group, context, head.layer, head.head) for head in picked}
    everything = [row for rows in per_head.values() for row in rows]
    if not everything:
        return []
    drawn = marks.signs(group.models, everything)
    low, high = marks.padded([row["y"] for row in everything] + [1.0], log=True)
    start, end = float(min(row["x"] for row in everything)), float(max(row["x"] for row in everything))
    x = marks.position_axis("position in tokens", start, end)

    def y(field: str = "y") -> alt.Y:
        scale = alt.Scale(type="log", domain=[low, high], nice=False)
        axis = alt.Axis(labelExpr="'×' + datum.label", format=".2~f", values=_factors(low, high))
        return alt.Y(f"{field}:Q", title=None, scale=scale, axis=axis)

    tooltip = [
        alt.Tooltip("name:N", title="model"),
        alt.Tooltip("x:Q", title="position", format=",d"),
        alt.Tooltip("y:Q", title="relative std", format=".3f"),
    ]
    charts: list[Chart | Missing] = []
    for index, (name, rows) in enumerate(per_head.items()):
        rule = alt.Chart(marks.table([{"x": context}])).mark_rule(color="@soft", strokeDash=[3, 3]).encode(x="x:Q")
        tint = alt.Chart(marks.table([{"x": context, "x2": end}])).mark_rect(color="@beyond", opacity=0.4, tooltip=None)
        lines = marks.lines(rows, drawn, x, y, tooltip, legend=False)
        chart = alt.layer(tint.encode(x="x:Q", x2="x2:Q"), rule, *lines)
        caption = (
            "Std of single heads over time, each divided by its own value at the training length: a steady head stays "
            "at ×1, and colours are as above."
            if index == 0
            else ""
        )
        spec = marks.specification(chart, f"Relative std of {name} over time", SMALL_HEIGHT)
        charts.append(Chart(f"head-{index}", name[:1].upper() + name[1:], caption, spec, small=True, legend=drawn))
    return charts


def _head_rows(group: Group, context: int, layer: int, head: int) -> list[Row]:
    """Std of one head over time in every model that has it, relative to the training length."""
    rows: list[Row] = []
    for m in group.models:
        if m.states is None or m.states.per_head is None:
            continue
        _, layers, num_heads = m.states.per_head.shape
        if layer >= layers or head >= num_heads:
            continue
        places = np.array(m.states.positions, dtype=float)
        values = m.states.per_head[:, layer, head]
        # The first positions, where the state is still filling, would take most of the axis.
        kept = np.isfinite(values) & (values > 0) & (places >= max(context / 16, 1))
        if not kept.any():
            continue
        at = float(np.interp(math.log(context), np.log(places[kept]), values[kept]))
        rows += [
            {"name": m.name, "x": float(p), "y": float(v) / at} for p, v in zip(places[kept], values[kept], strict=True)
        ]
    return rows
