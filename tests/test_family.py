"""The trained family: its recipes are alike and resume, and its table and figure follow from run folders."""

import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lengthwise.cli.train import read_recipe
from lengthwise.data.readers import ShuffledWindows
from lengthwise.errors import InputError
from lengthwise.extend import ExtendConfig
from lengthwise.interventions import InterventionConfig
from lengthwise.measure import MeasureConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.runs import RunFolder
from lengthwise.train import TrainConfig, train
from tests.report.fabricate import write_extend, write_measure
from tests.train.runs import assert_same_bits
from tests.train.tiny import tiny_store

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "recipes" / "family"
SCRIPT = runpy.run_path(str(FOLDER / "table.py"))
RECIPES: dict[str, Path] = SCRIPT["RECIPES"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_differ_in_the_model_alone(name: str) -> None:
    config, shipped = read_recipe(RECIPES[name]), read_recipe(RECIPES["mamba2"])
    assert config.model is not None
    assert replace(config, model=shipped.model) == shipped
    assert config.model.is_recurrent == (name != "transformer")
    assert 300_000 <= LanguageModel(config.model).num_parameters() <= 550_000


def test_every_recipe_of_the_folder_is_in_the_family() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {*RECIPES, "table"} - {"mamba2"}


class PowerCut(Exception):
    """Stops a run at its third batch."""


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_resume_with_the_same_bits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With State Passing where a model is recurrent, so that a checkpoint holds every kind of state as well."""
    recipe = read_recipe(RECIPES[name])
    assert recipe.model is not None
    config = replace(
        recipe,
        context_length=16,
        batch_size=2,
        steps=4,
        checkpoint_every=2,
        log_every=1,
        intervention=InterventionConfig(kind="state-passing" if recipe.model.is_recurrent else "zero"),
    )
    store, read = tiny_store(tmp_path / "store"), ShuffledWindows.next_batch
    train(config, tmp_path / "whole", store=store, progress=False)

    def cut(self: ShuffledWindows) -> Any:
        if self.state_dict()["index"] == 3 * config.batch_size:
            raise PowerCut
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(ShuffledWindows, "next_batch", cut)
        with pytest.raises(PowerCut):
            train(config, tmp_path / "cut", store=store, progress=False)
    train(config, tmp_path / "cut", store=store, resume=True, progress=False)
    assert_same_bits(tmp_path / "cut", tmp_path / "whole")


def test_all_are_measured_alike() -> None:
    """Models without a recurrent state, too, and as the demo measures."""
    extension = ExtendConfig.from_dict({"model": "m", **json.loads((FOLDER / "extend.json").read_text())})
    measurement = json.loads((FOLDER / "measure.json").read_text())
    assert extension.measure == measurement
    assert MeasureConfig.from_dict({"model": "m", **measurement}).length is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders of three models, one of them without a recurrent state and without a training run."""
    root = tmp_path_factory.mktemp("family")
    for name in ("gla", "mamba1"):
        write_extend(root / name / "extend", metrics=("perplexity", "restart", "remembrance", "states"))
        run = RunFolder.create(root / name / "train", "train", TrainConfig.to_dict(read_recipe(RECIPES[name])))
        run.append_metrics({"step": 1200, "tokens": 4915200, "loss": 1.25, "seconds": 700.0})
        run.finish()
    write_measure(root / "transformer" / "measure", metrics=("perplexity", "restart"))
    found = [{"title": "pieces", "status": "pass"}, {"title": "padding", "status": "not supported"}]
    for name, bad in (("gla", []), ("transformer", [{"title": "rows apart", "status": "fail"}])):
        check = RunFolder.create(root / name / "check", "check", {})
        check.write_json("results.json", {"passed": not bad, "findings": [*found, *bad]})
    return root


def page(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    text = f"# Title\n\n{SCRIPT['MARKERS'][0]}\nan earlier table\n{SCRIPT['MARKERS'][1]}\n\nThe end.\n"
    (folder / "family.md").write_text(text)
    return folder


def test_table_and_figure_follow_from_run_folders(runs: Path, tmp_path: Path) -> None:
    main: Callable[[list[str]], None] = SCRIPT["main"]
    docs = page(tmp_path / "docs")
    main([str(runs), str(docs)])
    text = (docs / "family.md").read_text()
    assert text.startswith("# Title\n\n<!-- table")
    assert text.endswith("<!-- end of table -->\n\nThe end.\n")
    assert "an earlier table" not in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["**Mamba-1**", "", "", "**GLA**", "", "", "**Transformer++**"]
    assert [row[3] for row in rows[1:4]] == ["trained", "Zero control", "State Passing"]
    summary = json.loads((runs / "gla/extend/before/summary.json").read_text())
    ratio = summary["verdicts"]["definition"]
    assert rows[4][5].startswith(f"{ratio['worst_ratio']:.2f} (")
    assert rows[4][5].endswith(f"**fails** from {ratio['first_failing_position']:,}")
    assert rows[4][1:3] == ["534,784", "12,288"]
    assert rows[4][9] == "all 1 hold"
    assert rows[6][6].endswith("passes")
    assert rows[7][9] == "**rows apart**"
    assert rows[7][2] == ""  # no recurrent state
    assert rows[7][7] == ""  # not measured
    record = json.loads((docs / "family.json").read_text())
    assert record["models"]["gla"]["train"] == {"step": 1200, "tokens": 4915200, "loss": 1.25, "seconds": 700.0}
    assert record["models"]["mamba1"]["check"] is None
    assert str(runs) not in json.dumps(record)  # no path of the machine
    assert (docs / "images/family.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    # The figures alone make the same table again.
    assert SCRIPT["table"](record) in text


def test_figure_is_valid_and_cuts_what_runs_off(runs: Path) -> None:
    import altair as alt

    record = SCRIPT["read_family"](runs)
    record["models"]["gla"]["roles"]["before"]["perplexity"][-1][2] = 1e6
    spec = SCRIPT["figure"](record)
    alt.Chart.from_dict(spec)  # against the schema
    assert "@" not in json.dumps(spec)
    panels = [panel for line in spec["vconcat"] for cell in line["hconcat"] for panel in cell["vconcat"]]
    assert len(panels) == 9
    domains = [panel["layer"][2]["encoding"]["y"]["scale"]["domain"] for panel in panels[::3]]
    assert domains[0] == domains[1] == domains[2]  # one axis for all, so that models can be compared
    assert domains[0][1] <= SCRIPT["CAP"] * domains[0][0] / 0.95 * 1.001
    assert json.dumps(spec).count("to 1,000,000") == 1  # said where the line ends


def test_models_measured_on_other_texts_are_refused(runs: Path, tmp_path: Path) -> None:
    root = shutil.copytree(runs, tmp_path / "runs")
    RunFolder.open(root / "gla/extend/before").update_manifest(data_hashes={"sequences": "others"})
    with pytest.raises(InputError) as caught:
        SCRIPT["read_family"](root)
    assert caught.value.expected == "all models measured on the same texts"
    assert caught.value.got == "2 different ones"


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        SCRIPT["read_family"](tmp_path)
    assert caught.value.expected.startswith("a folder with runs of mamba1, mamba2")
    assert caught.value.got == "none of them"


def test_a_page_without_a_place_for_the_table_is_refused(runs: Path, tmp_path: Path) -> None:
    docs = page(tmp_path / "docs")
    (docs / "family.md").write_text("# Title\n")
    with pytest.raises(InputError) as caught:
        SCRIPT["write"](SCRIPT["read_family"](runs), docs)
    assert caught.value.got == "a page without them"


def test_the_committed_table_is_that_of_the_committed_figures() -> None:
    record = json.loads((ROOT / "docs/family.json").read_text())
    text = (ROOT / "docs/family.md").read_text(encoding="utf-8")
    assert list(record["models"]) == list(RECIPES)
    assert SCRIPT["table"](record) in text
