"""Making RULER's samples: from nothing, from the cache, and one of 128K tokens of each task.

Needs a tokenizer (GPT-NeoX's: 20B_tokenizer.json, or any other that LENGTHWISE_BENCH_TOKENIZER names) and the files of
SQuAD and HotpotQA. They are looked for in ../shared/data beside the repository, or where LENGTHWISE_RULER_FILES says;
the claims are skipped where they are missing.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks._common import THREADS, child

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LENGTHS = (1024, 2048, 4096, 8192, 16384)
SAMPLES = 500
LONG = 131_072
COLD_BAR_SECONDS, CACHED_BAR_SECONDS, LONG_BAR_SECONDS = 90.0, 3.0, 1.0
MEMORY_BAR_GB = 1.0
CHECKED_SHARE = 0.02
SEED = 0
_BOTH = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)

_FILES = {
    "squad/dev-v2.0.json": ("squad_dev_v2_partial.json", "dev-v2.0.json"),
    "hotpotqa/hotpot_dev_distractor_v1.json": (
        "hotpot_dev_distractor_first100.json",
        "hotpot_dev_distractor_v1.json",
    ),
}


def _tokenizer_file() -> Path:
    named = os.environ.get("LENGTHWISE_BENCH_TOKENIZER")
    return Path(named) if named else _SHARED / "tokenizers" / "20B_tokenizer.json.xz"


def benchmark_files(folder: Path) -> str | None:
    """Lay the benchmark files out as a data folder; says what is missing."""
    if not _tokenizer_file().is_file():
        return f"no tokenizer at {_tokenizer_file()}; LENGTHWISE_BENCH_TOKENIZER names another"
    files = Path(os.environ.get("LENGTHWISE_RULER_FILES", _SHARED / "ruler"))
    for place, names in _FILES.items():
        found = [files / f"{name}{suffix}" for name in names for suffix in ("", ".gz", ".xz")]
        found = [path for path in found if path.is_file()]
        if not found:
            return f"none of {', '.join(names)} in {files}; LENGTHWISE_RULER_FILES names another folder"
        suffix = found[0].suffix if found[0].suffix != ".json" else ""
        target = folder / f"{place}{suffix}"
        target.parent.mkdir(parents=True)
        target.symlink_to(found[0])
    return None


def _setting() -> dict[str, Any]:
    return {
        "tasks": "ruler, own wording",
        "lengths": LENGTHS,
        "samples": SAMPLES,
        "tokenizer": _tokenizer_file().name,
        "processes": THREADS,
    }


def run_cold() -> dict[str, Any]:
    """Everything from nothing: sources read, samples made and written, every prompt looked at, two in a hundred
    counted by encoding them."""
    with tempfile.TemporaryDirectory() as folder:
        if missing := benchmark_files(Path(folder) / "data"):
            return {"skipped": missing}
        found = child("ruler", "make", folder, 1)
    seconds = found["seconds"] + found["check_seconds"]
    held = seconds <= COLD_BAR_SECONDS and found["peak_gb"] <= MEMORY_BAR_GB and found["wrong"] == 0
    return {
        **found,
        "holds": held,
        "line": f"{found['samples']:,} samples of {found['tokens']:,} tokens in {found['seconds']:.1f} s "
        f"({found['processor_seconds']:.0f} s of processor time), {found['checked']} checked in "
        f"{found['check_seconds']:.1f} s (at most {COLD_BAR_SECONDS:.0f} s together), {found['wrong']} wrong; "
        f"{found['peak_gb']:.2f} GB (at most {MEMORY_BAR_GB:.0f})",
        "setting": _setting(),
    }


def run_cached() -> dict[str, Any]:
    """The same samples in a new process, found in the cache."""
    with tempfile.TemporaryDirectory() as folder:
        if missing := benchmark_files(Path(folder) / "data"):
            return {"skipped": missing}
        child("ruler", "make", folder, 0)
        cached = Path(folder) / "cache" / "tasks"
        megabytes = sum(path.stat().st_size for path in cached.rglob("*") if path.is_file()) / 1e6
        rounds = [child("ruler", "make", folder, 0)["seconds"] for _ in range(3)]
    return {
        "seconds": min(rounds),
        "rounds": rounds,
        "cache_mb": megabytes,
        "holds": min(rounds) <= CACHED_BAR_SECONDS,
        "line": f"{min(rounds):.2f} s, best of {len(rounds)} (at most {CACHED_BAR_SECONDS:.0f}); "
        f"{megabytes:.0f} MB on disk",
        "setting": _setting(),
    }


def run_128k() -> dict[str, Any]:
    """One sample of every task, its sources read and counted before."""
    with tempfile.TemporaryDirectory() as folder:
        if missing := benchmark_files(Path(folder) / "data"):
            return {"skipped": missing}
        seconds = child("ruler", "long", folder)
    slowest = max(seconds, key=lambda name: seconds[name]["sample"])
    most = seconds[slowest]["sample"]
    return {
        "seconds": seconds,
        "holds": most <= LONG_BAR_SECONDS,
        "line": f"at most {most:.2f} s ({slowest}; at most {LONG_BAR_SECONDS:.0f})",
        "setting": {"length": LONG, "tokenizer": _tokenizer_file().name},
    }


class _Memory:
    """Peak of the memory of this process and its children, shared pages counted once."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            self.peak = max(self.peak, sum(map(_proportional_kb, _family(os.getpid()))))

    def stop(self) -> float:
        """Gigabytes."""
        self._stop.set()
        self._thread.join()
        return self.peak / 1024**2


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child_pid in children for one in _family(int(child_pid)))]


def _proportional_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return int(next((line.split()[1] for line in lines if line.startswith("Pss:")), "0"))


def _make(folder: Path, check: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    memory = _Memory() if check else None
    from lengthwise.data.tokenizers import load_tokenizer
    from lengthwise.tasks.library import TaskOptions
    from lengthwise.tasks.registry import make_tasks
    from lengthwise.tasks.store import prepare

    os.environ["LENGTHWISE_CACHE"] = str(folder / "cache")
    tokenizer = load_tokenizer(_tokenizer_file())
    tasks = make_tasks(["ruler"], TaskOptions(data_dir=folder / "data"))
    sets = prepare(tasks, LENGTHS, SAMPLES, tokenizer, SEED, workers=THREADS)
    chosen = random.Random(SEED)
    kept: list[tuple[str, int]] = []
    samples = tokens = characters = 0
    for found in sets.values():
        for sample in found:
            samples += 1
            tokens += sample.num_tokens
            characters += len(sample.prompt)
            if check and chosen.random() < CHECKED_SHARE:
                kept.append((sample.prompt, sample.num_tokens))
    seconds = time.perf_counter() - begin
    processor = sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, _BOTH))
    wrong = 0
    begin = time.perf_counter()
    for start in range(0, len(kept), 64):
        some = kept[start : start + 64]
        counted = tokenizer.encode_batch([prompt for prompt, _ in some])
        wrong += sum(len(ids) != number for ids, (_, number) in zip(counted, some, strict=True))
    return {
        "seconds": seconds,
        "samples": samples,
        "tokens": tokens,
        "characters": characters,
        "checked": len(kept),
        "check_seconds": time.perf_counter() - begin,
        "wrong": wrong,
        "peak_gb": memory.stop() if memory is not None else 0.0,
        "processor_seconds": processor,
    }


def _long(folder: Path) -> dict[str, Any]:
    from lengthwise.data.tokenizers import load_tokenizer
    from lengthwise.tasks.library import TaskOptions
    from lengthwise.tasks.registry import make_tasks

    os.environ["LENGTHWISE_CACHE"] = str(folder / "cache")
    tokenizer = load_tokenizer(_tokenizer_file())
    seconds = {}
    for task in make_tasks(["ruler"], TaskOptions(data_dir=folder / "data")):
        begin = time.perf_counter()
        task.samples([1], task.min_length(tokenizer), tokenizer, SEED)
        ready = time.perf_counter()
        (sample,) = task.samples([0], LONG, tokenizer, SEED)
        seconds[task.name] = {
            "sources": ready - begin,
            "sample": time.perf_counter() - ready,
            "tokens": sample.num_tokens + sample.max_new_tokens,
        }
    return seconds


if __name__ == "__main__":
    action, where, *rest = sys.argv[1:]
    print(json.dumps(_long(Path(where)) if action == "long" else _make(Path(where), rest == ["1"])))
