"""Charts of evaluations: scores over length with the training length marked, and heat maps of depth by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import altair as alt

from lengthwise.evaluate.statistics import Mean, mean_score
from lengthwise.report import _marks as marks
from lengthwise.report import theme
from lengthwise.report._marks import Chart, Missing, Row, Sign
from lengthwise.report.evals import names
from lengthwise.report.evals.published import MEAN, Published
from lengthwise.report.evals.records import EvalGroup, Evaluated
from lengthwise.report.evals.tables import fixed_depths, needle_formats

SMALL_HEIGHT = 150
MAX_SMALL = 30
"""Most charts of single tasks; beyond that only the tables have them."""
MAX_MAPS = 12
"""Most heat maps of single formats."""
BINS = 5
"""Bands of depth where it was drawn at random."""


def all_charts(group: EvalGroup) -> dict[str, list[Chart | Missing]]:
    """Every chart of a group by section, in the order of the page."""
    return {
        "length": [mean(group)],
        "tasks": tasks(group),
        "depth": depth_maps(group),
        "formats": format_maps(group),
    }


def mean(group: EvalGroup) -> Chart | Missing:
    """Mean score over length: the figure form of Table 1."""
    ruler = group.has_ruler
    series = {model.name: model.ruler if ruler else model.mean for model in group.models}
    title = "RULER: mean of thirteen tasks" if ruler else "Mean score by length"
    chart = _lines(group, "mean", title, series, MEAN if ruler else None)
    if isinstance(chart, Missing):
        return chart
    bands = "bands are 95 % intervals" + (", dotted lines published figures" if _any_published(chart) else "")
    inside = group.context is not None and group.lengths[0] <= group.context < group.lengths[-1]
    reads = "a model that reads on keeps its height to the right of the dashed line; " if inside else ""
    return replace(chart, caption=f"Higher is better: {reads}{bands}.")


def tasks(group: EvalGroup) -> list[Chart | Missing]:
    """Score over length of every task, small; none for a single task or length."""
    series = group.series()
    if len(series) < 2 or len(group.lengths) < 2 or len(series) > MAX_SMALL:
        return []
    charts: list[Chart | Missing] = []
    for index, (label, members) in enumerate(series.items()):
        found = {
            model.name: {n: mean for n in model.lengths if (mean := model.mean_over(members, n)) is not None}
            for model in group.models
        }
        published = members[0] if len(members) == 1 else None
        chart = _lines(group, f"task-{index + 1}", label, found, published, small=True)
        if isinstance(chart, Chart):
            charts.append(chart)
    return charts


def _any_published(chart: Chart) -> bool:
    return any(sign.dash == theme.DOTTED for sign in chart.legend)


def _lines(
    group: EvalGroup,
    key: str,
    title: str,
    series: Mapping[str, Mapping[int, Mean]],
    published: str | None,
    *,
    small: bool = False,
) -> Chart | Missing:
    rows: list[Row] = []
    for model in group.models:
        for length, found in sorted(series[model.name].items()):
            if found.value is not None:
                low, high = (found.value if end is None else end for end in (found.low, found.high))
                sure = "unknown" if found.low is None else f"{100 * low:.1f} to {100 * high:.1f}"
                rows.append(
                    {
                        "name": model.name,
                        "x": length,
                        "y": 100 * found.value,
                        "low": 100 * low,
                        "high": 100 * high,
                        "sure": sure,
                        "samples": found.count,
                    }
                )
    if not rows:
        return Missing(key, title, "No model was evaluated on it.")
    drawn = marks.signs(group.models, rows)
    printed, printed_signs = _printed(group, drawn, published)
    lengths = group.lengths
    room = 1.25 if len(lengths) == 1 else (lengths[-1] / lengths[0]) ** 0.06
    start, end = lengths[0] / room, lengths[-1] * room
    scale = alt.Scale(type="log", domain=[start, end], nice=False)
    ticks = lengths if len(lengths) <= 8 else marks.powers(start, end, 7)
    axis = alt.Axis(values=ticks, format=",d", labelOverlap="greedy", labelFlush=False)
    x = alt.X("x:Q", title="length in tokens", scale=scale, axis=axis)
    # Tasks that a model fails altogether would lie on the axis line, half of their stroke cut off.
    domain = [-2.0, 102.0]
    if not small and group.context is not None:
        domain[1] = 114.0  # room for the name of the training length above the lines

    def y(field: str = "y") -> alt.Y:
        scale = alt.Scale(domain=domain, nice=False, zero=False)
        values = [0, 50, 100] if small else [0, 25, 50, 75, 100]
        return alt.Y(
            f"{field}:Q", title=None if small else "score in percent", scale=scale, axis=alt.Axis(values=values)
        )

    tooltip = [
        alt.Tooltip("name:N", title="model"),
        alt.Tooltip("x:Q", title="length", format=",d"),
        alt.Tooltip("y:Q", title="score", format=".1f"),
        alt.Tooltip("sure:N", title="95 % interval"),
        alt.Tooltip("samples:Q", title="samples", format=",d"),
    ]
    colour = marks.colour_scale(drawn)
    points = alt.Chart(marks.table(rows)).mark_circle(size=24 if small else 44, opacity=1, tooltip=None)
    layers: list[alt.Chart] = [
        *_training_length(group.context, start, end),
        *marks.lines(rows, drawn, x, y, tooltip, band=True),
        points.encode(x=x, y=y(), color=alt.Color("name:N", scale=colour, legend=None)),
    ]
    if printed:
        dotted = alt.Chart(marks.table(printed)).mark_line(strokeDash=list(theme.DOTTED), clip=True)
        colours = marks.colour_scale(printed_signs)
        layers.append(dotted.encode(x=x, y=y(), color=alt.Color("name:N", scale=colours, legend=None)))
    if small:
        # The name of the training length would cover a small chart; its rule stays.
        layers = [layer for layer in layers if layer.to_dict(validate=False)["mark"].get("type") != "text"]
    else:
        label = marks.end_labels(rows, drawn, x, y, domain[0], domain[1], log=False, text=lambda row: f"{row['y']:.1f}")
        layers += label
    chart = alt.layer(*layers).resolve_scale(color="independent")
    spec = marks.specification(chart, f"{title}: score by length", SMALL_HEIGHT if small else marks.HEIGHT)
    return Chart(key, title, "", spec, small=small, legend=[*drawn, *printed_signs])


def _training_length(context: int | None, start: float, end: float) -> list[alt.Chart]:
    """The mark of the training length; where it lies off the axis, in which direction."""
    if context is None:
        return []
    if start < context < end:
        return marks.beyond(context, start, end)
    before = context <= start
    text = f"← training length {context:,}" if before else f"training length {context:,} →"
    place = start if before else end
    base = alt.Chart(marks.table([{"x": start, "x2": end, "place": place, "text": text}]))
    label = base.mark_text(
        align="left" if before else "right",
        baseline="top",
        dx=6 if before else -6,
        dy=5,
        color="@soft",
        fontSize=12,
        tooltip=None,
    ).encode(x="place:Q", y=alt.value(0), text="text:N")
    tint = base.mark_rect(color="@beyond", opacity=0.4, tooltip=None).encode(x="x:Q", x2="x2:Q")
    return [tint, label] if before else [label]


def _printed(group: EvalGroup, drawn: Sequence[Sign], task: str | None) -> tuple[list[Row], list[Sign]]:
    """Published scores of a task as rows and signs: the model's colour, dotted."""
    rows: list[Row] = []
    signs = []
    by_name = {sign.name: sign for sign in drawn}
    for model in group.models:
        found: Published | None = model.published
        if found is None or task is None or model.name not in by_name:
            continue
        name = f"{model.name}, published"
        values = [(length, found.score(task, length)) for length in group.lengths]
        mine = [{"name": name, "x": length, "y": value} for length, value in values if value is not None]
        if mine:
            rows += mine
            signs.append(replace(by_name[model.name], name=name, dash=theme.DOTTED))
    return rows, signs


def depth_maps(group: EvalGroup) -> list[Chart | Missing]:
    """Depth by length, a map for each model and kind of task."""
    charts: list[Chart | Missing] = []
    for title, depths in fixed_depths(group).items():
        if len(depths) < 2:
            continue
        for model in group.models:
            rows = [
                _cell(length, f"{depth:g} %", found)
                for length in model.lengths
                for depth, tasks in depths.items()
                if (found := model.mean_over(tasks, length)) is not None
            ]
            order = [f"{depth:g} %" for depth in depths]
            charts += _map(group, model, title, rows, order, len(charts))
    for label in _drawn_labels(group):
        for model in group.models:
            charts += _map(group, model, *_drawn(model, label), len(charts))
    return charts


def format_maps(group: EvalGroup) -> list[Chart | Missing]:
    """The same maps for each format of one needle; none where there is one format, or too many to look at."""
    formats = {label: row for label, row in needle_formats(group).items() if len(row) > 1}
    if not 2 <= len(formats) * len(group.models) <= MAX_MAPS or len(formats) < 2:
        return []
    charts: list[Chart | Missing] = []
    for label, depths in formats.items():
        for model in group.models:
            rows = [
                _cell(length, f"{depth:g} %", model.cells[task, length])
                for depth, task in sorted(depths.items())
                for length in model.lengths
                if (task, length) in model.cells
            ]
            order = [f"{depth:g} %" for depth in sorted(depths)]
            charts += _map(group, model, label, rows, order, len(charts), key="format")
    return charts


def _drawn_labels(group: EvalGroup) -> list[str]:
    """Kinds of tasks whose depth varies from sample to sample: needles and questions together, the others apart."""
    found: dict[str, None] = {}
    for model in group.models:
        for sample in model.samples:
            if sample.depth is not None and names.fixed_depth(sample.task) is None:
                found[_kind(sample.task)] = None
    return list(found)


def _kind(task: str) -> str:
    family, _ = names.split(task)
    if family.startswith("niah"):
        return "needles of RULER"
    return "questions of RULER" if family in ("qa_1", "qa_2") else family


def _drawn(model: Evaluated, kind: str) -> tuple[str, list[Row], list[str]]:
    """Title, rows and order of depths of a kind of tasks; depths in bands where there are many."""
    found: dict[int, dict[float, list[float | None]]] = {}
    for sample in model.samples:
        if sample.depth is not None and names.fixed_depth(sample.task) is None and _kind(sample.task) == kind:
            found.setdefault(sample.length, {}).setdefault(sample.depth, []).append(sample.score)
    depths = sorted({depth for row in found.values() for depth in row})
    few = len(depths) <= BINS
    bands = [f"{depth:g} %" for depth in depths] if few else _bands()
    rows = []
    for length, row in sorted(found.items()):
        scores: dict[str, list[float | None]] = {}
        for depth, values in row.items():
            band = f"{depth:g} %" if few else bands[min(int(depth * BINS / 100), BINS - 1)]
            scores.setdefault(band, []).extend(values)
        rows += [_cell(length, band, mean_score(values, binary=True)) for band, values in scores.items()]
    return kind, rows, bands


def _bands() -> list[str]:
    step = 100 // BINS
    return [f"{low} to {low + step} %" for low in range(0, 100, step)]


def _cell(length: int, depth: str, found: Mean) -> Row:
    value = 100 * (found.value or 0.0)
    low, high = found.low, found.high
    sure = "unknown" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
    shown = f"{value:.0f}"
    return {"length": f"{length:,}", "depth": depth, "v": value, "text": shown, "sure": sure, "samples": found.count}


def _map(
    group: EvalGroup,
    model: Evaluated,
    title: str,
    rows: list[Row],
    depths: list[str],
    number: int,
    key: str = "depth",
) -> list[Chart | Missing]:
    if not rows:
        return []
    lengths = [f"{length:,}" for length in group.lengths]
    x = alt.X("length:O", sort=lengths, title="length in tokens", axis=alt.Axis(labelAngle=0, labelOverlap="greedy"))
    y = alt.Y("depth:O", sort=depths, title="depth", axis=alt.Axis(grid=False))
    scale = alt.Scale(domain=[0, 100], range=[f"@ramp{i}" for i in range(5)], interpolate="rgb")
    colour = alt.Color(
        "v:Q", scale=scale, title="score in percent", legend=alt.Legend(gradientLength=140, gradientThickness=9)
    )
    tooltip = [
        alt.Tooltip("length:N", title="length"),
        alt.Tooltip("depth:N", title="depth"),
        alt.Tooltip("v:Q", title="score", format=".1f"),
        alt.Tooltip("sure:N", title="95 % interval"),
        alt.Tooltip("samples:Q", title="samples", format=",d"),
    ]
    data = marks.table(rows)
    cells = alt.Chart(data).mark_rect(stroke="@paper", strokeWidth=1).encode(x=x, y=y, color=colour, tooltip=tooltip)
    # Dark letters on light cells and light ones on dark cells: two layers, because a colour token in a condition would
    # not be replaced.
    layers: list[alt.Chart] = [cells]
    for ink, part in (("@ink", [r for r in rows if r["v"] <= 62]), ("@paper", [r for r in rows if r["v"] > 62])):
        if part:
            letters = alt.Chart(marks.table(part)).mark_text(color=ink, fontSize=12, tooltip=None)
            layers.append(letters.encode(x=x, y=y, text="text:N"))
    text = title if len(group.models) == 1 else f"{model.name}: {title}"
    caption = ""
    if number == 0 and key == "depth":
        caption = (
            "Score in percent by the place of what is asked for (0 % is the beginning of the prompt) and the length of "
            "the prompt; the stronger the colour, the better."
        )
    height = max(24 * len(depths), 90)
    spec = marks.specification(alt.layer(*layers), f"{text}: score by depth and length", height)
    return [Chart(f"{key}-{number + 1}", text, caption, spec, small=True, ramp=100.0, ramp_title="score in percent:")]
