"""`lengthwise demo` from start to page: wall time and peak memory of the whole process."""

from __future__ import annotations

import os
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
        _, status, usage = os.wait4(process.pid, 0)
        minutes = (time.perf_counter() - begin) / 60
        finished = os.waitstatus_to_exitcode(status) == 0 and (Path(folder) / "demo" / "report.html").exists()
    gigabytes = usage.ru_maxrss / 1024**2
    return {
        "minutes": minutes,
        "peak_gb": gigabytes,
        "holds": finished and minutes <= MINUTES_BAR and gigabytes <= MEMORY_BAR_GB,
        "line": f"{minutes:.1f} minutes (at most {MINUTES_BAR:.0f}), {gigabytes:.2f} GB (at most {MEMORY_BAR_GB:.0f})"
        + ("" if finished else ", but it did not finish"),
        "setting": {"command": "lengthwise demo", "processor_seconds": usage.ru_utime + usage.ru_stime},
    }
