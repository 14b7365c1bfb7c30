"""A whole evaluation: every task at every length, into a run folder that can be killed at any moment and resumed.

Work is cut into blocks of samples of one task at one length. Every answer is a line of `samples.jsonl` as soon as it is
there. A block that was interrupted is answered again as a whole, so that its batches are the same, but what it had
recorded is kept as it is. When all is done the lines are put in order, so a resumed run ends with the file of an
uninterrupted one. With several processes each answers every n-th block into a file of its own, and the first one joins
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.distributed import World
from lengthwise.engines.base import Answer, Engine, Request
from lengthwise.errors import InputError, RunFailure
from lengthwise.evaluate.config import BLOCK, EvalConfig
from lengthwise.evaluate.records import PARTS, part_name, read_samples, score_record
from lengthwise.evaluate.summary import summarize
from lengthwise.progress import token_bar
from lengthwise.runs import RunFolder
from lengthwise.tasks.base import Sample, Task, sample_id

SHOWN_CHARACTERS = 400
"""Of a prompt, this much of its head and of its tail is kept; the rest can be made again from the sample's number."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Args:
        engine: runs the model.
        tokenizer: makes and counts its tokens.
        facts: what the manifest says of them.
    """

    engine: Engine
    tokenizer: Tokenizer
    facts: dict[str, Any]


def evaluate(
    config: EvalConfig,
    tasks: Sequence[Task],
    subject: Subject,
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    world: World | None = None,
) -> dict[str, Any]:
    """Evaluate a model on tasks and leave a run folder of kind "eval" at `out`.

    Args:
        config: what to evaluate. A folder of another config is refused.
        tasks: the tasks that `config.tasks` names.
        subject: engine and tokenizer of the model.
        out: run folder; new or empty, or holding this run when `resume` is set.
        resume: go on with a run that was interrupted.
        progress: show a progress bar on stderr.
        world: the processes that share the work.

    Returns:
        The content of `summary.json`; in processes other than the first, an empty one.

    Raises:
        InputError: a length exceeds what the engine takes or falls short of what a task needs, or the folder holds
            another run. Nothing was computed then.
        RunFailure: the device is full, or the engine gave up. What was finished is kept.
    """
    world = world or World()
    _check_names(tasks)
    cells, left_out = lay_out(config, tasks, subject)
    out = Path(out)
    plan = {task.name: {"version": task.version, **task.parameters()} for task in tasks}
    tokenizer = {"name": subject.tokenizer.name, "sha256": subject.tokenizer.fingerprint}
    facts: dict[str, Any] = {"tasks": plan, "left_out": left_out, "subject": subject.facts, "tokenizer": tokenizer}
    hashes = {
        "plan": hashlib.sha256(repr(sorted(plan.items())).encode()).hexdigest(),
        "tokenizer": subject.tokenizer.fingerprint,
        **({"weights": subject.facts["weights_sha256"]} if "weights_sha256" in subject.facts else {}),
    }
    if world.is_main:
        run = RunFolder.create(out, "eval", config.to_dict(), resume=resume, data_hashes=hashes)
        with run.noting_failure():
            _check_same(run, hashes)
        before = (run.manifest.get("evaluation") or {}).get("out_of_memory")
        run.update_manifest(evaluation=facts if before is None else {**facts, "out_of_memory": before})
    world.barrier()
    if not world.is_main:
        run = RunFolder.open(out)
    with run.noting_failure(writes=world.is_main):
        _answer_all(config, cells, subject, run, world, progress)
        world.barrier()
        if not world.is_main:
            return {}
        order = {sample_id: place for place, sample_id in enumerate(_all_ids(config, cells))}
        records = join_samples(run, order)
        missing = len(order) - len(records)
        if missing:
            raise RunFailure(
                expected=f"{len(order)} answers",
                got=f"{len(records)}",
                where=str(out / "samples.jsonl"),
                fix="give the same command with --resume",
            )
        summary = summarize(config.to_dict(), records, {task.name: task.floor for task in tasks}, left_out)
        run.write_json("summary.json", summary)
    run.finish()
    return dict(run.read_json("summary.json"))


def _check_names(tasks: Sequence[Task]) -> None:
    """Refuse two tasks of one name: their samples would have the same ids."""
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            expected="tasks of different names, so that every sample has an id of its own",
            got=f"{', '.join(twice)} more than once",
            where="tasks",
            fix="give each task once",
        )


_ORIGINS = {
    "plan": ("the tasks that this run began with", "tasks of the same names with other parameters or sources"),
    "tokenizer": ("the tokenizer that this run began with", "another one"),
    "weights": ("the model that this run began with", "other weights of the same name"),
}


def _check_same(run: RunFolder, hashes: dict[str, str]) -> None:
    """Refuse to go on with a run whose tasks, tokenizer or weights have changed under their names."""
    for name, (expected, got) in _ORIGINS.items():
        if run.manifest["data_hashes"].get(name) != hashes.get(name):
            raise InputError(
                expected=expected, got=got, where=str(run.path), fix="choose another --out, or restore what was there"
            )


Cell = tuple[Task, int]
"""A task at one length."""


def lay_out(
    config: EvalConfig, tasks: Sequence[Task], subject: Subject
) -> tuple[list[Cell], list[dict[str, str | int]]]:
    """The cells of the table, and those that a group names and that cannot be: its task needs more tokens.

    Raises:
        InputError: a length exceeds what the engine takes; a task that was named by itself needs more; nothing is left.
            Nothing is ever cut to fit.
    """
    limit = config.context_length if config.context_length is not None else subject.engine.context_limit
    beyond = [length for length in config.lengths if limit is not None and length > limit]
    if beyond:
        raise InputError(
            expected=f"lengths of at most {limit:,} tokens, the context of {config.model}",
            got=", ".join(f"{length:,}" for length in beyond),
            where="lengths",
            fix="leave these out, or give --context-length if the model takes more than it says",
        )
    grouped = _only_in_groups(config)
    cells: list[Cell] = []
    left_out: list[dict[str, str | int]] = []
    for task in tasks:
        least = task.min_length(subject.tokenizer)
        short = sorted(length for length in config.lengths if length < least)
        if short and task.name not in grouped:
            raise _too_short(task.name, least, short, subject)
        cells += [(task, length) for length in sorted(config.lengths) if length >= least]
        left_out += [{"task": task.name, "length": length, "least": least} for length in short]
    if not cells:
        easiest = min(left_out, key=lambda each: each["least"])
        raise _too_short(str(easiest["task"]), int(easiest["least"]), sorted(config.lengths), subject)
    return cells, left_out


def _only_in_groups(config: EvalConfig) -> set[str]:
    """Full names of tasks that the config names by a group alone."""
    from lengthwise.tasks.registry import FAMILIES, GROUPS, expand

    named = {full for name in config.tasks if name.partition(":")[0] in FAMILIES for full in expand(name)}
    return {full for name in config.tasks if name in GROUPS for full in expand(name)} - named


def _too_short(name: str, least: int, short: Sequence[int], subject: Subject) -> InputError:
    return InputError(
        expected=f"lengths of at least {least:,} tokens for {name} with the tokenizer {subject.tokenizer.name}",
        got=", ".join(f"{length:,}" for length in short),
        where="lengths",
        fix="leave these out, or leave the task out",
    )


def _all_ids(config: EvalConfig, cells: Sequence[Cell]) -> list[str]:
    """Ids of all samples in the order of the finished file: by task, length and number."""
    return [sample_id(task.name, length, index) for task, length in cells for index in range(config.num_samples)]


def blocks(config: EvalConfig, cells: Sequence[Cell]) -> list[tuple[Task, int, range]]:
    """The work in the order in which it is done: short lengths first, so that a table fills from its left."""
    return [
        (task, length, range(first, min(first + BLOCK, config.num_samples)))
        for task, length in sorted(cells, key=lambda cell: cell[1])
        for first in range(0, config.num_samples, BLOCK)
    ]


def _answer_all(
    config: EvalConfig, cells: Sequence[Cell], subject: Subject, run: RunFolder, world: World, progress: bool
) -> None:
    """Answer what the run does not hold yet, this process's share."""
    done = {record["id"] for record in read_samples(run)}
    mine = blocks(config, cells)[world.rank :: world.size]
    name = "samples.jsonl" if world.size == 1 else part_name(world.rank)
    earlier = (run.manifest.get("evaluation") or {}).get("out_of_memory") or {}
    total = sum(length * len(indices) for _, length, indices in mine)
    with token_bar("evaluating", total, shown=progress and world.is_main) as bar:
        for task, length, indices in mine:
            ids = [sample_id(task.name, length, index) for index in indices]
            if done.issuperset(ids):
                bar(length * len(indices), f"{task.name} at {length:,}")
                continue
            bar(0, f"{task.name} at {length:,}")
            samples = task.samples(list(indices), length, subject.tokenizer, config.seed)
            assert [sample.id for sample in samples] == ids, f"{task.name}: ids that are not those of its samples"
            requests = [_request(sample, subject) for sample in samples]
            for answer in subject.engine.run(requests):
                sample = samples[answer.index]
                if sample.id not in done:
                    run.append_sample(_record(task, sample, answer, subject, config.scorer), name)
                bar(length, f"{task.name} at {length:,}")
            if world.is_main:
                _record_memory(run, subject.engine.facts(), earlier)


def _record_memory(run: RunFolder, engine: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Say in the manifest that memory ran out, how often the batch was halved, and the rows that were left of it.

    Of the first process, where there are several; the others have only their warning.

    Args:
        run: whose manifest.
        engine: what the engine says of itself now.
        earlier: what the manifest said when this process began: a run may be resumed.
    """
    if not engine.get("halvings"):
        return
    size = min(engine["batch_size"], earlier.get("batch_size", engine["batch_size"]))
    now = {"halvings": engine["halvings"] + earlier.get("halvings", 0), "batch_size": size}
    evaluation = run.manifest["evaluation"]
    if evaluation.get("out_of_memory") != now:
        run.update_manifest(evaluation={**evaluation, "out_of_memory": now})


def _request(sample: Sample, subject: Subject) -> Request:
    prompt = subject.tokenizer.encode(sample.prompt)
    assert len(prompt) == sample.num_tokens, f"{sample.id}: {len(prompt)} tokens where the task counted other"
    continuation = None if sample.continuation is None else subject.tokenizer.encode(sample.continuation)
    return Request(prompt, sample.max_new_tokens, continuation, sample.prompt, sample.continuation)


def _record(task: Task, sample: Sample, answer: Answer, subject: Subject, scorer: str | None) -> dict[str, Any]:
    """A line of samples.jsonl. Holds nothing that changes when the sample is answered again."""
    # A model may choose a row of its vocabulary that pads it and that no token belongs to. It spells nothing.
    spelled = answer.tokens[answer.tokens < subject.tokenizer.vocab_size]
    text = answer.text if answer.text is not None else subject.tokenizer.decode(spelled)
    head, tail = sample.prompt[:SHOWN_CHARACTERS], sample.prompt[SHOWN_CHARACTERS:][-SHOWN_CHARACTERS:]
    record: dict[str, Any] = {
        "id": sample.id,
        "task": sample.task,
        "length": sample.length,
        "index": sample.index,
        "num_tokens": sample.num_tokens,
        "max_new_tokens": sample.max_new_tokens,
        "prompt_sha256": hashlib.sha256(sample.prompt.encode()).hexdigest(),
        "prompt_head": head,
        "prompt_tail": tail,
        "answers": list(sample.answers),
        "meta": dict(sample.meta),
        "continuation": sample.continuation is not None,
        "num_prompt_tokens_seen": answer.num_prompt_tokens,
        "output": None if answer.error is not None else text,
        "output_tokens": answer.tokens.tolist(),
        "finish": answer.finish,
        "error": answer.error,
    }
    if answer.logprobs is not None:
        record["logprob"] = float(np.sum(answer.logprobs))
    return record | score_record(task, sample, record["output"], scorer)


def join_samples(run: RunFolder, order: dict[str, int]) -> list[dict[str, Any]]:
    """Put all answers into `samples.jsonl` in order, and remove the parts."""
    records = sorted((r for r in read_samples(run) if r["id"] in order), key=lambda record: order[record["id"]])
    run.replace_samples(records)
    for path in run.path.glob(PARTS):
        path.unlink()
    return records
