"""`lengthwise train RECIPE`: train a model as a recipe says, resumable bit for bit."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lengthwise.cli.common import (
    Flag,
    OptionalPath,
    default_is,
    default_out,
    output_for,
    parse,
    print_facts,
    print_left_out,
    stored_config,
)
from lengthwise.errors import InputError, LengthwiseError

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
    out: Annotated[OptionalPath, default_is("runs/train-<name of the recipe>")] = None
    """Run folder to write."""
    resume: Flag = False
    """Go on with an interrupted run in that folder."""
    dry_run: Flag = False
    """Print the plan, sizes and a memory estimate, and stop."""
    json: Flag = False
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
        print_left_out(out)
        records = result.run.read_metrics()
        # A complete run is shown as it is, also where someone has taken its metrics away.
        last = records[-1] if records else {"metrics": None}
        summary = {"run": str(out), "checkpoint": str(result.checkpoint_path), **last}
        emit(summary) if options.json else print_facts("Trained", summary)
    return 0


def read_recipe(path: Path) -> "TrainConfig":
    """The config that a recipe stands for.

    Raises:
        InputError: the file is missing or is no recipe, a field or a preset is unknown or out of range.
    """
    from lengthwise.train.config import TrainConfig

    if path.suffix == ".py" and path.is_file():
        config = _call_recipe(path)
        if not isinstance(config, TrainConfig):
            raise _no_recipe(path, f"recipe() returned {type(config).__name__}")
        return config
    if not path.is_dir() and not (path.suffix == ".json" and path.is_file()):
        raise _no_recipe(path, "nothing of that name" if not path.exists() else f"a file that ends in '{path.suffix}'")
    values = stored_config(path, "train")
    if isinstance(values.get("model"), str):
        from lengthwise.models.presets import get_preset

        values["model"] = get_preset(values["model"]).to_dict()
    return TrainConfig.from_dict(values)


def _no_recipe(path: Path, got: str) -> InputError:
    return InputError(
        expected="a .py file with a function recipe(), a .json file, or the folder of a training run",
        got=got,
        where=str(path),
        fix="see recipes/ for examples",
    )


def _call_recipe(path: Path) -> object:
    import runpy

    try:
        namespace = runpy.run_path(str(path))
        function = namespace.get("recipe")
        if not callable(function):
            raise _no_recipe(path, "a Python file without a function recipe()")
        return function()
    except LengthwiseError:
        raise
    except SyntaxError as error:
        if error.filename == str(path):
            raise _no_recipe(path, f"a syntax error in line {error.lineno}: {error.msg}") from error
        raise _broken_recipe(path, error) from error
    except Exception as error:
        raise _broken_recipe(path, error) from error


def _broken_recipe(path: Path, error: Exception) -> InputError:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return InputError(
        expected="a recipe that runs without an error",
        got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
        where=f"{path}, line {lines[-1]}" if lines else str(path),
        fix="mend the recipe; see recipes/ for examples",
    )
