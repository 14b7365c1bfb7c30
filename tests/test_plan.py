"""What `--dry-run` says beforehand is what the run does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lengthwise.checkpoints import Checkpoint, save_checkpoint
from lengthwise.errors import InputError
from lengthwise.measure import MeasureConfig, measure
from lengthwise.measure import run as run_module
from lengthwise.models.config import ModelConfig, RWKV6Config
from lengthwise.plan import layer_floats, measure_plan, train_plan
from lengthwise.progress import Advance
from lengthwise.train.config import TrainConfig
from tests.engines.models import save_byte_model
from tests.helpers import need_form
from tests.measure.models import random_tokens, tiny_model

CONTEXT, ROWS = 16, 5


class Bar:
    """Stands for the bar of a run: what it was said to count to, and what it counted by piece."""

    total = 0
    counted: int
    read: dict[str, int]

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counted, self.read = 0, {}

        @contextmanager
        def bar(what: str, total: int, *, shown: bool) -> Iterator[Advance]:
            self.total = total
            yield self.advance

        def told(name: str, piece: Any) -> Any:
            def work(*arguments: Any) -> Any:
                before = self.counted
                result = piece(*arguments)
                self.read[name] = self.read.get(name, 0) + self.counted - before
                return result

            return work

        monkeypatch.setattr(run_module, "token_bar", bar)
        pieces = {name: told(name, piece) for name, piece in run_module._PIECES.items()}
        monkeypatch.setattr(run_module, "_PIECES", pieces)

    def advance(self, count: int, what: str | None = None) -> None:
        self.counted += count


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny_model(vocab_size=256)
    save_checkpoint(
        path, Checkpoint(model=model, config=model.config, tokenizer_spec="bytes", context_length=CONTEXT, extra={})
    )
    return path


def made_config(folder: Path, length: int, **options: Any) -> MeasureConfig:
    values = {
        "chunk": 32,
        "batch_size": 2,
        "bootstrap": 20,
        "state_sequences": 3,
        "remembrance_documents": 2,
        "remembrance_starts": 9,
        "remembrance_ends": 4,
        "context_length": CONTEXT,
        "tokenizer": "bytes",
        "device": "cpu",
        "length": length,
        "num_sequences": ROWS,
    }
    return MeasureConfig(model=str(folder), **{**values, **options})


@pytest.mark.parametrize(
    ("length", "options", "parts"),
    [
        (97, {}, {"stream", "windows", "restart", "remembrance"}),
        (256, {"restart_stride": 7, "remembrance_length": 61}, {"stream", "windows", "restart", "remembrance"}),
        (40, {}, {"stream", "restart", "remembrance"}),  # no shorter window fits
        (97, {"metrics": ("perplexity",)}, {"stream", "windows"}),
        (97, {"metrics": ("states",)}, {"stream"}),  # of the batches with states alone
        (97, {"metrics": ("remembrance",), "remembrance_documents": 99}, {"remembrance"}),
    ],
)
def test_the_dry_run_counts_the_tokens_that_the_run_reads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, options: Any, parts: set[str]
) -> None:
    config, bar = made_config(folder, length, **options), Bar(monkeypatch)
    sequences = random_tokens(ROWS, length + 1, vocab_size=256), np.arange(ROWS)
    measure(config, tmp_path / "run", sequences=sequences, progress=False)
    said = measure_plan(config)["tokens_read"]
    assert set(said) == parts
    assert said == {name: count for name, count in bar.read.items() if count}
    assert sum(said.values()) == bar.total == bar.counted


def test_so_it_does_where_texts_are_read_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_byte_model(tmp_path / "mamba", "mamba")
    config, bar = made_config(folder, 80, engine="transformers"), Bar(monkeypatch)
    sequences = random_tokens(ROWS, 81, vocab_size=256), np.arange(ROWS)
    measure(config, tmp_path / "run", sequences=sequences, progress=False)
    plan = measure_plan(config)
    assert plan["reading"] == "one-shot"
    assert plan["tokens_read"] == bar.read
    assert sum(bar.read.values()) == bar.total == bar.counted


def test_activations_are_those_of_the_device_and_of_the_numbers(folder: Path) -> None:
    need_form("native")
    config = tiny_model().config
    native = layer_floats(config, torch.device("cpu"))
    assert native != layer_floats(config, torch.device("cuda"))
    assert layer_floats(config, torch.device("cpu"), torch.float64) == layer_floats(config, torch.device("cuda"))


def test_activations_grow_with_the_chunks_of_rwkv6() -> None:
    small, large = (
        ModelConfig(
            d_model=64, num_layers=1, vocab_size=16, mixer=RWKV6Config(head_size=16, mix_rank=4, chunk_size=chunk)
        )
        for chunk in (16, 128)
    )
    device = torch.device("cpu")
    assert layer_floats(large, device) - layer_floats(small, device) == 2 * 4 * (128 - 16)  # two matrices for each head


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_plans_are_for_the_device_of_the_config(folder: Path) -> None:
    with pytest.raises(InputError, match="expected device auto, cpu or cuda; got 'cuda'"):
        measure_plan(made_config(folder, 97, device="cuda"))
    train = TrainConfig(model=tiny_model(vocab_size=256).config, context_length=16, batch_size=2, steps=1, peak_lr=1e-3)
    assert train_plan(train)["steps"] == 1
    with pytest.raises(InputError, match="expected device auto, cpu or cuda; got 'cuda'"):
        train_plan(TrainConfig.from_dict({**train.to_dict(), "device": "cuda"}))
