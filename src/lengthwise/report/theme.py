"""Colours of the page and of the charts, light and dark, and the chart configuration made from them.

Charts name colours by token ("@before"), so that one specification serves both themes and the exported files:
`resolve` puts the colours in. The page does the same in the browser when the reader switches themes.

The colours of the models are an orange, a grey and a blue that stay apart under the common colour-vision
deficiencies, and each line also has its own dash pattern.
"""

from __future__ import annotations

from typing import Any

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1c2127",
    "soft": "#5b6470",
    "rule": "#dfe3e7",
    "beyond": "#ddd3bd",
    "before": "#cf5a1b",
    "control": "#78818c",
    "after": "#1f64b0",
    "s0": "#1f64b0",
    "s1": "#cf5a1b",
    "s2": "#2f8f6b",
    "s3": "#8a4fa3",
    "s4": "#a07a12",
    "s5": "#78818c",
    "ramp0": "#f7f5f0",
    "ramp1": "#f6d9b4",
    "ramp2": "#eb9c5c",
    "ramp3": "#c4481f",
    "ramp4": "#5f1410",
}
DARK = {
    "paper": "#1a1e23",
    "ink": "#e6e9ec",
    "soft": "#9ca6b1",
    "rule": "#343b43",
    "beyond": "#4a4334",
    "before": "#ff965c",
    "control": "#a3adb8",
    "after": "#6db3ff",
    "s0": "#6db3ff",
    "s1": "#ff965c",
    "s2": "#63cfa5",
    "s3": "#cf9be6",
    "s4": "#e0bd58",
    "s5": "#a3adb8",
    "ramp0": "#20242a",
    "ramp1": "#5a2c1d",
    "ramp2": "#a8471f",
    "ramp3": "#f0904f",
    "ramp4": "#ffe9c9",
}
THEMES = {"light": LIGHT, "dark": DARK}

SOLID = (1, 0)
DOTTED = (1, 3)
"""Figures of others beside a model's own."""
DASHES: dict[str, tuple[int, ...]] = {"before": SOLID, "control": (5, 3), "after": SOLID}
OTHER_DASHES: tuple[tuple[int, ...], ...] = (SOLID, (6, 3), (2, 3), (9, 3, 2, 3), SOLID, (6, 3))
SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "stroke"]
GLYPHS = ["●", "■", "◆", "▲", "✚", "▬"]
"""The shapes as characters."""
MAX_LINES = 6
"""More models than this on one chart cannot be told apart."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', sans-serif"


def colour_token(role: str, index: int) -> str:
    """Colour of a model: by its role in a comparison, else by its place in the list."""
    return f"@{role}" if role in DASHES else f"@s{index % MAX_LINES}"


def dash(role: str, index: int) -> tuple[int, ...]:
    """Dash pattern of a model's line, so that colour is not the only sign."""
    return DASHES.get(role) or OTHER_DASHES[index % MAX_LINES]


def config() -> dict[str, Any]:
    """The Vega-Lite configuration, with colour tokens."""
    return {
        "font": FONT,
        "background": None,
        "view": {"stroke": None},
        "axis": {
            "labelColor": "@soft",
            "titleColor": "@soft",
            "titleFontWeight": "normal",
            "labelFontSize": 12,
            "titleFontSize": 12.5,
            "titlePadding": 8,
            "gridColor": "@rule",
            "domainColor": "@rule",
            "tickColor": "@rule",
            "tickSize": 4,
            "labelPadding": 5,
        },
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False, "tickCount": 5},
        "legend": {
            "orient": "top",
            "direction": "horizontal",
            "title": None,
            "labelColor": "@ink",
            "titleColor": "@soft",
            "labelFontSize": 12.5,
            "labelLimit": 240,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "symbolSize": 220,
            "symbolStrokeWidth": 2.5,
            "columnPadding": 18,
            "offset": 12,
        },
        "title": {
            "color": "@ink",
            "subtitleColor": "@soft",
            "anchor": "start",
            "fontSize": 15,
            "subtitleFontSize": 12.5,
            "subtitlePadding": 5,
            "offset": 12,
        },
        "line": {"strokeWidth": 2.25, "strokeCap": "butt", "strokeJoin": "round"},
    }


def resolve(value: Any, theme: str = "light") -> Any:
    """A specification with every colour token replaced by the colour of a theme."""
    colours = THEMES[theme]
    if isinstance(value, str) and value.startswith("@"):
        return colours.get(value[1:], value)
    if isinstance(value, dict):
        return {key: resolve(item, theme) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(item, theme) for item in value]
    return value
