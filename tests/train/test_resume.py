"""A run that was stopped, in whatever way, ends with the bits of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.runs import assert_same_bits, metrics_of
from tests.train.tiny import tiny_config, tiny_store

from lengthwise.data.readers import ShuffledWindows
from lengthwise.errors import InputError
from lengthwise.runs import RunFolder
from lengthwise.train import TrainConfig, train
from lengthwise.train.snapshots import list_snapshots

ROOT = Path(__file__).parents[2]


def start(config: TrainConfig, folder: Path, out: Path, *, die_in_save: int | None = None) -> subprocess.Popen[str]:
    tiny_store(folder / "store")
    job = {"config": config.to_dict(), "store": str(folder / "store"), "out": str(out), "die_in_save": die_in_save}
    command = [sys.executable, "-m", "tests.train.worker", json.dumps(job)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def test_kill_9_and_resume(tmp_path: Path) -> None:
    """One run is killed from outside at whatever it is doing, one while its checkpoint has all files but no name."""
    passing, lanes = tiny_config("state-passing", steps=40), tiny_config("tbtt", steps=14, grad_accum=2)
    outside = start(passing, tmp_path, tmp_path / "outside")
    in_save = start(lanes, tmp_path, tmp_path / "in-save", die_in_save=9)
    deadline = time.monotonic() + 120
    while not list_snapshots(tmp_path / "outside") and outside.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    outside.send_signal(signal.SIGKILL)
    for process in (outside, in_save):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, errors

    assert [path.name for path in list_snapshots(tmp_path / "in-save")] == ["step-00000003", "step-00000006"]
    assert (tmp_path / "in-save/checkpoints/.step-00000009.partial").is_dir()
    assert [record["step"] for record in metrics_of(tmp_path / "in-save")] == [2, 4, 6, 8]
    assert RunFolder.open(tmp_path / "in-save").manifest["status"] == "running"

    store = tiny_store(tmp_path / "store")
    for config, name in ((passing, "outside"), (lanes, "in-save")):
        whole = tmp_path / f"{name}-whole"
        train(config, whole, store=store, progress=False)
        train(config, tmp_path / name, store=store, resume=True, progress=False)
        assert_same_bits(tmp_path / name, whole)
        manifest = RunFolder.open(tmp_path / name).manifest
        assert manifest["status"] == "complete"
        assert len(manifest["resumed"]) == 1
    assert not list((tmp_path / "in-save/checkpoints").glob(".*"))


class PowerCut(Exception):
    """Stops a run from inside at a chosen batch."""


def cut_power(monkeypatch: pytest.MonkeyPatch, at_batch: int) -> None:
    read = ShuffledWindows.next_batch
    calls = []

    def next_batch(self: ShuffledWindows) -> Any:
        calls.append(1)
        if len(calls) == at_batch:
            raise PowerCut
        return read(self)

    monkeypatch.setattr(ShuffledWindows, "next_batch", next_batch)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "zero"},
        {"kind": "random-noise", "dtype": "bfloat16"},
        {"kind": "fitted-noise", "grad_accum": 2},
        {"kind": "state-passing", "dtype": "bfloat16", "grad_accum": 2},
    ],
    ids=lambda changes: changes["kind"],
)
def test_every_intervention_resumes_with_the_same_bits(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = tiny_config(**changes), tiny_store(tmp_path / "store")
    train(config, tmp_path / "whole", store=store, progress=False)
    with monkeypatch.context() as patch:
        cut_power(patch, at_batch=6)
        with pytest.raises(PowerCut):
            train(config, tmp_path / "cut", store=store, progress=False)
    train(config, tmp_path / "cut", store=store, resume=True, progress=False)
    assert_same_bits(tmp_path / "cut", tmp_path / "whole")


def test_a_run_stopped_before_its_first_checkpoint_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = tiny_config("state-passing"), tiny_store(tmp_path / "store")
    train(config, tmp_path / "whole", store=store, progress=False)
    with monkeypatch.context() as patch:
        cut_power(patch, at_batch=3)
        with pytest.raises(PowerCut):
            train(config, tmp_path / "cut", store=store, progress=False)
    assert [record["step"] for record in metrics_of(tmp_path / "cut")] == [2]
    train(config, tmp_path / "cut", store=store, resume=True, progress=False)
    assert_same_bits(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("at_batch", [3, 6], ids=["before the first checkpoint", "after it"])
def test_a_run_does_not_go_on_with_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_batch: int) -> None:
    config, store = tiny_config("state-passing"), tiny_store(tmp_path / "store")
    with monkeypatch.context() as patch:
        cut_power(patch, at_batch=at_batch)
        with pytest.raises(PowerCut):
            train(config, tmp_path / "cut", store=store, progress=False)
    other = tiny_store(tmp_path / "other", documents=23)
    with pytest.raises(InputError) as raised:
        train(config, tmp_path / "cut", store=other, resume=True, progress=False)
    error = raised.value
    assert error.expected == "the training data that this run began with"
    assert error.got == "other rows from the same corpus, python, which has changed"
    assert (error.where, error.fix) == (str(tmp_path / "cut"), "choose another --out, or restore the data")
    train(config, tmp_path / "cut", store=store, resume=True, progress=False)
    assert RunFolder.open(tmp_path / "cut").manifest["data_hashes"] == {"train": store.fingerprint}


def test_ctrl_c_saves_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, store = tiny_config("state-passing"), tiny_store(tmp_path / "store")
    train(config, tmp_path / "whole", store=store, progress=False)
    read = ShuffledWindows.next_batch

    def press(self: ShuffledWindows) -> Any:
        if self.state_dict()["index"] == 3 * config.batch_size:
            signal.raise_signal(signal.SIGINT)
        return read(self)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(ShuffledWindows, "next_batch", press)
        with pytest.raises(KeyboardInterrupt, match=r"interrupted after step 4 of 8; saved in .*step-00000004") as stop:
            train(config, tmp_path / "cut", store=store)
    assert "go on with the same command and --resume" in str(stop.value)
    assert str(stop.value) in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in list_snapshots(tmp_path / "cut")] == ["step-00000003", "step-00000004"]
    train(config, tmp_path / "cut", store=store, resume=True, progress=False)
    assert_same_bits(tmp_path / "cut", tmp_path / "whole")


def test_a_complete_run_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, store = tiny_config(), tiny_store(tmp_path / "store")
    first = train(config, tmp_path / "run", store=store, progress=False)
    manifest = (tmp_path / "run/manifest.json").read_bytes()
    cut_power(monkeypatch, at_batch=1)
    again = train(config, tmp_path / "run", store=store, resume=True, progress=False)
    assert again.checkpoint_path == first.checkpoint_path
    assert (tmp_path / "run/manifest.json").read_bytes() == manifest


def test_resuming_with_another_number_of_threads_warns(tmp_path: Path) -> None:
    config, store = tiny_config(), tiny_store(tmp_path / "store")
    result = train(config, tmp_path / "run", store=store, progress=False)
    setting = {**result.run.manifest["setting"], "threads": 64}
    result.run.update_manifest(setting=setting, status="running")
    with pytest.warns(UserWarning, match=r"another setting \(threads 64 -> \d+\): .* last bits may differ"):
        train(config, tmp_path / "run", store=store, resume=True, progress=False)


def test_a_damaged_checkpoint_is_named_with_the_way_back(tmp_path: Path) -> None:
    config, store = tiny_config(), tiny_store(tmp_path / "store")
    train(config, tmp_path / "run", store=store, progress=False).run.update_manifest(status="running")
    newest = list_snapshots(tmp_path / "run")[-1]
    file = newest / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"a whole training checkpoint.*resume from the one before") as failure:
        train(config, tmp_path / "run", store=store, resume=True, progress=False)
    assert failure.value.where == str(file)


def test_a_run_of_several_processes_is_not_resumed_by_one(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from tests.train.runs import tensors_of

    config, store = tiny_config(), tiny_store(tmp_path / "store")
    train(config, tmp_path / "run", store=store, progress=False).run.update_manifest(status="running")
    file = list_snapshots(tmp_path / "run")[-1] / "optimizer.safetensors"
    tensors, facts = tensors_of(file)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors, file, metadata={"facts": json.dumps({**facts, "world_size": 2})})
    with pytest.raises(InputError, match=r"2 processes, as when the run was started; got 1.*torchrun"):
        train(config, tmp_path / "run", store=store, resume=True, progress=False)
