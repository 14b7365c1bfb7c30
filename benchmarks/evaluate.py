"""Evaluating long prompts: our engine against transformers' generate, prompts that begin alike, and a whole small run.

All with the shipped model and its bytes. The weights of the peer are the same, written in its format and read by it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._common import THREADS, child, interleave, spread
from benchmarks.ruler import benchmark_files

MODEL = "mamba2-bytes-t64"
LENGTH, PROMPTS, NEW_TOKENS, BATCH = 4096, 64, 16, 8
PEER_PROMPTS = 8
"""Prompts of a round of the peer: one batch. Every batch of it does the same work, so its time is for an eighth."""
ENGINE_BAR = 2.0
GRID, GRID_BAR = (0, 20, 40, 50, 60, 80, 100), 1.4
GRID_LENGTH = 16_384
SINGLES, SINGLES_BAR = 50, 1.5
START_BAR_SECONDS = 60.0
ROUNDS = 2


def _openmp() -> dict[str, str]:
    """How idle threads wait: on a busy machine, threads that spin make either side ten times slower."""
    return {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "default")}


def _model() -> Any:
    from lengthwise.engines import open_model

    return open_model(MODEL).model.eval()


def _peer(folder: str) -> Any:
    """The same weights in transformers."""
    import transformers

    from lengthwise.checkpoints import load_checkpoint, save_checkpoint

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    save_checkpoint(folder, load_checkpoint(MODEL), format="transformers/mamba2")
    model: Any = transformers.Mamba2ForCausalLM.from_pretrained(folder)
    return model.eval()


def _requests(name: str, count: int, length: int, new_tokens: int | None) -> list[Any]:
    """Prompts of a task, the first `count` samples, with the task's own generation budget for None."""
    from lengthwise.data.tokenizers import ByteTokenizer
    from lengthwise.engines.base import Request
    from lengthwise.tasks.registry import make_tasks

    tokenizer = ByteTokenizer()
    samples = [
        sample for task in make_tasks([name]) for sample in task.samples(list(range(count)), length, tokenizer, 0)
    ]
    return [
        Request(tokenizer.encode(s.prompt), s.max_new_tokens if new_tokens is None else new_tokens) for s in samples
    ]


def _run(model: Any, requests: list[Any], *, reuse: bool = True) -> list[list[int]]:
    from lengthwise.engines.native import NativeEngine

    engine = NativeEngine(model, batch_size=BATCH, reuse_prefixes=reuse)
    answers = {answer.index: answer.tokens.tolist() for answer in engine.run(requests)}
    return [answers[index] for index in range(len(requests))]


def run_engine() -> dict[str, Any]:
    """64 needle prompts of 4K tokens, 16 new tokens each, in batches of 8."""
    import torch

    torch.set_num_threads(THREADS)
    model = _model()
    requests = _requests("niah_single_2", PROMPTS, LENGTH, NEW_TOKENS)
    # The peer gets prompts of one length: it pads others, and padding is not its strong side.
    shortest = min(len(request.prompt) for request in requests)
    some = torch.tensor([request.prompt[-shortest:].tolist() for request in requests[:PEER_PROMPTS]])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        peer = _peer(folder)

        def ask_peer() -> None:
            made = peer.generate(some, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=None)
            found["peer"] = made[:, shortest:].tolist()

        def ask(reuse: bool) -> Callable[[], None]:
            def call() -> None:
                found[f"reuse {reuse}"] = _run(model, requests, reuse=reuse)

            return call

        sides = {"ours": ask(True), "without reuse": ask(False), "peer": ask_peer}
        seconds = interleave(sides, rounds=ROUNDS, warmup=0)
        from lengthwise.engines.base import Request

        same = _run(model, [Request(row.numpy(), NEW_TOKENS) for row in some])
    agree = sum(one == other for one, other in zip(same, found["peer"], strict=True))
    per_prompt = {
        "ours": min(seconds["ours"]) / PROMPTS,
        "without reuse": min(seconds["without reuse"]) / PROMPTS,
        "peer": min(seconds["peer"]) / PEER_PROMPTS,
    }
    ratio = per_prompt["peer"] / per_prompt["ours"]
    plain = per_prompt["peer"] / per_prompt["without reuse"]
    return {
        "ratio": ratio,
        "ratio_without_reuse": plain,
        "bar": ENGINE_BAR,
        "holds": ratio >= ENGINE_BAR and agree == PEER_PROMPTS,
        "line": f"{ratio:.1f}x the prompts/s of transformers' generate ({plain:.1f}x without reuse of prefixes); "
        f"{agree} of {PEER_PROMPTS} answers equal on the same prompts; bar {ENGINE_BAR:.0f}x",
        "answers_equal": agree,
        "seconds_per_prompt": per_prompt,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "setting": {
            "model": MODEL,
            "prompts": f"niah_single_2, {LENGTH} tokens and {NEW_TOKENS} new ones, batch {BATCH}",
            "counted": f"ours answers {PROMPTS} prompts a round; the peer one batch of {PEER_PROMPTS} of them, cut to "
            f"one length of {shortest}, and its seconds are divided by {PEER_PROMPTS}",
            "dtype": "float32",
            "statistic": f"least of {ROUNDS} interleaved rounds, seconds per prompt",
            **_openmp(),
        },
    }


def run_prefixes() -> dict[str, Any]:
    """Needles at seven depths of one haystack, and fifty samples of niah_single_2, with and without reuse."""
    import torch

    torch.set_num_threads(THREADS)
    model = _model()
    depths = "+".join(map(str, GRID))
    cases = {
        "grid": (_requests(f"niah_grid:depth={depths}", 1, GRID_LENGTH, NEW_TOKENS), GRID_BAR),
        "singles": (_requests("niah_single_2", SINGLES, GRID_LENGTH, None), SINGLES_BAR),
    }
    results: dict[str, Any] = {}
    for name, (requests, bar) in cases.items():
        answers: dict[bool, list[list[int]]] = {}

        def ask(reuse: bool, requests: list[Any] = requests, answers: dict[bool, Any] = answers) -> Callable[[], None]:
            def call() -> None:
                answers[reuse] = _run(model, requests, reuse=reuse)

            return call

        seconds = interleave({"reuse": ask(True), "plain": ask(False)}, rounds=ROUNDS, warmup=0)
        ratio = min(seconds["plain"]) / min(seconds["reuse"])
        results[name] = {
            "ratio": ratio,
            "bar": bar,
            "same_answers": answers[True] == answers[False],
            "prompts": len(requests),
            "seconds": {side: spread(values) for side, values in seconds.items()},
        }
    grid, singles = results["grid"], results["singles"]
    return {
        **results,
        "holds": all(each["ratio"] >= each["bar"] and each["same_answers"] for each in results.values()),
        "line": f"{grid['ratio']:.2f}x on {len(GRID)} depths of one haystack (bar {GRID_BAR}), "
        f"{singles['ratio']:.2f}x on {SINGLES} samples of niah_single_2 (bar {SINGLES_BAR}); answers "
        + ("the same" if grid["same_answers"] and singles["same_answers"] else "DIFFER"),
        "setting": {
            "model": MODEL,
            "length": GRID_LENGTH,
            "new_tokens": f"grid {NEW_TOKENS}, singles the budget of the task (128)",
            "batch": BATCH,
            "statistic": f"least of {ROUNDS} interleaved rounds",
            **_openmp(),
        },
    }


def run_start() -> dict[str, Any]:
    """`lengthwise eval --tasks ruler --limit 2 --lengths 1k`, from the start of the process to the table."""
    with tempfile.TemporaryDirectory() as folder:
        if missing := benchmark_files(Path(folder) / "data"):
            return {"skipped": missing}
        found = child("evaluate", "start", folder)
    return {
        **found,
        "bar": START_BAR_SECONDS,
        "holds": found["seconds"] <= START_BAR_SECONDS,
        "line": f"{found['seconds']:.1f} s to the table of {found['tasks']} tasks (at most {START_BAR_SECONDS:.0f}); "
        f"{len(found['left_out'])} need more than 1,024 bytes and are left out",
        "setting": {
            "model": MODEL,
            "command": "lengthwise eval --tasks ruler --limit 2 --lengths 1k",
            "caches": "empty",
            **_openmp(),
        },
    }


def _start(folder: Path) -> dict[str, Any]:
    import subprocess

    words = ["eval", MODEL, "--tasks", "ruler", "--limit", "2", "--lengths", "1k", "--data-dir", str(folder / "data")]
    command = [sys.executable, "-m", "lengthwise.cli.main", *words, "--out", str(folder / "run"), "--device", "cpu"]
    begin = time.perf_counter()
    environment = {**os.environ, "LENGTHWISE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    return {"seconds": seconds, "tasks": len(summary["tasks"]), "left_out": summary["left_out"]}


if __name__ == "__main__":
    print(json.dumps(_start(Path(sys.argv[2]))))
