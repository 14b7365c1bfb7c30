"""`lengthwise models`: what can be named as MODEL, and the published sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from lengthwise.cli.common import Flag, OptionalText, human_bytes, output_for, parse, print_facts, print_table
from lengthwise.errors import InputError, near_matches


@dataclass(frozen=True, kw_only=True)
class Options:
    """List the shipped models and the presets: parameters, and the state that one sequence carries.

    Give a shipped model's name as MODEL to measure and extend; a preset's name as "model" in a training config.
    """

    name: Annotated[tyro.conf.Positional[OptionalText], tyro.conf.arg(metavar="[NAME]", help_behavior_hint="")] = None
    """Show this one in full."""
    json: Flag = False
    """Print JSON for machines, and nothing else on stdout."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns its exit code."""
    options = parse(Options, arguments, verb="models")
    with output_for(options.json) as emit:
        known = {**_shipped(), **_presets()}
        if options.name is not None and options.name not in known:
            raise InputError(
                expected="the name of a shipped model or a preset",
                got=f"'{options.name}'",
                where="NAME",
                fix=near_matches(options.name, known),
            )
        if options.json:
            emit(known if options.name is None else known[options.name])
        elif options.name is not None:
            print_facts(options.name, known[options.name])
        else:
            _print_all(known)
    return 0


def _describe(config: Any) -> dict[str, Any]:
    import torch

    from lengthwise.models.lm import LanguageModel

    with torch.device("meta"):  # shapes without memory
        model = LanguageModel(config)
    return {
        "parameters": model.num_parameters(),
        "state_bytes_per_sequence": model.init_state(1).nbytes,
        "config": config.to_dict(),
    }


def _shipped() -> dict[str, dict[str, Any]]:
    from lengthwise.checkpoints import list_shipped, load_checkpoint

    found = {}
    for name in list_shipped():
        checkpoint = load_checkpoint(name)
        found[name] = {
            "kind": "shipped",
            "context_length": checkpoint.context_length,
            "tokenizer": checkpoint.tokenizer_spec,
            **_describe(checkpoint.config),
        }
    return found


def _presets() -> dict[str, dict[str, Any]]:
    from lengthwise.models.presets import PRESETS

    return {
        name: {"kind": "preset", "note": preset.note, "peak_lr": preset.peak_lr, **_describe(preset.config)}
        for name, preset in PRESETS.items()
    }


def _print_all(known: dict[str, dict[str, Any]]) -> None:
    rows = [
        (
            name,
            entry["kind"],
            entry["parameters"],
            human_bytes(entry["state_bytes_per_sequence"]),
            entry["config"]["num_layers"],
            entry["config"]["d_model"],
            entry["config"]["mixer"]["d_state"],
            entry.get("context_length"),
        )
        for name, entry in known.items()
    ]
    print_table(
        "Models",
        ("name", "kind", "parameters", "state / sequence", "layers", "width", "state N", "trained on length"),
        rows,
    )
