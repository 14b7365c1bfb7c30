"""Training checkpoints: whole folders that appear in one step, or not at all.

    checkpoints/step-00000200/
        config.json, model.safetensors    an ordinary model checkpoint, usable wherever one is asked for
        optimizer.safetensors             Adam's moments by parameter name; metadata: step, running sums, setting
        rank-0000.safetensors             what the intervention carries on that rank; metadata: the reader's position

A folder is written under another name, flushed to the disk and renamed, so a kill leaves either the old checkpoints or
the new one as well. The newest two are kept: the second is the way back where the newest turns out to be unreadable.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lengthwise.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lengthwise.checkpoints.weights import write_safetensors
from lengthwise.distributed import World
from lengthwise.errors import InputError, RunFailure
from lengthwise.runs import flush_files, flush_folder, write_failure

_NAME = re.compile(r"step-(\d{8})")
_KEEP = 2


@dataclass(frozen=True)
class Progress:
    """Numbers of a run that are neither weights nor moments."""

    step: int = 0
    """Optimizer steps finished."""
    loss_sum: float = 0.0
    """Sum of the losses since the last line of metrics.jsonl, nats per token."""
    loss_count: int = 0
    """Number of losses in `loss_sum`."""
    seconds: float = 0.0
    """Time spent in training so far, over all sessions."""


def snapshot_path(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimizer steps lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def list_snapshots(run: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def write_snapshot(
    run: Path,
    checkpoint: Checkpoint,
    optimizer: torch.optim.Optimizer,
    carried: Mapping[str, Tensor],
    reader_position: Mapping[str, Any],
    progress: Progress,
    world: World,
) -> Path:
    """Write a checkpoint; every rank calls this, with what it carries and reads.

    Raises RunFailure where the disk is full or cannot be written; older checkpoints are untouched then.
    """
    final = snapshot_path(run, progress.step)
    partial = final.with_name(f".{final.name}.partial")
    try:
        if world.is_main:
            _clear_partial(run)
            partial.mkdir(parents=True)
        world.barrier()
        _save(partial / f"rank-{world.rank:04d}.safetensors", carried, {"reader": reader_position})
        if world.is_main:
            save_checkpoint(partial, checkpoint)
            facts = {"progress": asdict(progress), "world_size": world.size}
            _save(partial / "optimizer.safetensors", _optimizer_tensors(checkpoint.model, optimizer), facts)
        world.barrier()
        if world.is_main:
            flush_files(partial)
            os.replace(partial, final)
            flush_folder(final.parent)
            for old in list_snapshots(run)[:-_KEEP]:
                shutil.rmtree(old)
        world.barrier()
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise write_failure(error, final) from error
    except RunFailure:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint read back, as one rank needs it."""

    checkpoint: Checkpoint
    moments: dict[str, Tensor]
    carried: dict[str, Tensor]
    reader_position: dict[str, Any]
    progress: Progress


def read_snapshot(path: Path, world: World) -> Snapshot:
    """Read what `write_snapshot` wrote for this rank.

    Raises InputError where a file is missing or damaged, and where the run had another number of ranks.
    """
    moments, facts = _load(path / "optimizer.safetensors")
    if facts["world_size"] != world.size:
        raise InputError(
            expected=f"{facts['world_size']} processes, as when the run was started",
            got=str(world.size),
            where=str(path),
            fix=f"resume with torchrun --nproc-per-node so that there are {facts['world_size']}",
        )
    carried, position = _load(path / f"rank-{world.rank:04d}.safetensors")
    return Snapshot(load_checkpoint(path), moments, carried, position["reader"], Progress(**facts["progress"]))


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Put Adam's moments back in place. Raises InputError where they do not fit the model."""
    state: dict[Tensor, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        mine = {key.removeprefix(f"{name}/"): value for key, value in moments.items() if key.startswith(f"{name}/")}
        moved = [value for value in mine.values() if value.ndim]
        if not mine or any(value.shape != parameter.shape for value in moved):
            raise InputError(
                expected=f"optimizer moments of shape {list(parameter.shape)} for {name}",
                got=", ".join(str(list(value.shape)) for value in moved) or "none",
                where="optimizer.safetensors",
                fix="resume with the checkpoint that this run wrote",
            )
        # Adam's step counter stays where the optimizer keeps it: beside the parameter for the fused kernel.
        state[parameter] = {key: value.to(parameter.device, copy=True) for key, value in mine.items()}
    optimizer.state.clear()
    optimizer.state.update(state)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_safetensors(path, plain, {"facts": json.dumps(facts, sort_keys=True)})


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            # Cloned out of the file's memory map, whose tensors are not aligned as freshly made ones are.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a mapping)
            facts = json.loads((file.metadata() or {})["facts"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            expected="a whole training checkpoint",
            got=f"{type(error).__name__}: {error}",
            where=str(path),
            fix="delete that checkpoint folder to resume from the one before",
        ) from error
    return tensors, facts


def _clear_partial(run: Path) -> None:
    folder = run / "checkpoints"
    if folder.is_dir():
        for path in folder.glob(".step-*.partial"):
            shutil.rmtree(path)
