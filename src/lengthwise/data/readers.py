"""Training batches out of a token store: independent windows, or lanes that run on from batch to batch.

Both readers go on for ever, epoch after epoch, and a window never crosses the border of a document. What comes next is
a function of (seed, epoch, index) alone, so a saved position is two numbers and a restored reader gives the same
batches, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy.typing import NDArray
from torch import Tensor

from lengthwise.data.store import TokenStore
from lengthwise.errors import InputError
from lengthwise.seeds import numpy_rng


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Inputs are tokens[:, :-1], targets tokens[:, 1:].
    """

    tokens: Int64[Tensor, "B T1"]
    reset: Bool[Tensor, B]
    """True: the row does not continue the same row of the batch before."""
    counted: Bool[Tensor, "B T1"] | None = None
    """True where the prediction of that token counts in the loss; None: everywhere. False in the first column, which
    nothing predicts."""


class _Reader:
    """What both readers share: arguments, the documents long enough, and positions as dictionaries."""

    kind: str

    def __init__(
        self, store: TokenStore, context_length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        for name, value in (("context length", context_length), ("batch size", batch_size), ("world size", world_size)):
            if value < 1:
                raise InputError(
                    expected=f"a {name} of at least 1",
                    got=str(value),
                    where=f"{type(self).__name__}",
                    fix=f"raise the {name}",
                )
        if not 0 <= rank < world_size:
            raise InputError(
                expected=f"a rank 0..{world_size - 1}",
                got=str(rank),
                where=f"{type(self).__name__}",
                fix="pass the rank and the world size of the process group",
            )
        self.store = store
        self.context_length = context_length
        self.batch_size = batch_size
        """Rows of this process; all processes together read batch_size * world_size rows a call."""
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        usable = np.flatnonzero(store.lengths > context_length)
        self.num_skipped = store.num_documents - len(usable)
        """Documents too short for one window of context_length + 1 tokens."""
        if not len(usable):
            longest = int(store.lengths.max()) if store.num_documents else 0
            raise InputError(
                expected=f"a document of {context_length + 1} tokens or more (context length and one target)",
                got=f"{store.num_documents} documents, the longest of {longest} tokens",
                where=str(store.path),
                fix="lower --context-length or add longer text",
            )
        self._begin: NDArray[np.int64] = store.offsets[usable]
        self._length: NDArray[np.int64] = store.lengths[usable]
        self._arange = np.arange(context_length + 1, dtype=np.int64)
        self._epoch = 0
        self._index = 0

    def state_dict(self) -> dict[str, Any]:
        """The position, JSON-able, with what it is a position in."""
        return {"epoch": self._epoch, "index": self._index, "of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raises InputError where it belongs to other data or another reader, or to nothing."""
        here, there = self._identity(), state.get("of", {})
        for key, value in here.items():
            if there.get(key) != value:
                raise InputError(
                    expected=f"a reader position with {key} = {value}",
                    got=f"{key} = {there.get(key)}",
                    where=f"the saved position of {type(self).__name__}",
                    fix="resume with the data and settings the run was started with, or start a new run",
                )
        epoch, index = int(state["epoch"]), int(state["index"])
        size = self._size_of(epoch) if epoch >= 0 else 0
        if epoch < 0 or not 0 <= index <= size:
            raise InputError(
                expected=f"an index 0..{size} in epoch {epoch}" if epoch >= 0 else "an epoch from 0 on",
                got=f"epoch {epoch}, index {index}",
                where=f"the saved position of {type(self).__name__}",
                fix="resume from another checkpoint of the run, or start a new run: the position is damaged",
            )
        self._epoch, self._index = epoch, index

    def _size_of(self, epoch: int) -> int:
        """How far an index of the epoch goes."""
        raise TypeError(f"{type(self).__name__} has no _size_of")

    def _identity(self) -> dict[str, Any]:
        return {
            "reader": self.kind,
            "store": self.store.fingerprint,
            "context_length": self.context_length,
            "seed": self.seed,
        }

    def _gather(self, starts: NDArray[np.int64]) -> Int64[Tensor, "B T1"]:
        rows = self.store.tokens[starts[:, None] + self._arange]
        return torch.from_numpy(rows.astype(np.int64))


class ShuffledWindows(_Reader):
    """Windows of T + 1 tokens in random order, every one once an epoch.

    Each epoch cuts every document anew, at a random offset below T, into windows that overlap by one token (the last
    target of one is the first input of the next), and permutes the windows of all documents. Batches straddle epochs,
    so no window is dropped. Every row is a fresh start.

    Args:
        store: the tokens.
        context_length: T, inputs a row.
        batch_size: rows of this process.
        seed: decides offsets and order.
        rank, world_size: this process takes rows rank * batch_size ... of each global batch. A position counts global
            windows, so it can be restored under another batch size or number of processes.
    Raises:
        InputError: a size below 1, or no document of T + 1 tokens.
    """

    kind = "windows"

    def __init__(
        self, store: TokenStore, context_length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(store, context_length, batch_size, seed, rank, world_size)
        self._order: NDArray[np.int64] | None = None
        self._order_epoch = -1

    def next_batch(self) -> Batch:
        """The next rows of this process: tokens [B, T+1], reset all True."""
        wanted = self.batch_size * self.world_size
        parts: list[NDArray[np.int64]] = []
        while wanted:
            epoch_starts = self._starts(self._epoch)
            part = epoch_starts[self._index : self._index + wanted]
            parts.append(part)
            wanted -= len(part)
            self._index += len(part)
            if self._index == len(epoch_starts):
                self._epoch, self._index = self._epoch + 1, 0
        starts = np.concatenate(parts)[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
        return Batch(self._gather(starts), torch.ones(self.batch_size, dtype=torch.bool))

    @property
    def num_windows(self) -> int:
        """Windows of the current epoch, over all processes."""
        return len(self._starts(self._epoch))

    def _size_of(self, epoch: int) -> int:
        return len(self._starts(epoch))

    def _starts(self, epoch: int) -> NDArray[np.int64]:
        """Start of every window of the epoch in the store, in reading order, int64 [num_windows]."""
        if self._order is None or self._order_epoch != epoch:
            T = self.context_length
            rng = numpy_rng(self.seed, "shuffled-windows", epoch)
            offset = rng.integers(0, np.minimum(T, self._length - T))  # the last allowed start keeps one whole window
            count = (self._length - 1 - offset) // T
            self._order = rng.permutation(_window_starts(self._begin + offset, count, T))
            self._order_epoch = epoch
        return self._order


class Lanes(_Reader):
    """Rows that run on: row i of one batch continues row i of the batch before, overlapping by one token.

    Each epoch permutes the documents, cuts each into windows (the random offset spreads which tail tokens are left
    out), writes all windows one after the other and gives every lane an equal, contiguous share. `reset` is True where
    a row begins a document, and for every row at the start of an epoch, where lanes may begin inside a document. Less
    than one window a lane is left out at the end of an epoch.

    Arguments as for `ShuffledWindows`; a lane belongs to a row of a process, so a position can be restored only under
    the same batch size and number of processes.

    Raises:
        InputError: a size below 1, or fewer windows than lanes.
    """

    kind = "lanes"

    def __init__(
        self, store: TokenStore, context_length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(store, context_length, batch_size, seed, rank, world_size)
        self._count: NDArray[np.int64] = (self._length - 1) // context_length
        lanes, windows = batch_size * world_size, int(self._count.sum())
        self.windows_per_lane = windows // lanes
        """Batches an epoch; times T, the tokens a lane can run on for."""
        if not self.windows_per_lane:
            raise InputError(
                expected=f"at least {lanes} windows of {context_length + 1} tokens, one for each lane",
                got=f"{windows} windows in {len(self._count)} documents",
                where=str(store.path),
                fix="lower --batch-size or --context-length, or add text",
            )
        self._layout: tuple[NDArray[np.int64], NDArray[np.bool_]] | None = None
        self._layout_epoch = -1

    def next_batch(self) -> Batch:
        """The next window of each lane of this process: tokens [B, T+1], reset [B]."""
        if self._index == self.windows_per_lane:
            self._epoch, self._index = self._epoch + 1, 0
        starts, first = self._lanes(self._epoch)
        batch = Batch(self._gather(starts[:, self._index]), torch.from_numpy(first[:, self._index].copy()))
        self._index += 1
        return batch

    def _size_of(self, epoch: int) -> int:
        return self.windows_per_lane

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "batch_size": self.batch_size, "world_size": self.world_size}

    def _lanes(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Start of each window and whether it is the first of its document or lane, both [B, windows_per_lane]."""
        if self._layout is None or self._layout_epoch != epoch:
            T = self.context_length
            rng = numpy_rng(self.seed, "lanes", epoch)
            offset = rng.integers(0, (self._length - 1) % T + 1)
            order = rng.permutation(len(self._length))
            begin, count = (self._begin + offset)[order], self._count[order]
            starts = _window_starts(begin, count, T)
            first = np.zeros(len(starts), dtype=bool)
            first[np.cumsum(count) - count] = True
            used = self.windows_per_lane * self.batch_size * self.world_size
            rows = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
            starts = starts[:used].reshape(-1, self.windows_per_lane)[rows]
            first = first[:used].reshape(-1, self.windows_per_lane)[rows].copy()
            first[:, 0] = True
            self._layout, self._layout_epoch = (starts, first), epoch
        return self._layout


def _window_starts(begin: NDArray[np.int64], count: NDArray[np.int64], stride: int) -> NDArray[np.int64]:
    """begin[i] + stride * (0 ... count[i]-1) for every i, one after the other."""
    before = np.repeat(np.cumsum(count) - count, count)
    within = np.arange(int(count.sum()), dtype=np.int64) - before
    return np.repeat(begin, count) + stride * within
