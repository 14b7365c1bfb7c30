"""One self-contained HTML page from groups of run folders: charts, words, tables, settings; no network."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import altair as alt
import jinja2
import vl_convert
from markupsafe import Markup

from lengthwise import __version__
from lengthwise.report import charts, tables, theme, words
from lengthwise.report._marks import Chart, Missing, Sign, without_legend
from lengthwise.report.records import Group

_GLOBALS = "window.vegaEmbed = vegaEmbed; window.vega = vega; window.vegaLite = vegaLite;"
FOLDED = {"distances": "The same curve with two other distances"}
"""Sections shown inside the one before them, closed at first."""


def build_page(groups: tuple[Group, ...]) -> str:
    """The page as one HTML text: the same groups give the same text.

    Charts are drawn in the browser by the Vega libraries, which are part of the text once (about 0.9 MB); the page's
    content policy forbids it to load anything.
    """
    specs: dict[str, Any] = {}
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(_asset("page.html"))
    rendered = [_group(group, index, specs) for index, group in enumerate(groups, start=1)]
    payload = {"specs": specs, "config": theme.config(), "themes": theme.THEMES}
    # The texts below are ours and the Vega project's; everything that comes from a run folder is escaped.
    return template.render(
        title=f"{groups[0].title}: {words.headline(groups[0])}",
        css=Markup(_variables() + "\n" + _asset("page.css")),
        script=Markup(_asset("page.js")),
        library=Markup(javascript_library()),
        groups=rendered,
        charts=payload,
        version=__version__,
    )


@cache
def javascript_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, of the Vega-Lite version that Altair writes for."""
    wanted = ".".join(alt.VEGALITE_VERSION.lstrip("v").split(".")[:2])
    known = vl_convert.get_vegalite_versions()
    version = wanted if wanted in known else known[-1]
    # A closing tag inside a string of the library would end the script element.
    return vl_convert.javascript_bundle(_GLOBALS, version).replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return resources.files("lengthwise.report").joinpath("assets", name).read_text(encoding="utf-8")


def _variables() -> str:
    """The colours of the charts as CSS variables, so that legends and charts agree."""
    return "\n".join(
        f':root[data-theme="{name}"] {{ ' + " ".join(f"--{key}: {value};" for key, value in colours.items()) + " }"
        for name, colours in theme.THEMES.items()
    )


def _sign(sign: Sign, glyph: bool) -> dict[str, Any]:
    """A sign as the template draws it."""
    dashed = sign.dash != theme.SOLID
    return {"name": sign.name, "colour": sign.colour[1:], "dashed": dashed, "glyph": sign.glyph if glyph else ""}


def _group(group: Group, index: int, specs: dict[str, Any]) -> dict[str, Any]:
    """What the template needs to know of a group; its chart specifications are put into `specs`."""
    sections: list[dict[str, Any]] = []
    for key, found in charts.all_charts(group).items():
        blocks = _blocks(found, f"g{index}", specs)
        if key in FOLDED:
            if any(isinstance(item, Chart) for item in found):
                sections[-1]["blocks"] += [{**block, "folded": FOLDED[key]} for block in blocks]
            continue
        sections.append({"id": f"g{index}-{key}", "title": words.section_title(group, key), "blocks": blocks})
    return {
        "headline": words.headline(group),
        "title": group.title,
        "standing": words.standing(group),
        "notes": group.notes,
        "story": words.story(group),
        "board": tables.board(group),
        "models": [
            {
                "name": model.name.split(" (")[0] if model.role in theme.DASHES else model.name,
                "detail": model.name.partition(" (")[2].rstrip(")") if model.role in theme.DASHES else "",
                "colour": theme.colour_token(model.role, index)[1:],
                "dashed": theme.dash(model.role, index) != theme.SOLID,
                "glyph": "",
            }
            for index, model in enumerate(group.models)
        ],
        "sections": sections,
        "tables": [
            {"title": t.title, "caption": t.caption, "columns": t.columns, "rows": t.shown()}
            for t in tables.all_tables(group)
        ],
        "words": [(model.name, model.words) for model in group.models if model.words],
        "manifests": [(name, json.dumps(manifest, indent=1, ensure_ascii=False)) for name, manifest in group.manifests],
    }


def _blocks(found: list[Chart | Missing], prefix: str, specs: dict[str, Any]) -> list[dict[str, Any]]:
    """Charts of a section in blocks: full width one by one, small ones of a kind together."""
    blocks: list[dict[str, Any]] = []
    for item in found:
        small = isinstance(item, Chart) and item.small
        caption = item.caption if isinstance(item, Chart) else ""
        shown: dict[str, Any] = {"title": item.title}
        if isinstance(item, Chart):
            shown |= {"id": f"{prefix}-{item.key}", "spec": item.spec}
            specs[shown["id"]] = without_legend(item.spec)
        else:
            shown["reason"] = item.reason
        if blocks and small and blocks[-1]["small"]:
            blocks[-1]["charts"].append(shown)
        else:
            legend = [_sign(sign, item.key == "heads") for sign in item.legend] if isinstance(item, Chart) else []
            ramp = f"{item.ramp:.2f}" if isinstance(item, Chart) and item.ramp is not None else ""
            blocks.append(
                {"small": small, "caption": caption, "charts": [shown], "legend": legend, "ramp": ramp, "folded": ""}
            )
    return blocks
