"""Tables and the picture of docs/task-runs.md, and docs/results/*.csv, out of what `task_runs.py` evaluated.

python recipes/task_tables.py
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vl_convert
from task_runs import COPY_KINDS, LABELS, LENGTHS, OUT, RUNS, TASKS_LENGTH

from lengthwise.checkpoints import load_checkpoint
from lengthwise.evaluate.statistics import Difference, paired_difference, wilson
from lengthwise.runs import RunFolder
from lengthwise.tasks.passkey import PasskeyConfig, PasskeyTask
from lengthwise.train.prepare import checkpoint_tokenizer

RESULTS, IMAGES = Path("docs/results"), Path("docs/images")


def _summaries(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and summaries of the runs that have this evaluation, in the order of RUNS."""
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


def initial_state_left(name: str, num_tokens: int) -> list[float]:
    """How much of its initial state each head of the first layer holds after so many tokens of a passkey prompt.

    The first layer's state is linear in the one it starts from, and its decays depend on the tokens alone. So this is
    the norm of the difference of two final states over that of the initial ones. Largest first.
    """
    checkpoint = load_checkpoint(OUT / name / "train/checkpoint")
    tokenizer, model = checkpoint_tokenizer(checkpoint), checkpoint.model.eval()
    samples = PasskeyTask(PasskeyConfig()).samples(range(8), num_tokens + 100, tokenizer, seed=3)
    prompts = [tokenizer.encode(sample.prompt)[:num_tokens].astype(np.int64) for sample in samples]
    tokens = torch.from_numpy(np.stack(prompts))
    zero = model.init_state(len(prompts))
    random = torch.Generator().manual_seed(0)
    start = zero.map("recurrent", lambda tensor: torch.randn(tensor.shape, generator=random))
    with torch.inference_mode():
        ends = [model(tokens, state, logits="none").state for state in (start, zero)]
    noise, first, second = (state.named_tensors("recurrent")[0][1].flatten(2) for state in (start, *ends))
    shares = (first - second).norm(dim=2) / noise.norm(dim=2)
    return [float(share) for share in shares.mean(dim=0).sort(descending=True).values]


def print_memory() -> None:
    """The table of `initial_state_left` for every Mamba-2 on passkeys."""
    print("\nshare of the initial state left in the first layer: mean over heads, and the head that keeps most\n")
    print("| model | after 256 tokens | after 1,024 |\n|---|---|---|")
    for name, label in LABELS.items():
        if "mamba2" in name:
            found = [initial_state_left(name, num_tokens) for num_tokens in (256, 1024)]
            shown = " | ".join(f"{statistics.mean(shares):.2f}, {shares[0]:.2f}" for shares in found)
            print(f"| {label} | {shown} |")


def heat_maps(records: Sequence[dict[str, Any]], title: str) -> dict[str, Any]:
    """A Vega-Lite picture: depth by length, one map for each model."""
    values = [{**record, "model": LABELS[record["run"]]} for record in records]
    grid = {
        "x": {"field": "length", "type": "ordinal", "title": "length in tokens", "axis": {"labelAngle": -45}},
        "y": {"field": "depth", "type": "ordinal", "title": "depth of the key, %"},
    }
    score = {"field": "value", "type": "quantitative"}
    colours = {"scale": {"domain": [0, 1], "range": ["#f7f5f0", "#1f64b0"], "interpolate": "rgb"}, "title": "right"}
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
        print(f"\n{kind}: beyond {TASKS_LENGTH} tokens, pair by pair\n")
        print("| model | minus | difference | p |\n|---|---|---|---|")
        for names, found in against_plain(kind):
            p_value = "" if found.p_value is None else f"{found.p_value:.2g}"
            print(f"| {names} | {found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f}) | {p_value} |")
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "vconcat": maps, "background": "#ffffff"}
    (IMAGES / "passkey-run.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=2.0))
    print_memory()
    copying = [
        {"run": name, "length": int(length), "rule": rule, "value": value, "count": count}
        for name, length, rule, value, count in _copying_scores()
    ]
    _write_csv(RESULTS / "copying-run.csv", copying)
    _print_copying(copying)


def _copying_scores() -> Iterator[tuple[str, int, str, float, int]]:
    for name, _ in _summaries("copying"):
        groups: dict[tuple[str, int, str], list[float]] = {}
        for record in RunFolder.open(OUT / name / "eval-copying").read_samples():
            for rule, score in record["scores"].items():
                groups.setdefault((record["task"], record["length"], rule), []).append(score)
        for (task, length, rule), scores in groups.items():
            yield name, length, f"{task} {rule}", round(statistics.mean(scores), 6), len(scores)


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


if __name__ == "__main__":
    show()
