"""Made-up run folders for the tests of the report. Nothing here was measured: every curve is a formula.

The three fabricated models follow the paper's Figure 1 and 4 in shape: "before" and "control" break past the training
context, "after" holds. Everything is deterministic.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from lengthwise.runs import RunFolder
from lengthwise.seeds import numpy_rng

CONTEXT = 256
LENGTH = 64 * CONTEXT
METRICS = ("perplexity", "restart", "remembrance", "states")
# How strongly each role breaks: 1 is the model as it came.
BREAK = {"before": 1.0, "control": 0.86, "after": 0.0, "run": 1.0}
LAYERS, HEADS = 4, 8


def edges(context: int, length: int) -> list[int]:
    """Two bins per octave, an edge at the context."""
    below = [context]
    while below[0] > 24:
        below.insert(0, round(below[0] / math.sqrt(2)))
    above, k = [], 1
    while round(context * 2 ** (k / 2)) < length:
        above.append(round(context * 2 ** (k / 2)))
        k += 1
    return [0, *below, *above, length]


def excess(position: float, context: int, strength: float) -> float:
    """Made-up growth past the context: 0 inside it, saturating at `strength`."""
    return strength * (1 - math.exp(-max(position - context, 0) / (5 * context)))


def perplexity_bins(context: int, length: int, strength: float, noise: np.random.Generator) -> list[dict[str, Any]]:
    """Perplexity that falls with the text read and, past the context, rises with `strength`."""
    found = []
    cuts = edges(context, length)
    for start, end in itertools.pairwise(cuts):
        middle = math.sqrt((start + 1) * end)
        nll = 1.02 + 1.5 / (1 + middle / 6) ** 0.55 + excess(middle, context, 0.34 * strength)
        nll += float(noise.normal(0, 0.004)) - 0.006 * math.log(max(middle / context, 1)) * (strength == 0)
        half = 0.030 + 0.05 / math.sqrt(end - start)
        found.append(
            {
                "start": start,
                "end": end,
                "tokens": 64 * (end - start),
                "nll": nll,
                "perplexity": math.exp(nll),
                "low": math.exp(nll - half),
                "high": math.exp(nll + half),
                "bits_per_byte": nll / math.log(2),
            }
        )
    return found


def definition(bins: list[dict[str, Any]], context: int) -> dict[str, Any]:
    """The verdict that follows from the made-up bins."""
    best = min((b for b in bins if b["end"] <= context), key=lambda b: b["perplexity"])
    ratios = []
    for b in bins:
        if b["start"] >= best["end"]:
            ratio = b["perplexity"] / best["perplexity"]
            ratios.append(
                {"start": b["start"], "end": b["end"], "ratio": ratio, "low": ratio * 0.985, "high": ratio * 1.015}
            )
    worst = max(ratios, key=lambda r: r["ratio"])
    failing = [r for r in ratios if r["low"] > 1.05]
    verdict = "fail" if failing else "pass" if all(r["high"] <= 1.05 for r in ratios) else "undecided"
    return {
        "verdict": verdict,
        "strict": all(r["ratio"] <= 1 for r in ratios),
        "tolerance": 0.05,
        "worst_ratio": worst["ratio"],
        "worst_low": worst["low"],
        "worst_high": worst["high"],
        "worst_bin": [worst["start"], worst["end"]],
        "first_failing_position": failing[0]["start"] if failing else None,
        "best_bin": [best["start"], best["end"]],
        "best_perplexity": best["perplexity"],
        "ratios": ratios,
    }


def restart(bins: list[dict[str, Any]], context: int, strength: float) -> dict[str, Any]:
    """Full history minus restart: history hurts in proportion to `strength`."""
    found = []
    for b in bins:
        if b["start"] >= context:
            middle = math.sqrt(b["start"] * b["end"])
            value = excess(middle, context, 0.28 * strength) - 0.012 * (1 - 0.6 * strength)
            found.append(
                {"start": b["start"], "end": b["end"], "difference": value, "low": value - 0.006, "high": value + 0.006}
            )
    total = sum(r["difference"] * (r["end"] - r["start"]) for r in found) / sum(r["end"] - r["start"] for r in found)
    failing = [r for r in found if r["low"] > 0.01]
    return {
        "verdict": "fail" if failing else "pass",
        "tolerance": 0.01,
        "difference": total,
        "low": total - 0.004,
        "high": total + 0.004,
        "uses_history": total + 0.004 < 0,
        "first_failing_position": failing[0]["start"] if failing else None,
        "bins": found,
    }


def remembrance(context: int, strength: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A surface over 32 starts and 16 ends: old text fades for strength 0, and stays for strength 1."""
    final = 16 * context
    even = {round(final * i / 15) for i in range(16)}
    back = sorted(even | {final - round(final ** (i / 15)) for i in range(16)} | {0, final - context})
    ends = sorted({round(context / 4 * (4 * final / context) ** (i / 15)) for i in range(16)})
    surfaces = {}
    for distance, scale in (("tv", 1.0), ("js", 0.9), ("cosine", 0.75)):
        surface = np.full((len(back), len(ends)), np.nan, dtype=np.float32)
        for i, start in enumerate(back):
            for j, end in enumerate(ends):
                if start <= end:
                    gap = end - start
                    fresh = 0.92 / (1 + gap / 7) ** 0.62
                    old = 0.36 * strength * min(1.0, max(end - context, 0) / (4 * context)) * (1 - 0.3 * start / end)
                    surface[i, j] = 0.0 if start == 0 else scale * min(1.0, fresh + old * gap / (gap + 60))
        surfaces[f"remembrance_{distance}"] = surface
    edge = int(np.searchsorted(back, final - context))
    value = {
        "distances": ["tv", "js", "cosine"],
        "starts": back,
        "ends": ends,
        "final_end": final,
        "out_of_window": {d: float(surfaces[f"remembrance_{d}"][edge, -1]) for d in ("tv", "js", "cosine")},
        "area": {d: float(np.nanmean(surfaces[f"remembrance_{d}"][:, -1])) for d in ("tv", "js", "cosine")},
    }
    return value, surfaces


def states(context: int, length: int, strength: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """State statistics: a few heads of `before` grow past the context, `after` has a larger but steady state."""
    positions = sorted({round(8 * (length / 8) ** (i / 28)) for i in range(29)} | {context})
    base = 1.0 if strength else 1.65
    std = np.empty((len(positions), LAYERS, HEADS), dtype=np.float32)
    for i, position in enumerate(positions):
        for layer in range(LAYERS):
            for head in range(HEADS):
                leak = ((layer * HEADS + head) * 7919 % 97) / 97
                grow = 1 + strength * 0.8 * leak**6 * math.log1p(max(position - context, 0) / context)
                settled = 1 - math.exp(-position / (20 + 120 * leak))
                std[i, layer, head] = base * (0.4 + leak) * (0.5 + 0.5 * settled) * grow
    whole = np.sqrt((std.astype(np.float64) ** 2).mean(axis=(1, 2)))
    at = positions.index(context)
    scores = np.abs(np.log(std[at:]) - np.log(std[at])).max(axis=0)
    ranked = sorted(
        ((float(scores[layer, head]), layer, head) for layer in range(LAYERS) for head in range(HEADS)), reverse=True
    )
    value = {
        "positions": positions,
        "whole": {
            "std": whole.tolist(),
            "mean": (0.01 * whole).tolist(),
            "max_abs": (9 * whole).tolist(),
            "norm": (120 * whole).tolist(),
        },
        "drift": [
            {"layer": layer, "head": head, "score": score, "ratio": math.exp(score)} for score, layer, head in ranked
        ],
    }
    return value, {"states_std": std}


def write_measure(
    path: Path,
    role: str = "run",
    *,
    model: str = "small-python-4m",
    label: str | None = None,
    metrics: tuple[str, ...] = METRICS,
    context: int = CONTEXT,
    length: int = LENGTH,
    strength: float | None = None,
) -> dict[str, Any]:
    """A finished run folder of kind "measure"; returns the summary that it wrote."""
    strength = BREAK[role] if strength is None else strength
    config = {"model": model, "data": "python", "length": length, "num_sequences": 64, "metrics": list(metrics)}
    run = RunFolder.create(path, "measure", config)
    noise = numpy_rng(0, "fabricated", int(100 * strength))
    summary: dict[str, Any] = {
        "format_version": 1,
        "model": model,
        "label": label,
        "context_length": context,
        "length": length,
        "num_sequences": 64,
        "bytes_per_token": 1.0,
        "perplexity": None,
        "verdicts": {"definition": None, "restart": None, "words": []},
        "remembrance": None,
        "states": None,
    }
    arrays: dict[str, np.ndarray] = {}
    bins = perplexity_bins(context, length, strength, noise)
    if "perplexity" in metrics:
        summary["perplexity"] = {"bins": bins, "overall": {}}
        summary["verdicts"]["definition"] = definition(bins, context)
        summary["verdicts"]["words"].append("A made-up sentence about perplexity.")
    if "restart" in metrics:
        summary["verdicts"]["restart"] = restart(bins, context, strength)
        summary["verdicts"]["words"].append("A made-up sentence about history.")
    if "remembrance" in metrics:
        summary["remembrance"], found = remembrance(context, strength)
        arrays |= found
    if "states" in metrics:
        summary["states"], found = states(context, length, strength)
        arrays |= found
    run.write_json("summary.json", summary)
    if arrays:
        run.write_arrays(arrays)
    run.finish()
    return summary


def write_train(path: Path, intervention: str = "state-passing", *, steps: int = 100, level: float = 1.12) -> None:
    """A finished run folder of kind "train" with a noisy, falling loss."""
    run = RunFolder.create(path, "train", {"steps": steps, "intervention": {"kind": intervention}})
    noise = numpy_rng(0, "fabricated-loss")  # the same windows in both runs, so the same noise
    for step in range(1, steps + 1):
        loss = level + 0.05 * math.exp(-step / 30) + float(noise.normal(0, 0.02))
        run.append_metrics({"step": step, "loss": loss, "tokens": step * 8192, "tokens_per_s": 9000.0, "lr": 1e-4})
    run.finish()


def write_extend(path: Path, *, kind: str = "extend", steps: int = 100, **measure: Any) -> None:
    """A finished run folder of kind "extend" with its three measurements and two trainings."""
    config = {"model": "small-python-4m", "steps": steps, "intervention": {"kind": "state-passing"}}
    run = RunFolder.create(path, kind, config)
    digests = {}
    for role in ("before", "control", "after"):
        summary = write_measure(path / role, role, **measure)
        digests[role] = summary["verdicts"]
    write_train(path / "train-control", "zero", steps=steps)
    write_train(path / "train-intervention", "state-passing", steps=steps, level=1.135)
    run.write_json("comparison.json", {"intervention": "state-passing", "steps": steps, **digests})
    run.finish()
