"""What the charts are put together from: axes, lines with bands and tooltips, the mark of the training length.

Specifications hold colour tokens (see `theme`) and no width; the page and the exported files put both in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import altair as alt

from lengthwise.report import theme

HEIGHT = 300
WORDS_HEIGHT = 44
"""Pixels at the top of a chart that the words at the training length take, with a gap below them."""
LABEL_GAP = 14
"""Least distance in pixels between two values written at the ends of lines."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Sign:
    """How a model is drawn on every chart: colour token, dash pattern of its lines, shape of its points."""

    name: str
    colour: str
    dash: tuple[int, ...]
    shape: str
    glyph: str
    """The shape as a character, for a legend made of text."""


@dataclass(frozen=True)
class Chart:
    """One chart: `spec` is Vega-Lite without a width; `caption` tells in a sentence how to read it."""

    key: str
    title: str
    caption: str
    spec: dict[str, Any]
    small: bool = False
    """Drawn beside others of its section rather than across the page."""
    legend: Sequence[Sign] = ()
    """The models drawn. The page writes them above the chart, where they wrap on a phone; the specification has a
    legend of its own for exported files."""
    ramp: float | None = None
    """Top of the colour scale, which begins at 0, where the chart is a heat map."""
    ramp_title: str = "change of the prediction:"
    """What the colour scale shows."""


@dataclass(frozen=True)
class Missing:
    """A chart that could not be made, and why."""

    key: str
    title: str
    reason: str
    measured: bool = False
    """Whether the numbers exist, and only what a chart needs of them is missing."""


@runtime_checkable
class Named(Protocol):
    """A model or run that is drawn under its name."""

    @property
    def name(self) -> str: ...

    @property
    def role(self) -> str: ...


def signs(named: Sequence[Named], rows: list[Row]) -> list[Sign]:
    """The signs of those models or runs that occur in `rows`. A sign depends on the place in the whole group, so that a
    model looks the same on every chart, whatever is missing."""
    present = {row["name"] for row in rows}
    return [
        Sign(
            name=item.name,
            colour=theme.colour_token(item.role, index),
            dash=theme.dash(item.role, index),
            shape=theme.SHAPES[index % theme.MAX_LINES],
            glyph=theme.GLYPHS[index % theme.MAX_LINES],
        )
        for index, item in enumerate(named)
        if item.name in present
    ]


def colour_scale(drawn: Sequence[Sign]) -> alt.Scale:
    """Names to colour tokens."""
    return alt.Scale(domain=[sign.name for sign in drawn], range=[sign.colour for sign in drawn])


def without_legend(spec: dict[str, Any]) -> dict[str, Any]:
    """The specification with no legend in any layer, for a page that writes the legend itself."""
    changed = dict(spec)
    if "layer" in changed:
        changed["layer"] = [without_legend(layer) for layer in changed["layer"]]
    if "encoding" in changed:
        changed["encoding"] = {
            channel: {**value, "legend": None} if channel in ("color", "strokeDash", "shape") else value
            for channel, value in changed["encoding"].items()
        }
    return changed


def table(rows: list[Row]) -> alt.InlineData:
    """Rows as the data of a chart."""
    return alt.InlineData(values=rows)


def specification(chart: Any, description: str, height: int = HEIGHT) -> dict[str, Any]:
    """The chart as a plain specification, fit to any width; colours stay tokens, configuration is added when drawn."""
    # Not validated here, which would take half of the time of a page; a test validates every chart.
    spec: dict[str, Any] = chart.to_dict(validate=False)
    for key in ("$schema", "config"):
        spec.pop(key, None)
    spec["height"] = height
    spec["description"] = description
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return _shared(spec)


def _shared(spec: dict[str, Any]) -> dict[str, Any]:
    """The specification with each table written once, by name, however many layers use it."""
    tables: dict[str, str] = {}
    # Altair gives a table that all layers share a name of its own already.
    named = {name: _compact(values) for name, values in spec.get("datasets", {}).items()}
    for part in [spec, *spec.get("layer", [])]:
        values = part.get("data", {}).get("values")
        if values is None:
            continue
        rounded = _compact(values)
        name = tables.setdefault(json.dumps(rounded), f"table{len(tables)}")
        named[name] = rounded
        part["data"] = {"name": name}
    return {**spec, "datasets": named}


def _compact(rows: list[Row]) -> list[Row]:
    """The rows with floats of six significant digits: more than a pixel shows, and the page stays small."""
    return [
        {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]


def powers(low: float, high: float, wanted: int) -> list[int]:
    """About `wanted` powers of two between the limits, evenly apart, from the highest down."""
    first, last = math.ceil(math.log2(max(low, 1))), math.floor(math.log2(max(high, 2)))
    step = max(1, math.ceil((last - first) / (wanted - 1)))
    return [2**power for power in range(last, first - 1, -step)][::-1]


def position_axis(title: str, low: float, high: float) -> alt.X:
    """A logarithmic axis of token positions with powers of two or four as ticks."""
    return alt.X(
        "x:Q",
        title=title,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(values=powers(low, high, 7), format=",d", labelOverlap="greedy", labelFlush=True),
    )


def beyond(context: int, low: float, high: float) -> list[alt.Chart]:
    """Tint beyond the training length, a rule at it, its name on the side with more room; nothing on shorter axes."""
    if context >= high:
        return []
    right = _words_right(context, low, high)
    name = f"training length {context:,}"
    text = [name, "beyond training →"] if right else [f"{name} "]
    base = alt.Chart(table([{"x": context, "x2": high, "text": text}]))
    tint = base.mark_rect(color="@beyond", opacity=0.4, tooltip=None).encode(x="x:Q", x2="x2:Q")
    rule = base.mark_rule(color="@soft", strokeDash=[3, 3], strokeWidth=1.2).encode(x="x:Q")
    label = base.mark_text(
        align="left" if right else "right",
        baseline="top",
        dx=6 if right else -4,
        dy=5,
        color="@soft",
        fontSize=12,
        lineHeight=15,
        tooltip=None,
    )
    return [tint, rule, label.encode(x="x:Q", y=alt.value(0), text="text:N")]


def _words_right(context: int, low: float, high: float) -> bool:
    """Whether `beyond` writes its words on the right of the training length."""
    return math.log(high / context) >= math.log(context / low)


def headroom(
    rows: list[Row], context: int, start: float, end: float, low: float, high: float, *, log: bool = False
) -> float:
    """Top of a value axis from `low` to `high`, raised where a line would run through the words of `beyond`.

    Args:
        rows: points of the lines.
        context, start, end: training length and limits of the position axis.
        low, high: limits of the value axis.
        log: whether that axis is logarithmic.
    """
    if context >= end:
        return high
    # An octave more than the side of the words, for the line that crosses the training length.
    near, far = (context / 2, end) if _words_right(context, start, end) else (start, context * 2)
    beside = [row["y"] for row in rows if near <= row["x"] <= far and low < row["y"] <= high]
    if not beside:
        return high
    share = 1 - WORDS_HEIGHT / HEIGHT
    if log:
        return max(high, low * math.exp(math.log(max(beside) / low) / share))
    return max(high, low + (max(beside) - low) / share)


def end_labels(
    rows: list[Row],
    drawn: Sequence[Sign],
    x: alt.X,
    y: Callable[..., alt.Y],
    low: float,
    high: float,
    *,
    log: bool,
    text: Callable[[Row], str],
) -> list[alt.Chart]:
    """The last value of every line, written beside its end and moved apart where two would overlap.

    A line that has left the axis at the bottom is labelled there.
    """
    colours = {sign.name: sign.colour for sign in drawn}
    last: dict[str, Row] = {}
    for row in rows:
        if row["name"] not in last or row["x"] >= last[row["name"]]["x"]:
            last[row["name"]] = row

    def pixel(value: float) -> float:
        if log:
            return HEIGHT * (1 - math.log(value / low) / math.log(high / low))
        return HEIGHT * (1 - (value - low) / (high - low))

    ends = sorted(
        ({**row, "text": text(row), "y": max(row["y"], low)} for row in last.values() if row["y"] <= high),
        key=lambda row: (pixel(row["y"]), row["name"]),
    )
    placed: list[float] = []
    for row in ends:
        place = pixel(row["y"])
        placed.append(max(place, placed[-1] + LABEL_GAP) if placed else place)
    overflow = max(placed[-1] - HEIGHT, 0) if placed else 0
    charts = []
    for index, row in enumerate(ends):
        # Pushed past the lower edge: the whole stack moves up, which keeps its order and its gaps.
        shift = placed[index] - overflow - pixel(row["y"])
        label = table([{"x": row["x"], "y": row["y"], "text": row["text"]}])
        charts.append(
            alt.Chart(label)
            .mark_text(
                align="left", dx=7, dy=round(shift, 1), color=colours[row["name"]], fontSize=12.5, fontWeight=600
            )
            .encode(x=x, y=y(), text="text:N")
        )
    return charts


def lines(
    rows: list[Row],
    drawn: Sequence[Sign],
    x: alt.X,
    y: Callable[..., alt.Y],
    tooltip: list[alt.Tooltip],
    *,
    band: bool = False,
    legend: bool = True,
) -> list[alt.Chart]:
    """Lines by model, with interval bands and invisible points that carry the tooltips."""
    colour = colour_scale(drawn)
    dash = alt.Scale(domain=[sign.name for sign in drawn], range=[list(sign.dash) for sign in drawn])
    shown = alt.Legend(symbolType="stroke") if legend else None
    # Dashed lines last, so that they show on top of a solid line that they run along.
    dashed = {sign.name for sign in drawn if sign.dash != theme.SOLID}
    data = table(sorted(rows, key=lambda row: row["name"] in dashed))
    line = alt.Chart(data).mark_line(clip=True)
    charts = [
        line.encode(
            x=x,
            y=y(),
            color=alt.Color("name:N", scale=colour, legend=shown),
            strokeDash=alt.StrokeDash("name:N", scale=dash, legend=shown),
        )
    ]
    if band:
        # After the line, because the first layer decides how the legend is drawn.
        area = alt.Chart(data).mark_area(opacity=0.18, clip=True, tooltip=None)
        charts.append(area.encode(x=x, y=y("low"), y2="high:Q", color=alt.Color("name:N", scale=colour, legend=None)))
    charts.append(
        alt.Chart(data)
        .mark_circle(size=160, opacity=0, clip=True)
        .encode(x=x, y=y(), color=alt.Color("name:N", scale=colour, legend=None), tooltip=tooltip)
    )
    return charts


def padded(values: list[float], *, log: bool, share: float = 0.07) -> tuple[float, float]:
    """Limits of a value axis around the values."""
    low, high = min(values), max(values)
    if log:
        room = max(math.log(high / low), 0.05) * share
        return low * math.exp(-room), high * math.exp(room)
    room = max(high - low, 1e-3 * max(abs(high), 1e-9), 1e-9) * share
    return low - room, high + room
