"""A training run in a process of its own, for tests that kill it: python -m tests.train.worker JOB (JSON).

JOB: config, store, out, and die_in_save: null, or N to die by SIGKILL, which no handler can soften, when the checkpoint
of step N is written but has not got its name yet.
"""

import json
import os
import signal
import sys
from pathlib import Path

from lengthwise.data.store import TokenStore
from lengthwise.train import TrainConfig, train


def die_in_save(step: int) -> None:
    """Arrange the SIGKILL."""
    from lengthwise.train import snapshots

    flush = snapshots.flush_files

    def dying_flush(folder: Path) -> None:
        flush(folder)
        if f"step-{step:08d}" in folder.name:
            os.kill(os.getpid(), signal.SIGKILL)

    snapshots.flush_files = dying_flush


def main() -> None:
    """Run the job."""
    job = json.loads(sys.argv[1])
    if job["die_in_save"] is not None:
        die_in_save(job["die_in_save"])
    store = TokenStore.open(job["store"])
    train(TrainConfig.from_dict(job["config"]), job["out"], store=store, progress=False)


if __name__ == "__main__":
    main()
