"""What every mixer offers, and what its initialisation may know of its place in the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

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

    def reset_parameters(self, generator: torch.Generator, place: Place) -> None:
        """Initialise as the published code of the family does."""
        raise TypeError(f"{type(self).__name__} has no reset_parameters")
