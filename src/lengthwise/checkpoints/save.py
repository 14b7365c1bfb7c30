"""Writing checkpoints in the format they came in; a new model in the published format of its family."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lengthwise.checkpoints.checkpoint import Checkpoint, Stored
from lengthwise.checkpoints.express import Expression, express, format_named, natural
from lengthwise.checkpoints.locate import CONFIG, SIDE_FILES
from lengthwise.checkpoints.weights import PICKLE, SAFETENSORS, Container, write_weights
from lengthwise.errors import InputError, RunFailure
from lengthwise.runs import atomic_write_bytes, flush_files, flush_folder, write_failure

_DTYPE_FIELDS = ("torch_dtype", "dtype")


def save_checkpoint(
    path: str | Path, checkpoint: Checkpoint, *, format: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write a checkpoint folder; the weights first, so that a folder with a `config.json` is whole.

    A model that was loaded goes back into its format, its files and its dtypes: unchanged, every tensor is equal bit
    for bit, and every field of the config. Where the dtype on disk cannot hold the weights as they are now, as after
    training in float32, all are stored as they are in memory. Files that belong to its tokenizer are copied along.

    Args:
        path: the folder.
        checkpoint: what to write.
        format: another format; None: that of the checkpoint, else the published one of its family.
        dtype: of all stored tensors; None as above.

    Raises:
        InputError: the format cannot hold the model.
        RunFailure: the device is full or cannot be written.
    """
    path = Path(path)
    expression = _expression(checkpoint, format)
    stored = checkpoint.stored if checkpoint.format == expression.form.name else None
    tensors = _tensors(checkpoint, expression, stored)
    kinds = _dtypes(tensors, stored, dtype)
    tensors = {name: tensor.to(kinds[name]) for name, tensor in tensors.items()}
    if stored is not None:
        tensors.update(stored.buffers)
    container, files, index = _layout(tensors, stored)
    write_weights(path, tensors, files, container, index)
    _copy_side_files(path, checkpoint)
    atomic_write_bytes(path / CONFIG, _config(checkpoint, expression, kinds))


def replace_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder as a whole; an older one at `path` is replaced.

    Raises:
        RunFailure: the device is full or cannot be written.
    """
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_checkpoint(partial, checkpoint)
        flush_files(partial)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        os.replace(partial, path)
        shutil.rmtree(old, ignore_errors=True)
        flush_folder(path.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise write_failure(error, path) from error
    except RunFailure:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _expression(checkpoint: Checkpoint, name: str | None) -> Expression:
    """The format to write in, with the config: that of the file while it still says the right thing."""
    config = checkpoint.config
    wanted = name or checkpoint.format
    if wanted is None:
        return natural(config)
    form = format_named(wanted)
    if checkpoint.stored is not None and checkpoint.format == wanted:
        if (kept := express(form, config, checkpoint.stored.values)) is not None:
            return kept
    if (written := express(form, config)) is not None:
        return written
    if name is None:
        return natural(config)  # changed since it was loaded, beyond what its format can hold
    kinds = ", ".join(sorted({mixer.kind for mixer in config.mixers}))
    raise InputError(
        expected=f"a model that the format {wanted} can hold",
        got=f"{config.num_layers} layers of {kinds}, which it cannot",
        where="save_checkpoint",
        fix=f"leave the format out: this model goes into {natural(config).form.name}",
    )


def _tensors(checkpoint: Checkpoint, expression: Expression, stored: Stored | None) -> dict[str, Tensor]:
    """The tensors by their published names, in the dtype of memory."""
    ours = checkpoint.model.state_dict()
    tensors: dict[str, Tensor] = {}
    for rule in expression.form.rules(checkpoint.config, expression.values):
        made = rule.save([ours[name].detach().cpu() for name in rule.ours])
        tensors.update(zip(rule.theirs, made, strict=True))
    form = expression.form
    if stored is not None and checkpoint.config.tie_embeddings and form.head in stored.files:
        tensors[form.head] = tensors[form.table].clone()  # the file held a copy of the tied table
    return tensors


def _dtypes(tensors: Mapping[str, Tensor], stored: Stored | None, asked: torch.dtype | None) -> dict[str, torch.dtype]:
    """The dtype to store each tensor in."""
    memory = {name: tensor.dtype for name, tensor in tensors.items()}
    if asked is not None:
        return dict.fromkeys(tensors, asked)
    if stored is None or not tensors.keys() <= stored.dtypes.keys():
        return memory
    kinds = {name: stored.dtypes[name] for name in tensors}
    return kinds if all(_holds(kinds[name], tensor) for name, tensor in tensors.items()) else memory


def _holds(dtype: torch.dtype, tensor: Tensor) -> bool:
    """Whether a dtype takes no more room than the tensor has, and loses nothing of it."""
    if dtype == tensor.dtype:
        return True
    if dtype.itemsize > tensor.dtype.itemsize:
        return False
    return torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def _layout(tensors: Mapping[str, Tensor], stored: Stored | None) -> tuple[Container, dict[str, str], str | None]:
    """Container, file of each tensor, and name of the index: those it came in, or one safetensors file."""
    if stored is not None and tensors.keys() <= stored.files.keys():
        return stored.container, {name: stored.files[name] for name in tensors}, stored.index
    container: Container = "safetensors" if stored is None else stored.container
    single = SAFETENSORS if container == "safetensors" else PICKLE
    return container, dict.fromkeys(tensors, single), None


def _config(checkpoint: Checkpoint, expression: Expression, kinds: Mapping[str, torch.dtype]) -> bytes:
    values = dict(expression.values)
    before = {} if checkpoint.stored is None else checkpoint.stored.dtypes
    if any(before.get(name) != kind for name, kind in kinds.items()):
        widest = max(kinds.values(), key=lambda kind: kind.itemsize)
        values.update({name: str(widest).removeprefix("torch.") for name in _DTYPE_FIELDS if name in values})
    notes: dict[str, Any] = {
        "context_length": checkpoint.context_length,
        "tokenizer": checkpoint.tokenizer_spec,
        "extra": checkpoint.extra,
    }
    if expression.details:
        notes["details"] = expression.details
    json.dumps(notes, allow_nan=False)  # ours hold no infinity; published ones may, spelled as Python does
    return (json.dumps({**values, "lengthwise": notes}, indent=1) + "\n").encode()


def _copy_side_files(path: Path, checkpoint: Checkpoint) -> None:
    if not checkpoint.source:
        return
    origin = Path(checkpoint.source)
    own = checkpoint.tokenizer_spec
    names = [own] if own not in (None, "bytes") else []
    names += SIDE_FILES if own in SIDE_FILES else ()
    for name in dict.fromkeys(names):
        file = origin / str(name)
        if file.is_file() and file.resolve() != (path / file.name).resolve():
            shutil.copyfile(file, path / file.name)
