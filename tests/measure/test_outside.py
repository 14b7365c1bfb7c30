"""Measuring models of transformers: streamed where their cache is right, in one pass per text where it is not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from tests.engines.models import save_byte_model
from tests.measure.models import random_tokens

from lengthwise.engines import HFModel, OneShot, memory, open_model
from lengthwise.errors import InputError, RunFailure
from lengthwise.measure import MeasureConfig, measure, remembrance_surface
from lengthwise.measure import run as run_module
from lengthwise.measure.remembrance import DISTANCES
from lengthwise.runs import RunFolder

CONTEXT, LENGTH, ROWS = 16, 80, 3
TYPES = ("mamba", "mamba2", "llama")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("outside")
    return {model_type: save_byte_model(root / model_type, model_type) for model_type in TYPES}


def made_config(folder: Path, **options: Any) -> MeasureConfig:
    values = {
        "engine": "transformers",  # some of these formats are ours as well
        "chunk": 32,
        "batch_size": 2,
        "bootstrap": 100,
        "state_sequences": 2,
        "remembrance_documents": 1,
        "remembrance_starts": 6,
        "remembrance_ends": 4,
        "context_length": CONTEXT,
        "tokenizer": "bytes",
        "device": "cpu",
    }
    return MeasureConfig(model=str(folder), **{**values, **options})


def made_sequences(length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    return random_tokens(ROWS, length + 1, vocab_size=256), np.arange(ROWS)


@pytest.fixture(scope="module")
def finished(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    out = tmp_path_factory.mktemp("runs")
    for model_type, folder in folders.items():
        measure(made_config(folder), out / model_type, sequences=made_sequences(), progress=False)
    return {model_type: out / model_type for model_type in folders}


def losses(folder: Path, tokens: np.ndarray) -> torch.Tensor:
    """By the library alone, in one pass."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    rows = torch.from_numpy(tokens.astype(np.int64))
    with torch.no_grad():
        logits = model(rows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1)


@pytest.mark.parametrize("model_type", TYPES)
def test_losses_are_those_of_one_pass(finished: dict[str, Path], folders: dict[str, Path], model_type: str) -> None:
    run = RunFolder.open(finished[model_type])
    arrays, tokens = run.read_arrays(), made_sequences()[0]
    expected = losses(folders[model_type], tokens)
    edges = arrays["edges"]
    by_bin = np.stack([expected[:, a:b].sum(dim=1).numpy() for a, b in pairwise(edges)], axis=1)
    np.testing.assert_allclose(arrays["loss_sums"], by_bin, rtol=1e-4)
    # Restarts every half context: a window of 16 tokens scores its last 8.
    restarted = np.zeros((ROWS, LENGTH))
    for scored in range(CONTEXT, LENGTH, CONTEXT // 2):
        window = tokens[:, scored + CONTEXT // 2 - CONTEXT : scored + CONTEXT // 2 + 1]
        restarted[:, scored : scored + CONTEXT // 2] = losses(folders[model_type], window)[:, -CONTEXT // 2 :].numpy()
    beyond = edges[edges >= CONTEXT]
    expected_sums = [restarted[:, a:b].sum(axis=1) for a, b in pairwise(beyond)]
    np.testing.assert_allclose(arrays["restart_sums"], np.stack(expected_sums, axis=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("model_type", "reading"), [("mamba", "one-shot"), ("mamba2", "streamed"), ("llama", "streamed")]
)
def test_summary_and_manifest_say_how_it_was_read(finished: dict[str, Path], model_type: str, reading: str) -> None:
    run = RunFolder.open(finished[model_type])
    summary = run.read_json("summary.json")
    assert summary["outside"] == run.manifest["outside"]
    assert summary["outside"]["reading"] == reading
    assert run.manifest["backend"] == "transformers"
    assert ("changes logits by" in summary["outside"]["why"]) == (reading == "one-shot")
    assert summary["outside"]["class"].endswith("ForCausalLM")
    assert summary["verdicts"]["definition"]["verdict"] in ("pass", "fail", "undecided")
    assert summary["verdicts"]["restart"]["verdict"] in ("pass", "fail", "undecided")
    assert summary["remembrance"]["final_end"] == LENGTH


def test_states_are_taken_where_there_are_any(finished: dict[str, Path]) -> None:
    summaries = {name: RunFolder.open(path).read_json("summary.json") for name, path in finished.items()}
    assert summaries["mamba2"]["skipped"] == {}
    assert summaries["mamba2"]["states"]["num_sequences"] == 2
    assert len(summaries["mamba2"]["states"]["drift"]) == 2 * 8  # layers times heads
    assert summaries["mamba"]["states"] is None
    assert "not carried" in summaries["mamba"]["skipped"]["states"]
    assert summaries["llama"]["states"] is None
    assert summaries["llama"]["skipped"] == {"states": "the model has no recurrent state"}


@pytest.mark.parametrize("model_type", TYPES)
def test_remembrance_is_that_of_separate_passes(folders: dict[str, Path], model_type: str) -> None:
    opened = open_model(str(folders[model_type]), engine="transformers")
    row = made_sequences()[0][:1, :41]
    starts, ends = [0, 7, 24, 40], [12, 13, 40]
    found = remembrance_surface(opened.model, row, starts, ends, tokens_per_forward=16)
    model = transformers.AutoModelForCausalLM.from_pretrained(folders[model_type])

    def chances(start: int, end: int) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.from_numpy(row[:, start : end + 1]).long()).logits[0, -1].double().softmax(-1)

    for i, start in enumerate(starts):
        for j, end in enumerate(ends):
            values = [found[name][0, i, j] for name in DISTANCES]
            if start > end:
                assert all(map(math.isnan, values))
            elif start == 0:
                assert values == [0.0, 0.0, 0.0]
            else:
                expected = (chances(start, end) - chances(0, end)).abs().sum() / 2
                assert found["tv"][0, i, j] == pytest.approx(float(expected), abs=1e-4)
                assert all(0 <= value <= 1 for value in values)


def test_a_run_goes_on_and_ends_with_the_same_content(
    finished: dict[str, Path], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, pieces = tmp_path / "run", dict(run_module._PIECES)

    def stop(*words: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_PIECES", {**pieces, "restart": stop})
        with pytest.raises(KeyboardInterrupt):
            measure(made_config(folders["mamba"]), out, sequences=made_sequences(), progress=False)
    measure(made_config(folders["mamba"]), out, sequences=made_sequences(), progress=False, resume=True)
    assert (out / "summary.json").read_bytes() == (finished["mamba"] / "summary.json").read_bytes()
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["outside"]["reading"] = "streamed"
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="expected a model that is read as this run began, streamed; got one-shot"):
        measure(made_config(folders["mamba"]), out, sequences=made_sequences(), progress=False, resume=True)


@pytest.mark.parametrize("model_type", TYPES)
def test_predictions_that_are_not_finite_are_told(folders: dict[str, Path], model_type: str) -> None:
    opened = open_model(str(folders[model_type]), engine="transformers")
    with torch.no_grad():
        for parameter in opened.model.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(RunFailure, match=r"expected finite predictions; got NaN or infinity .* after position 12;"):
        remembrance_surface(opened.model, made_sequences()[0][:1, :41], [0, 7], [12, 40])


def test_texts_read_in_one_pass_are_shorter_unless_told_otherwise(folders: dict[str, Path]) -> None:
    one_shot, streamed = (open_model(str(folders[name]), engine="transformers") for name in ("mamba", "mamba2"))
    assert isinstance(one_shot.model, OneShot)
    assert isinstance(streamed.model, HFModel)
    assert run_module.resolve(made_config(folders["mamba"]), one_shot).length == 4 * CONTEXT
    assert run_module.resolve(made_config(folders["mamba2"]), streamed).length == 64 * CONTEXT
    assert run_module.resolve(made_config(folders["mamba"], length=99), one_shot).length == 99


def test_a_text_that_does_not_fit_the_memory_is_refused(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine_bytes", lambda: 30_000_000)
    with pytest.raises(InputError) as caught:
        measure(made_config(folders["mamba"]), tmp_path / "run", sequences=made_sequences(4000), progress=False)
    assert "4,000 tokens, which take about" in caught.value.got
    assert "--length 1000 or less" in caught.value.fix
    monkeypatch.setattr(memory, "machine_bytes", lambda: None)
    opened = open_model(str(folders["mamba"]), engine="transformers")
    memory.check_memory(opened, 10**9)


def test_states_alone_of_a_model_without_any(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a metric that this model allows; got states, but the model has no"):
        measure(made_config(folders["llama"], metrics=("states",)), tmp_path / "run", sequences=made_sequences())


def test_no_context_is_guessed(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a training context length.*give --context-length"):
        measure(made_config(folders["mamba2"], context_length=None), tmp_path / "run", sequences=made_sequences())


def test_a_tokenizer_is_asked_for(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a tokenizer.json beside the model.*give --tokenizer"):
        measure(made_config(folders["mamba2"], tokenizer=None), tmp_path / "run", progress=False)


def test_a_loaded_checkpoint_is_run_by_us(tmp_path: Path) -> None:
    from tests.measure.test_run import made_checkpoint

    with pytest.raises(InputError, match="expected engine auto or lengthwise for a checkpoint that is already loaded"):
        measure(made_config(tmp_path), tmp_path / "run", checkpoint=made_checkpoint(), sequences=made_sequences())
