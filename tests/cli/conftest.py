"""A tiny model, a tiny corpus and a way to call the command line in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lengthwise.cli.main import main

CONTEXT = 32


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test in its own folder: default run folders and the corpus cache are made there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LENGTHWISE_DEBUG", "0")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder of an untrained byte model with context 32."""
    from lengthwise import Checkpoint, LanguageModel, Mamba2Config, ModelConfig, save_checkpoint

    mixer = Mamba2Config(d_state=8, headdim=16, chunk_size=16)
    config = ModelConfig(d_model=32, num_layers=2, vocab_size=256, mixer=mixer)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = LanguageModel(config, seed=1)
    save_checkpoint(
        folder, Checkpoint(model=model, config=config, tokenizer_spec="bytes", context_length=CONTEXT, extra={})
    )
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight documents of 900 to 2,600 bytes; about one in ten is held out."""
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(48):
        words = [f"word{(index * 7 + position * position) % 53}" for position in range(150 + 5 * index)]
        (folder / f"{index}.txt").write_text(" ".join(words))
    return folder


@pytest.fixture
def recipe(tmp_path: Path, corpus: Path) -> Callable[..., Path]:
    """Write a JSON recipe of a run of four steps; keyword arguments replace fields."""

    def write(**changes: Any) -> Path:
        mixer = {"d_state": 8, "headdim": 16, "chunk_size": 16}
        fields = {
            "model": {"d_model": 32, "num_layers": 1, "vocab_size": 256, "mixer": mixer},
            "data": str(corpus),
            "context_length": CONTEXT,
            "batch_size": 2,
            "steps": 4,
            "peak_lr": 1e-3,
            "checkpoint_every": 2,
            "log_every": 1,
            **changes,
        }
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(fields))
        return path

    return write


class Called:
    """What a call of the command line gave back."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def part(self, name: str) -> str:
        """One of the four parts of an error message: expected, got, in or try."""
        found = [line[12:] for line in self.err.splitlines() if line.startswith(f"  {name:<8}  ")]
        assert len(found) == 1, self.err
        return found[0]


@pytest.fixture
def lengthwise(capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Call the command line in this process."""

    def call(*words: object) -> Called:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Called(code, captured.out, captured.err)

    return call
