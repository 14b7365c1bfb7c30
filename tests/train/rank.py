"""One process of a distributed run: python -m tests.train.rank JOB (JSON), with torchrun's environment.

JOB: config, store, out, meeting (a file for the second process group).
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tests.interventions.toy import random_state, zero_state

from lengthwise.data.store import TokenStore
from lengthwise.interventions import FittedNoise
from lengthwise.train import TrainConfig, train


def main() -> None:
    """Train, then let fitted noise see other states on each rank and write what it fitted."""
    job = json.loads(sys.argv[1])
    out, rank = Path(job["out"]), int(os.environ["RANK"])
    train(TrainConfig.from_dict(job["config"]), out, store=TokenStore.open(job["store"]), progress=False)
    assert not dist.is_initialized(), "a run leaves the process group that it joined"
    dist.init_process_group("gloo", init_method=f"file://{job['meeting']}", rank=rank, world_size=2)
    noise = FittedNoise(zero_state, seed=0, rank=rank)
    noise.observe(random_state(4, seed=rank))
    torch.save(noise.state_dict(), f"{job['meeting']}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
