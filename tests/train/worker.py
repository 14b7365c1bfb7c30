"""A training run in a process of its own, for tests that kill it: python -m tests.train.worker JOB (JSON).

JOB: config, store, out, and how to die: "" (not at all), "step:N" (before optimizer step N) or "save:N" (when the
checkpoint of step N is written but has not got its name yet). It dies by SIGKILL, which no handler can soften.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from lengthwise.data.store import TokenStore
from lengthwise.train import TrainConfig, train


def die_at(where: str) -> None:
    """Arrange the SIGKILL."""
    from lengthwise.train import loop, snapshots

    kind, _, number = where.partition(":")
    if kind == "step":
        step = loop.train_step

        def dying_step(*arguments: Any, **options: Any) -> Any:
            if arguments[5] == int(number):
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments, **options)

        loop.train_step = dying_step
    elif kind == "save":
        flush = snapshots._flush

        def dying_flush(folder: Path) -> None:
            flush(folder)
            if f"step-{int(number):08d}" in folder.name:
                os.kill(os.getpid(), signal.SIGKILL)

        snapshots._flush = dying_flush


def main() -> None:
    """Run the job."""
    job = json.loads(sys.argv[1])
    die_at(job["die"])
    store = TokenStore.open(job["store"])
    train(TrainConfig.from_dict(job["config"]), job["out"], store=store, progress=False)


if __name__ == "__main__":
    main()
