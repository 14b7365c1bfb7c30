"""Passkeys, needles and copying on small models: training, evaluation far beyond it, tables and heat maps.

The counterparts of Figure 7 and Table 1 of arXiv 2507.02782 at the size of two cores; docs/task-runs.md shows what came
out.

    python recipes/task_runs.py train [NAME ...]      these runs, or all in order, resumed where they were stopped
    python recipes/task_runs.py evaluate [NAME ...]   the models of these runs, or of all that are finished
    python recipes/task_runs.py show                  docs/results/*.csv, the picture and the tables

Run folders go to runs/<NAME>/train and runs/<NAME>/eval-...; `lengthwise train runs/passkey/mamba2/train --out
ELSEWHERE` repeats one of them.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.evaluate.config import EvalConfig
from lengthwise.evaluate.statistics import Difference
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
RESULTS, IMAGES = Path("docs/results"), Path("docs/images")
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
    "passkey/transformer-short": replace(SHORT, model=TRANSFORMER, steps=150, peak_lr=2e-3, min_lr=2e-4),
    # Rows of 40 tokens hold a key at nearly one distance only, and a Transformer keeps to it: one length in between.
    "passkey/transformer-middle": replace(
        SHORT,
        model=None,
        tokenizer=None,
        init_from="runs/passkey/transformer-short/train/checkpoint",
        context_length=96,
        batch_size=32,
        steps=150,
        peak_lr=2e-3,
        min_lr=2e-4,
    ),
    "passkey/transformer": replace(TASKS, init_from="runs/passkey/transformer-middle/train/checkpoint", peak_lr=2e-3),
    # It had not learned the task by then.
    "passkey/transformer-more": replace(
        TASKS, init_from="runs/passkey/transformer/train/checkpoint", steps=400, peak_lr=2e-3, seed=1
    ),
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
    "passkey/transformer-more": "Transformer",
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


def _summaries(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and summaries of the runs that have this evaluation, in the order of RUNS."""
    from lengthwise.runs import RunFolder

    for name in RUNS:
        if (OUT / name / f"eval-{kind}/summary.json").exists():
            yield name, RunFolder.open(OUT / name / f"eval-{kind}").read_json("summary.json")


def cells(kind: str) -> list[dict[str, Any]]:
    """One record for each model, depth and length of an evaluation: score, interval, samples."""
    found = []
    for name, summary in _summaries(kind):
        for task, row in summary["tasks"].items():
            depth = int(task.partition("depth=")[2])
            for length, mean in row.items():
                kept = {key: mean[key] for key in ("value", "low", "high", "count", "failures")}
                found.append({"run": name, "depth": depth, "length": int(length), **kept})
    return found


def by_length(records: Sequence[dict[str, Any]]) -> dict[str, dict[int, tuple[float, float, float]]]:
    """Share of right answers over all depths, with Wilson's interval, by run and length."""
    from lengthwise.evaluate.statistics import wilson

    counts: dict[tuple[str, int], list[int]] = {}
    for record in records:
        sums = counts.setdefault((record["run"], record["length"]), [0, 0])
        sums[0] += round(record["value"] * record["count"])
        sums[1] += record["count"]
    table: dict[str, dict[int, tuple[float, float, float]]] = {}
    for (run, length), (right, count) in counts.items():
        ends = wilson(right, count) or (0.0, 1.0)
        table.setdefault(run, {})[length] = (right / count, *ends)
    return table


def against_plain(kind: str) -> Iterator[tuple[str, Difference]]:
    """Each intervention minus its control on the questions of more than 256 tokens, pair by pair."""
    from lengthwise.evaluate.statistics import paired_difference
    from lengthwise.runs import RunFolder

    def scores(name: str) -> dict[str, float | None]:
        found = RunFolder.open(OUT / name / f"eval-{kind}").read_samples()
        return {record["id"]: record["score"] for record in found if record["length"] > TASKS_LENGTH}

    for name, control in (
        ("passkey/mamba2-noise-from-start", "passkey/mamba2"),
        ("passkey/mamba2-passing-from-start", "passkey/mamba2"),
        ("passkey/mamba2-control", "passkey/mamba2"),
        ("passkey/mamba2-fitted-noise", "passkey/mamba2-control"),
        ("passkey/mamba2-state-passing", "passkey/mamba2-control"),
    ):
        yield f"{LABELS[name]} | {LABELS[control]}", paired_difference(scores(name), scores(control))


def heat_maps(records: Sequence[dict[str, Any]], title: str) -> dict[str, Any]:
    """A Vega-Lite picture: depth by length, one map for each model."""
    values = [{**record, "model": LABELS[record["run"]]} for record in records]
    grid = {
        "x": {"field": "length", "type": "ordinal", "title": "length in tokens", "axis": {"labelAngle": -45}},
        "y": {"field": "depth", "type": "ordinal", "title": "depth of the key, %"},
    }
    score = {"field": "value", "type": "quantitative"}
    colours = {"scale": {"domain": [0, 1], "range": ["#f7f5f0", "#1f64b0"]}, "title": "right"}
    return {
        "title": title,
        "data": {"values": values},
        "facet": {"field": "model", "sort": list(LABELS.values()), "title": None, "type": "nominal"},
        "columns": 4,
        "spec": {
            "width": 154,
            "height": 105,
            "layer": [
                {"mark": "rect", "encoding": {**grid, "color": {**score, **colours}}},
                {
                    "mark": {"type": "text", "fontSize": 8},
                    "encoding": {
                        **grid,
                        "text": {**score, "format": ".2f"},
                        "color": {"condition": {"test": "datum.value > 0.5", "value": "white"}, "value": "#1c2127"},
                    },
                },
            ],
        },
    }


def show() -> None:
    """Write the results and the picture, print the tables."""
    import vl_convert

    RESULTS.mkdir(parents=True, exist_ok=True)
    maps = []
    for kind in ("passkey", "needle"):
        records = cells(kind)
        _write_csv(RESULTS / f"{kind}-run.csv", records)
        maps.append(heat_maps(records, f"{kind.capitalize()}: share of right answers, trained at 256 tokens"))
        table = by_length(records)
        lengths = LENGTHS[kind]
        print(f"\n{kind}: share of right answers over all depths, 95 % interval\n")
        print("| model |", " | ".join(f"{length:,}" for length in lengths), "|")
        print("|---" * (len(lengths) + 1) + "|")
        for run, row in table.items():
            shown = [f"{row[n][0]:.2f} ({row[n][1]:.2f}-{row[n][2]:.2f})" for n in lengths]
            print(f"| {LABELS[run]} |", " | ".join(shown), "|")
        print(
            f"\n{kind}: beyond {TASKS_LENGTH} tokens, pair by pair\n\n| model | minus | difference | p |\n|---|---|---|---|"
        )
        for names, found in against_plain(kind):
            p_value = "" if found.p_value is None else f"{found.p_value:.2g}"
            print(f"| {names} | {found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f}) | {p_value} |")
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "vconcat": maps, "background": "#ffffff"}
    (IMAGES / "passkey-run.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=2.0))
    copying = [
        {"run": name, "length": int(length), "rule": rule, "value": value, "count": count}
        for name, length, rule, value, count in _copying_scores()
    ]
    _write_csv(RESULTS / "copying-run.csv", copying)
    _print_copying(copying)


def _copying_scores() -> Iterator[tuple[str, int, str, float, int]]:
    from lengthwise.runs import RunFolder

    for name, _ in _summaries("copying"):
        groups: dict[tuple[str, int, str], list[float]] = {}
        for record in RunFolder.open(OUT / name / "eval-copying").read_samples():
            for rule, score in record["scores"].items():
                groups.setdefault((record["task"], record["length"], rule), []).append(score)
        for (task, length, rule), scores in groups.items():
            yield name, length, f"{task} {rule}", statistics.mean(scores), len(scores)


def _print_copying(records: Sequence[dict[str, Any]]) -> None:
    """Mean over the seeds and, after it, their standard deviation."""
    lengths = LENGTHS["copying"]
    print("\ncopying: mean over seeds +- standard deviation between them\n")
    print("| rule | model |", " | ".join(f"{(length - 3) // 2}" for length in lengths), "|")
    print("|---" * (len(lengths) + 2) + "|")
    for rule in dict.fromkeys(record["rule"] for record in records):
        for kind in (*COPY_KINDS, *(f"more-{kind}" for kind in COPY_KINDS)):
            shown = []
            for length in lengths:
                found = [
                    record["value"]
                    for record in records
                    if (record["rule"], record["length"]) == (rule, length)
                    and record["run"].startswith(f"copying/{kind}-")
                ]
                spread = f" +- {statistics.stdev(found):.3f}" if len(found) > 1 else ""
                shown.append(f"{statistics.mean(found):.3f}{spread}" if found else "")
            print(f"| {rule} | {kind} |", " | ".join(shown), "|")


def _write_csv(path: Path, records: Sequence[dict[str, Any]]) -> None:
    if not records:
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def main() -> None:
    """Do what the first argument says."""
    if len(sys.argv) < 2 or sys.argv[1] not in ("train", "evaluate", "show"):
        sys.exit(__doc__)
    verb, names = sys.argv[1], sys.argv[2:]
    if verb == "show":
        show()
    else:
        (train_all if verb == "train" else evaluate_all)(names)


if __name__ == "__main__":
    main()
