"""Reading checkpoints: whatever the format, every tensor is accounted for, and none is copied without need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lengthwise.checkpoints.checkpoint import Checkpoint, Stored
from lengthwise.checkpoints.express import apply_details, stored_shapes
from lengthwise.checkpoints.formats import FORMATS, Format, Published, find_format
from lengthwise.checkpoints.formats.base import check_buffer
from lengthwise.checkpoints.locate import Place, announce, locate, locate_config, tokenizer_in
from lengthwise.checkpoints.weights import INDEX, Container, Weights, open_weights
from lengthwise.errors import InputError
from lengthwise.models.config import ModelConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.models.presets import PRESETS, Preset

_SHOWN = 5


def load_checkpoint(name_or_path: str | Path, *, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Read a model by any of its names.

    Args:
        name_or_path: a folder; a file of weights (its config, if it needs one, beside it); a shipped model; a
            repository on the Hugging Face hub (`org/name`, `org/name@revision`, `org/name/file.pth`); or a preset,
            which is given freshly initialised weights and says so.
        dtype: of the weights in memory. Files in another one are converted; others stay mapped to the file, so a file
            must not be changed in place while its model is in use.

    Raises:
        InputError: nothing is there; the format is none of ours; a file is cut short or would run code; config and
            tensors do not agree, or ask for something that is not implemented. Says which.
        RunFailure: the hub does not answer.
    """
    place = locate(name_or_path)
    if isinstance(place, str):
        return _fresh(place, dtype)
    values, notes = place.config()
    if place.weights is None:
        raise InputError(
            expected="weights beside the config: model.safetensors, pytorch_model.bin, or an index of several files",
            got=f"none; the folder holds {_listed(place.folder)}",
            where=str(place.folder),
            fix="copy the checkpoint again: the weights are missing",
        )
    weights = open_weights(place.weights)
    form = _format_of(values, weights, place)
    config = _read(form, values, notes, weights.shapes, place)
    with torch.device("meta"):
        model = LanguageModel(config)
    expected = stored_shapes(form, config, values)
    buffers = _check(expected, weights, form, config)
    state = _convert(form, config, values, weights, dtype)
    model.load_state_dict(state, assign=True)
    return Checkpoint(
        model=model.requires_grad_(True),
        config=config,
        **_facts(place, form, values, notes),
        stored=Stored(
            values=values,
            container=weights.container,
            files=weights.files,
            index=weights.path.name if weights.path.name.endswith(INDEX) else None,
            dtypes=weights.dtypes,
            buffers=buffers,
        ),
    )


def recognise(name_or_path: str | Path) -> str | None:
    """The name of the format that a checkpoint is in, without reading weights; None where none of ours can read it.

    A config in a layout of transformers that asks for what is not implemented here is none of ours: transformers can
    run it. In any other layout it is ours all the same, so that loading says what is missing.

    Args:
        name_or_path: as for `load_checkpoint`; of a repository only the config is fetched.

    Raises:
        InputError: nothing of that name, or a config that is no JSON object.
        RunFailure: the hub does not answer.
    """
    place = locate_config(name_or_path)
    if isinstance(place, str):
        return None
    values, notes = place.config()
    try:
        shapes = None if place.weights is None else open_weights(place.weights).shapes
    except InputError:  # loading says what is wrong with them
        shapes = None
    form = find_format(values, () if shapes is None else shapes)
    if form is None:
        return None
    try:
        _read(form, values, notes, shapes, place)
    except InputError:
        return None if form.name.startswith("transformers") else form.name
    return form.name


@dataclass(frozen=True, kw_only=True)
class Description:
    """What can be said of a checkpoint without reading its weights."""

    config: ModelConfig
    format: str | None = None
    """None for a preset."""
    context_length: int | None = None
    tokenizer_spec: str | None = None
    source: str = ""
    """Folder or file it was read from."""
    container: Container | None = None
    """None where only the config is at hand."""
    dtypes: tuple[str, ...] = ()
    """Of the stored tensors."""
    extra: dict[str, Any] = field(default_factory=dict)


def describe(name_or_path: str | Path) -> Description:
    """Format and sizes of a checkpoint; no weights are read, and those of a repository are not fetched.

    Raises InputError and RunFailure as `load_checkpoint`.
    """
    place = locate_config(name_or_path)
    if isinstance(place, str):
        preset = PRESETS[place]
        return Description(config=preset.config, context_length=preset.context_length, tokenizer_spec=preset.tokenizer)
    values, notes = place.config()
    weights = None if place.weights is None else open_weights(place.weights)
    form = _format_of(values, weights, place)
    config = _read(form, values, notes, None if weights is None else weights.shapes, place)
    kinds = (
        ()
        if weights is None
        else tuple(sorted({str(dtype).removeprefix("torch.") for dtype in weights.dtypes.values()}))
    )
    return Description(
        config=config,
        container=None if weights is None else weights.container,
        dtypes=kinds,
        **_facts(place, form, values, notes),
    )


def _fresh(name: str, dtype: torch.dtype) -> Checkpoint:
    preset: Preset = PRESETS[name]
    announce(f"{name}: a preset: the weights are freshly initialised (seed 0), nothing was learnt")
    return Checkpoint(
        model=LanguageModel(preset.config, seed=0).to(dtype),
        config=preset.config,
        tokenizer_spec=preset.tokenizer,
        context_length=preset.context_length,
        source=name,
    )


def _format_of(values: Mapping[str, Any], weights: Weights | None, place: Place) -> Format:
    keys = () if weights is None else weights.shapes
    form = find_format(values, keys)
    if form is None:
        kind = values.get("model_type")
        said = (
            f"model_type {kind!r}" if kind is not None else f"a config with {_few(values)}" if values else "no config"
        )
        raise InputError(
            expected=f"one of the formats {', '.join(FORMATS)}",
            got=f"{said}" + (f", and {len(keys)} tensors such as {_few(sorted(keys))}" if keys else ""),
            where=str(place.folder if values else place.weights),
            fix="see docs/checkpoints.md for what each format is known by",
        )
    return form


def _read(
    form: Format, values: Mapping[str, Any], notes: Mapping[str, Any], shapes: Mapping[str, Any] | None, place: Place
) -> ModelConfig:
    where = str(place.folder / "config.json" if values else place.weights)
    return apply_details(form.read(Published(values, shapes, where)), notes.get("details") or {})


def _facts(place: Place, form: Format, values: Mapping[str, Any], notes: Mapping[str, Any]) -> dict[str, Any]:
    """What is known beside sizes and weights: our notes, the folder, the config, or what is published elsewhere."""
    preset = place.preset
    tokenizer = notes.get("tokenizer") or tokenizer_in(place.folder) or (preset.tokenizer if preset else None)
    length = notes.get("context_length") or (preset.context_length if preset else None) or form.context_length(values)
    return {
        "format": form.name,
        "tokenizer_spec": tokenizer,
        "context_length": length,
        "source": str(place.folder),
        "extra": notes.get("extra") or {},
    }


def _check(
    expected: Mapping[str, tuple[int, ...]], weights: Weights, form: Format, config: ModelConfig
) -> dict[str, Tensor]:
    """Raise InputError unless the file holds exactly what it should; return the buffers that lie beside the weights."""
    shapes = weights.shapes
    copy = {form.head: shapes.get(form.table)} if config.tie_embeddings else {}
    buffers = {name: weights.passing(name) for name in shapes if name not in expected and form.buffers.fullmatch(name)}
    problems = [f"missing {name}" for name in expected if name not in shapes]
    problems += [f"unused {name}" for name in shapes if name not in (expected.keys() | copy.keys() | buffers.keys())]
    problems += [
        f"{name} of shape {shapes[name]} instead of {shape}"
        for name, shape in {**expected, **copy}.items()
        if name in shapes and shapes[name] != shape
    ]
    problems += [f"{name} of dtype {kind}" for name, kind in weights.dtypes.items() if not kind.is_floating_point]
    problems += [
        f"{name} of another rotary base" for name, buffer in buffers.items() if not check_buffer(buffer, config)
    ]
    if not problems and form.head in copy and form.head in shapes:
        if not torch.equal(weights.passing(form.head), weights.passing(form.table)):
            problems = [f"{form.head}, which differs from {form.table} although the config ties them"]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            expected="exactly the floating-point tensors that the config describes",
            got="; ".join(problems[:_SHOWN]) + more,
            where=str(weights.path),
            fix="check that config.json belongs to these weights",
        )
    return {name: buffer.clone() for name, buffer in buffers.items()}


def _convert(
    form: Format, config: ModelConfig, values: Mapping[str, Any], weights: Weights, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Our tensors: parts of the file's memory map where they lie there as they are, else made one rule at a time."""
    state: dict[str, Tensor] = {}
    # In the order of the files, so that of several only those in hand take up memory.
    rules = sorted(form.rules(config, values), key=lambda rule: weights.files[rule.theirs[0]])
    for rule in rules:
        if rule.shares and all(weights.dtypes[name] == dtype for name in rule.theirs):
            made = list(rule.load([weights.mapped(name) for name in rule.theirs]))
        else:
            stored = [weights.passing(name) for name in rule.theirs]
            made = [tensor.to(dtype, copy=rule.shares) for tensor in rule.load(stored)]
            del stored
        state.update(zip(rule.ours, made, strict=True))
    return state


def _few(names: Any) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def _listed(folder: Path) -> str:
    return _few(sorted(path.name for path in folder.iterdir())) or "nothing"
