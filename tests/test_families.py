"""Every architecture in every verb: a small model of it is checked, measured and, if recurrent, extended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lengthwise.check.config import CheckConfig
from lengthwise.check.run import check
from lengthwise.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lengthwise.evaluate.config import EvalConfig
from lengthwise.evaluate.run import evaluate
from lengthwise.evaluate.subject import open_subject
from lengthwise.extend import ExtendConfig, extend
from lengthwise.measure import MeasureConfig, measure
from lengthwise.tasks.registry import make_tasks
from tests.models.families import FAMILIES, small_model

CONTEXT = 16
MEASURE = {
    "length": 64,
    "num_sequences": 4,
    "bootstrap": 20,
    "state_sequences": 2,
    "remembrance_documents": 1,
    "remembrance_starts": 4,
    "remembrance_ends": 4,
}
RECURRENT = [name for name, config in FAMILIES.items() if config.is_recurrent]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / "corpus"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(60):
        (folder / f"{index}.txt").write_bytes(random.integers(97, 107, 200, dtype=np.uint8).tobytes())
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path / "cache"))


def saved(family: str, tmp_path: Path) -> str:
    model = small_model(family, dtype=torch.float32, vocab_size=256)
    checkpoint = Checkpoint(model=model, config=model.config, tokenizer_spec="bytes", context_length=CONTEXT)
    save_checkpoint(tmp_path / "model", checkpoint)
    return str(tmp_path / "model")


@pytest.mark.parametrize("family", FAMILIES)
def test_check(family: str, tmp_path: Path) -> None:
    result = check(CheckConfig(model=saved(family, tmp_path)))
    assert result.passed, [finding for finding in result.findings if finding.bad]
    assert {finding.name for finding in result.findings} >= {"two-pieces", "single-tokens", "gradients"}


@pytest.mark.parametrize("family", FAMILIES)
def test_measure(family: str, tmp_path: Path, corpus: Path) -> None:
    config = MeasureConfig(model=saved(family, tmp_path), data=str(corpus), device="cpu", **MEASURE)
    summary = measure(config, tmp_path / "run", progress=False)
    assert set(summary["skipped"]) == (set() if family in RECURRENT else {"states"})
    assert summary["verdicts"]["restart"]["verdict"] in ("pass", "fail", "undecided")
    assert summary["remembrance"] is not None
    assert (summary["attention"] is not None) == any(m.kind == "attention" for m in FAMILIES[family].mixers)


@pytest.mark.parametrize("family", FAMILIES)
def test_eval(family: str, tmp_path: Path) -> None:
    config = EvalConfig(
        model=saved(family, tmp_path), tasks=("passkey",), lengths=(240,), num_samples=3, chunk=64, device="cpu"
    )
    summary = evaluate(config, make_tasks(config.tasks), open_subject(config), tmp_path / "run", progress=False)
    assert summary["num_records"] == 3
    assert summary["failures"] == 0


@pytest.mark.parametrize("family", RECURRENT)
def test_extend(family: str, tmp_path: Path, corpus: Path) -> None:
    model = saved(family, tmp_path)
    config = ExtendConfig(
        model=model,
        data=str(corpus),
        steps=2,
        batch_size=4,
        device="cpu",
        measure={**MEASURE, "metrics": ["perplexity", "restart"]},
    )
    comparison = extend(config, tmp_path / "run")
    assert comparison["steps"] == 2
    before, after = load_checkpoint(model), load_checkpoint(tmp_path / "run/checkpoint")
    assert after.format == before.format
    assert after.config == before.config
