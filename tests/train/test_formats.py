"""Training on from a published format ends in that format, and resumes in it bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.train.tiny import MODEL, tiny_config, tiny_store

from lengthwise.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lengthwise.models.lm import LanguageModel
from lengthwise.train.loop import train


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A half-precision Mamba-2 checkpoint of transformers, without anything of ours in its config."""
    folder = tmp_path / "start"
    checkpoint = Checkpoint(model=LanguageModel(MODEL, seed=1), config=MODEL)
    save_checkpoint(folder, checkpoint, format="transformers/mamba2", dtype=torch.float16)
    values = json.loads((folder / "config.json").read_text())
    del values["lengthwise"]
    (folder / "config.json").write_text(json.dumps({**values, "torch_dtype": "float16"}))
    return folder


def test_the_format_is_kept_through_snapshots_and_resuming(start: Path, tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "store")
    config = tiny_config("state-passing", model=None, init_from=str(start), tokenizer="bytes", steps=4)
    result = train(config, tmp_path / "run", store=store, progress=False)
    values = json.loads((result.checkpoint_path / "config.json").read_text())
    assert (values["model_type"], values["torch_dtype"]) == ("mamba2", "float32")
    stored = load_file(result.checkpoint_path / "model.safetensors")
    assert "backbone.embeddings.weight" in stored
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    finished = load_checkpoint(result.checkpoint_path)
    assert (finished.format, finished.context_length, finished.tokenizer_spec) == ("transformers/mamba2", 16, "bytes")
    assert finished.extra["post_training"][0]["steps"] == 4

    part = train(config, tmp_path / "part", store=store, progress=False)
    for name in ("checkpoint", "checkpoints/step-00000004"):
        for file in sorted((part.run.path / name).iterdir(), reverse=True):
            file.unlink()
        (part.run.path / name).rmdir()
    part.run.update_manifest(status="running")
    again = train(config, tmp_path / "part", resume=True, store=store, progress=False)
    resumed = load_file(again.checkpoint_path / "model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in stored.items())
