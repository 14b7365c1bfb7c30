"""`lengthwise train`: recipes in three forms, and what is wrong with them."""

import json
from pathlib import Path

import pytest


def test_trains_and_prints_where(lengthwise, recipe) -> None:
    done = lengthwise("train", recipe(), "--json")
    assert done.code == 0
    assert done.json["step"] == 4
    assert done.json["tokens"] == 4 * 2 * 32
    assert Path(done.json["checkpoint"]) == Path("runs/train-recipe/checkpoint")
    assert (Path("runs/train-recipe/checkpoint") / "model.safetensors").exists()


def test_a_finished_run_without_its_metrics_is_shown(lengthwise, recipe) -> None:
    file = recipe()
    assert lengthwise("train", file, "--out", "run").code == 0
    Path("run/metrics.jsonl").unlink()
    done = lengthwise("train", file, "--out", "run", "--resume", "--json")
    assert done.code == 0
    assert done.json == {"run": "run", "checkpoint": "run/checkpoint", "metrics": None}
    assert lengthwise("train", file, "--out", "run", "--resume").code == 0


def test_dry_run_writes_nothing(lengthwise, recipe, tmp_path: Path) -> None:
    file = recipe()
    before = sorted(tmp_path.rglob("*"))
    plan = lengthwise("train", file, "--dry-run", "--json").json
    assert sorted(tmp_path.rglob("*")) == before
    assert plan["steps"] == 4
    assert plan["tokens"] == 256
    assert plan["tokens_per_parameter"] == pytest.approx(256 / plan["parameters"])
    parts = plan["memory_bytes"]
    assert parts["weights, gradients, moments"] == 16 * plan["parameters"]
    assert parts["all"] == sum(value for name, value in parts.items() if name != "all")


def test_python_recipe(lengthwise, recipe, tmp_path: Path) -> None:
    fields = json.loads(recipe().read_text())
    file = tmp_path / "small.py"
    file.write_text(
        f"from lengthwise import TrainConfig\n\ndef recipe():\n    return TrainConfig.from_dict({fields!r})\n"
    )
    assert lengthwise("train", file, "--dry-run", "--json").json["out"] == "runs/train-small"


def test_a_run_folder_repeats_the_run(lengthwise, recipe) -> None:
    first = lengthwise("train", recipe(), "--out", "first", "--json").json
    again = lengthwise("train", "first", "--out", "again", "--json").json
    assert again["loss"] == first["loss"]
    weights = [Path(run, "checkpoint", "model.safetensors").read_bytes() for run in ("first", "again")]
    assert weights[0] == weights[1]


def test_model_may_be_a_preset(lengthwise, recipe) -> None:
    plan = lengthwise("train", recipe(model="table2-mamba2-45m"), "--dry-run", "--json").json
    assert plan["parameters"] == 46_389_312


def test_misspelled_preset(lengthwise, recipe) -> None:
    done = lengthwise("train", recipe(model="table2-mamba2-45n"), "--dry-run")
    assert done.code == 2
    assert done.part("expected") == "the name of a preset"
    assert "'table2-mamba2-45m'" in done.part("try")


def test_unknown_setting(lengthwise, recipe) -> None:
    done = lengthwise("train", recipe(batchsize=2))
    assert done.code == 2
    assert done.part("got") == "'batchsize'"
    assert "'batch_size'" in done.part("try")


@pytest.mark.parametrize("name", ["batch_size", "context_length", "steps"])
def test_zero_is_refused(lengthwise, recipe, name: str) -> None:
    done = lengthwise("train", recipe(**{name: 0}))
    assert done.code == 2
    assert name in done.part("expected")
    assert done.part("got") == "0"


@pytest.mark.parametrize(
    ("name", "text", "got"),
    [
        ("r.json", "{", "no JSON: Expecting property name"),
        ("r.json", "[]", "JSON with a list at the top"),
        ("r.py", "def recip():\n    pass\n", "a Python file without a function recipe()"),
        ("r.py", "def recipe():\n    return 3\n", "recipe() returned int"),
        ("r.py", "def recipe(:\n", "a syntax error in line 1"),
        ("r.yaml", "a: 1", "a file that ends in '.yaml'"),
    ],
)
def test_no_recipe(lengthwise, tmp_path: Path, name: str, text: str, got: str) -> None:
    (tmp_path / name).write_text(text)
    done = lengthwise("train", name)
    assert done.code == 2
    assert done.part("got").startswith(got)
    assert done.part("in") == name


@pytest.mark.parametrize(
    ("text", "got", "line"),
    [
        ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'", 1),
        ("def recipe():\n    return 1 / 0\n", "ZeroDivisionError: division by zero", 2),
        ("def recipe():\n    return {}['a']\n", "KeyError: 'a'", 2),
        ("def recipe(size):\n    return size\n", "TypeError: recipe() missing 1 required positional argument", None),
        ("import json\n\nvalue = json.loads('{')\n", "JSONDecodeError: Expecting property name", 3),
    ],
)
def test_a_recipe_that_fails(lengthwise, tmp_path: Path, text: str, got: str, line: int | None) -> None:
    (tmp_path / "r.py").write_text(text)
    done = lengthwise("train", "r.py")
    assert done.code == 2
    assert done.part("expected") == "a recipe that runs without an error"
    assert done.part("got").startswith(got)
    assert done.part("in") == ("r.py" if line is None else f"r.py, line {line}")
    assert done.part("try") == "mend the recipe; see recipes/ for examples"


def test_what_a_recipe_asks_for_is_refused_as_in_json(lengthwise, tmp_path: Path) -> None:
    text = "from lengthwise import TrainConfig\n\ndef recipe():\n    return TrainConfig.from_dict({'stepz': 1})\n"
    (tmp_path / "r.py").write_text(text)
    done = lengthwise("train", "r.py")
    assert (done.code, done.part("got"), done.part("in")) == (2, "'stepz'", "TrainConfig")


def test_a_value_of_another_type(lengthwise, recipe, unchecked: None) -> None:
    done = lengthwise("train", recipe(peak_lr="1e-3"), "--dry-run")
    assert done.code == 2
    assert (done.part("expected"), done.part("got")) == ("peak_lr: a number", "'1e-3'")
    assert (done.part("in"), done.part("try")) == ("TrainConfig", "change peak_lr")


def test_missing_recipe(lengthwise) -> None:
    done = lengthwise("train", "recipes/none.py")
    assert done.code == 2
    assert done.part("in") == "recipes/none.py"
    assert "recipes/ for examples" in done.part("try")


def test_folder_that_holds_another_run(lengthwise, recipe) -> None:
    assert lengthwise("train", recipe(), "--out", "run").code == 0
    other = lengthwise("train", recipe(steps=5), "--out", "run", "--resume")
    assert other.code == 2
    assert "steps (4 there, 5 here)" in other.part("got")
    same = lengthwise("train", recipe(), "--out", "run")
    assert same.code == 2
    assert "add --resume" in same.part("try")


def test_damaged_metrics_do_not_stop_a_resumed_run(lengthwise, recipe) -> None:
    from lengthwise.runs import RunFolder

    assert lengthwise("train", recipe(), "--out", "run").code == 0
    whole = RunFolder.open("run").read_metrics()
    with open("run/metrics.jsonl", "a") as file:
        file.write('null\n{}\n[1]\n{"loss": 1.0}\n{"step": "1"}\n')
    RunFolder.open("run").update_manifest(status="running")
    done = lengthwise("train", recipe(), "--out", "run", "--resume")
    assert done.code == 0, done.err
    assert RunFolder.open("run").read_metrics() == whole


def test_a_complete_run_without_metrics(lengthwise, recipe) -> None:
    assert lengthwise("train", recipe(), "--out", "run").code == 0
    Path("run/metrics.jsonl").write_text("null\n")
    done = lengthwise("train", recipe(), "--out", "run", "--resume", "--json")
    assert (done.code, done.json["run"]) == (0, "run")


def test_a_misspelled_backend_leaves_no_folder(lengthwise, recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENGTHWISE_BACKEND", "nativ")
    done = lengthwise("train", recipe(), "--out", "run")
    assert (done.code, done.part("got"), done.part("in")) == (2, "'nativ'", "LENGTHWISE_BACKEND")
    assert not Path("run").exists()


def test_tokenizer_too_large_for_the_vocabulary(lengthwise, recipe) -> None:
    mixer = {"d_state": 8, "headdim": 16}
    done = lengthwise("train", recipe(model={"d_model": 32, "num_layers": 1, "vocab_size": 100, "mixer": mixer}))
    assert done.code == 2
    assert "at most 100 tokens" in done.part("expected")
