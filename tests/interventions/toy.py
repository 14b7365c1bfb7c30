"""A state of two layers with three heads, without a model around it."""

from dataclasses import dataclass

import torch

from lengthwise.data.readers import Batch
from lengthwise.state import MixerState, State, tensor_field

HEADS, WIDTH, SIZE = 3, 4, 5


@dataclass(frozen=True)
class ToyLayer(MixerState):
    """A recurrent matrix per head and a short buffer."""

    matrix: torch.Tensor = tensor_field("recurrent")
    buffer: torch.Tensor = tensor_field("short")


def zero_state(batch: int) -> State:
    return State(tuple(ToyLayer(torch.zeros(batch, HEADS, WIDTH, SIZE), torch.zeros(batch, 3, 6)) for _ in range(2)))


def random_state(batch: int, seed: int) -> State:
    gen = torch.Generator().manual_seed(seed)
    return zero_state(batch).map(None, lambda t: torch.randn(t.shape, generator=gen))


def batch_of(rows: int, reset: list[bool] | None = None) -> Batch:
    flags = torch.ones(rows, dtype=torch.bool) if reset is None else torch.tensor(reset)
    return Batch(torch.zeros(rows, 9, dtype=torch.int64), flags)


def same(a: State, b: State) -> bool:
    pairs = zip(a.named_tensors(), b.named_tensors(), strict=True)
    return all(torch.equal(x, y) for (_, x), (_, y) in pairs)


def is_zero(state: State) -> list[bool]:
    """For each row, whether all its tensors are zero."""
    return torch.stack([t.flatten(1).eq(0).all(1) for _, t in state.named_tensors()]).all(0).tolist()
