"""Statistics of the recurrent state over time: does it keep growing where training never took it?

At a log grid of positions the spread of every head's state is taken. A model that generalizes reaches a stationary
state; a head whose spread goes on changing beyond the training context puts the layers above it before states they
never saw (arXiv 2507.02782, section 4 and appendix C: a few heads drift, and it is stationarity that counts, not a
small norm).

Averages: each statistic is computed for each sequence by itself, over all elements of the head's (layer's, model's)
state, and then averaged over sequences. Only state of the kind "recurrent" enters, not the convolution's buffer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lengthwise.engines import HFState
from lengthwise.errors import RunFailure
from lengthwise.shapes import Float, Tensor
from lengthwise.state import State

STATISTICS = ("std", "mean", "max_abs", "norm")
"""Standard deviation (about the mean, divided by n), mean, largest absolute value, and Euclidean norm."""


def state_positions(length: int, context_length: int, *, per_octave: int = 2) -> list[int]:
    """Positions at which the state is looked at, in tokens read: a log grid that holds the context and the length."""
    grid = {context_length, length}
    for direction in (-1, 1):
        step = 1
        while 1 <= (position := round(context_length * 2 ** (direction * step / per_octave))) <= length:
            grid.add(position)
            step += 1
    return sorted(position for position in grid if 1 <= position <= length)


@dataclass(frozen=True)
class _Moments:
    """Per sequence and group of elements: count, mean, sum of squares about it, sum of squares, largest magnitude."""

    count: int
    mean: Float[Tensor, "B groups"]
    squares_about_mean: Float[Tensor, "B groups"]
    squares: Float[Tensor, "B groups"]
    max_abs: Float[Tensor, "B groups"]

    def statistics(self) -> dict[str, Float[Tensor, "B groups"]]:
        """The four statistics of each group."""
        return {
            "std": (self.squares_about_mean / self.count).sqrt(),
            "mean": self.mean,
            "max_abs": self.max_abs,
            "norm": self.squares.sqrt(),
        }

    def pooled(self) -> _Moments:
        """All groups as one; they have equally many elements."""
        mean = self.mean.mean(dim=1, keepdim=True)
        between = self.count * (self.mean - mean).square().sum(dim=1, keepdim=True)
        return _Moments(
            count=self.count * self.mean.shape[1],
            mean=mean,
            squares_about_mean=self.squares_about_mean.sum(dim=1, keepdim=True) + between,
            squares=self.squares.sum(dim=1, keepdim=True),
            max_abs=self.max_abs.amax(dim=1, keepdim=True),
        )


def _joined(parts: list[_Moments]) -> _Moments:
    """Groups of several layers as one group each, whatever their sizes, pooled to a single one."""
    count = sum(part.count for part in parts)
    mean = torch.stack([part.count * part.mean for part in parts]).sum(dim=0) / count
    between = torch.stack([part.count * (part.mean - mean).square() for part in parts]).sum(dim=0)
    return _Moments(
        count=count,
        mean=mean,
        squares_about_mean=torch.stack([part.squares_about_mean for part in parts]).sum(dim=0) + between,
        squares=torch.stack([part.squares for part in parts]).sum(dim=0),
        max_abs=torch.stack([part.max_abs for part in parts]).amax(dim=0),
    )


def _head_moments(tensor: Tensor) -> _Moments:
    """Moments of each head; dimension 1 is the heads where there are more than two dimensions, else there is one."""
    values = tensor.flatten(2) if tensor.dim() > 2 else tensor[:, None]
    values = values.double()
    mean = values.mean(dim=2)
    return _Moments(
        count=values.shape[2],
        mean=mean,
        squares_about_mean=(values - mean[..., None]).square().sum(dim=2),
        squares=values.square().sum(dim=2),
        max_abs=values.abs().amax(dim=2),
    )


class StateStatistics:
    """Sums over sequences of the statistics at each position.

    Args:
        positions: in tokens read, increasing.
    """

    def __init__(self, positions: Iterable[int]) -> None:
        self.positions = tuple(positions)
        self.num_sequences = 0
        self._sums: dict[str, dict[str, list[Any]]] = {}

    def look(self, position: int, state: State | HFState, num_rows: int | None = None) -> None:
        """Add the rows of a state after `position` tokens; every position must be shown the same rows.

        Args:
            position: one of the grid; others are ignored.
            state: state of a batch.
            num_rows: take only the first rows.

        Raises:
            RunFailure: where the state holds NaN or infinity.
        """
        if position not in self.positions:
            return
        layers = [_head_moments(tensor[:num_rows].cpu()) for _, tensor in state.named_tensors("recurrent")]
        whole = [layer.pooled() for layer in layers]
        named = {"heads": layers, "layers": whole, "whole": [_joined(whole)]}
        rows = layers[0].mean.shape[0]
        if position == self.positions[0]:
            self.num_sequences += rows
        for level, groups in named.items():
            table = self._sums.setdefault(level, {name: [None] * len(self.positions) for name in STATISTICS})
            found = [group.statistics() for group in groups]
            for name in STATISTICS:
                sums = [statistics[name].sum(dim=0).tolist() for statistics in found]
                _check_finite(sums, position)
                column, index = table[name], self.positions.index(position)
                column[index] = sums if column[index] is None else _add(column[index], sums)

    def to_record(self) -> dict[str, Any]:
        """Plain lists of sums, for a line of a run's metrics."""
        return {"positions": list(self.positions), "num_sequences": self.num_sequences, "sums": self._sums}

    def add_record(self, record: dict[str, Any]) -> None:
        """Add what `to_record` of another batch gave."""
        assert tuple(record["positions"]) == self.positions
        self.num_sequences += record["num_sequences"]
        for level, table in record["sums"].items():
            ours = self._sums.setdefault(level, {name: [None] * len(self.positions) for name in STATISTICS})
            for name, column in table.items():
                for index, sums in enumerate(column):
                    ours[name][index] = sums if ours[name][index] is None else _add(ours[name][index], sums)

    def means(self, level: str, statistic: str) -> Float[np.ndarray, "positions layers groups"]:
        """Mean over sequences; level "heads" [positions, layers, heads], "layers" [positions, layers, 1], "whole".

        Layers with fewer heads than others are filled up with NaN.
        """
        column = self._sums[level][statistic]
        width = max(len(groups) for groups in column[0])
        rows = [[groups + [np.nan] * (width - len(groups)) for groups in position] for position in column]
        return np.array(rows, dtype=np.float64) / self.num_sequences


@dataclass(frozen=True)
class HeadDrift:
    """How far the spread of a head's state moves beyond the training context.

    Args:
        layer, head: counted from 0.
        score: max over t > T_train of |log std(t) - log std(T_train)|; None where the state is constant at T_train.
        ratio: std over std at T_train, at the position of that maximum: above 1 for growth, below for decay.
    """

    layer: int
    head: int
    score: float | None
    ratio: float | None


def rank_drift(
    positions: Iterable[int], std: Float[np.ndarray, "positions layers heads"], context_length: int
) -> list[HeadDrift]:
    """Heads by drift score, the largest first; heads without a score last.

    Args:
        positions: in tokens read; `context_length` is one of them.
        std: mean over sequences of each head's standard deviation; NaN for heads that do not exist.
        context_length: T_train.
    """
    places = np.array(list(positions))
    start = int(np.flatnonzero(places == context_length)[0])
    heads = []
    for layer in range(std.shape[1]):
        for head in range(std.shape[2]):
            curve = std[start:, layer, head]
            if np.isnan(curve[0]):
                continue
            if len(curve) < 2 or (curve <= 0).any():
                heads.append(HeadDrift(layer, head, None, None))
                continue
            change = np.log(curve[1:]) - np.log(curve[0])
            largest = change[int(np.argmax(np.abs(change)))]
            heads.append(HeadDrift(layer, head, float(abs(largest)), float(np.exp(largest))))
    return sorted(heads, key=lambda found: (found.score is None, -(found.score or 0.0), found.layer, found.head))


def _add(left: list[list[float]], right: list[list[float]]) -> list[list[float]]:
    return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(left, right, strict=True)]


def _check_finite(sums: list[list[float]], position: int) -> None:
    if not np.isfinite(sum(sum(groups) for groups in sums)):
        layer = next(index for index, groups in enumerate(sums) if not np.isfinite(sum(groups)))
        raise RunFailure(
            expected="a finite state",
            got=f"NaN or infinity in layer {layer} after {position} tokens",
            where="state statistics",
            fix="look for non-finite weights, or measure a shorter length: the state may overflow beyond it",
        )
