"""One optimizer step: read, initialise the state, forward, backward, observe, update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lengthwise.data.readers import Batch
from lengthwise.distributed import World
from lengthwise.errors import RunFailure
from lengthwise.interventions.base import Intervention
from lengthwise.models.lm import LanguageModel
from lengthwise.train.config import TrainConfig
from lengthwise.train.optimizer import learning_rate


@runtime_checkable
class Reader(Protocol):
    """What a source of batches must offer: see `lengthwise.data.readers` and `lengthwise.tasks.reader`."""

    def next_batch(self) -> Batch:
        """The next rows of this rank."""
        ...


class ResumableReader(Reader, Protocol):
    """A reader whose position can be saved and restored."""

    def state_dict(self) -> dict[str, Any]:
        """The position, ready for JSON."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        ...


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step reports."""

    loss: float
    """Mean negative log-likelihood over all counted tokens of the step and all ranks, nats per token."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    lr: float
    """Learning rate used."""


def train_step(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    intervention: Intervention,
    reader: Reader,
    config: TrainConfig,
    step: int,
    *,
    world: World | None = None,
) -> StepResult:
    """Do optimizer step `step` (from 0).

    The batch is cut into `config.grad_accum` micro-batches of equal size along its rows, so that rows mean the same
    with and without accumulation; forward pass number step * grad_accum + slot is what the intervention counts.
    Where only some predictions count, the loss is their mean over the whole step, so every one of them weighs the same.

    Raises RunFailure where the loss or the gradient is not finite; weights and moments are as before the step then.
    """
    world = world or World()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    device = parameters[0].device
    lr = learning_rate(step, config)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss_sum = torch.zeros((), device=device)
    batch = reader.next_batch()
    num_counted = _num_counted(batch, world, device)
    for slot, part in enumerate(_micro_batches(batch, config.grad_accum)):
        tokens = part.tokens.to(device, non_blocking=True)
        state = intervention.initial_state(step * config.grad_accum + slot, part)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.dtype == "bfloat16"):
            nll, final_state = model.nll(tokens, state)
        if part.counted is None:
            loss = nll.float().mean() / config.grad_accum
        else:
            assert num_counted is not None, "counted for the batch that the part is of"
            loss = (nll.float() * part.counted[:, 1:].to(device)).sum() / num_counted
        loss.backward()
        intervention.observe(final_state.detach())
        loss_sum += loss.detach()
    gradients = [p.grad for p in parameters if p.grad is not None]
    world.average([*gradients, loss_sum.view(1)])
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip, foreach=True)
    # The one wait for the device in a step: a broken loss must be seen before it reaches the weights.
    loss_value, norm_value = torch.stack([loss_sum, norm.float()]).tolist()
    if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
        raise _non_finite(step, lr, loss_value, norm_value, kept=step >= config.checkpoint_every)
    optimizer.step()
    return StepResult(loss_value, norm_value, lr)


def _micro_batches(batch: Batch, count: int) -> list[Batch]:
    if count == 1:
        return [batch]
    counted = [None] * count if batch.counted is None else _cut(batch.counted, count)
    parts = zip(_cut(batch.tokens, count), _cut(batch.reset, count), counted, strict=True)
    return [Batch(*part) for part in parts]


def _num_counted(batch: Batch, world: World, device: torch.device) -> Tensor | None:
    """How many predictions of a step count: the mean over ranks, whose gradients are averaged. None: all of them."""
    if batch.counted is None:
        return None
    count = batch.counted[:, 1:].sum().to(device=device, dtype=torch.float32)
    world.average([count])
    return count


def _cut(tensor: Tensor, count: int) -> list[Tensor]:
    return list(tensor.split(tensor.shape[0] // count))


def _non_finite(step: int, lr: float, loss: float, norm: float, *, kept: bool) -> RunFailure:
    """The failure of a step; `kept`: whether the run has written a checkpoint for certain."""
    way_back = ", from the last checkpoint if you like (init_from); that checkpoint was kept" if kept else ""
    return RunFailure(
        expected="a finite loss and a finite gradient",
        got=f"loss {loss:g}, gradient norm {norm:g}",
        where=f"training step {step + 1}, learning rate {lr:.3g}",
        fix=f"start a new run with a lower peak_lr or a longer warm-up{way_back}",
    )
