"""The runs of `recipes/task_runs.py` can be made, and the tables of `task_tables.py` say what was evaluated."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from lengthwise.data.tokenizers import load_tokenizer
from lengthwise.tasks.reader import TaskRows
from lengthwise.tasks.registry import make_tasks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)  # its files are named from the root of the checkout
    return runpy.run_path("recipes/task_runs.py")


def test_the_rows_of_every_run_fit_its_context_and_its_tokenizer(recipe: dict[str, Any]) -> None:
    seen = set()
    for name, config in recipe["RUNS"].items():
        spec = "copy" if name.startswith("copying") else recipe["TOKENIZER"]
        key = (config.tasks, config.context_length, config.vary_length, spec)
        if key in seen:
            continue
        seen.add(key)
        tokenizer = load_tokenizer(spec)
        read = TaskRows(
            make_tasks(config.tasks), tokenizer, config.context_length, 4, 0, vary_length=config.vary_length
        )
        batch = read.next_batch()
        assert batch.tokens.shape == (4, config.context_length + 1)
        assert int(batch.tokens.max()) < tokenizer.vocab_size
        assert batch.counted is not None
        assert batch.counted.any(dim=1).all()
    assert len(seen) == 6


def test_every_run_starts_from_one_before_it_and_controls_differ_in_the_intervention_alone(
    recipe: dict[str, Any],
) -> None:
    runs = recipe["RUNS"]
    names = list(runs)
    for name, config in runs.items():
        if config.init_from is not None:
            before = config.init_from.removeprefix("runs/").removesuffix("/train/checkpoint")
            assert names.index(before) < names.index(name)
    control = {**runs["passkey/mamba2-control"].to_dict(), "intervention": None}
    for kind in ("fitted-noise", "state-passing"):
        assert {**runs[f"passkey/mamba2-{kind}"].to_dict(), "intervention": None} == control
    for seed in (0, 1, 2):
        plain, passing = (runs[f"copying/{kind}-{seed}"].to_dict() for kind in ("plain", "passing"))
        assert {**plain, "intervention": None} == {**passing, "intervention": None}
        assert passing["intervention"]["kind"] == "state-passing"


def test_a_length_pools_its_depths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    recipe = runpy.run_path(str(ROOT / "recipes/task_tables.py"))
    records = [
        {"run": "a", "length": 256, "value": 1.0, "count": 20},
        {"run": "a", "length": 256, "value": 0.5, "count": 20},
        {"run": "b", "length": 256, "value": 0.0, "count": 20},
    ]
    table = recipe["by_length"](records)
    share, low, high = table["a"][256]
    assert share == 0.75
    assert low == pytest.approx(0.598, abs=2e-3)  # Wilson's interval of 30 in 40
    assert high == pytest.approx(0.858, abs=2e-3)
    assert table["b"][256][:2] == (0.0, 0.0)
    picture = recipe["heat_maps"]([{**record, "run": "passkey/mamba2", "depth": 10} for record in records], "title")
    assert {row["model"] for row in picture["data"]["values"]} == {"Mamba-2, plain"}
