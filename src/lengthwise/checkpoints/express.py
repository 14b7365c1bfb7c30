"""Which format can hold a model: one whose config, read back, gives the same model.

Some of our options have no field in any published config, and others may read the file without them: what the
vocabulary is padded to, how parameters were initialised, chunk sizes, which of two windows RecurrentGemma has. They are
kept as `details` in our own object of the config, by the kind of layer they belong to, and put back on reading.
Anything else that does not survive rules a format out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lengthwise.checkpoints.formats import FORMATS, Format, Published
from lengthwise.errors import InputError, near_matches
from lengthwise.models.config import (
    AttentionConfig,
    GLAConfig,
    Mamba1Config,
    MixerConfig,
    ModelConfig,
    RGLRUConfig,
)
from lengthwise.models.lm import LanguageModel

_SCAN_START = ("dt_min", "dt_max", "dt_init_floor")
_MODEL = "model"
# What may differ between a model and what its published config says, by kind of layer, and "model" for the rest.
DETAILS: dict[str, tuple[str, ...]] = {
    _MODEL: ("vocab_size", "pad_vocab_size_multiple", "residual_in_fp32"),
    "mamba1": (*_SCAN_START, "dt_scale", "A_init_scale"),
    "mamba2": (*_SCAN_START, "A_init_range", "chunk_size"),
    "gla": ("chunk_size",),
    "rwkv6": ("chunk_size",),
    "rglru": ("min_rad", "max_rad"),
    "attention": ("window_reaches",),
}
# Only this family's own readers disagree about the window; elsewhere it would be another model.
_TWO_WINDOWS = ("transformers/recurrent_gemma", "recurrentgemma")


@dataclass(frozen=True)
class Expression:
    """A model as a format holds it."""

    form: Format
    values: dict[str, Any]
    """`config.json` without our own object."""
    details: dict[str, dict[str, Any]]
    """What to put back on reading."""


def express(form: Format, config: ModelConfig, values: Mapping[str, Any] | None = None) -> Expression | None:
    """The model in a format, or None where the format cannot hold it.

    Args:
        values: a config to keep if it still says the right thing; None to write a new one.
    """
    written = form.write(config) if values is None else dict(values)
    if written is None:
        return None
    try:
        shapes = stored_shapes(form, config, written)
        read = form.read(Published(written, shapes, form.name))
    except (InputError, _NoFitError):
        return None
    details = _difference(read, config)
    if form.name not in _TWO_WINDOWS:
        details.pop("attention", None)
    try:
        back = apply_details(read, details)
    except InputError:
        return None
    return Expression(form, written, details) if same_model(back, config) else None


def natural(config: ModelConfig) -> Expression:
    """The model in the published format of its family; in our own where none can hold it."""
    kinds = {mixer.kind for mixer in config.mixers}
    if kinds & {"mamba1", "mamba2"}:
        order = ["state-spaces"]
    elif kinds == {"attention"}:
        # Transformer++ ties its head, Llama does not.
        order = ["state-spaces", "transformers/llama"] if config.tie_embeddings else ["transformers/llama"]
    else:
        # RWKV-6 in the hub's form: the other one has no room for the eps of the norm of its heads.
        order = ["fla/gla", "rwkv-hub", "fla/rwkv6", "transformers/recurrent_gemma"]
    for name in order:
        if (found := express(FORMATS[name], config)) is not None:
            return found
    own = express(FORMATS["lengthwise"], config)
    assert own is not None, "our own format holds every model"
    return own


def format_named(name: str) -> Format:
    """The format of that name. Raises InputError with near matches."""
    if name not in FORMATS:
        raise InputError(
            expected="the name of a checkpoint format", got=repr(name), where="format", fix=near_matches(name, FORMATS)
        )
    return FORMATS[name]


class _NoFitError(Exception):
    """The rules of a format do not cover the tensors of a model."""


def stored_shapes(form: Format, config: ModelConfig, values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a file of this format holds for the model; no memory is used."""
    with torch.device("meta"):
        ours = dict(LanguageModel(config).state_dict())
    shapes: dict[str, tuple[int, ...]] = {}
    for rule in form.rules(config, values):
        if not all(name in ours for name in rule.ours):
            raise _NoFitError
        tensors = rule.save([ours.pop(name) for name in rule.ours])
        shapes.update({name: tuple(tensor.shape) for name, tensor in zip(rule.theirs, tensors, strict=True)})
    if ours:
        raise _NoFitError
    return shapes


def apply_details(config: ModelConfig, details: Mapping[str, Mapping[str, Any]]) -> ModelConfig:
    """The config with details put back. Raises InputError for one that is not a detail, or does not fit."""
    for kind, fields in details.items():
        for name in fields if isinstance(fields, Mapping) else [repr(fields)]:
            if name not in DETAILS.get(kind, ()):
                raise InputError(
                    expected=f"details of {', '.join(DETAILS)} that may differ from the published config",
                    got=f"'{kind}.{name}'",
                    where="lengthwise.details in config.json",
                    fix=near_matches(f"{kind}.{name}", [f"{k}.{n}" for k, names in DETAILS.items() for n in names]),
                )
    # The table keeps its rows: a smaller vocabulary in the same table is one that is padded.
    changed = replace(config, **details.get(_MODEL, {}))
    if changed.padded_vocab_size != config.padded_vocab_size:
        raise InputError(
            expected=f"a vocabulary that is padded to the {config.padded_vocab_size} rows of the table",
            got=f"{changed.vocab_size}, padded to {changed.padded_vocab_size}",
            where="lengthwise.details in config.json",
            fix="remove vocab_size and pad_vocab_size_multiple there, or mend them",
        )
    return replace(
        changed,
        mixer=_with(changed.mixer, details),
        other_mixers=tuple((layer, _with(mixer, details)) for layer, mixer in changed.other_mixers),
    )


def _with(mixer: MixerConfig, details: Mapping[str, Mapping[str, Any]]) -> MixerConfig:
    fields: dict[str, Any] = {
        name: (tuple(value) if isinstance(value, list) else value)
        for name, value in details.get(mixer.kind, {}).items()
    }
    changed: MixerConfig = replace(mixer, **fields)
    return changed


def _difference(read: ModelConfig, wanted: ModelConfig) -> dict[str, dict[str, Any]]:
    """The details in which `wanted` differs from what was read; the first layer of a kind speaks for all."""
    found: dict[str, dict[str, Any]] = {}
    pairs: Iterable[tuple[str, Any, Any]] = [(_MODEL, read, wanted)]
    if read.num_layers == wanted.num_layers:
        pairs = [*pairs, *((mine.kind, mine, other) for mine, other in zip(read.mixers, wanted.mixers, strict=True))]
    for kind, mine, other in pairs:
        if type(mine) is not type(other) or kind in found:
            continue
        differing = {name: getattr(other, name) for name in DETAILS.get(kind, ())}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in differing.items()}
        found[kind] = {name: value for name, value in plain.items() if getattr(mine, name) != differing[name]}
    return {kind: fields for kind, fields in found.items() if fields}


def same_model(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether two configs describe the same model, however they spell its defaults and its exceptions."""
    return _spelled_out(one) == _spelled_out(other)


def _spelled_out(config: ModelConfig) -> dict[str, Any]:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    del values["mixer"], values["other_mixers"]
    return {**values, "mixers": tuple(_explicit(mixer, config.d_model) for mixer in config.mixers)}


def _explicit(mixer: MixerConfig, d_model: int) -> MixerConfig:
    """The record with every default that follows from others written out, and what has no effect left out."""
    if isinstance(mixer, AttentionConfig):
        return replace(
            mixer,
            num_kv_heads=mixer.kv_heads(),
            head_dim=mixer.width(d_model),
            rotary_dim=mixer.rotated(d_model),
            conv_bias=mixer.conv_bias or mixer.d_conv == 0,
            window_reaches=mixer.window_reaches and mixer.window is not None,
        )
    if isinstance(mixer, Mamba1Config):
        return replace(mixer, dt_rank=mixer.rank(d_model))
    if isinstance(mixer, RGLRUConfig):
        return replace(mixer, lru_width=mixer.width(d_model))
    if isinstance(mixer, GLAConfig):
        conv = {} if mixer.use_short_conv else {"conv_size": 4, "conv_bias": False}
        return replace(mixer, num_kv_heads=mixer.kv_heads(), **conv)  # type: ignore[arg-type]
    return mixer
