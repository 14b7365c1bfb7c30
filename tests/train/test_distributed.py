"""Two processes on one machine train the model that one process trains."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.helpers import assert_close
from tests.interventions.toy import random_state, zero_state
from tests.train.runs import metrics_of
from tests.train.tiny import tiny_config, tiny_store

from lengthwise.checkpoints import load_checkpoint
from lengthwise.distributed import World
from lengthwise.errors import InputError
from lengthwise.interventions import FittedNoise, InterventionConfig
from lengthwise.runs import RunFolder
from lengthwise.state import State
from lengthwise.train import train
from lengthwise.train.prepare import build_reader
from lengthwise.train.snapshots import list_snapshots

ROOT = Path(__file__).parents[2]


def test_two_ranks_train_what_one_process_trains(tmp_path: Path) -> None:
    # Without zeroing coins, which ranks draw apart, State Passing is row to row, so the rows' split does not matter.
    passing = InterventionConfig(kind="state-passing", zero_prob=0.0)
    config, store = tiny_config(intervention=passing, steps=4), tiny_store(tmp_path / "store")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {
        "config": config.to_dict(),
        "store": str(tmp_path / "store"),
        "out": str(tmp_path / "two"),
        "meeting": str(tmp_path / "meeting"),
    }
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.rank", json.dumps(job)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    train(config, tmp_path / "one", store=store, progress=False)
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors

    one, two = (load_checkpoint(tmp_path / name / "checkpoint").model for name in ("one", "two"))
    for (name, a), b in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert_close(name, b[1].detach(), a.detach(), rel_rms=1e-4)
    for a, b in zip(metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["tokens"] == a["tokens"]
    assert RunFolder.open(tmp_path / "two").manifest["setting"]["world_size"] == 2
    saved = sorted(path.name for path in list_snapshots(tmp_path / "two")[-1].glob("rank-*"))
    assert saved == ["rank-0000.safetensors", "rank-0001.safetensors"]

    together = FittedNoise(zero_state, seed=0)
    together.observe(State.cat([random_state(4, seed=rank) for rank in range(2)]))
    for rank in range(2):
        fitted = torch.load(tmp_path / f"meeting-{rank}.pt", weights_only=True)
        for name, value in together.state_dict().items():
            torch.testing.assert_close(fitted[name], value, rtol=1e-5, atol=1e-7)


def test_a_batch_that_the_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "store")
    with pytest.raises(InputError, match=r"a batch_size that 3 processes x 1 micro-batches divide; got 8"):
        build_reader(tiny_config(), store, 16, World(rank=0, size=3))
