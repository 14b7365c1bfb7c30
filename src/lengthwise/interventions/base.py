"""What a training loop needs from an intervention, and what the interventions share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from lengthwise.data.readers import Batch
from lengthwise.errors import InputError
from lengthwise.seeds import generator
from lengthwise.state import State


@runtime_checkable
class Intervention(Protocol):
    """Chooses the initial state of every training sequence.

    The loop calls `initial_state` before a forward pass and `observe` after it, always in pairs. `step` counts forward
    passes from 0: with gradient accumulation over `slots` micro-batches, micro-batch k of optimizer step s is
    s * slots + k, and what an intervention carries from one step to the next it keeps per slot.

    Every random draw is derived from (seed, purpose, step, rank), so `state_dict` holds no generator, and loading it
    continues a run bit for bit.
    """

    name: str

    def initial_state(self, step: int, batch: Batch) -> State | None:
        """The state before the first token of each row of `batch`; None is the zero state. Never part of a graph."""
        ...

    def observe(self, final_state: State) -> None:
        """Take note of the states after the last token of the batch given to `initial_state`."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to continue, as tensors on the CPU or the training device."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        ...

    def stats(self) -> dict[str, int | float]:
        """Counters and fitted values worth a look while training; cumulative since the run began."""
        ...


class InterventionBase:
    """Zeroing coins and counters; the parent of every intervention in this folder.

    zero_state(batch) makes the model's zero state for `batch` rows: the template for shapes, dtypes and device.
    """

    name: ClassVar[str] = "zero"

    def __init__(
        self,
        zero_state: Callable[[int], State],
        *,
        seed: int,
        zero_prob: float = 0.0,
        slots: int = 1,
        rank: int = 0,
    ) -> None:
        self._zero_state = zero_state
        self._seed = seed
        self._zero_prob = zero_prob
        self._slots = slots
        self._rank = rank
        self._nonfinite_rows = 0

    def generator(self, purpose: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator for one purpose at one step on this rank."""
        return generator(self._seed, f"{self.name}/{purpose}", step, self._rank, device=str(device))

    def coins(self, step: int, batch_size: int) -> Tensor:
        """Bool[B], True where a sequence starts from zero. One coin per row, valid for all layers."""
        if self._zero_prob <= 0.0:
            return torch.zeros(batch_size, dtype=torch.bool)
        return torch.rand(batch_size, generator=self.generator("zero", step)) < self._zero_prob

    def stats(self) -> dict[str, int | float]:
        """nonfinite_rows: final states that held NaN or infinity and were not used."""
        return {"nonfinite_rows": self._nonfinite_rows}

    def state_dict(self) -> dict[str, Tensor]:
        """The counters; children add what they carry."""
        return {"nonfinite_rows": torch.tensor(self._nonfinite_rows, dtype=torch.int64)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the counters; children add what they carry."""
        self._nonfinite_rows = int(required(tensors, "nonfinite_rows", self.name))


def required(tensors: Mapping[str, Tensor], key: str, name: str) -> Tensor:
    """tensors[key], or an InputError that names the intervention whose saved state lacks it."""
    if key not in tensors:
        raise InputError(
            expected=f"a saved state of intervention {name} with an entry {key!r}",
            got=f"entries {', '.join(sorted(tensors)) or 'none'}",
            where="the intervention's saved state",
            fix="resume with the intervention the run was started with",
        )
    return tensors[key]


def finite_rows(state: State) -> Tensor:
    """Bool[B], on the CPU: True for rows without NaN and infinity in any tensor.

    A row's sum is finite only if all its elements are, and float32 sums take a small part of the time of looking at
    every element. Where a sum is not finite it may merely have overflowed, so then the elements decide.
    """
    sums = [t.flatten(1).sum(1, dtype=torch.float32) for _, t in state.named_tensors() if t.is_floating_point()]
    finite = torch.stack(sums).isfinite().all(0).cpu()
    return finite if bool(finite.all()) else state.finite_rows()


def zero_rows(state: State, zero: Tensor) -> State:
    """A copy of `state` in which the rows with zero[b] True are 0 in every layer; `state` itself if there are none."""
    if not bool(zero.any()):
        return state

    def clear(tensor: Tensor) -> Tensor:
        index = zero.to(tensor.device).nonzero().squeeze(1)
        return tensor.index_fill(0, index, 0)

    return state.map(None, clear)
