"""What the benchmarks share: interleaved timing, peak memory of a process, the machine, results on disk.

On a machine that is busy with other work, set BENCH_CLOCK=processor: one thread, its processor time in place of wall
time, and results in files of their own.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PROCESSOR_TIME = os.environ.get("BENCH_CLOCK") == "processor"
THREADS = 1 if PROCESSOR_TIME else 2
clock = time.process_time if PROCESSOR_TIME else time.perf_counter


def interleave(sides: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every call, the sides taking turns, so that a slow moment of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(warmup + rounds):
        for name, call in sides.items():
            begin = clock()
            call()
            if index >= warmup:
                seconds[name].append(clock() - begin)
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    """Least, median and largest."""
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}


def peak_mb() -> float:
    """Highest resident memory of this process in MB. (`ru_maxrss` would begin with that of its parent.)"""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def child(module: str, *arguments: object) -> dict[str, Any]:
    """Run a module of this folder in a process of its own; the JSON on its last line."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def machine() -> dict[str, Any]:
    """Processor, threads and versions: what a figure must carry."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    import torch

    from lengthwise.native import resolve_backend

    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names) or None,
        "threads": THREADS,
        "clock": "processor time" if PROCESSOR_TIME else "wall time",
        "backend": resolve_backend("auto", torch.device("cpu")),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "numpy") if _installed(name)},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def write(name: str, result: dict[str, Any]) -> Path:
    """Keep a result with its setting."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'.processor-time' if PROCESSOR_TIME else ''}.json"
    path.write_text(json.dumps({"name": name, **result, "machine": machine()}, indent=1) + "\n")
    return path
