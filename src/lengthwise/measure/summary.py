"""From the lines of a measurement to its summary and arrays, without the model.

`summary.json` is what reports read: every number finite or null. The arrays keep the tables behind it, so that
intervals and verdicts can be made again with other settings.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from lengthwise.measure.bootstrap import Resamples
from lengthwise.measure.config import MeasureConfig
from lengthwise.measure.inputs import Sequences
from lengthwise.measure.judge import Losses, judge
from lengthwise.measure.remembrance import DISTANCES, area_under_curve
from lengthwise.measure.states import STATISTICS, StateStatistics, rank_drift
from lengthwise.measure.windows import window_lengths
from lengthwise.measure.words import definition_words, restart_words
from lengthwise.shapes import Int

SUMMARY_VERSION = 1
Arrays = dict[str, np.ndarray]
Record = dict[str, Any]


def summarize(
    config: MeasureConfig, edges: Int[np.ndarray, " edges"], text: Sequences, records: list[Record]
) -> tuple[Record, Arrays]:
    """The summary and the arrays of a finished measurement.

    Args:
        config: resolved.
        edges: position bins.
        text: the sequences that were read.
        records: lines of `metrics.jsonl`, of every piece.

    Returns:
        Content of `summary.json`, and of `arrays.safetensors`.
    """
    pieces = {(record["metric"], record["index"]): record for record in records}
    ordered = {
        metric: [pieces[key] for key in sorted(pieces) if key[0] == metric]
        for metric in sorted({metric for metric, _ in pieces})
    }
    arrays: Arrays = {"edges": edges, "documents": text.documents}
    units = len(np.unique(text.documents))
    draws = Resamples.draw(units, resamples=config.bootstrap, seed=config.seed)
    perplexity, verdicts = _losses(config, edges, text, ordered, draws, arrays)
    summary = {
        "format_version": SUMMARY_VERSION,
        "model": config.model,
        "label": config.label,
        "context_length": config.context_length,
        "length": config.length,
        "num_sequences": len(text.tokens),
        "num_documents": units,
        "bytes_per_token": _bytes_per_token(text),
        "perplexity": perplexity,
        "verdicts": verdicts,
        "remembrance": _remembrance(config, ordered["remembrance"], arrays) if "remembrance" in ordered else None,
        "states": _states(config, ordered["stream"], arrays) if "states" in config.metrics else None,
    }
    return summary, arrays


def _losses(
    config: MeasureConfig,
    edges: np.ndarray,
    text: Sequences,
    ordered: dict[str, list[Record]],
    draws: Resamples,
    arrays: Arrays,
) -> tuple[Record | None, Record]:
    """Perplexity and the verdicts, as far as they were asked for."""
    verdicts: Record = {"definition": None, "restart": None, "words": []}
    if not {"perplexity", "restart"} & set(config.metrics):
        return None, verdicts
    assert config.context_length is not None
    assert config.length is not None
    context, units = config.context_length, len(np.unique(text.documents))
    arrays["loss_sums"] = np.concatenate([np.array(record["sums"]) for record in ordered["stream"]])
    restarted, windows = None, None
    if "restart" in config.metrics:
        restarted = np.concatenate([np.array(record["sums"]) for record in ordered["restart"]])
        arrays["restart_sums"] = restarted
    if "perplexity" in config.metrics:
        windows = {
            window: np.concatenate([np.array(record["sums"][str(window)]) for record in ordered["windows"]])
            for window in window_lengths(config.length, context)
        }
        arrays |= {f"window_{window}_sums": sums for window, sums in windows.items()}
    found = judge(
        Losses(arrays["loss_sums"], windows, restarted),
        text,
        edges,
        context,
        draws,
        tolerance=config.tolerance,
        restart_tolerance=config.restart_tolerance,
        control_text=config.control_text,
    )
    if found.definition is not None:
        verdicts["definition"] = asdict(found.definition)
        verdicts["words"].append(definition_words(found.definition, context, units))
    if found.restart is not None:
        verdicts["restart"] = asdict(found.restart)
        verdicts["words"].append(restart_words(found.restart, context, units))
    return None if found.perplexity is None else asdict(found.perplexity), verdicts


def _remembrance(config: MeasureConfig, records: list[Record], arrays: Arrays) -> Record:
    """The mean surface over documents, and its scalars at the last end."""
    assert config.context_length is not None
    starts, ends = records[0]["starts"], records[0]["ends"]
    final = ends[-1]
    out_of_window, area = {}, {}
    for name in DISTANCES:
        # dtype float turns null into NaN.
        each = np.array([record["values"][name] for record in records], dtype=np.float64)
        surface = each.mean(axis=0)
        arrays[f"remembrance_{name}"] = surface
        out_of_window[name] = float(surface[starts.index(max(final - config.context_length, 0)), -1])
        area[name] = area_under_curve(starts, surface[:, -1], final)
    return {
        "distances": list(DISTANCES),
        "num_documents": len(records),
        "starts": starts,
        "ends": ends,
        "final_end": final,
        "out_of_window": out_of_window,
        "area": area,
    }


def _states(config: MeasureConfig, records: list[Record], arrays: Arrays) -> Record:
    """Means over sequences, and the ranking of heads."""
    assert config.context_length is not None
    found = [record["states"] for record in records if record["states"] is not None]
    statistics = StateStatistics(found[0]["positions"])
    for record in found:
        statistics.add_record(record)
    for name in STATISTICS:
        arrays[f"states_{name}"] = statistics.means("heads", name)
        arrays[f"states_layer_{name}"] = statistics.means("layers", name)[:, :, 0]
    return {
        "positions": list(statistics.positions),
        "num_sequences": statistics.num_sequences,
        "whole": {name: statistics.means("whole", name)[:, 0, 0].tolist() for name in STATISTICS},
        "drift": [
            asdict(head) for head in rank_drift(statistics.positions, arrays["states_std"], config.context_length)
        ],
    }


def _bytes_per_token(text: Sequences) -> float | None:
    """Mean size of a target token; None where the tokenizer is not known."""
    if text.token_bytes is None:
        return None
    targets = text.tokens[:, 1:]
    return sum(int(text.token_bytes[row].sum()) for row in targets) / targets.size
