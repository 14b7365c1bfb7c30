"""`lengthwise demo`: measure, extend and report the shipped model, in a few minutes on a laptop."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lengthwise.cli.common import (
    Flag,
    OptionalSize,
    OptionalText,
    default_is,
    output_for,
    parse,
    print_facts,
)
from lengthwise.errors import InputError
from lengthwise.extend import ExtendConfig
from lengthwise.interventions.config import InterventionConfig
from lengthwise.units import human_bytes

REPAIR: dict[str, Any] = {
    "peak_lr": 4e-3,
    "batch_size": 128,
    "intervention": InterventionConfig(kind="state-passing", zero_prob=0.02),
}
"""Repair of the shipped model. The learning rate is a little above the peak of its pre-training: a step is 8,192 bytes
here and half a million tokens in the paper, whose tenth of the peak mends too little in 100 such steps. Zeroing is
rarer than the paper's 0.1, so that within 100 steps many rows have a history of tens of windows (docs/log.md)."""
MEASURE: dict[str, Any] = {"num_sequences": 64, "windows_per_document": 2, "remembrance_documents": 2}
"""What differs from the defaults of a measurement: fewer documents of Effective Remembrance for the sake of the minutes
it takes, and two sequences of a document where an installation has few long ones."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show the whole of lengthwise on the model that comes with it.

    Measures how far the model reads, post-trains it with State Passing and, as a control, without, measures both, and
    writes a page. Takes a few minutes on two cores. A second call continues or shows the same run.
    """

    model: Annotated[OptionalText, default_is("the first that is shipped")] = None
    """Name of a shipped model, or a checkpoint folder."""
    steps: Annotated[OptionalSize, default_is(ExtendConfig.steps)] = None
    """Optimizer steps of State Passing, and of the control."""
    out: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: runs/demo)")] = Path("runs/demo")
    """Run folder to write."""
    dry_run: Flag = False
    """Print the plan, sizes and a memory estimate, and stop."""
    json: Flag = False
    """Print JSON for machines, and nothing else on stdout."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns its exit code."""
    options = parse(Options, arguments, verb="demo")
    with output_for(options.json) as emit:
        config = demo_config(options)
        if options.dry_run:
            from lengthwise.plan import extend_plan

            plan = {"out": str(options.out), **extend_plan(config)}
            emit(plan) if options.json else print_facts("The demo would (dry run: nothing was trained)", plan)
            return 0
        from lengthwise.extend import extend
        from lengthwise.report import write_report

        comparison = extend(config, options.out, resume=True, kind="demo")
        written = write_report([options.out])
        if options.json:
            emit({"run": str(options.out), "page": str(written.page), **comparison})
            return 0
        from lengthwise.cli.report import print_group

        for group in written.groups:
            print_group(group)
        print(f"page:      {written.page} ({human_bytes(written.num_bytes)}, opens without a network)")
        print(f"new model: {options.out / 'checkpoint'}")
    return 0


def demo_config(options: Options) -> ExtendConfig:
    """The extension that the demo makes.

    Raises:
        InputError: this installation ships no model and none was given.
    """
    from lengthwise.checkpoints import list_shipped

    shipped = list_shipped()
    if options.model is None and not shipped:
        raise InputError(
            expected="a shipped model",
            got="none in this installation",
            where="lengthwise demo",
            fix="give one: lengthwise demo --model FOLDER, or install lengthwise again",
        )
    steps = ExtendConfig.steps if options.steps is None else options.steps
    model = options.model or shipped[0]
    return ExtendConfig(model=model, steps=steps, measure=MEASURE, **(REPAIR if model in shipped else {}))
