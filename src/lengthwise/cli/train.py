"""`lengthwise train RECIPE`: train a model as a recipe says, resumable bit for bit."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lengthwise.cli.common import default_out, output_for, parse, print_facts
from lengthwise.errors import InputError

if TYPE_CHECKING:
    from lengthwise.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a model as RECIPE says: AdamW, cosine schedule, any intervention; resumable bit for bit.

    RECIPE is a Python file with a function `recipe()` that returns a TrainConfig, a JSON file with its fields, or the
    folder of an earlier training run, to repeat it. In JSON, "model" may be the name of a preset.
    """

    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE")]
    """Python file, JSON file or run folder."""
    out: Path | None = None
    """Run folder to write. Default: runs/train-<name of the recipe>."""
    resume: bool = False
    """Go on with an interrupted run in that folder."""
    dry_run: bool = False
    """Print the plan, sizes and a memory estimate, and stop."""
    json: bool = False
    """Print JSON for machines, and nothing else on stdout."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns its exit code."""
    options = parse(Options, arguments, verb="train")
    with output_for(options.json) as emit:
        config = read_recipe(options.recipe)
        out = options.out or default_out("train", options.recipe)
        if options.dry_run:
            from lengthwise.plan import train_plan

            plan = {"out": str(out), **train_plan(config)}
            emit(plan) if options.json else print_facts("This run would (dry run: nothing was trained)", plan)
            return 0
        from lengthwise.train import train

        result = train(config, out, resume=options.resume)
        last = result.run.read_metrics()[-1]
        summary = {"run": str(out), "checkpoint": str(result.checkpoint_path), **last}
        emit(summary) if options.json else print_facts("Trained", summary)
    return 0


def read_recipe(path: Path) -> "TrainConfig":
    """The config that a recipe stands for.

    Raises:
        InputError: the file is missing or is no recipe, a field or a preset is unknown or out of range.
    """
    from lengthwise.train.config import TrainConfig

    if path.is_dir():
        from lengthwise.runs import RunFolder

        run = RunFolder.open(path)
        if run.manifest["kind"] != "train":
            raise _no_recipe(path, f"a '{run.manifest['kind']}' run")
        return TrainConfig.from_dict(run.manifest["config"])
    if not path.exists():
        raise _no_recipe(path, "nothing of that name")
    if path.suffix == ".json":
        return TrainConfig.from_dict(_read_json(path))
    if path.suffix == ".py":
        config = _call_recipe(path)
        if not isinstance(config, TrainConfig):
            raise _no_recipe(path, f"recipe() returned {type(config).__name__}")
        return config
    raise _no_recipe(path, f"a file that ends in '{path.suffix}'")


def _no_recipe(path: Path, got: str) -> InputError:
    return InputError(
        expected="a .py file with a function recipe(), a .json file, or the folder of a training run",
        got=got,
        where=str(path),
        fix="see recipes/ for examples",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            expected="valid JSON", got=str(error), where=str(path), fix="mend the file at that place"
        ) from error
    if not isinstance(values, dict):
        raise _no_recipe(path, f"JSON with a {type(values).__name__} at the top")
    if isinstance(values.get("model"), str):
        from lengthwise.models.presets import get_preset

        values["model"] = get_preset(values["model"]).to_dict()
    return values


def _call_recipe(path: Path) -> object:
    import runpy

    try:
        namespace = runpy.run_path(str(path))
    except SyntaxError as error:
        raise _no_recipe(path, f"a syntax error in line {error.lineno}: {error.msg}") from error
    function = namespace.get("recipe")
    if not callable(function):
        raise _no_recipe(path, "a Python file without a function recipe()")
    return function()
