"""The checkpoint folder: `config.json` in the schema of the state-spaces releases, and `model.safetensors`.

Beside the published fields, `config.json` holds an object `lengthwise` with what a measurement needs to know: the
training context length, the tokenizer, and free notes. Loading refuses any missing, extra or misshapen tensor.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from lengthwise.checkpoints.shipped import list_shipped, shipped_folder
from lengthwise.errors import InputError, near_matches
from lengthwise.models.config import ModelConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.runs import atomic_write_bytes, atomic_write_json

FORMAT = "state-spaces"
_TIED_COPY = "lm_head.weight"
# Fields of the published schema, apart from ssm_cfg; the reader accepts these and no others.
_FIELDS = {
    "d_model",
    "d_intermediate",
    "n_layer",
    "vocab_size",
    "ssm_cfg",
    "attn_layer_idx",
    "attn_cfg",
    "rms_norm",
    "residual_in_fp32",
    "fused_add_norm",
    "pad_vocab_size_multiple",
    "tie_embeddings",
    "lengthwise",
}
_MIXER_FIELDS = {
    "d_state",
    "d_conv",
    "expand",
    "headdim",
    "ngroups",
    "A_init_range",
    "dt_min",
    "dt_max",
    "dt_init_floor",
    "dt_limit",
    "chunk_size",
    "bias",
    "conv_bias",
}


@dataclass(kw_only=True)
class Checkpoint:
    """A model and what is known about it."""

    model: LanguageModel
    """The weights."""
    config: ModelConfig
    """Its sizes."""
    tokenizer_spec: str | None = None
    """"bytes", or the name of a tokenizer.json inside the folder; None where unknown."""
    context_length: int | None = None
    """Training context length T in tokens; None where unknown."""
    format: str = FORMAT
    """Format it was read from, and will be written in."""
    source: str = ""
    """Folder or name it came from."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Free notes, kept in `config.json`."""


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder; the weights first, so that a folder with a `config.json` is whole.

    A tokenizer.json that the checkpoint was loaded with is copied along.

    Raises:
        RunFailure: where the device is full.
    """
    path = Path(path)
    model = checkpoint.model
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not (checkpoint.config.tie_embeddings and name == _TIED_COPY)
    }
    atomic_write_bytes(path / "model.safetensors", serialize(tensors, metadata={"format": "pt"}))
    spec = checkpoint.tokenizer_spec
    if spec not in (None, "bytes") and checkpoint.source:
        origin = Path(checkpoint.source) / str(spec)
        if origin.exists() and origin.resolve() != (path / str(spec)).resolve():
            shutil.copyfile(origin, path / str(spec))
    atomic_write_json(path / "config.json", _to_published(checkpoint))


def load_checkpoint(name_or_path: str | Path, *, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Read a checkpoint folder, or a shipped model by its name.

    Args:
        name_or_path: folder, or one of `list_shipped()`.
        dtype: of the weights in memory.

    Raises:
        InputError: where nothing is there, a file is cut short, or config and tensors do not agree; says which.
    """
    path = shipped_folder(str(name_or_path)) or Path(name_or_path)
    if not path.is_dir():
        raise InputError(
            expected="a checkpoint folder or the name of a shipped model",
            got=f"'{name_or_path}', which is neither",
            where="MODEL",
            fix=f"check the path, or name a shipped model ({near_matches(str(name_or_path), list_shipped())})",
        )
    values = _read_json(path / "config.json")
    notes = values.get("lengthwise") or {}
    config = _from_published(values, path / "config.json")
    with torch.device("meta"):
        model = LanguageModel(config)
    tensors = _read_tensors(path / "model.safetensors")
    _check_tensors(tensors, model, config, path / "model.safetensors")
    if config.tie_embeddings:
        tensors.pop(_TIED_COPY, None)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    return Checkpoint(
        model=model.requires_grad_(True),
        config=config,
        tokenizer_spec=notes.get("tokenizer"),
        context_length=notes.get("context_length"),
        source=str(path),
        extra=notes.get("extra", {}),
    )


def _to_published(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    mixer = config.mixer.to_dict()
    del mixer["kind"]
    return {
        "d_model": config.d_model,
        "d_intermediate": 0,
        "n_layer": config.num_layers,
        "vocab_size": config.vocab_size,
        "ssm_cfg": {"layer": "Mamba2", **mixer},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": config.residual_in_fp32,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": config.pad_vocab_size_multiple,
        "tie_embeddings": config.tie_embeddings,
        "lengthwise": {
            "context_length": checkpoint.context_length,
            "tokenizer": checkpoint.tokenizer_spec,
            "extra": checkpoint.extra,
        },
    }


def _from_published(values: dict[str, Any], file: Path) -> ModelConfig:
    def refuse(expected: str, got: str, fix: str) -> InputError:
        return InputError(expected=expected, got=got, where=str(file), fix=fix)

    for key in values:
        if key not in _FIELDS:
            raise refuse("fields of a state-spaces config", f"'{key}'", near_matches(key, _FIELDS))
    mixer = dict(values.get("ssm_cfg") or {})
    layer = mixer.pop("layer", "Mamba1")
    if layer != "Mamba2":
        raise refuse("ssm_cfg.layer 'Mamba2'", f"'{layer}'", "give a Mamba-2 checkpoint")
    if values.get("attn_layer_idx") or values.get("d_intermediate"):
        raise refuse("a pure Mamba-2 model", "attention or MLP layers", "give a checkpoint without them")
    for key in mixer:
        if key not in _MIXER_FIELDS:
            raise refuse("fields of Mamba-2's ssm_cfg", f"'{key}'", near_matches(key, _MIXER_FIELDS))
    for key in ("d_model", "n_layer", "vocab_size"):
        if not isinstance(values.get(key), int):
            raise refuse(f"a whole number for {key}", repr(values.get(key)), "restore the file")
    if "dt_limit" in mixer:
        low, high = mixer["dt_limit"]
        mixer["dt_limit"] = [low, None if high is None or math.isinf(float(high)) else high]
    return ModelConfig.from_dict(
        {
            "d_model": values["d_model"],
            "num_layers": values["n_layer"],
            "vocab_size": values["vocab_size"],
            "mixer": mixer,
            "pad_vocab_size_multiple": values.get("pad_vocab_size_multiple", 8),
            "tie_embeddings": values.get("tie_embeddings", True),
            "residual_in_fp32": values.get("residual_in_fp32", True),
        }
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            expected="a checkpoint's config.json",
            got=f"{type(error).__name__}: {error}",
            where=str(file),
            fix="give a folder with config.json and model.safetensors, or restore the file",
        ) from error
    if not isinstance(values, dict):
        raise InputError(expected="a JSON object", got=type(values).__name__, where=str(file), fix="restore the file")
    return values


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(str(file))
    except (OSError, SafetensorError) as error:
        size = f" ({file.stat().st_size:,} bytes)" if file.exists() else ""
        raise InputError(
            expected="a whole safetensors file",
            got=f"{type(error).__name__}: {error}{size}",
            where=str(file),
            fix="copy the checkpoint again: the file is missing or was cut short",
        ) from error


def _check_tensors(tensors: dict[str, torch.Tensor], model: LanguageModel, config: ModelConfig, file: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    optional = {_TIED_COPY} if config.tie_embeddings else set()
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"unused {name}" for name in tensors if name not in wanted and name not in optional]
    problems += [
        f"{name} of shape {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    problems += [
        f"{name} of dtype {tensor.dtype}" for name, tensor in tensors.items() if not tensor.is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(
            expected="exactly the floating-point tensors that config.json describes",
            got="; ".join(problems[:5]) + more,
            where=str(file),
            fix="check that config.json belongs to these weights",
        )
