"""`lengthwise models`: what can be named as MODEL: shipped models, published sizes, folders, repositories."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from lengthwise.cli.common import Flag, OptionalText, output_for, parse, print_facts, print_table
from lengthwise.units import FLOAT_BYTES, human_bytes


@dataclass(frozen=True, kw_only=True)
class Options:
    """List the shipped models and the presets by family: parameters, and the state that one sequence carries.

    With a name, say what is known of that one: a preset, a shipped model, a folder, a file of weights, or a repository
    on the Hugging Face hub (org/name, of which only the config is fetched). A preset given as MODEL elsewhere is that
    size with weights that have learnt nothing; in a training config its name serves as "model".
    """

    name: Annotated[tyro.conf.Positional[OptionalText], tyro.conf.arg(metavar="[NAME]", help_behavior_hint="")] = None
    """Show this one in full."""
    json: Flag = False
    """Print JSON for machines, and nothing else on stdout."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns its exit code."""
    options = parse(Options, arguments, verb="models")
    with output_for(options.json) as emit:
        if options.name is not None:
            found = _one(options.name)
            emit(found) if options.json else print_facts(options.name, _for_people(found))
            return 0
        known = {**_shipped(), **_presets()}
        emit(known) if options.json else _print_all(known)
    return 0


def _one(name: str) -> dict[str, Any]:
    """What is known of one model."""
    from lengthwise.checkpoints import describe, list_shipped
    from lengthwise.models.presets import PRESETS

    if name in PRESETS:
        return _preset(name)
    found = describe(name)
    return {
        "kind": "shipped" if name in list_shipped() else "checkpoint",
        "format": found.format,
        "read_from": found.source,
        "stored_as": None if found.container is None else f"{found.container}, {', '.join(found.dtypes)}",
        "context_length": found.context_length,
        "tokenizer": found.tokenizer_spec,
        **_sizes(found.config),
    }


def _preset(name: str) -> dict[str, Any]:
    from lengthwise.models.presets import PRESETS

    preset = PRESETS[name]
    return {
        "kind": "preset",
        "note": preset.note,
        "context_length": preset.context_length,
        "tokenizer": preset.tokenizer,
        "peak_lr": preset.peak_lr,
        **_sizes(preset.config),
    }


def _sizes(config: Any) -> dict[str, Any]:
    import torch

    from lengthwise.models.lm import LanguageModel
    from lengthwise.models.presets import family

    with torch.device("meta"):  # shapes without memory
        model = LanguageModel(config)
    windows, each_token = config.attention_floats()
    return {
        "family": family(config),
        "parameters": model.num_parameters(),
        "state_bytes_per_sequence": model.init_state(1).nbytes + FLOAT_BYTES * windows,
        "state_bytes_per_token": FLOAT_BYTES * each_token,
        "config": config.to_dict(),
    }


def _for_people(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the layers that differ named by their numbers."""
    config = dict(found["config"])
    groups: dict[str, list[Any]] = {}
    for layer, mixer in config.pop("other_mixers"):
        groups.setdefault(json.dumps(mixer), []).append(layer)
    for record, layers in groups.items():
        config[f"at {', '.join(map(str, layers))}"] = json.loads(record)
    return {**found, "config": config}


def _shipped() -> dict[str, dict[str, Any]]:
    from lengthwise.checkpoints import list_shipped

    return {name: _one(name) for name in list_shipped()}


def _presets() -> dict[str, dict[str, Any]]:
    from lengthwise.models.presets import PRESETS

    return {name: _preset(name) for name in PRESETS}


def _print_all(known: Mapping[str, Mapping[str, Any]]) -> None:
    columns = ("name", "kind", "parameters", "state", "and per token", "layers", "width", "trained on length")
    for family in dict.fromkeys(entry["family"] for entry in known.values()):
        rows = [
            (
                name,
                entry["kind"],
                entry["parameters"],
                human_bytes(entry["state_bytes_per_sequence"]),
                human_bytes(entry["state_bytes_per_token"]) if entry["state_bytes_per_token"] else None,
                entry["config"]["num_layers"],
                entry["config"]["d_model"],
                entry["context_length"],
            )
            for name, entry in known.items()
            if entry["family"] == family
        ]
        print_table(family, columns, rows)
