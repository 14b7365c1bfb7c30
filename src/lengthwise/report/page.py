"""One self-contained HTML page from groups of run folders: charts, words, tables, settings; no network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import altair as alt
import jinja2
import vl_convert
from markupsafe import Markup

from lengthwise import __version__
from lengthwise.report import faces, theme, words
from lengthwise.report._marks import Chart, Missing, Sign, without_legend
from lengthwise.report.evals import tables as eval_tables
from lengthwise.report.evals import words as eval_words
from lengthwise.report.evals.records import EvalGroup
from lengthwise.report.evals.samples import browser
from lengthwise.report.faces import AnyGroup
from lengthwise.report.records import Group
from lengthwise.report.tables import Table

_GLOBALS = "window.vegaEmbed = vegaEmbed; window.vega = vega; window.vegaLite = vegaLite;"
FOLDED = {"distances": "The same curve with two other distances"}
"""Sections shown inside the one before them, closed at first."""
LONG = 60
"""Rows of a table beyond which it is closed at first."""


def build_page(groups: tuple[AnyGroup, ...], *, samples: int | None = None) -> str:
    """The page as one HTML text: the same groups give the same text.

    Args:
        groups: see `load_groups`.
        samples: of each task at each length, to be looked at one by one; None: as many as fit a page.

    Charts are drawn in the browser by the Vega libraries, which are part of the text once (about 0.9 MB); the page's
    content policy forbids it to load anything.
    """
    shown = _Shown({}, {}, {}, samples)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(_asset("page.html"))
    rendered = [
        _eval_group(group, index, shown) if isinstance(group, EvalGroup) else _group(group, index, shown)
        for index, group in enumerate(groups, start=1)
    ]
    payload = {
        "specs": shown.specs,
        "config": theme.config(),
        "themes": theme.THEMES,
        "exports": shown.exports,
        "samples": shown.browsers,
    }
    # The texts below are ours and the Vega project's; everything that comes from a run folder is escaped.
    return template.render(
        title=f"{groups[0].title}: {faces.headline(groups[0])}",
        css=Markup(_variables() + "\n" + _asset("page.css")),
        script=Markup(_asset("page.js")),
        library=Markup(javascript_library()),
        groups=rendered,
        charts=payload,
        version=__version__,
    )


@dataclass(frozen=True)
class _Shown:
    """What the page's script is given: chart specifications, texts of tables, single samples, each by its element."""

    specs: dict[str, Any]
    exports: dict[str, list[tuple[str, str]]]
    browsers: dict[str, Any]
    samples: int | None


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
    style = "" if sign.dash == theme.SOLID else " dotted" if sign.dash == theme.DOTTED else " dashed"
    return {"name": sign.name, "colour": sign.colour[1:], "style": style, "glyph": sign.glyph if glyph else ""}


def _group(group: Group, index: int, shown: _Shown) -> dict[str, Any]:
    """What the template needs to know of a group; what its script needs is put into `shown`."""
    sections: list[dict[str, Any]] = []
    for key, found in faces.all_charts(group).items():
        blocks = _blocks(found, f"g{index}", shown.specs)
        if key in FOLDED:
            if any(isinstance(item, Chart) for item in found):
                sections[-1]["blocks"] += [{**block, "folded": FOLDED[key]} for block in blocks]
            continue
        sections.append(_section(f"g{index}-{key}", words.section_title(group, key), blocks))
    return {
        **_common(group),
        "models": [
            {
                "name": model.name.split(" (")[0] if model.role in theme.DASHES else model.name,
                "detail": model.name.partition(" (")[2].rstrip(")") if model.role in theme.DASHES else "",
                "colour": theme.colour_token(model.role, place)[1:],
                "style": "" if theme.dash(model.role, place) == theme.SOLID else " dashed",
                "glyph": "",
            }
            for place, model in enumerate(group.models)
        ],
        "sections": sections,
        "tables": [_table(table, index, shown) for table in faces.all_tables(group)],
        "words": [(model.name, model.words) for model in group.models if model.words],
    }


def _eval_group(group: EvalGroup, index: int, shown: _Shown) -> dict[str, Any]:
    """The same for evaluations, whose tables stand beside their charts; single samples come last."""
    found, rows = faces.all_charts(group), eval_tables.sections(group)
    sections = []
    for key in eval_words.SECTIONS:
        tables = [_table(table, index, shown) for table in rows.get(key, [])]
        blocks = _blocks(found.get(key, []), f"g{index}", shown.specs)
        if tables or blocks:
            sections.append(_section(f"g{index}-{key}", eval_words.section_title(key), blocks, tables))
    samples = browser(group, shown.samples)
    if samples is not None:
        name = f"g{index}-samples"
        shown.browsers[name] = samples
        sections.append({**_section(name, "Single samples", []), "browser": samples})
    return {
        **_common(group),
        "models": [
            {
                "name": model.name,
                "detail": "",
                "colour": theme.colour_token(model.role, place)[1:],
                "style": "" if theme.dash(model.role, place) == theme.SOLID else " dashed",
                "glyph": "",
            }
            for place, model in enumerate(group.models)
        ],
        "sections": sections,
        "tables": [_table(table, index, shown) for table in rows["cells"]],
        "words": [],
    }


def _common(group: AnyGroup) -> dict[str, Any]:
    """What every kind of group has."""
    return {
        "headline": faces.headline(group),
        "title": group.title,
        "standing": faces.standing(group),
        "notes": group.notes,
        "story": faces.story(group),
        "board": faces.board(group),
        "manifests": [(name, json.dumps(manifest, indent=1, ensure_ascii=False)) for name, manifest in group.manifests],
    }


def _section(
    name: str, title: str, blocks: list[dict[str, Any]], tables: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {"id": name, "title": title, "blocks": blocks, "tables": tables or [], "browser": None}


def _table(table: Table, index: int, shown: _Shown) -> dict[str, Any]:
    """A table for the template; its Markdown, LaTeX and CSV for the script."""
    name = f"g{index}-table-{table.key}"
    shown.exports[name] = [("Markdown", table.markdown()), ("LaTeX", table.latex()), ("CSV", table.csv())]
    return {
        "id": name,
        "title": table.title,
        "caption": table.caption,
        "columns": table.columns,
        "rows": table.cells(),
        "quiet": table.quiet,
        "textual": table.textual,
        "folded": len(table.rows) > LONG,
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
            ramp, ramp_title = "", ""
            if isinstance(item, Chart) and item.ramp is not None:
                ramp, ramp_title = f"{item.ramp:.2f}" if item.ramp <= 1 else f"{item.ramp:g}", item.ramp_title
            blocks.append(
                {
                    "small": small,
                    "caption": caption,
                    "charts": [shown],
                    "legend": legend,
                    "ramp": ramp,
                    "ramp_title": ramp_title,
                    "folded": "",
                }
            )
    return blocks
