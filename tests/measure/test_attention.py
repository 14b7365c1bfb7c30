"""Measuring models with attention: their memory is known and bounded, and what a budget changes is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers import need_form
from tests.measure.models import random_tokens, tiny_model
from tests.models.families import FAMILIES

from lengthwise.checkpoints import Checkpoint
from lengthwise.cli.measure import warnings
from lengthwise.engines import from_checkpoint
from lengthwise.errors import InputError
from lengthwise.measure import MeasureConfig, measure
from lengthwise.measure.run import plan_attention
from lengthwise.models.lm import LanguageModel
from lengthwise.runs import RunFolder

CONTEXT, LENGTH, ROWS = 16, 96, 3


def made_checkpoint(family: str) -> Checkpoint:
    model = LanguageModel(replace(FAMILIES[family], vocab_size=256)).eval()
    return Checkpoint(model=model, config=model.config, tokenizer_spec="bytes", context_length=CONTEXT)


def made_config(**options: Any) -> MeasureConfig:
    values: dict[str, Any] = {"chunk": 32, "batch_size": 2, "bootstrap": 100, "remembrance_documents": 1}
    return MeasureConfig(model="tiny", **{**values, **options})


def measured(checkpoint: Checkpoint, out: Path, **options: Any) -> dict[str, Any]:
    sequences = (random_tokens(ROWS, LENGTH + 1, vocab_size=256), np.arange(ROWS))
    return measure(made_config(**options), out, checkpoint=checkpoint, sequences=sequences, progress=False)


def test_a_transformer_has_no_recurrent_state_to_look_at(tmp_path: Path) -> None:
    summary = measured(made_checkpoint("transformer"), tmp_path / "run")
    assert summary["skipped"] == {"states": "the model has no recurrent state"}
    assert summary["states"] is None
    assert summary["verdicts"]["restart"]["verdict"] in ("pass", "fail", "undecided")
    assert summary["remembrance"] is not None
    # 2 layers, 2 heads of width 6 for keys and as many for values, 4 bytes each.
    assert summary["attention"]["bytes_per_text"] == LENGTH * 2 * 2 * 2 * 6 * 4
    assert summary["attention"]["budget"] is None


def test_a_hybrid_has_both(tmp_path: Path) -> None:
    summary = measured(made_checkpoint("mamba2-attention"), tmp_path / "run", metrics=("perplexity", "states"))
    assert not summary["skipped"]
    assert summary["states"] is not None
    assert summary["attention"]["bytes_per_text"] > 0


def test_a_recurrent_model_keeps_no_keys(tmp_path: Path) -> None:
    assert measured(made_checkpoint("rwkv6"), tmp_path / "run", metrics=("perplexity",))["attention"] is None


def test_a_budget_bounds_the_memory_and_is_said(tmp_path: Path) -> None:
    checkpoint = made_checkpoint("transformer")
    whole = measured(checkpoint, tmp_path / "whole", metrics=("perplexity",))
    bounded = measured(checkpoint, tmp_path / "bounded", metrics=("perplexity",), attention_budget=20)
    assert bounded["attention"]["budget"] == 20
    assert bounded["attention"]["bytes_per_text"] == 20 * 2 * 2 * 2 * 6 * 4
    before, after = ([each["nll"] for each in summary["perplexity"]["bins"]] for summary in (whole, bounded))
    assert after[0] == pytest.approx(before[0], rel=1e-5)
    assert after[-1] != pytest.approx(before[-1], rel=1e-5)
    assert any("keep and see 20 tokens" in warning for warning in warnings(bounded))
    # The model that was given is as before.
    assert checkpoint.model.attention_state_bytes(LENGTH) == whole["attention"]["bytes_per_text"]


def test_more_than_the_limit_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        measured(made_checkpoint("transformer"), tmp_path / "run", memory_limit=20_000)
    error = caught.value
    assert error.expected.startswith("keys and values of at most 20.0 KB (the memory limit)")
    # The 33 rows of the surface take more than the two of a batch.
    assert error.got == "33 texts of 96 tokens, whose attention layers keep 608.3 KB"
    assert "--attention-budget" in error.fix
    assert not (tmp_path / "run").exists()


def test_a_budget_needs_attention() -> None:
    model = tiny_model(vocab_size=256)
    opened = from_checkpoint(Checkpoint(model=model, config=model.config, context_length=CONTEXT))
    with pytest.raises(InputError) as caught:
        plan_attention(made_config(attention_budget=8).resolved(CONTEXT), opened)
    assert caught.value.got == "one without attention"


def test_the_form_that_ran_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENGTHWISE_BACKEND", "torch")
    measured(made_checkpoint("gla"), tmp_path / "run", metrics=("perplexity",))
    assert RunFolder.open(tmp_path / "run").manifest["backend"] == "torch"


def test_a_model_that_was_set_to_a_form_is_recorded_as_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_form("native")
    monkeypatch.delenv("LENGTHWISE_BACKEND", raising=False)
    checkpoint = made_checkpoint("mamba2-attention")
    for backend, recorded in (("auto", "native+torch"), ("torch", "torch")):
        checkpoint.model.set_backend(backend)  # type: ignore[arg-type]
        measured(checkpoint, tmp_path / backend, metrics=("perplexity",))
        assert RunFolder.open(tmp_path / backend).manifest["backend"] == recorded


def test_a_form_that_cannot_run_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_form("native")
    checkpoint = made_checkpoint("gla")
    checkpoint.model.set_backend("native")
    monkeypatch.setattr("lengthwise.layers.gla.library", lambda: None)
    with pytest.raises(InputError, match=r"^expected a kernel that compiles"):
        measured(checkpoint, tmp_path / "run", metrics=("perplexity",))
    assert not (tmp_path / "run").exists()
