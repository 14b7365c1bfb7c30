"""Models with known answers, for the tests of measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from lengthwise.models.config import Mamba2Config, ModelConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.shapes import Tensor
from lengthwise.state import MixerState, State, tensor_field


@dataclass(frozen=True)
class CountState(MixerState):
    """How many tokens were read since the zero state."""

    count: Tensor = tensor_field("recurrent")
    """[B, 1, 1]."""


@dataclass
class FakeOutput:
    """The part of a model's output that measurements read."""

    logits: Tensor | None
    state: State


class CountingModel:
    """Its loss is a given function of how many tokens it has read since zero: `loss(count)` in nats.

    The target always gets probability exp(-loss); the rest goes evenly to the other tokens.
    """

    training = False

    def __init__(self, loss: Any, vocab_size: int = 5) -> None:
        self.loss = loss
        self.vocab_size = vocab_size
        self.largest_forward = 0

    def train(self, mode: bool = True) -> CountingModel:
        """Nothing to switch."""
        return self

    def _advance(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        self.largest_forward = max(self.largest_forward, tokens.numel())
        batch, time = tokens.shape
        before = torch.zeros(batch, 1) if state is None else state.named_tensors()[0][1][:, 0]
        counts = before + torch.arange(1, time + 1)
        return counts, State((CountState(count=counts[:, -1:, None].contiguous()),))

    def __call__(self, tokens: Tensor, state: State | None = None, *, logits: str = "all") -> FakeOutput:
        """Uniform logits, for the state alone."""
        counts, new = self._advance(tokens, state)
        scores = None if logits == "none" else torch.zeros(*counts.shape, self.vocab_size)
        return FakeOutput(scores, new)

    def nll(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The given loss at every position."""
        counts, new = self._advance(tokens[:, :-1], state)
        return torch.tensor([[self.loss(int(count)) for count in row] for row in counts], dtype=torch.float32), new


def tiny_model(seed: int = 0, vocab_size: int = 11, num_layers: int = 2) -> LanguageModel:
    """A random Mamba-2 of a few thousand parameters that remembers a few dozen tokens."""
    mixer = Mamba2Config(d_state=8, headdim=8, chunk_size=8)
    model = LanguageModel(
        ModelConfig(d_model=16, num_layers=num_layers, vocab_size=vocab_size, mixer=mixer), seed=seed
    ).eval()
    with torch.no_grad():
        # As initialised, outputs are near uniform and hardly depend on the past: wrong states would go unseen.
        model.backbone.embedding.weight.mul_(40)
        for block in model.backbone.layers:
            block.mixer.out_proj.weight.mul_(8)
            block.mixer.A_log.sub_(3)
            block.mixer.dt_bias.add_(2)
    return model


def random_tokens(rows: int, length: int, vocab_size: int = 11, seed: int = 0) -> Any:
    """Uniform tokens, int64 [rows, length]."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (rows, length), generator=random).numpy()


def losses_one_pass(model: LanguageModel, row: Any) -> Tensor:
    """The losses of one row in one forward pass over the whole of it, computed from logits."""
    tokens = torch.from_numpy(row)[None]
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits
    return F.cross_entropy(logits[0], tokens[0, 1:], reduction="none")
