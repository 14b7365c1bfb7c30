"""A whole measurement: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import fill_disk
from tests.measure.models import random_tokens, tiny_model
from tests.spelling import KINDS, write_tokenizer

from lengthwise.checkpoints import Checkpoint
from lengthwise.cli.measure import warnings
from lengthwise.errors import InputError, RunFailure
from lengthwise.measure import MeasureConfig, evaluate_length, measure, remembrance_surface
from lengthwise.measure import run as run_module
from lengthwise.runs import RunFolder

CONTEXT, LENGTH, ROWS = 16, 96, 5


def made_checkpoint(context_length: int | None = CONTEXT, tokenizer: str | None = "bytes") -> Checkpoint:
    model = tiny_model(vocab_size=256)
    return Checkpoint(model=model, config=model.config, tokenizer_spec=tokenizer, context_length=context_length)


def made_config(**options: Any) -> MeasureConfig:
    values = {"chunk": 32, "batch_size": 2, "bootstrap": 200, "state_sequences": 3, "remembrance_documents": 2}
    return MeasureConfig(model="tiny", **{**values, **options})


def made_sequences() -> tuple[np.ndarray, np.ndarray]:
    return random_tokens(ROWS, LENGTH + 1, vocab_size=256), np.arange(ROWS) * 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured") / "run"
    measure(made_config(), out, checkpoint=made_checkpoint(), sequences=made_sequences(), progress=False)
    return out


def test_summary_has_the_figures_of_the_parts(finished: Path) -> None:
    summary = RunFolder.open(finished).read_json("summary.json")
    tokens, documents = made_sequences()
    parts = evaluate_length(tiny_model(vocab_size=256), tokens, CONTEXT, resamples=200, documents=documents)
    assert (summary["context_length"], summary["length"], summary["num_sequences"]) == (CONTEXT, LENGTH, ROWS)
    assert summary["bytes_per_token"] == 1.0
    for found, expected in zip(summary["perplexity"]["bins"], parts.perplexity.bins, strict=True):
        assert (found["start"], found["end"], found["tokens"]) == (expected.start, expected.end, expected.tokens)
        for key in ("nll", "low", "high"):
            assert found[key] == pytest.approx(getattr(expected, key), rel=1e-4)
        assert found["bits_per_byte"] == pytest.approx(expected.nll / math.log(2), rel=1e-4)
    definition, restart = summary["verdicts"]["definition"], summary["verdicts"]["restart"]
    assert definition["worst_ratio"] == pytest.approx(parts.definition.worst_ratio, rel=1e-4)
    assert tuple(definition["best_bin"]) == parts.definition.best_bin
    assert restart["difference"] == pytest.approx(parts.restart.difference, abs=1e-4)
    assert len(summary["verdicts"]["words"]) == 2


def test_remembrance_of_the_run_is_the_mean_over_documents(finished: Path) -> None:
    run = RunFolder.open(finished)
    found, arrays = run.read_json("summary.json")["remembrance"], run.read_arrays()
    tokens, _ = made_sequences()
    surface = remembrance_surface(tiny_model(vocab_size=256), tokens[:2], found["starts"], found["ends"])
    assert found["num_documents"] == 2
    assert found["final_end"] == found["ends"][-1] == LENGTH
    for name in ("tv", "js", "cosine"):
        np.testing.assert_allclose(arrays[f"remembrance_{name}"], surface[name].mean(axis=0), atol=1e-5)
        index = found["starts"].index(LENGTH - CONTEXT)
        assert found["out_of_window"][name] == arrays[f"remembrance_{name}"][index, -1]
        assert 0 < found["area"][name] < 1


def test_states_of_the_run(finished: Path) -> None:
    run = RunFolder.open(finished)
    found, arrays = run.read_json("summary.json")["states"], run.read_arrays()
    assert found["num_sequences"] == 3
    assert found["positions"][0] == 1
    assert {CONTEXT, LENGTH} <= set(found["positions"])
    assert len(found["whole"]["std"]) == len(found["positions"])
    assert arrays["states_std"].shape == (len(found["positions"]), 2, 4)
    assert arrays["states_layer_norm"].shape == (len(found["positions"]), 2)
    tokens, _ = made_sequences()
    with torch.no_grad():
        state = tiny_model(vocab_size=256)(torch.from_numpy(tokens[:3, :LENGTH])).state
    expected = state.layers[1].ssm.double().flatten(2).std(dim=2, correction=0).mean(dim=0)  # type: ignore[attr-defined]
    np.testing.assert_allclose(arrays["states_std"][-1, 1], expected, rtol=1e-4)
    scores = [head["score"] for head in found["drift"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 2 * 4


def test_manifest_tells_what_was_measured(finished: Path) -> None:
    manifest = RunFolder.open(finished).manifest
    assert (manifest["kind"], manifest["status"]) == ("measure", "complete")
    assert manifest["config"]["length"] == LENGTH
    assert manifest["config"]["context_length"] == CONTEXT
    assert len(manifest["data_hashes"]["sequences"]) == 64


@pytest.mark.parametrize("stop_after", [0, 1, 4, 7])
def test_an_interrupted_run_ends_with_the_same_content(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    out, calls = tmp_path / "run", 0
    pieces = dict(run_module._PIECES)

    def stopping(name: str) -> Any:
        def piece(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop_after + 1:
                raise KeyboardInterrupt
            return pieces[name](*arguments)

        return piece

    arguments: dict[str, Any] = {"checkpoint": made_checkpoint(), "sequences": made_sequences(), "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_PIECES", {name: stopping(name) for name in pieces})
        with pytest.raises(KeyboardInterrupt):
            measure(made_config(), out, **arguments)
    assert len(RunFolder.open(out).read_metrics()) == stop_after
    with open(out / "metrics.jsonl", "a") as torn:
        torn.write('{"metric": "stream", "ind')  # as a kill in the middle of a write leaves it
    measure(made_config(), out, resume=True, **arguments)
    assert (out / "summary.json").read_bytes() == (finished / "summary.json").read_bytes()
    assert (out / "arrays.safetensors").read_bytes() == (finished / "arrays.safetensors").read_bytes()
    assert RunFolder.open(out).manifest["status"] == "complete"


def test_a_finished_run_resumes_to_itself_without_work(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = (finished / "summary.json").read_bytes()
    monkeypatch.setattr(run_module, "_PIECES", {})
    measure(
        made_config(), finished, checkpoint=made_checkpoint(), sequences=made_sequences(), resume=True, progress=False
    )
    assert (finished / "summary.json").read_bytes() == before


@pytest.mark.parametrize("metrics", [("perplexity",), ("restart",), ("states",), ("remembrance",)])
def test_each_metric_alone(tmp_path: Path, metrics: Any) -> None:
    out = tmp_path / "run"
    summary = measure(
        made_config(metrics=metrics), out, checkpoint=made_checkpoint(), sequences=made_sequences(), progress=False
    )
    assert (summary["perplexity"] is not None) == (metrics == ("perplexity",))
    assert (summary["verdicts"]["definition"] is not None) == (metrics == ("perplexity",))
    assert (summary["verdicts"]["restart"] is not None) == (metrics == ("restart",))
    assert (summary["states"] is not None) == (metrics == ("states",))
    assert (summary["remembrance"] is not None) == (metrics == ("remembrance",))
    assert len(summary["verdicts"]["words"]) == (metrics[0] in ("perplexity", "restart"))
    json.dumps(summary, allow_nan=False)


def test_sequences_are_sampled_from_the_validation_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "text"
    corpus.mkdir()
    for index in range(40):
        (corpus / f"{index}.txt").write_text(f"document {index}: " + "some text of it. " * 20, encoding="utf-8")
    config = made_config(data=str(corpus), length=64, num_sequences=2, metrics=("perplexity",))
    summary = measure(config, tmp_path / "run", checkpoint=made_checkpoint(), progress=False)
    assert summary["num_sequences"] == 2
    assert summary["bytes_per_token"] == 1.0
    assert summary["skipped"] == {}
    assert set(RunFolder.open(tmp_path / "run").manifest["data_hashes"]) == {"sequences", "validation"}
    too_many = made_config(data=str(corpus), length=64, num_sequences=60, metrics=("perplexity",))
    with pytest.raises(InputError, match="expected 60 sequences of 65 tokens") as raised:
        measure(too_many, tmp_path / "other", checkpoint=made_checkpoint(), progress=False)
    assert "lower --length or --num-sequences" in raised.value.fix
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_bits_per_byte_are_unknown_where_tokens_do_not_spell_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "text"
    corpus.mkdir()
    texts = [f"document {index}:\n    " + f"some text of it {index * 7}.\n" * 60 for index in range(60)]
    for index, text in enumerate(texts):
        (corpus / f"{index}.txt").write_text(text, encoding="utf-8")
    tokenizer = write_tokenizer(tmp_path, kind, texts)
    options: dict[str, Any] = {"length": 64, "num_sequences": 2, "metrics": ("perplexity",)}
    config, model = made_config(data=str(corpus), tokenizer=str(tokenizer), **options), made_checkpoint()
    summary = measure(config, tmp_path / "run", checkpoint=model, progress=False)
    assert summary["perplexity"]["overall"]["nll"] > 0
    bins = [*summary["perplexity"]["bins"], summary["perplexity"]["overall"]]
    assert [each["bits_per_byte"] for each in bins] == [None] * len(bins)
    assert summary["bytes_per_token"] is None
    reason = summary["skipped"]["bits per byte"]
    assert reason.startswith("the tokens of tokenizer.json do not spell the text; by their spelling the documents read")
    written = warnings(summary)
    assert written == [f"No bits per byte: {reason}."]
    given = measure(config, tmp_path / "given", checkpoint=model, sequences=made_sequences(), progress=False)
    assert given["perplexity"]["overall"]["bits_per_byte"] is None
    assert given["skipped"]["bits per byte"].endswith("do not spell the text, and the text itself is not known")


@pytest.fixture
def short_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "text"
    corpus.mkdir()
    for index in range(300):
        (corpus / f"{index}.txt").write_text(f"document {index}: " + "some text of it. " * 20, encoding="utf-8")
    return corpus


def test_without_a_number_the_corpus_may_have_fewer(
    short_documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = made_config(data=str(short_documents), length=64, metrics=("perplexity",))
    summary = measure(config, tmp_path / "run", checkpoint=made_checkpoint())
    found = summary["num_sequences"]
    assert 8 <= found < 64
    assert (summary["num_documents"], summary["sequences_wanted"]) == (found, 64)
    run = RunFolder.open(tmp_path / "run")
    assert run.manifest["config"]["num_sequences"] == found
    said = capsys.readouterr().err
    assert said.count(f"! the corpus has {found} sequences of 64 tokens instead of 64") == 1
    assert "--windows-per-document" in said
    assert measure(config, run.path, checkpoint=made_checkpoint(), resume=True, progress=False) == summary
    whole = made_config(data=str(short_documents), length=64, windows_per_document=5, metrics=("perplexity",))
    summary = measure(whole, tmp_path / "enough", checkpoint=made_checkpoint())
    assert (summary["num_sequences"], summary["sequences_wanted"]) == (64, None)
    assert "instead of" not in capsys.readouterr().err


def test_fewer_than_eight_or_than_were_named_are_refused(short_documents: Path, tmp_path: Path) -> None:
    for changes, expected in (
        ({"num_sequences": 64, "length": 64}, "64 sequences of 65 tokens (length 64 and a target)"),
        ({"length": 100_000}, "64, or at least 8, sequences of 100001 tokens (length 100000 and a target)"),
    ):
        config = made_config(data=str(short_documents), metrics=("perplexity",), **changes)
        with pytest.raises(InputError) as raised:
            measure(config, tmp_path / "run", checkpoint=made_checkpoint(), progress=False)
        assert raised.value.expected == expected
        assert "--num-sequences" in raised.value.fix
        assert ("--windows-per-document" in raised.value.fix) == (changes["length"] == 64)
    assert not (tmp_path / "run").exists()


def test_a_non_finite_loss_fails_the_run(tmp_path: Path) -> None:
    checkpoint = made_checkpoint()
    with torch.no_grad():
        checkpoint.model.backbone.norm_f.weight[0] = math.nan
    with pytest.raises(RunFailure, match="expected a finite loss at every position; got nan at position 0 of"):
        measure(made_config(), tmp_path / "run", checkpoint=checkpoint, sequences=made_sequences(), progress=False)
    assert RunFolder.open(tmp_path / "run").manifest["status"] == "failed"


@pytest.mark.parametrize("status", ["complete", "failed"])
def test_a_run_whose_text_has_changed_keeps_its_bytes(tmp_path: Path, status: str) -> None:
    settings = {"checkpoint": made_checkpoint(), "resume": True, "progress": False}
    config = made_config(metrics=("restart",))
    tokens, documents = made_sequences()
    measure(config, tmp_path, sequences=(tokens, documents), **settings)
    RunFolder.open(tmp_path).update_manifest(status=status)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="the corpus has changed"):
        measure(config, tmp_path, sequences=(tokens[::-1], documents), **settings)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("metric", "expected", "where"),
    [
        ("perplexity", "a finite loss at every position", "full-history losses"),
        ("restart", "a finite loss at every position", "losses"),
        ("remembrance", "finite predictions", "Effective Remembrance"),
        ("states", "a finite loss at every position", "full-history losses"),
    ],
)
def test_weights_that_are_not_finite_fail_every_metric(tmp_path: Path, metric: Any, expected: str, where: str) -> None:
    checkpoint = made_checkpoint()
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter.fill_(math.nan)
    config = made_config(metrics=(metric,))
    with pytest.raises(RunFailure) as raised:
        measure(config, tmp_path / "run", checkpoint=checkpoint, sequences=made_sequences(), progress=False)
    assert raised.value.expected == expected
    assert where in raised.value.where
    assert raised.value.got.lower().startswith("nan")
    assert raised.value.fix.startswith("look for non-finite weights")
    assert raised.value.exit_code == 1
    assert RunFolder.open(tmp_path / "run").manifest["status"] == "failed"


def test_a_full_disk_is_told_by_what_met_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, 2)
    with pytest.raises(RunFailure, match="no space left on the device") as raised:
        measure(
            made_config(), tmp_path / "run", checkpoint=made_checkpoint(), sequences=made_sequences(), progress=False
        )
    assert raised.value.where == str(tmp_path / "run/metrics.jsonl")
    assert len(RunFolder.open(tmp_path / "run").read_metrics()) == 2


def test_a_folder_of_another_run_is_refused(finished: Path) -> None:
    arguments: dict[str, Any] = {"checkpoint": made_checkpoint(), "sequences": made_sequences(), "progress": False}
    with pytest.raises(InputError, match="add --resume to go on with it"):
        measure(made_config(), finished, **arguments)
    with pytest.raises(InputError, match=r"differs in bootstrap \(200 there, 300 here\)"):
        measure(made_config(bootstrap=300), finished, resume=True, **arguments)
    tokens, documents = made_sequences()
    arguments["sequences"] = (tokens[:, ::-1].copy(), documents)
    with pytest.raises(InputError, match="the corpus has changed"):
        measure(made_config(), finished, resume=True, **arguments)


@pytest.mark.parametrize(
    ("checkpoint", "sequences", "text"),
    [
        ({"context_length": None}, None, "expected a training context length; got none, neither in the checkpoint"),
        ({"context_length": LENGTH}, None, f"a length above the training context {LENGTH}; got {LENGTH}"),
        ({}, (np.zeros((2, 97), dtype=np.int64), np.arange(3)), "a document id for each of 2 sequences; got 3 ids"),
        ({}, (np.full((2, 97), 300), np.arange(2)), "token ids from 0 to 255; got ids from 300 to 300"),
        ({}, (np.zeros((0, 97), dtype=np.int64), np.arange(0)), "at least one sequence of at least one input"),
    ],
)
def test_unusable_input(tmp_path: Path, checkpoint: Any, sequences: Any, text: str) -> None:
    with pytest.raises(InputError) as raised:
        measure(
            made_config(),
            tmp_path / "run",
            checkpoint=made_checkpoint(**checkpoint),
            sequences=sequences or made_sequences(),
            progress=False,
        )
    assert text in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected device auto, cpu or cuda; got 'gpu'"):
        measure(made_config(device="gpu"), tmp_path / "run", checkpoint=made_checkpoint(), sequences=made_sequences())


def test_a_checkpoint_without_a_tokenizer_measures_given_sequences_only(tmp_path: Path) -> None:
    bare = made_checkpoint(tokenizer=None)
    config = made_config(metrics=("perplexity",))
    summary = measure(config, tmp_path / "run", checkpoint=bare, sequences=made_sequences(), progress=False)
    assert summary["bytes_per_token"] is None
    assert summary["perplexity"]["overall"]["bits_per_byte"] is None
    with pytest.raises(InputError, match="expected a checkpoint that names its tokenizer; got none; in tiny"):
        measure(config, tmp_path / "other", checkpoint=bare, progress=False)
