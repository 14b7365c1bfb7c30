"""A model and a corpus small enough to train in a second or two."""

from pathlib import Path
from typing import Any

import numpy as np

from lengthwise.data.store import TokenStore
from lengthwise.data.tokenizers import ByteTokenizer
from lengthwise.interventions import InterventionConfig
from lengthwise.models import Mamba2Config, ModelConfig
from lengthwise.train import TrainConfig

MODEL = ModelConfig(d_model=16, num_layers=2, vocab_size=256, mixer=Mamba2Config(d_state=8, headdim=8, chunk_size=16))


def tiny_config(kind: str = "zero", **changes: Any) -> TrainConfig:
    """Eight steps of eight windows of 16 tokens; changes override."""
    settings: dict[str, Any] = {
        "model": MODEL,
        "context_length": 16,
        "batch_size": 8,
        "steps": 8,
        "peak_lr": 3e-3,
        "intervention": InterventionConfig.from_dict({"kind": kind}),
        "checkpoint_every": 3,
        "log_every": 2,
        "device": "cpu",
    }
    return TrainConfig(**{**settings, **changes})


def tiny_store(folder: Path, *, documents: int = 24, length: int = 150) -> TokenStore:
    """Random words out of a short list, so that there is something to learn; opened where it exists already."""
    if folder.exists():
        return TokenStore.open(folder)
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(97, 107, size=4, dtype=np.uint8)) + b" " for _ in range(12)]

    def texts() -> Any:
        for index in range(documents):
            text = b"".join(words[i] for i in rng.integers(12, size=length // 5))
            yield f"document-{index}", text.decode()

    return TokenStore.write(folder, texts(), ByteTokenizer())
