"""What every mixer offers, and what its initialisation may know of its place in the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lengthwise.errors import InputError
from lengthwise.native import Backend
from lengthwise.shapes import Float, Int, Tensor
from lengthwise.state import MixerState


@dataclass(frozen=True)
class Place:
    """Where a layer stands, for initialisations that depend on it."""

    layer: int
    """Index of the block, from 0."""
    num_layers: int
    """Blocks L of the model."""
    num_residuals: int
    """Branches that are added to the residual stream; projections back to it are divided by its square root."""


class Mixer(nn.Module):
    """Mixes over time; the parent of every mixer and of MLPs that carry a state.

    Subclasses have a frozen `MixerState` of their own and implement the three methods. `forward` must give the same for
    a sequence as a whole, in pieces of any sizes with the state carried, and in single tokens; padding (`lengths`)
    changes neither outputs at real tokens nor the state; gradients flow into the state and out of it.
    """

    backend: Backend = "auto"
    """Which form of the recurrence is asked for; see `lengthwise.native`."""
    _zero: MixerState | None = None
    """The state of no rows, whose shapes every other one shares."""

    def runs_native(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether a kernel in C computes the recurrence of such inputs; a mixer that has none is always torch's.

        Raises:
            InputError: where `backend` insists on a kernel that cannot run.
        """
        return False

    def init_state(self, batch: int) -> MixerState:
        """The zero state of `batch` rows."""
        raise TypeError(f"{type(self).__name__} has no init_state")

    def forward(
        self, x: Float[Tensor, "B T D"], state: Any = None, lengths: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Outputs, and the state after the last real token of each row.

        Args:
            x: inputs.
            state: before the first token; None for the zero state.
            lengths: real tokens of each row, padding on the right; None for all T.
        """
        raise TypeError(f"{type(self).__name__} has no forward")

    def check_state(self, state: MixerState, batch: int, where: str = "") -> None:
        """Refuse a state that is none of this mixer's: another record, other shapes, or not `batch` rows.

        Kernels read as many numbers as the sizes of the layer say, so nothing else may reach them.

        Raises:
            InputError: with the tensor's name and both shapes.
        """
        if self._zero is None:
            self._zero = self.init_state(0)
        wrong = _misfit(state, self._zero, batch)
        if wrong:
            raise InputError(
                expected=f"a state of {type(self).__name__}, {type(self._zero).__name__}, with {batch} rows",
                got=wrong,
                where=where or f"the state of {type(self).__name__}",
                fix="pass a state that this model made, None, or that of init_state(batch)",
            )

    def reset_parameters(self, generator: torch.Generator, place: Place) -> None:
        """Initialise as the published code of the family does."""
        raise TypeError(f"{type(self).__name__} has no reset_parameters")


def _misfit(state: MixerState, zero: MixerState, batch: int) -> str | None:
    """What is wrong with a state of `batch` rows, given that of none."""
    if type(state) is not type(zero):
        return type(state).__name__
    for (name, kind, found), (_, _, expected) in zip(state.tensors(), zero.tensors(), strict=True):
        fixed = 2 if kind == "attention" else 1  # keys and values have as many slots as they have
        if found.dim() != expected.dim() or len(found) != batch or found.shape[fixed:] != expected.shape[fixed:]:
            wanted = (batch, *(["S"] if kind == "attention" else []), *expected.shape[fixed:])
            return f"{name} of shape {tuple(found.shape)} instead of ({', '.join(map(str, wanted))})"
        if found.is_floating_point() != expected.is_floating_point():
            return f"{name} of dtype {found.dtype}"
    return None
