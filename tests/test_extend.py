"""The whole of `extend` on a model and a corpus of toy size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lengthwise.checkpoints import load_checkpoint, save_checkpoint
from lengthwise.errors import InputError, RunFailure
from lengthwise.extend import ExtendConfig, extend
from lengthwise.interventions import InterventionConfig
from lengthwise.models import Mamba2Config, ModelConfig
from lengthwise.runs import RunFolder
from lengthwise.train import TrainConfig, train
from tests.helpers import fill_disk

MEASURE = {
    "length": 64,
    "num_sequences": 4,
    "bootstrap": 50,
    "remembrance_documents": 1,
    "remembrance_starts": 4,
    "remembrance_ends": 4,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of sixty short documents and a model pre-trained on it for six steps."""
    folder = tmp_path_factory.mktemp("extend")
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in rng.integers(10, size=4)) for _ in range(12)]
    (folder / "corpus").mkdir()
    for index in range(60):
        text = " ".join(words[i] for i in rng.integers(12, size=40))
        (folder / "corpus" / f"{index}.txt").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENGTHWISE_CACHE", str(folder / "cache"))
        config = TrainConfig(
            model=ModelConfig(
                d_model=16, num_layers=2, vocab_size=256, mixer=Mamba2Config(d_state=8, headdim=8, chunk_size=16)
            ),
            data=str(folder / "corpus"),
            context_length=16,
            batch_size=8,
            steps=6,
            peak_lr=3e-3,
            device="cpu",
        )
        train(config, folder / "pre", progress=False)
    return folder


@pytest.fixture(autouse=True)
def cache(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENGTHWISE_CACHE", str(world / "cache"))


def config_for(world: Path, **changes: Any) -> ExtendConfig:
    settings: dict[str, Any] = {
        "model": str(world / "pre/checkpoint"),
        "data": str(world / "corpus"),
        "steps": 4,
        "checkpoint_every": 2,
        "log_every": 1,
        "device": "cpu",
        "measure": MEASURE,
    }
    return ExtendConfig(**{**settings, **changes})


def test_extend_trains_both_measures_three_times_and_compares(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = extend(config_for(world), tmp_path / "run")
    assert comparison == json.loads((tmp_path / "run/comparison.json").read_text())
    assert (comparison["intervention"], comparison["steps"], comparison["tokens"]) == ("state-passing", 4, 4 * 8 * 16)
    run = RunFolder.open(tmp_path / "run")
    assert (run.manifest["kind"], run.manifest["status"]) == ("extend", "complete")
    assert run.manifest["config"]["peak_lr"] == pytest.approx(3e-4)  # a tenth of the pre-training peak
    assert run.manifest["config"]["batch_size"] == 8

    parts = {name: RunFolder.open(tmp_path / "run" / name) for name in ("before", "control", "after")}
    hashes = {json.dumps(part.manifest["data_hashes"]) for part in parts.values()}
    assert len(hashes) == 1, "the three models must read the same sequences"
    for name, part in parts.items():
        summary = part.read_json("summary.json")
        assert summary["label"] == name
        assert comparison[name]["definition"]["worst_ratio"] == summary["verdicts"]["definition"]["worst_ratio"]
        assert comparison[name]["restart"]["difference"] == summary["verdicts"]["restart"]["difference"]
        assert comparison[name]["perplexity"]["nll"] == summary["perplexity"]["overall"]["nll"]
        assert "bins" not in comparison[name]["restart"]
    losses = [comparison[name]["perplexity"]["nll"] for name in ("before", "control", "after")]
    assert len(set(losses)) == 3

    trained = [RunFolder.open(tmp_path / "run" / name) for name in ("train-control", "train-intervention")]
    configs = [dict(part.manifest["config"]) for part in trained]
    kinds = [config.pop("intervention")["kind"] for config in configs]
    assert kinds == ["zero", "state-passing"]
    assert configs[0] == configs[1], "the control differs in the intervention alone"
    first = [part.read_metrics()[0]["loss"] for part in trained]
    assert first[0] == first[1], "the first batch is the same, and both start it from zero"

    old, new = load_checkpoint(world / "pre/checkpoint"), load_checkpoint(tmp_path / "run/checkpoint")
    assert sorted(p.name for p in (tmp_path / "run/checkpoint").iterdir()) == ["config.json", "model.safetensors"]
    assert (new.config, new.context_length, new.tokenizer_spec) == (old.config, 16, "bytes")
    assert [entry["intervention"]["kind"] for entry in new.extra["post_training"]] == ["state-passing"]
    assert "[3/5] training the control" in capsys.readouterr().err


def test_an_interrupted_extension_reuses_what_is_finished(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lengthwise.measure.run as measuring

    config = config_for(
        world, intervention=InterventionConfig(kind="tbtt"), measure={**MEASURE, "metrics": ["restart"]}
    )
    whole = extend(config, tmp_path / "whole", progress=False)
    summarize, calls = measuring.summarize, []

    def stopped(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return summarize(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "summarize", stopped)
        with pytest.raises(KeyboardInterrupt):
            extend(config, tmp_path / "cut", progress=False)
    assert RunFolder.open(tmp_path / "cut").manifest["status"] == "running"
    assert not (tmp_path / "cut/comparison.json").exists()
    trained = (tmp_path / "cut/train-control/manifest.json").read_bytes()
    assert extend(config, tmp_path / "cut", resume=True, progress=False) == whole
    assert (tmp_path / "cut/train-control/manifest.json").read_bytes() == trained
    assert RunFolder.open(tmp_path / "cut/train-control").manifest["config"]["reader"] == "lanes"
    with pytest.raises(InputError, match="the same run, complete"):
        extend(config, tmp_path / "cut", progress=False)
    with pytest.raises(InputError, match=r"differs in steps \(4 there, 5 here\)"):
        extend(replace(config, steps=5), tmp_path / "cut", resume=True, progress=False)


def test_a_complete_run_that_was_moved_is_shown_as_it_is(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(world, measure={**MEASURE, "metrics": ["restart"]})
    whole = extend(config, tmp_path / "first", progress=False)
    (tmp_path / "first").rename(tmp_path / "moved")
    files = {path: path.read_bytes() for path in sorted((tmp_path / "moved").rglob("*")) if path.is_file()}
    assert extend(config, tmp_path / "moved", resume=True) == whole
    assert "complete already: nothing is trained or measured again" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in sorted((tmp_path / "moved").rglob("*")) if path.is_file()} == files


def test_an_unfinished_run_that_was_moved_goes_on(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(world, measure={**MEASURE, "metrics": ["restart"]})
    whole = extend(config, tmp_path / "first", progress=False)
    (tmp_path / "first").rename(tmp_path / "moved")
    for lost in ("comparison.json", "after/summary.json"):  # as a kill at the very end leaves it
        (tmp_path / "moved" / lost).unlink()
    RunFolder.open(tmp_path / "moved").update_manifest(status="running", finished=None)
    assert extend(config, tmp_path / "moved", resume=True) == whole
    said = capsys.readouterr().err
    assert "[2/5] there already: the training with state-passing, 4 steps" in said
    assert "[3/5] there already: the training of the control" in said
    for name in (".", "control", "after"):
        assert RunFolder.open(tmp_path / "moved" / name).manifest["status"] == "complete"


def test_a_complete_run_whose_resumption_is_refused_stays_complete(world: Path, tmp_path: Path) -> None:
    config = config_for(world, measure={**MEASURE, "metrics": ["restart"]})
    extend(config, tmp_path / "run", progress=False)
    (tmp_path / "run/comparison.json").unlink()
    manifest = RunFolder.open(tmp_path / "run/before")
    manifest.update_manifest(data_hashes={"sequences": "of another corpus"})
    files = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    with pytest.raises(InputError, match="the corpus has changed"):
        extend(config, tmp_path / "run", resume=True, progress=False)
    assert {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()} == files


def test_a_failure_inside_is_recorded(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lengthwise.train.loop as loop

    def fails(*arguments: Any, **options: Any) -> Any:
        raise RunFailure(expected="a", got="b", where="c", fix="d")

    monkeypatch.setattr(loop, "train", fails)
    config = config_for(world, measure={**MEASURE, "metrics": ["restart"]})
    with pytest.raises(RunFailure, match="expected a; got b"):
        extend(config, tmp_path / "run", progress=False)
    assert RunFolder.open(tmp_path / "run").manifest["status"] == "failed"


def test_a_config_survives_the_way_through_json(world: Path) -> None:
    config = config_for(world, measure={**MEASURE, "metrics": ["states", "restart"]}, peak_lr=1e-3)
    assert ExtendConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_the_checkpoint_does_not_tell_has_defaults(world: Path, tmp_path: Path) -> None:
    found = load_checkpoint(world / "pre/checkpoint")
    full = config_for(world).resolved(replace(found, extra={}))
    assert (full.peak_lr, full.min_lr, full.batch_size, full.context_length) == (1e-4, 1e-5, 32, 16)
    assert config_for(world, peak_lr=1e-6).resolved(found).min_lr == 1e-6
    save_checkpoint(tmp_path / "bare", replace(found, context_length=None))
    with pytest.raises(InputError, match=r"names its training context; got none.*--context-length"):
        extend(config_for(world, model=str(tmp_path / "bare")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intervention": InterventionConfig(kind="zero")}, "other than zero, which is the control"),
        ({"steps": 0}, r"steps: a whole number of at least 1; got 0"),
        ({"batch_size": 0}, r"batch_size: a whole number of at least 1; got 0"),
        ({"context_length": 0}, r"context_length: a whole number of at least 1; got 0"),
        ({"measure": {"lenght": 5}}, r"got 'lenght'.*did you mean 'length'"),
        ({"measure": {"length": 0}}, r"a whole number of at least 1; got 0"),
        ({"measure": {"seed": 1}}, r"settings of the measurement alone; got 'seed'.*whole extension"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(world: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_for(world, **changes)


def test_unknown_and_missing_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"got 'stepps'.*did you mean 'steps'"):
        ExtendConfig.from_dict({"model": "m", "stepps": 5})
    with pytest.raises(InputError, match="got no model"):
        ExtendConfig.from_dict({"steps": 5})


def test_a_full_disk_is_told_by_what_met_it_first(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, 1)
    with pytest.raises(RunFailure, match="no space left on the device") as raised:
        extend(config_for(world), tmp_path / "run", progress=False)
    assert raised.value.where == str(tmp_path / "run/before/metrics.jsonl")
