"""A model with what is known about it, and how it lay on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lengthwise.checkpoints.weights import Container
from lengthwise.models.config import ModelConfig
from lengthwise.models.lm import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a checkpoint lay on disk, so that it can be written the same way.

    Args:
        values: its config.json, without our own object.
        container: safetensors or pickle.
        files: name of the file of each stored tensor.
        index: name of the file that names the files; None for a single one.
        dtypes: of each stored tensor.
        buffers: tensors in the file that are no weights, kept as they are.
    """

    values: Mapping[str, Any]
    container: Container
    files: Mapping[str, str]
    index: str | None
    dtypes: Mapping[str, torch.dtype]
    buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(kw_only=True)
class Checkpoint:
    """A model and what is known about it."""

    model: LanguageModel
    """The weights."""
    config: ModelConfig
    """Its sizes."""
    tokenizer_spec: str | None = None
    """"bytes", the name of a tokenizer's file inside the folder, or a repository on the hub; None where unknown."""
    context_length: int | None = None
    """Training context length T in tokens; None where unknown."""
    format: str | None = None
    """Format it was read from and will be written in; None: the published format of its family."""
    source: str = ""
    """Folder or name it came from."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Free notes, kept in `config.json`."""
    stored: Stored | None = None
    """How it lay on disk; None for a model that has not been on one."""
