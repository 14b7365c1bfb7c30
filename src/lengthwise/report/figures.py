"""The charts as PNG, SVG and PDF files, and the single picture for a README."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import vl_convert

from lengthwise.errors import InputError
from lengthwise.report import faces, theme
from lengthwise.report._marks import Chart
from lengthwise.report.faces import AnyGroup
from lengthwise.runs import atomic_write_bytes

FORMATS = ("png", "svg", "pdf")
WIDTH, SMALL_WIDTH = 720, 340
"""Width of the plotting area in pixels, for charts across the page and for small ones."""
SCALE = 2.0
"""Pixels of a PNG for each pixel of the chart, for screens with fine pixels."""


def write_figures(groups: tuple[AnyGroup, ...], folder: Path) -> list[Path]:
    """Write every chart in every format, in the light theme; returns the files in order.

    Files are named by chart ("perplexity.png"), with the number of the group in front where there are several.
    """
    written = []
    for index, group in enumerate(groups, start=1):
        prefix = f"{index}-" if len(groups) > 1 else ""
        for chart in faces.drawn(group):
            spec = _complete(chart, f"{group.title}: {chart.title}")
            for kind in FORMATS:
                file = folder / f"{prefix}{chart.key}.{kind}"
                atomic_write_bytes(file, _converted(spec, kind))
                written.append(file)
    return written


def write_picture(group: AnyGroup, path: Path, *, chart: str = "perplexity", title: str | None = None) -> Path:
    """Write one chart of a group as a picture for a README, in the light theme on white.

    Args:
        group: see `load_groups`.
        path: a .png, .svg or .pdf file.
        chart: key of the chart, e.g. "perplexity".
        title: text above the chart; the finding of the group where it is None.

    Raises:
        InputError: for an unknown format, or a chart that the run has no data for.
    """
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise InputError(
            expected="a file ending in .png, .svg or .pdf", got=f"'{path.name}'", where=str(path), fix="rename the file"
        )
    found = {item.key: item for item in faces.drawn(group)}
    if chart not in found:
        raise InputError(
            expected=f"a run in which '{chart}' was measured",
            got=f"a run with {', '.join(found) or 'nothing measured'}",
            where=group.title,
            fix="measure it, or choose one of those charts",
        )
    spec = _complete(found[chart], title or faces.headline(group))
    atomic_write_bytes(path, _converted(spec, kind))
    return path


def _complete(chart: Chart, title: str) -> dict[str, Any]:
    """The specification with width, title, caption, configuration and the light colours."""
    width = SMALL_WIDTH if chart.small else WIDTH
    lines = textwrap.wrap(chart.caption, width=round(width / 6.4))
    spec = {
        **chart.spec,
        "width": width,
        "padding": 16,
        "title": {"text": title, "subtitle": lines},
        "config": {**theme.config(), "background": "@paper"},
    }
    # The page fits charts to their box; a file has the width that was asked for.
    spec.pop("autosize", None)
    resolved: dict[str, Any] = theme.resolve(spec, "light")
    return resolved


def _converted(spec: dict[str, Any], kind: str) -> bytes:
    """The bytes of a PNG, SVG or PDF file."""
    text = json.dumps(spec)
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(text, scale=SCALE))
    if kind == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(text))
    return str(vl_convert.vegalite_to_svg(text)).encode()
