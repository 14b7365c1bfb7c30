"""The training loop: pre-training and post-training, interruptible at any moment.

What a run does is a function of its config and data alone. The order of the data and every random draw follow from
(seed, step); a checkpoint holds the rest: weights, moments, carried states, the reader's position, running sums. A run
that was killed and resumed therefore ends with the same bits as one that was not, on the same machine with the same
number of threads (sums are split over threads, and floating-point addition is not associative).
"""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lengthwise.checkpoints import Checkpoint, replace_checkpoint
from lengthwise.data.store import TokenStore
from lengthwise.devices import choose_device
from lengthwise.distributed import World, world_from_environment
from lengthwise.errors import InputError
from lengthwise.interventions.base import Intervention
from lengthwise.interventions.build import build_intervention
from lengthwise.runs import RunFolder
from lengthwise.train.config import TrainConfig
from lengthwise.train.optimizer import build_optimizer
from lengthwise.train.prepare import (
    build_reader,
    build_task_reader,
    checkpoint_tokenizer,
    starting_point,
    training_store,
)
from lengthwise.train.progress import ProgressLine
from lengthwise.train.snapshots import (
    Progress,
    list_snapshots,
    read_snapshot,
    restore_optimizer,
    snapshot_path,
    write_snapshot,
)
from lengthwise.train.step import ResumableReader, train_step


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run left its results."""

    checkpoint_path: Path
    """Model folder, usable wherever a model is asked for."""
    run: RunFolder
    """Manifest and metrics."""


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    store: TokenStore | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train a model as `config` says and leave a run folder of kind "train" at `out`.

    The folder holds manifest.json, metrics.jsonl, checkpoints/ (everything needed to go on; the newest two are kept)
    and, when the run is complete, checkpoint/ (the model). Under torchrun every process calls this with the same
    arguments; rank 0 writes what all share.

    Args:
        config: the run. A folder of another config is refused.
        out: run folder; new or empty, or holding this run when `resume` is set.
        resume: go on from the newest checkpoint. A complete run is returned as it is.
        store: training tokens; None prepares `config.data`. Not for a run on tasks.
        progress: show a progress line on stderr.

    Raises:
        InputError: what the user gave does not fit: model, tokenizer, corpus, folder.
        RunFailure: loss or gradient not finite, or no room to write. The last good checkpoint stays.
        KeyboardInterrupt: after Ctrl-C, once the step in hand is finished and saved; the message says how to resume.
    """
    out = Path(out)
    if resume and (finished := _finished(config, out)) is not None:
        return finished
    device = choose_device(config.device)
    with world_from_environment(device) as world:
        checkpoint = starting_point(config)
        tokenizer = checkpoint_tokenizer(checkpoint)
        context_length = config.context_length or checkpoint.context_length
        assert context_length is not None, "starting_point settles the context length"
        reader: ResumableReader
        if config.tasks:
            assert store is None, "a run on tasks reads no store"
            rows = build_task_reader(config, tokenizer, context_length, world)
            reader, data_hash = rows, rows.fingerprint
        else:
            if store is None:
                store = training_store(config, tokenizer, world, progress=progress and world.is_main)
            else:
                store.check_tokenizer(tokenizer)
            reader, data_hash = build_reader(config, store, context_length, world), store.fingerprint
        if world.is_main:
            # A backend that cannot run is refused here, before there is a folder.
            backend = checkpoint.model.backend_on(device)
            facts = {"parameters": checkpoint.model.num_parameters(), "backend": backend}
            run = _open_run(config, out, data_hash, facts, resume=resume, world=world, device=device)
            if store is not None:
                run.update_manifest(num_undecodable_files=store.num_undecodable_files)
        world.barrier()
        if not world.is_main:
            run = RunFolder.open(out)
        loop = _Loop(config, run, checkpoint, reader, context_length, world, device)
        loop.run(show=progress and world.is_main)
        return TrainResult(out / "checkpoint", run)


def _finished(config: TrainConfig, out: Path) -> TrainResult | None:
    """The result of this very run where it is complete already, None otherwise."""
    model = out / "checkpoint"
    if not (out / "manifest.json").exists() or not (model / "config.json").exists():
        return None
    run = RunFolder.open(out)
    same = run.manifest["kind"] == "train" and run.manifest["config"] == config.to_dict()
    return TrainResult(model, run) if same and run.manifest["status"] == "complete" else None


def _open_run(
    config: TrainConfig,
    out: Path,
    data_hash: str,
    facts: dict[str, Any],
    *,
    resume: bool,
    world: World,
    device: torch.device,
) -> RunFolder:
    hashes = {"train": data_hash}
    run = RunFolder.create(out, "train", config.to_dict(), resume=resume, data_hashes=hashes)
    if run.manifest.get("data_hashes") != hashes:
        rows = f"other rows from the same {'tasks' if config.tasks else 'corpus'}"
        raise InputError(
            expected="the training data that this run began with",
            got=f"{rows}, {config.source}, which {'have' if config.tasks else 'has'} changed",
            where=str(run.path),
            fix="choose another --out, or restore the data",
        )
    setting = {"threads": torch.get_num_threads(), "world_size": world.size, "device": device.type}
    before = run.manifest.get("setting")
    if before is None:
        run.update_manifest(setting=setting, **facts)
    elif before != setting:
        changed = ", ".join(f"{k} {before.get(k)} -> {v}" for k, v in setting.items() if before.get(k) != v)
        warnings.warn(
            f"resumed under another setting ({changed}): the run goes on, but its last bits may differ from those of "
            "an uninterrupted one",
            stacklevel=3,
        )
    return run


class _Loop:
    """The moving parts of one run on one rank."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        checkpoint: Checkpoint,
        reader: ResumableReader,
        context_length: int,
        world: World,
        device: torch.device,
    ) -> None:
        self.config, self.run_folder, self.checkpoint = config, run, checkpoint
        self.reader, self.world = reader, world
        self.tokens_per_step = config.batch_size * context_length
        self.model = checkpoint.model.to(device).train()
        self.optimizer = build_optimizer(self.model, config)
        self.intervention: Intervention = build_intervention(
            config.intervention, self.model, config.seed, slots=config.grad_accum, rank=world.rank
        )
        self.progress = Progress()
        self.saved_step = -1

    def run(self, *, show: bool) -> None:
        """From the newest checkpoint, or the beginning, to the last step."""
        with self.run_folder.noting_failure(writes=self.world.is_main):
            self._restore()
        label = f"train ({self.config.intervention.kind})"
        with (
            self.run_folder.noting_failure(writes=self.world.is_main),
            _interrupt_flag() as interrupted,
            ProgressLine(
                label, self.config.steps, start=self.progress.step, tokens_per_step=self.tokens_per_step, show=show
            ) as line,
        ):
            while self.progress.step < self.config.steps:
                loss = self._advance()
                line.update(self.progress.step, loss)
                if self.progress.step % self.config.checkpoint_every == 0:
                    self._save()
                if self.world.any(interrupted.is_set()):
                    self._save()
                    line.say(self._interrupted_message())
                    raise KeyboardInterrupt(self._interrupted_message())
            self._finish()

    def _advance(self) -> float:
        """One optimizer step and, where due, a line of metrics. Returns the step's loss."""
        begin = time.monotonic()
        before = self.progress
        result = train_step(
            self.model, self.optimizer, self.intervention, self.reader, self.config, before.step, world=self.world
        )
        done = replace(
            before,
            step=before.step + 1,
            loss_sum=before.loss_sum + result.loss,
            loss_count=before.loss_count + 1,
            seconds=before.seconds + time.monotonic() - begin,
        )
        if done.step % self.config.log_every == 0 or done.step == self.config.steps:
            record: dict[str, Any] = {
                "step": done.step,
                "tokens": done.step * self.tokens_per_step,
                "loss": done.loss_sum / done.loss_count,
                "grad_norm": result.grad_norm,
                "lr": result.lr,
                **{f"state_{name}": value for name, value in self.intervention.stats().items()},
                "seconds": round(done.seconds, 3),
            }
            if self.world.is_main:
                self.run_folder.append_metrics(record)
            done = replace(done, loss_sum=0.0, loss_count=0)
        self.progress = done
        return result.loss

    def _save(self) -> None:
        if self.saved_step == self.progress.step:
            return
        write_snapshot(
            self.run_folder.path,
            self.checkpoint,
            self.optimizer,
            self.intervention.state_dict(),
            self.reader.state_dict(),
            self.progress,
            self.world,
        )
        self.saved_step = self.progress.step

    def _restore(self) -> None:
        found = list_snapshots(self.run_folder.path)
        if found:
            snapshot = read_snapshot(found[-1], self.world)
            # Into the tensors the model already has: memory of a file's map is aligned differently.
            self.model.load_state_dict(snapshot.checkpoint.model.state_dict())
            restore_optimizer(self.model, self.optimizer, snapshot.moments)
            self.intervention.load_state_dict(snapshot.carried)
            self.reader.load_state_dict(snapshot.reader_position)
            self.progress = snapshot.progress
            self.saved_step = snapshot.progress.step
        if self.world.is_main:
            last = self.progress.step
            self.run_folder.truncate_metrics(lambda record: _is_up_to(last, record))
        self.world.barrier()

    def _finish(self) -> None:
        self._save()
        if self.world.is_main:
            replace_checkpoint(self.run_folder.path / "checkpoint", self.checkpoint)
            self.run_folder.finish("complete")
        self.world.barrier()

    def _interrupted_message(self) -> str:
        return (
            f"interrupted after step {self.progress.step} of {self.config.steps}; saved in "
            f"{snapshot_path(self.run_folder.path, self.progress.step)}; go on with the same command and --resume"
        )


def _is_up_to(last: int, record: dict[str, Any]) -> bool:
    """Whether a line of metrics is of step `last` or before; one that tells no step was not written by a run."""
    step = record.get("step")
    return isinstance(step, int) and step <= last


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second interrupts at once. Only the main thread can catch signals."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
