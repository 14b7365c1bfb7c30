"""Passkeys, needles and copying on small models: training, evaluation far beyond it, tables and heat maps.

The counterparts of Figure 7 and Table 1 of arXiv 2507.02782 at the size of two cores; docs/task-runs.md shows what came
out.

    python recipes/task_runs.py train [NAME ...]      these runs, or all in order, resumed where they were stopped
    python recipes/task_runs.py evaluate [NAME ...]   the models of these runs, or of all that are finished
    python recipes/task_tables.py                     tables, picture and docs/results/*.csv, from the evaluations

Run folders go to runs/<NAME>/train and runs/<NAME>/eval-...; `lengthwise train runs/passkey/mamba2/train --out
ELSEWHERE` repeats one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.evaluate.config import EvalConfig
from lengthwise.interventions import InterventionConfig
from lengthwise.models import Mamba2Config, ModelConfig
from lengthwise.models.config import AttentionConfig, GatedMLPConfig
from lengthwise.tasks.base import Task
from lengthwise.tasks.copying import copying_tasks
from lengthwise.tasks.library import Library
from lengthwise.tasks.passkey import PasskeyConfig, PasskeyTask
from lengthwise.tasks.ruler.needles import NeedleConfig, NeedleTask
from lengthwise.train import TrainConfig

OUT = Path("runs")
TOKENIZER = "recipes/tasks-512.json"

# As in the shipped model, heads start with memories of 50 to 2,000 tokens, so that states at T = 256 are unfinished.
_MIXER = Mamba2Config(d_state=64, headdim=32, A_init_range=(0.05, 0.2), dt_min=1e-2, dt_max=0.1)
MAMBA2 = ModelConfig(d_model=128, num_layers=2, vocab_size=512, mixer=_MIXER)
TRANSFORMER = ModelConfig(
    d_model=128, num_layers=2, vocab_size=512, mixer=AttentionConfig(num_heads=4), mlp=GatedMLPConfig(width=256)
)

# Passkeys and needles. Retrieval is learned in short rows: at T = 256 alone the loss of the key stayed at chance.

SHORT = TrainConfig(
    model=MAMBA2,
    tokenizer=TOKENIZER,
    tasks=(
        "passkey:wording=recipes/passkey_brief.json",
        "passkey:digits=7,wording=recipes/passkey_brief.json",
    ),
    context_length=40,
    batch_size=64,
    steps=250,
    peak_lr=4e-3,
    min_lr=4e-4,
    checkpoint_every=50,
)
TASKS_LENGTH = 256
TASKS = TrainConfig(
    init_from="runs/passkey/mamba2-short/train/checkpoint",
    tasks=("passkey", "niah_grid:haystack=line"),
    context_length=TASKS_LENGTH,
    batch_size=16,
    steps=250,
    peak_lr=3e-3,
    min_lr=3e-5,
    checkpoint_every=25,
)


def _intervention(kind: str) -> InterventionConfig:
    return InterventionConfig.from_dict({"kind": kind})


def _more(kind: str) -> TrainConfig:
    """Fine-tuning of the finished Mamba-2, with other rows than before."""
    return replace(
        TASKS,
        init_from="runs/passkey/mamba2/train/checkpoint",
        steps=100,
        peak_lr=1e-3,
        seed=1,
        intervention=_intervention(kind),
    )


# Copying. Short strings first, which takes minutes; then strings of 50 to 100, with and without State Passing.

SEEDS = (0, 1, 2)
COPY_KINDS = {"plain": "zero", "passing": "state-passing"}
COPY_SHORT = TrainConfig(
    model=replace(MAMBA2, vocab_size=30),
    tokenizer="copy",
    tasks=("copying:shortest=5,longest=20",),
    context_length=64,
    batch_size=32,
    steps=300,
    peak_lr=4e-3,
    min_lr=1e-3,
    weight_decay=0.1,
    checkpoint_every=50,
)


def _copy(kind: str, seed: int) -> TrainConfig:
    return TrainConfig(
        init_from=f"runs/copying/short-{seed}/train/checkpoint",
        tasks=("copying",),
        context_length=256,
        batch_size=16,
        steps=400,
        peak_lr=3e-3,
        min_lr=3e-5,
        weight_decay=0.1,
        checkpoint_every=25,
        seed=seed,
        intervention=_intervention(COPY_KINDS[kind]),
    )


RUNS: dict[str, TrainConfig] = {
    "passkey/mamba2-short": SHORT,
    "passkey/mamba2": TASKS,
    # Rows of different lengths: where all have the same, a Transformer learns the place of the answer, not the task.
    "passkey/transformer-short": replace(
        SHORT, model=TRANSFORMER, vary_length=True, context_length=64, steps=200, peak_lr=2e-3, min_lr=2e-4
    ),
    "passkey/transformer": replace(
        TASKS, init_from="runs/passkey/transformer-short/train/checkpoint", vary_length=True, peak_lr=2e-3
    ),
    "passkey/mamba2-varied": replace(TASKS, vary_length=True),
    "passkey/mamba2-control": _more("zero"),
    "passkey/mamba2-fitted-noise": _more("fitted-noise"),
    "passkey/mamba2-state-passing": _more("state-passing"),
    # The same steps as "mamba2", but with an intervention from their beginning, as in Figure 7.
    "passkey/mamba2-noise-from-start": replace(TASKS, intervention=_intervention("fitted-noise")),
    "passkey/mamba2-passing-from-start": replace(TASKS, intervention=_intervention("state-passing")),
    **{f"copying/short-{seed}": replace(COPY_SHORT, seed=seed) for seed in SEEDS},
    **{f"copying/{kind}-{seed}": _copy(kind, seed) for seed in SEEDS for kind in COPY_KINDS},
    # Does State Passing only need more steps? One seed, as many again.
    **{
        f"copying/more-{kind}-0": replace(_copy(kind, 10), init_from=f"runs/copying/{kind}-0/train/checkpoint")
        for kind in COPY_KINDS
    },
}

# Evaluation. Rows end with the key, so nothing teaches a model to stop: the budget is what a right answer takes.

LABELS = {
    "passkey/mamba2": "Mamba-2, plain",
    "passkey/mamba2-noise-from-start": "fitted noise",
    "passkey/mamba2-passing-from-start": "State Passing",
    "passkey/mamba2-control": "plain + 100 steps plain",
    "passkey/mamba2-fitted-noise": "plain + 100 fitted noise",
    "passkey/mamba2-state-passing": "plain + 100 State Passing",
    "passkey/transformer": "Transformer, rows of all lengths",
    "passkey/mamba2-varied": "Mamba-2, rows of all lengths",
}
DEPTHS = (10, 30, 50, 70, 90)
LENGTHS = {
    "passkey": (128, 256, 512, 1024, 2048, 4096, 8192),
    "needle": (256, 512, 1024, 2048, 4096, 8192),
    "copying": (103, 203, 403, 603),
}
SAMPLES = {"passkey": 12, "needle": 12, "copying": 100}
"""Of each task (depth) at each length."""


class Needle(NeedleTask):
    """One number in repeated lines, with a budget of a space and seven digits."""

    def max_new_tokens(self, tokenizer: Tokenizer) -> int:
        """Eight: the tokenizer of these runs has a token for each digit."""
        return 8


def tasks_of(kind: str) -> list[Task]:
    """The tasks of an evaluation: one for each depth, or both ways of scoring a copy."""
    if kind == "copying":
        return list(copying_tasks())
    if kind == "passkey":
        return [
            PasskeyTask(PasskeyConfig(depths=(depth / 100,), max_new_tokens=6), name=f"passkey:depth={depth}")
            for depth in DEPTHS
        ]
    library = Library()
    return [
        Needle(
            f"needle:depth={depth}",
            library,
            NeedleConfig(haystack="line", key="word", value="number", depth=depth),
            purpose="needle",
        )
        for depth in DEPTHS
    ]


def train_all(names: Sequence[str]) -> None:
    """Train these runs, or go on with them."""
    from lengthwise.train import train

    for name in names or RUNS:
        folder = OUT / name / "train"
        train(RUNS[name], folder, resume=(folder / "manifest.json").exists())


def evaluate_all(names: Sequence[str]) -> None:
    """Evaluate what is trained; what was evaluated already is left alone."""
    from lengthwise.checkpoints import load_checkpoint
    from lengthwise.engines.native import NativeEngine
    from lengthwise.evaluate.run import Subject, evaluate
    from lengthwise.train.prepare import checkpoint_tokenizer

    for name in names or [*LABELS, *(name for name in RUNS if name.startswith("copying/") and "short" not in name)]:
        path = OUT / name / "train/checkpoint"
        if not path.exists():
            print(f"{name} is not trained yet")
            continue
        checkpoint = load_checkpoint(path)
        for kind in ("copying",) if name.startswith("copying/") else ("passkey", "needle"):
            tasks = tasks_of(kind)
            config = EvalConfig(
                model=str(path),
                tasks=tuple(task.name for task in tasks),
                lengths=LENGTHS[kind],
                num_samples=SAMPLES[kind],
                engine="native",
                label=LABELS.get(name, name),
                batch_size=12,
            )
            engine = NativeEngine(checkpoint.model, batch_size=config.batch_size, chunk=config.chunk)
            subject = Subject(engine, checkpoint_tokenizer(checkpoint), engine.facts())
            out = OUT / name / f"eval-{kind}"
            evaluate(config, tasks, subject, out, resume=(out / "manifest.json").exists())


def main() -> None:
    """Do what the first argument says."""
    if len(sys.argv) < 2 or sys.argv[1] not in ("train", "evaluate"):
        sys.exit(__doc__)
    (train_all if sys.argv[1] == "train" else evaluate_all)(sys.argv[2:])


if __name__ == "__main__":
    main()
