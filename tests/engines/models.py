"""Small random models of transformers, for tests of the engines, of checks and of measurements."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from lengthwise.engines.hf import HFModel
from lengthwise.engines.opening import load_config, quiet
from lengthwise.engines.tiny import build, tiny_model

VOCAB = 128

# Sizes at which a pass takes milliseconds, with the vocabulary of the byte tokenizer.
BYTE_MODELS: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 2},
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
}


@cache
def small(model_type: str) -> HFModel:
    """A reduced model of the type's typical configuration, in evaluation mode; shared, so leave it as it is."""
    return HFModel(fresh(model_type))


def fresh(model_type: str) -> Any:
    """The same, of one's own."""
    with quiet():
        return tiny_model(load_config(model_type)).model


def save_byte_model(folder: Path, model_type: str, **settings: Any) -> Path:
    """Write a model of 256 tokens as transformers does: config.json and model.safetensors."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    with quiet():
        config = transformers.AutoConfig.for_model(
            model_type, **{"vocab_size": 256, **special, **BYTE_MODELS[model_type], **settings}
        )
        build(config, seed=0, head_scale=3.0).save_pretrained(folder)
    return folder


def save_byte_tokenizer(folder: Path) -> None:
    """Write a tokenizer.json with one token for each of a few characters, and one for all others."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {chr(code): index for index, code in enumerate(range(32, 127))} | {"?!": 95}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="?!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random ids of the reduced vocabulary, without the first few, which may be special."""
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))
