"""`lengthwise demo` from start to page: wall time and peak memory of the whole process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MINUTES_BAR, MEMORY_BAR_GB = 5.0, 2.0


def run() -> dict[str, Any]:
    """One run in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lengthwise.cli.main", "demo", "--out", str(Path(folder) / "demo"), "--json"]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        gigabytes = 0.0
        while process.poll() is None:
            gigabytes = max(gigabytes, _peak_gb(process.pid))
            time.sleep(0.2)
        minutes = (time.perf_counter() - begin) / 60
        finished = process.returncode == 0 and (Path(folder) / "demo" / "report.html").exists()
    return {
        "minutes": minutes,
        "peak_gb": gigabytes,
        "holds": finished and minutes <= MINUTES_BAR and gigabytes <= MEMORY_BAR_GB,
        "line": f"{minutes:.1f} minutes (at most {MINUTES_BAR:.0f}), {gigabytes:.2f} GB (at most {MEMORY_BAR_GB:.0f})"
        + ("" if finished else ", but it did not finish"),
        "setting": {"command": "lengthwise demo"},
    }


def _peak_gb(pid: int) -> float:
    """High-water mark of a process; `ru_maxrss` would begin with that of the process that started it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    marks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(marks[0]) / 1024**2 if marks else 0.0
