"""The runs of the trained family as one table and one figure (docs/family.md says what they show).

    python recipes/family/table.py runs/family

reads `runs/family/NAME/` of every model, as far as it is there: `train/`, `check/`, and `extend/` (or `measure/` of a
model without a recurrent state), and writes `docs/family.json`, the table between the markers of `docs/family.md`, and
`docs/images/family.png`. Given `docs/family.json` instead, it makes table and figure again without the runs.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import altair as alt
import vl_convert

from lengthwise.cli.train import read_recipe
from lengthwise.errors import InputError
from lengthwise.models.lm import LanguageModel
from lengthwise.report import load_groups, theme, words
from lengthwise.report.records import Bin, Measured
from lengthwise.runs import RunFolder, atomic_write_bytes

ROOT = Path(__file__).parent.parent.parent
FAMILY = {
    "mamba1": "Mamba-1",
    "mamba2": "Mamba-2",
    "gla": "GLA",
    "rwkv6": "RWKV-6",
    "griffin": "Griffin",
    "hybrid": "Mamba-2 + attention",
    "transformer": "Transformer++",
}
"""Folder of the runs, and name on the page, in the order of the page."""
RECIPES = {name: ROOT / "recipes" / "family" / f"{name}.py" for name in FAMILY}
RECIPES["mamba2"] = ROOT / "recipes" / "mamba2_bytes.py"  # the model that is shipped
ROLES = {"before": "trained", "control": "Zero control", "after": "State Passing"}
MARKERS = ("<!-- table: made by recipes/family/table.py -->", "<!-- end of table -->")
VERDICTS = {"pass": "passes", "fail": "**fails**", "undecided": "undecided"}
Record = dict[str, Any]


def read_family(root: Path) -> Record:
    """Everything that table and figure show, as plain values.

    Raises:
        InputError: where there is no run to show, or the models were measured on different texts.
    """
    found = {name: {**sizes(RECIPES[name]), **read_model(root / name)} for name in FAMILY if _measured_at(root / name)}
    if not found:
        raise InputError(
            expected=f"a folder with runs of {', '.join(FAMILY)}",
            got="none of them",
            where=str(root),
            fix="train, check and extend them as docs/family.md says",
        )
    texts = {json.dumps([model.pop("text"), model["context_length"], model["length"]]) for model in found.values()}
    if len(texts) > 1:
        raise InputError(
            expected="all models measured on the same texts",
            got=f"{len(texts)} different ones",
            where=str(root),
            fix="measure them with the settings of recipes/family/ on one machine",
        )
    return {"format_version": 1, "models": found}


def sizes(recipe: Path) -> Record:
    """Parameters of a model, and numbers in the recurrent state of one text."""
    config = read_recipe(recipe).model
    assert config is not None
    model = LanguageModel(config)
    state = model.init_state(1).named_tensors("recurrent")
    return {"parameters": model.num_parameters(), "state": sum(tensor.numel() for _, tensor in state)}


def _measured_at(folder: Path) -> Path | None:
    """The finished extension or measurement of a model, or None."""
    for inner, result in (("extend", "comparison.json"), ("measure", "summary.json")):
        if (folder / inner / result).is_file():
            return folder / inner
    return None


def read_model(folder: Path) -> Record:
    """One model: how it was trained, whether its state is carried rightly, and what was measured of it."""
    path = _measured_at(folder)
    assert path is not None
    (group,) = load_groups([path])
    measured = [model for model in group.models if isinstance(model, Measured)]
    config = RunFolder.open(path).manifest["config"]
    # A model without a recurrent state is only measured: as it was trained.
    roles = {"before" if m.role == "run" else m.role: read_measurement(m) for m in measured}
    return {
        "context_length": measured[0].context_length,
        "length": measured[0].length,
        "num_sequences": measured[0].num_sequences,
        "text": measured[0].manifest.get("data_hashes"),
        "train": read_training(folder / "train"),
        "check": read_check(folder / "check"),
        "extend": {key: config.get(key) for key in ("intervention", "steps", "batch_size", "peak_lr")}
        if group.kind == "extend"
        else None,
        "roles": roles,
    }


def read_training(folder: Path) -> Record | None:
    """Steps, tokens, last loss and time of a training run; None where there is none (a model that is shipped)."""
    if not (folder / "metrics.jsonl").is_file():
        return None
    last = RunFolder.open(folder).read_metrics()[-1]
    return {key: last.get(key) for key in ("step", "tokens", "loss", "seconds")}


def read_check(folder: Path) -> Record | None:
    """How many properties of carrying a state hold, and which do not."""
    if not (folder / "results.json").is_file():
        return None
    result = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    status = {item["title"]: item["status"] for item in result["findings"]}
    return {
        "passed": result["passed"],
        "held": sum(value == "pass" for value in status.values()),
        "not_supported": [title for title, value in status.items() if value == "not supported"],
        "bad": [title for title, value in status.items() if value in ("fail", "error")],
    }


def read_measurement(m: Measured) -> Record:
    """Curves and verdicts of one measured model."""
    d, r, e = m.definition, m.restart, m.remembrance
    return {
        "definition": None
        if d is None
        else {
            "verdict": d.verdict,
            "best": d.best_perplexity,
            "ratio": d.worst_ratio,
            "low": d.worst_low,
            "high": d.worst_high,
            "from": d.first_failing,
        },
        "restart": None
        if r is None
        else {
            "verdict": r.verdict,
            "difference": r.difference,
            "low": r.low,
            "high": r.high,
            "from": r.first_failing,
            "bins": _bins(r.bins),
        },
        "perplexity": _bins(m.perplexity or ()),
        "remembrance": [] if e is None else [[e.final_end - s + 1, _short(v)] for s, v in e.curve("tv")],
        "out_of_window": None if e is None else e.out_of_window.get("tv"),
        "std": None if m.states is None else [_short(m.states.std_at(p)) for p in (m.context_length, m.length)],
    }


def _bins(bins: tuple[Bin, ...]) -> list[list[float | None]]:
    return [[b.start, b.end, _short(b.value), _short(b.low), _short(b.high)] for b in bins]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def table(record: Record) -> str:
    """The Markdown table: three rows for every recurrent model, one for the others."""
    context = next(iter(record["models"].values()))["context_length"]
    lines = [
        f"| model | parameters | state | | best perplexity inside {context} | worst ratio past {context} | "
        "full history minus restart, nats per byte | Effective Remembrance | std of the state | `check` |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, model in record["models"].items():
        for role in (role for role in ROLES if role in model["roles"]):
            first = role == "before"
            values = model["roles"][role]
            cells = [
                f"**{FAMILY[name]}**" if first else "",
                f"{model['parameters']:,}" if first else "",
                (f"{model['state']:,}" if model["state"] else "") if first else "",
                ROLES[role],
                words.level(values["definition"]["best"]) if values["definition"] else "",
                _ratio(values["definition"]),
                _difference(values["restart"]),
                "" if values["out_of_window"] is None else words.share(values["out_of_window"]),
                _growth(values["std"]),
                _checked(model["check"]) if first else "",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(found: Record | None) -> str:
    if not found or found["ratio"] is None:
        return ""
    return f"{found['ratio']:.2f} ({words.interval(found['low'], found['high'])}) " + _verdict(found)


def _difference(found: Record | None) -> str:
    if not found or found["difference"] is None:
        return ""
    digits = words.decimals(found["difference"])
    low, high = (words.signed(found[key], digits) for key in ("low", "high"))
    return f"{words.signed(found['difference'], digits)} ({low} to {high}) " + _verdict(found)


def _verdict(found: Record) -> str:
    place = f" from {found['from']:,}" if found["verdict"] == "fail" and found["from"] is not None else ""
    return VERDICTS.get(found["verdict"], "") + place


def _growth(std: list[float | None] | None) -> str:
    if std is None or None in std:
        return ""
    first, last = (value for value in std if value is not None)
    return f"{words.level(first)} → {words.level(last)} ({words.factor(last / first)})"


def _checked(check: Record | None) -> str:
    if check is None:
        return ""
    return f"all {check['held']} hold" if check["passed"] else f"**{', '.join(check['bad'])}**"


COLUMNS, WIDTH = 4, 205
"""Models beside each other, and the width of their panels in pixels."""
CAP = 2.0
"""The axis of perplexity ends at this many times the lowest value drawn; what is above runs off, as in the paper."""
HARM = (-0.04, 0.52)
"""The axis of full history minus restart, nats per byte."""


@dataclass(frozen=True)
class Panel:
    """One kind of panel: how its axes look."""

    kind: str
    name: str
    height: int
    scale: Literal["log", "linear"]
    limits: tuple[float, float]
    ticks: tuple[float, ...]
    start: int
    title: str | None
    """Of the axis of bytes."""


def figure(record: Record) -> Record:
    """The figure as a Vega-Lite specification; for every model perplexity, the harm of old text, and remembrance."""
    models = record["models"]
    context, length, sequences = (next(iter(models.values()))[k] for k in ("context_length", "length", "num_sequences"))
    drawn = [
        {**row, "model": name, "role": ROLES[role]}
        for name, model in models.items()
        for role, values in model["roles"].items()
        for row in _rows(values)
    ]
    settled = [row["y"] for row in drawn if row["kind"] == "perplexity" and row["x"] >= context / 4]
    limits = 0.95 * min(settled), min(1.05 * max(settled), CAP * min(settled))
    panels = (
        Panel(
            "perplexity",
            "perplexity",
            125,
            "log",
            limits,
            tuple(t for t in TICKS if limits[0] <= t <= limits[1]),
            4,
            None,
        ),
        Panel("restart", "full − restart", 95, "linear", HARM, (0.0, 0.2, 0.4), 4, "position in bytes"),
        Panel(
            "remembrance", "remembrance", 85, "log", (0.01, 1.0), (0.01, 0.1, 1.0), 1, "only the last … bytes are read"
        ),
    )
    cells = []
    for index, name in enumerate(models):
        rows = [row for row in drawn if row["model"] == name]
        first, *others = (
            _panel(rows, panel, context, length, left=index % COLUMNS == 0, legend=index == 0 and panel is panels[0])
            for panel in panels
        )
        title = alt.Title(FAMILY[name], anchor="start", fontSize=14, offset=6)
        cells.append(alt.vconcat(first.properties(title=title), *others, spacing=8))
    lines = [alt.hconcat(*cells[start : start + COLUMNS], spacing=14) for start in range(0, len(cells), COLUMNS)]
    spec: Record = alt.vconcat(*lines, spacing=18).to_dict(validate=False)
    for key in ("$schema", "config"):
        spec.pop(key, None)
    spec |= {
        "padding": 16,
        "title": {
            "text": f"Byte models of half a million parameters, trained on windows of {context} bytes (tinted: beyond)",
            "subtitle": [
                f"1. Perplexity by position in {sequences} held-out texts of {length:,} bytes.",
                f"2. Loss with the full history minus loss with at most the last {context} bytes, nats per byte, 95 % "
                "intervals; above zero, old text does harm.",
                f"3. Effective Remembrance: how much the prediction at byte {length:,} changes (total variation) when "
                "only the last bytes are read.",
            ],
            "offset": 16,
        },
        "config": {**theme.config(), "background": "@paper"},
    }
    resolved: Record = theme.resolve(spec, "light")
    return resolved


TICKS = (2, 3, 4, 5, 6, 8, 12, 16, 24)
"""Where the axis of perplexity may have a mark."""


def _rows(values: Record) -> list[Record]:
    """The points of the three curves. Intervals are drawn where they tell models apart; the table has the others."""
    found = [
        {"kind": "perplexity", "x": math.sqrt((start + 1) * end), "y": y, "low": y, "high": y}
        for start, end, y, _, _ in values["perplexity"]
        if y is not None
    ]
    found += [
        {"kind": "restart", "x": math.sqrt((start + 1) * end), "y": y, "low": low, "high": high}
        for start, end, y, low, high in (values["restart"] or {"bins": []})["bins"]
        if y is not None
    ]
    # Zero cannot stand on a logarithmic axis; it occurs where nothing is left out.
    return found + [
        {"kind": "remembrance", "x": kept, "y": y, "low": y, "high": y} for kept, y in values["remembrance"] if y > 0
    ]


def _panel(rows: list[Record], panel: Panel, context: int, length: int, *, left: bool, legend: bool) -> Any:
    rows = [row for row in rows if row["kind"] == panel.kind]
    x = alt.X(
        "x:Q",
        title=panel.title,
        scale=alt.Scale(type="log", domain=[panel.start, length + 1], nice=False),
        axis=alt.Axis(
            values=[1, 8, context, 8 * context, length],
            format=",d",
            labelOverlap="greedy",
            labelFlush=True,
            labels=panel.title is not None,
        ),
    )

    def y(field: str = "y") -> alt.Y:
        return alt.Y(
            f"{field}:Q",
            title=panel.name if left else None,
            scale=alt.Scale(type=panel.scale, domain=list(panel.limits), nice=False, zero=False),
            axis=alt.Axis(values=list(panel.ticks), format="~g", minExtent=24),
        )

    names = list(ROLES.values())
    colours = alt.Scale(domain=names, range=[f"@{role}" for role in ROLES])
    dashes = alt.Scale(domain=names, range=[[1, 0], [2, 2], [6, 3]])
    shown = alt.Legend(symbolType="stroke", symbolSize=500) if legend else None
    plain = alt.Color("role:N", scale=colours, legend=None)
    beyond = alt.Chart(alt.InlineData(values=[{"x": context, "x2": length + 1}]))
    data = alt.Chart(
        alt.InlineData(values=[{key: row[key] for key in ("x", "y", "low", "high", "role")} for row in rows])
    )
    # Where a line has left the panel, say where it ends.
    ends = {row["role"]: row["y"] for row in rows}
    gone = [{"role": role, "text": f"to {words.level(end)}"} for role, end in ends.items() if end > panel.limits[1]]
    zero = alt.Chart(alt.InlineData(values=[{"y": 0.0}])).mark_rule(color="@soft", strokeWidth=1).encode(y=y())
    layers = [
        beyond.mark_rect(color="@beyond", opacity=0.4).encode(x=x, x2="x2:Q"),
        beyond.mark_rule(color="@soft", strokeDash=[3, 3], strokeWidth=1.2).encode(x=x),
        data.mark_line(clip=True).encode(
            x=x,
            y=y(),
            color=alt.Color("role:N", scale=colours, legend=shown),
            strokeDash=alt.StrokeDash("role:N", scale=dashes, legend=shown),
        ),
        data.mark_area(opacity=0.18, clip=True).encode(x=x, y=y("low"), y2="high:Q", color=plain),
    ]
    if panel.scale == "linear":
        layers.insert(2, zero)
    for index, label in enumerate(gone):
        text = alt.Chart(alt.InlineData(values=[label])).mark_text(
            align="right", baseline="top", fontSize=12, fontWeight=600
        )
        layers.append(text.encode(x=alt.value(WIDTH - 4), y=alt.value(6 + 15 * index), text="text:N", color=plain))
    return alt.layer(*layers).properties(width=WIDTH, height=panel.height)


def write(record: Record, docs: Path) -> None:
    """Table and figure into the documentation.

    Raises:
        InputError: where the page has no place for the table.
    """
    page = docs / "family.md"
    before, begin, rest = page.read_text(encoding="utf-8").partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise InputError(
            expected=f"a page with the lines {MARKERS[0]} and {MARKERS[1]}",
            got="a page without them",
            where=str(page),
            fix="put them where the table belongs",
        )
    atomic_write_bytes(page, f"{before}{begin}\n\n{table(record)}\n\n{end}{after}".encode())
    atomic_write_bytes(
        docs / "images" / "family.png", bytes(vl_convert.vegalite_to_png(json.dumps(figure(record)), scale=1.5))
    )


def main(arguments: list[str]) -> None:
    """Runs or figures in, documentation out."""
    source = Path(arguments[0] if arguments else "runs/family")
    docs = Path(arguments[1]) if len(arguments) > 1 else ROOT / "docs"
    if source.suffix == ".json":
        record = json.loads(source.read_text(encoding="utf-8"))
    else:
        record = read_family(source)
        text = json.dumps(record, indent=1)
        atomic_write_bytes(docs / "family.json", (_compact(text) + "\n").encode())
    write(record, docs)


def _compact(text: str) -> str:
    """Lists of numbers on one line each."""
    import re

    return re.sub(r"\[[^][{}]*\]", lambda match: re.sub(r"\s*\n\s*", " ", match[0]), text)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
