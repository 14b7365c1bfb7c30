"""A model whose cache cannot be trusted, read without it: the state is the text itself.

Every call reads the whole text again from its beginning in one pass and gives the part that was asked for, so results
are right whatever the model does to its cache. The price is memory for a whole text at once, and time for a text that
is asked for in pieces; the measurements therefore ask for whole texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lengthwise.engines.hf import HFModel
from lengthwise.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class TextState:
    """The state after a text: the text."""

    tokens: Int[Tensor, "B T"]

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return len(self.tokens)


@dataclass(frozen=True)
class OneShotOutput:
    """What a call returns."""

    logits: Float[Tensor, "B _ vocab"] | None
    state: TextState


class OneShot:
    """An `HFModel` read in one pass per text.

    Args:
        model: the adapter; its cache is not used.
    """

    def __init__(self, model: HFModel) -> None:
        self.inner = model

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return self.inner.training

    def train(self, mode: bool = True) -> OneShot:
        """Switch between training and evaluation."""
        self.inner.train(mode)
        return self

    def parameters(self) -> Any:
        """The model's parameters."""
        return self.inner.parameters()

    def to(self, device: torch.device | str) -> OneShot:
        """Move the model, in place."""
        self.inner.to(device)
        return self

    def num_parameters(self) -> int:
        """Parameters, tied tables counted once."""
        return self.inner.num_parameters()

    def __call__(
        self, tokens: Int[Tensor, "B T"], state: TextState | None = None, *, logits: str = "all"
    ) -> OneShotOutput:
        """Logits of the tokens, after a whole pass over everything before them; "none" reads nothing yet."""
        text = _joined(state, tokens)
        if logits == "none":
            return OneShotOutput(None, TextState(text))
        wanted = tokens.shape[1] if logits == "all" else 1
        places = torch.arange(text.shape[1] - wanted, text.shape[1], device=tokens.device)
        return OneShotOutput(self.inner.predictions(text, places), TextState(text))

    def nll(
        self, tokens: Int[Tensor, "B T1"], state: TextState | None = None
    ) -> tuple[Float[Tensor, "B T"], TextState]:
        """Loss of ``tokens[:, 1:]`` in nats, and the state after ``tokens[:, :-1]``."""
        text = _joined(state, tokens)
        losses, _ = self.inner.nll(text)
        return losses[:, -(tokens.shape[1] - 1) :], TextState(text[:, :-1])

    def predictions(self, tokens: Int[Tensor, "B T"], places: Int[Tensor, " n"]) -> Float[Tensor, "B n vocab"]:
        """Logits after the tokens at `places`, from one pass over the text."""
        return self.inner.predictions(tokens, places)


def _joined(state: TextState | None, tokens: Tensor) -> Tensor:
    return tokens if state is None else torch.cat([state.tokens, tokens], dim=1)
