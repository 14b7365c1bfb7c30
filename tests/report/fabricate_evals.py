"""Eval runs with made-up answers: whoever reads a length L within `reach` is right, beyond it more and more wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lengthwise.evaluate.config import EvalConfig
from lengthwise.evaluate.summary import RULER, summarize
from lengthwise.runs import RunFolder
from lengthwise.seeds import numpy_rng
from lengthwise.tasks.base import sample_id

ONE_NEEDLE = ("niah_single_1", "niah_single_2", "niah_single_3", "qa_1")
SEVERAL = ("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe")
FORMATS = (
    "haystack=prose,key=word,value=number",
    "haystack=prose,key=word,value=uuid",
    "haystack=line,key=word,value=number",
)
GRID = tuple(f"niah_grid:{form},depth={depth}" for form in FORMATS for depth in (0, 50, 100))


def record(
    task: str, length: int, index: int, *, reach: int, seed: int = 0, failing: bool = False, prompts: str = ""
) -> dict[str, Any]:
    """A line of samples.jsonl."""
    random = numpy_rng(seed, f"fabricated/{task}", length, index)
    value = str(1000 + int(numpy_rng(0, task, length, index).integers(9000)))
    chance = 0.9 if length <= reach else 0.9 * reach / length / 2
    golds = [value] if task not in SEVERAL else [f"{value}{letter}" for letter in "abcd"]
    hits = [gold for gold in golds if random.random() < chance]
    output = f" {', '.join(hits)} and so on" if hits else " <b>nothing</b> of it"
    head, tail = f"Some text {prompts}{index} of {task}. ", f"... What is the number at {length}? It is"
    name, _, settings = task.partition(":")
    depth = float(settings.rpartition("depth=")[2]) if "depth=" in settings else None
    meta: dict[str, Any] = {}
    if depth is not None:
        meta = {"depths": [depth + 0.01]}
    elif task in ONE_NEEDLE:
        meta = {"depths": [round(float(random.random()) * 100, 3)]}
    elif name == "passkey":
        meta = {"depth": (0.1, 0.5, 0.9)[index % 3]}
    part = len(hits) / len(golds)
    rule = "ruler_string_match_part@1" if task == "qa_1" else "ruler_string_match_all@1"
    strict = "strict_match_any@1" if task == "qa_1" else "strict_match_all@1"
    return {
        "id": sample_id(task, length, index),
        "task": task,
        "length": length,
        "index": index,
        "num_tokens": length - 10,
        "max_new_tokens": 10,
        "prompt_sha256": hashlib.sha256((head + tail).encode()).hexdigest(),
        "prompt_head": head,
        "prompt_tail": tail,
        "answers": golds,
        "meta": meta,
        "continuation": False,
        "num_prompt_tokens_seen": length - 10,
        "output": None if failing else output,
        "output_tokens": [],
        "finish": "error" if failing else "length",
        "error": "out of memory" if failing else None,
        "score": None if failing else part,
        "scorer": rule,
        "scores": {} if failing else {rule: part, strict: part},
    }


def write_eval(
    path: Path,
    *,
    model: str = "state-spaces/mamba2-2.7b",
    label: str | None = None,
    tasks: Sequence[str] = RULER,
    lengths: Sequence[int] = (1024, 2048, 4096),
    num_samples: int = 12,
    reach: int = 2048,
    seed: int = 0,
    failing: int = 0,
    keep: int | None = None,
    prompts: str = "",
    subject: dict[str, Any] | None = None,
) -> Path:
    """Write a run folder of kind "eval".

    Args:
        path: new folder.
        failing: the first so many samples of the first cell failed.
        keep: only so many lines were written and the run goes on; None: it is complete.
        prompts: what makes prompts others.
        subject: facts of the model in the manifest.
    """
    config = EvalConfig(
        model=model, label=label, tasks=tuple(tasks), lengths=tuple(lengths), num_samples=num_samples
    ).to_dict()
    run = RunFolder.create(path, "eval", config)
    run.update_manifest(evaluation={"tasks": {task: {"version": 1} for task in tasks}, "subject": subject or {}})
    records = [
        record(
            task,
            length,
            index,
            reach=reach,
            seed=seed,
            failing=(task, length) == (tasks[0], lengths[0]) and index < failing,
            prompts=prompts,
        )
        for task in tasks
        for length in lengths
        for index in range(num_samples)
    ]
    if keep is not None:
        for line in records[:keep]:
            run.append_sample(line)
        return path
    run.replace_samples(records)
    run.write_json("summary.json", summarize(config, records, {}))
    run.finish()
    return path
