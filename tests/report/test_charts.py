"""Charts draw the numbers of the run and nothing else."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import pytest
from tests.report.fabricate import CONTEXT, LENGTH, write_measure

from lengthwise.report import _marks as marks
from lengthwise.report import charts, theme
from lengthwise.report._marks import Chart, Missing
from lengthwise.report.load import load_groups
from lengthwise.report.records import Group


@pytest.fixture(scope="module")
def group(runs: Path) -> Group:
    return load_groups([runs / "extend"])[0]


@pytest.fixture(scope="module")
def drawn(group: Group) -> dict[str, Chart]:
    return {chart.key: chart for chart in charts.drawn(group)}


def rows(chart: Chart, layer: int) -> list[dict[str, Any]]:
    """The table of a layer."""
    spec = chart.spec
    name = spec["layer"][layer].get("data", spec.get("data"))["name"]
    return list(spec["datasets"][name])


def layer_of(chart: Chart, mark: str) -> int:
    """The first layer with a mark."""
    return next(i for i, layer in enumerate(chart.spec["layer"]) if layer["mark"]["type"] == mark)


def test_everything_is_drawn(drawn: dict[str, Chart]) -> None:
    assert list(drawn) == [
        "perplexity",
        "restart",
        "remembrance",
        "surface-0-before",
        "surface-1-control",
        "surface-2-after",
        "remembrance-js",
        "remembrance-cosine",
        "states",
        "heads",
        *(f"head-{i}" for i in range(6)),
        "training",
    ]


def test_every_specification_is_valid_vega_lite(drawn: dict[str, Chart]) -> None:
    for key in ("perplexity", "restart", "remembrance", "surface-0-before", "heads", "head-0", "training"):
        chart = drawn[key]
        # Two rows of each table are enough, and validating all of them would take seconds.
        short = {name: table[:2] for name, table in chart.spec["datasets"].items()}
        alt.LayerChart.from_dict({**chart.spec, "datasets": short})  # raises where the schema does not hold


def test_perplexity_is_that_of_the_run(group: Group, drawn: dict[str, Chart]) -> None:
    table = rows(drawn["perplexity"], layer_of(drawn["perplexity"], "line"))
    for model in group.models:
        assert model.perplexity is not None
        found = [row for row in table if row["name"] == model.name]
        assert [row["y"] for row in found] == pytest.approx([b.value for b in model.perplexity], rel=1e-5)
        assert [row["low"] for row in found] == pytest.approx([b.low for b in model.perplexity], rel=1e-5)


@pytest.mark.parametrize("key", ["perplexity", "restart", "remembrance", "states"])
def test_training_length_is_marked_and_named(drawn: dict[str, Chart], key: str) -> None:
    (mark,) = rows(drawn[key], layer_of(drawn[key], "rect"))
    assert mark["x"] == CONTEXT
    assert mark["text"][0].strip() == f"training length {CONTEXT}"


@pytest.mark.parametrize("key", ["perplexity", "restart", "states"])
def test_position_axis_is_logarithmic_and_names_its_unit(drawn: dict[str, Chart], key: str) -> None:
    encoding = drawn[key].spec["layer"][layer_of(drawn[key], "line")]["encoding"]
    assert encoding["x"]["scale"]["type"] == "log"
    assert encoding["x"]["title"] == "position in tokens"
    assert encoding["x"]["scale"]["domain"][1] == LENGTH
    assert encoding["y"]["title"]


def test_first_bins_do_not_flatten_the_rest(drawn: dict[str, Chart]) -> None:
    chart = drawn["perplexity"]
    encoding = chart.spec["layer"][layer_of(chart, "line")]["encoding"]
    table = rows(chart, layer_of(chart, "line"))
    assert encoding["y"]["scale"]["domain"][1] < max(row["y"] for row in table)
    assert "run off the top" in chart.caption


def test_explosion_is_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    write_measure(tmp_path / "run", strength=12.0)
    (group,) = load_groups([tmp_path / "run"])
    chart = charts.perplexity(group, CONTEXT)
    assert isinstance(chart, Chart)
    scale = chart.spec["layer"][layer_of(chart, "line")]["encoding"]["y"]["scale"]
    assert scale["type"] == "log"
    assert group.models[0].perplexity is not None
    assert scale["domain"][1] > max(b.value for b in group.models[0].perplexity if b.value is not None)


def test_remembrance_leaves_out_start_zero_and_keeps_the_rest(group: Group, drawn: dict[str, Chart]) -> None:
    before = group.models[0].remembrance
    assert before is not None
    table = rows(drawn["remembrance"], layer_of(drawn["remembrance"], "line"))
    kept = sorted(row["x"] for row in table if row["name"] == "before")
    assert kept == sorted(before.final_end - start + 1 for start in before.starts if start > 0)


def test_surface_has_a_cell_for_every_value_but_start_zero(group: Group, drawn: dict[str, Chart]) -> None:
    r = group.models[0].remembrance
    assert r is not None
    cells = rows(drawn["surface-0-before"], 0)
    wanted = {(s, e) for s in r.starts for e in r.ends if 0 < s <= e}
    assert {(cell["start"], cell["end"]) for cell in cells} == wanted
    values = {(s, e): r.surfaces["tv"][i, j] for i, s in enumerate(r.starts) for j, e in enumerate(r.ends)}
    assert all(cell["v"] == pytest.approx(values[cell["start"], cell["end"]], rel=1e-5) for cell in cells)
    assert all(cell["x"] <= cell["end"] <= cell["x2"] and cell["y"] <= cell["start"] <= cell["y2"] for cell in cells)


def test_surfaces_share_one_colour_scale(drawn: dict[str, Chart]) -> None:
    domains = [
        chart.spec["layer"][0]["encoding"]["color"]["scale"]["domain"]
        for key, chart in drawn.items()
        if key.startswith("surface")
    ]
    assert domains[0] == domains[1] == domains[2]


def test_heads_are_those_that_drift_most_in_the_model_as_it_came(group: Group, drawn: dict[str, Chart]) -> None:
    states = group.models[0].states
    assert states is not None
    table = rows(drawn["heads"], layer_of(drawn["heads"], "point"))
    assert {row["head"] for row in table} == {head.name for head in states.drift[:8]}
    top = next(row for row in table if row["head"] == states.drift[0].name and row["name"] == "before")
    assert states.drift[0].score is not None
    assert top["y"] == pytest.approx(math.exp(states.drift[0].score), rel=1e-5)


def test_lines_of_heads_are_one_at_the_training_length(drawn: dict[str, Chart]) -> None:
    table = rows(drawn["head-0"], layer_of(drawn["head-0"], "line"))
    assert [row["y"] for row in table if row["x"] == CONTEXT] == pytest.approx([1.0, 1.0, 1.0])


def test_every_chart_has_a_caption_of_one_sentence(drawn: dict[str, Chart]) -> None:
    captions = [chart.caption for chart in drawn.values() if chart.caption]
    # Small charts of a kind share the caption of the first.
    assert len(captions) == len(drawn) - 2 - 5
    for caption in captions:
        assert caption.endswith(".")
        assert ". " not in caption


def test_missing_measurements_are_named(runs: Path) -> None:
    (group,) = load_groups([runs / "partial"])
    found = {item.key: item for section in charts.all_charts(group).values() for item in section}
    missing = {key for key, item in found.items() if isinstance(item, Missing)}
    assert missing == {"restart", "remembrance", "remembrance-js", "remembrance-cosine", "states", "heads", "training"}
    assert isinstance(found["perplexity"], Chart)


def test_a_model_keeps_its_colour_where_another_is_missing(runs: Path) -> None:
    (both,) = load_groups([runs / "broken", runs / "partial"])
    (swapped,) = load_groups([runs / "partial", runs / "broken"])
    perplexity, states = charts.drawn(both)[0], next(c for c in charts.drawn(swapped) if c.key == "states")
    assert [sign.colour for sign in perplexity.legend] == ["@s0", "@s1"]
    assert [(sign.name, sign.colour) for sign in states.legend] == [("large-24m", "@s1")]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("context", "start", "end"), [(64, 1.0, 4096.0), (2048, 1.0, 4096.0)])
def test_no_line_runs_through_the_words_at_the_training_length(
    log: bool, context: int, start: float, end: float
) -> None:
    rows: list[marks.Row] = [{"name": "a", "x": 2.0**power, "y": 2.0} for power in range(13)]
    low, high = 1.0, 2.1
    raised = marks.headroom(rows, context, start, end, low, high, log=log)
    share = math.log(2 / low) / math.log(raised / low) if log else (2 - low) / (raised - low)
    assert marks.HEIGHT * (1 - share) == pytest.approx(marks.WORDS_HEIGHT)
    # Nothing changes where the line lies lower, only on the other side, off the axis, or where no words are written.
    away = [row for row in rows if (row["x"] < context / 2 if context == 64 else row["x"] > context * 2)]
    flat = [{**row, "y": 1.2} for row in rows]
    off = [{**row, "y": 3.0} for row in rows]
    for other in (away, flat, off):
        assert marks.headroom(other, context, start, end, low, high, log=log) == high
    assert marks.headroom(rows, 4096, start, end, low, high, log=log) == high


def test_a_line_that_leaves_at_the_bottom_has_its_value_there(group: Group) -> None:
    rows: list[marks.Row] = [{"name": group.models[0].name, "x": x, "y": y} for x, y in ((1, 0.1), (9, 1e-6))]
    signs = marks.signs(group.models, rows)
    (made,) = marks.end_labels(
        rows, signs, alt.X("x:Q"), lambda: alt.Y("y:Q"), 1e-4, 1.0, log=True, text=lambda r: f"{r['y']}"
    )
    spec = made.to_dict()
    assert spec["datasets"][spec["data"]["name"]] == [{"x": 9, "y": 1e-4, "text": "1e-06"}]


def test_values_at_the_ends_of_lines_do_not_overlap(group: Group) -> None:
    close = [{"name": model.name, "x": 9.0, "y": 2.0 + 0.001 * i} for i, model in enumerate(group.models)]
    signs = marks.signs(group.models, close)
    x = marks.position_axis("position", 1.0, 9.0)

    def y(field: str = "y") -> Any:
        return alt.Y(f"{field}:Q")

    for low, high in ((1.0, 3.0), (1.999, 9.0), (0.5, 2.003)):
        made = marks.end_labels(close, signs, x, y, low, high, log=False, text=lambda row: "2.00")
        pixels = []
        for chart in made:
            spec = chart.to_dict()
            (row,) = spec["datasets"][spec["data"]["name"]]
            pixels.append(marks.HEIGHT * (1 - (row["y"] - low) / (high - low)) + spec["mark"]["dy"])
        gaps = [b - a for a, b in itertools.pairwise(pixels)]
        assert all(gap >= marks.LABEL_GAP - 0.2 for gap in gaps)
        assert max(pixels) <= marks.HEIGHT + 0.2


@pytest.mark.parametrize("name", ["light", "dark"])
def test_every_colour_token_is_known_in_both_themes(drawn: dict[str, Chart], name: str) -> None:
    text = json.dumps(
        [theme.resolve(chart.spec, name) for chart in drawn.values()] + [theme.resolve(theme.config(), name)]
    )
    assert '"@' not in text
    assert set(theme.LIGHT) == set(theme.DARK)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("name", ["light", "dark"])
def test_colours_stand_out_from_the_paper(name: str) -> None:
    colours = theme.THEMES[name]
    paper = luminance(colours["paper"])

    def contrast(token: str) -> float:
        darker, lighter = sorted([paper, luminance(colours[token])])
        return (lighter + 0.05) / (darker + 0.05)

    # WCAG 2.1: 3 for graphics, 4.5 for text.
    assert all(contrast(token) >= 3 for token in ("before", "control", "after", *(f"s{i}" for i in range(6))))
    assert all(contrast(token) >= 4.5 for token in ("ink", "soft"))


def test_training_chart_of_two_runs_without_roles(group: Group) -> None:
    alone = replace(group, trainings=tuple(replace(run, role="run") for run in group.trainings))
    chart = charts.training(alone)
    assert isinstance(chart, Chart)
    assert chart.caption == "Loss of each logged step; lower is better."
