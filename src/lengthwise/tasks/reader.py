"""Training batches out of tasks: rows of prompts with their answers, and which predictions count.

Row k of a run is a function of (tasks, tokenizer, context length, seed, k) alone: a coin picks its task, and it is row
k of that task. So a saved position is one number, and rows never repeat.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.data.readers import Batch
from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.seeds import derive_seed
from lengthwise.tasks.base import Task

_MARGIN = 4  # tokens by which the shortest text of a row may differ from that of another


@runtime_checkable
class RowTask(Protocol):
    """A task that makes rows to train on."""

    def rows(
        self,
        rows: int | Sequence[int],
        context_length: int,
        tokenizer: Tokenizer,
        seed: int,
        *,
        all_tokens: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens [rows, context_length + 1] and loss mask of the same shape; False in the first column."""
        ...


class TaskRows:
    """A reader of rows that tasks make; goes on for ever.

    Args:
        tasks: at least one; each row is of one of them, all equally likely.
        tokenizer: of the model.
        context_length: T, inputs a row.
        batch_size: rows of this process.
        seed: decides all rows.
        all_tokens: count the loss of every token, not that of the answers alone.
        vary_length: give every row a text of its own length, evenly from the shortest that the task can make to T; the
            row is filled up with its own beginning, which never counts. Otherwise every answer stands at the same
            place, and a model with attention may learn the place instead of the task.
        rank, world_size: this process takes rows rank * batch_size ... of each global batch. A position counts rows of
            all processes together.
    Raises:
        InputError: a task that makes no rows, or one that does not fit the context length.
    """

    kind = "task rows"

    def __init__(
        self,
        tasks: Sequence[Task],
        tokenizer: Tokenizer,
        context_length: int,
        batch_size: int,
        seed: int,
        *,
        all_tokens: bool = False,
        vary_length: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._tasks: list[RowTask] = []
        plan = {}
        for task in tasks:
            plan[task.name] = {"version": task.version, **task.parameters()}
            if not isinstance(task, RowTask):
                raise InputError(
                    expected="tasks that make rows to train on",
                    got=f"{task.name}, which makes samples only",
                    where="tasks of a training run",
                    fix="train on passkey, copying, babilong or one of RULER's tasks",
                )
            self._tasks.append(task)
        self._tokenizer = tokenizer
        self.context_length, self.batch_size, self.seed = context_length, batch_size, seed
        self._all_tokens, self._vary_length = all_tokens, vary_length
        self._rank, self._world_size = rank, world_size
        self._index = 0
        said = json.dumps([plan, tokenizer.fingerprint, all_tokens, vary_length], sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(said.encode()).hexdigest()
        """sha256 hex of everything that decides the rows but context length and seed."""
        for made in self._tasks:  # so that a task that does not fit says so before the first step
            made.rows(1, context_length, tokenizer, seed, all_tokens=all_tokens)
        self._least = [self._shortest(made) if vary_length else context_length for made in self._tasks]

    def next_batch(self) -> Batch:
        """The next rows of this process: tokens and counted, both [B, T+1], reset all True."""
        first = self._index + self._rank * self.batch_size
        numbers = range(first, first + self.batch_size)
        self._index += self.batch_size * self._world_size
        which = np.array([derive_seed(self.seed, "task-of-row", number) % len(self._tasks) for number in numbers])
        tokens = np.zeros((self.batch_size, self.context_length + 1), dtype=np.int64)
        counted = np.zeros(tokens.shape, dtype=bool)
        for place, made in enumerate(self._tasks):
            mine = np.flatnonzero(which == place)
            if len(mine):
                wanted = [numbers[i] for i in mine]
                tokens[mine], counted[mine] = self._rows(made, wanted, self._least[place])
        reset = torch.ones(self.batch_size, dtype=torch.bool)
        return Batch(torch.from_numpy(tokens), reset, torch.from_numpy(counted))

    def _rows(self, task: RowTask, numbers: list[int], least: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows of a task, whose texts have from `least` + 1 to T + 1 tokens."""
        lengths = dict.fromkeys(numbers, self.context_length)
        if least < self.context_length:
            for number in numbers:
                span = self.context_length - least + 1
                lengths[number] = least + derive_seed(self.seed, "length-of-row", number) % span
        tokens = np.zeros((len(numbers), self.context_length + 1), dtype=np.int64)
        counted = np.zeros(tokens.shape, dtype=bool)
        for length in sorted(set(lengths.values())):
            mine = [place for place, number in enumerate(numbers) if lengths[number] == length]
            wanted = [numbers[place] for place in mine]
            ids, mask = task.rows(wanted, length, self._tokenizer, self.seed, all_tokens=self._all_tokens)
            repeats = -(-(self.context_length + 1) // (length + 1))
            tokens[mine] = np.tile(ids, (1, repeats))[:, : self.context_length + 1]
            counted[mine, : length + 1] = mask
        return tokens, counted

    def _shortest(self, task: RowTask) -> int:
        """The least context length for which a task makes a row, by bisection; a few tokens more for longer answers."""
        low, high = 0, self.context_length
        while high - low > 1:
            middle = (low + high) // 2
            try:
                task.rows(1, middle, self._tokenizer, self.seed)
                high = middle
            except InputError:
                low = middle
        return min(high + _MARGIN, self.context_length)

    def state_dict(self) -> dict[str, Any]:
        """The position, JSON-able, with what it is a position in."""
        return {"index": self._index, "of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raises InputError where it belongs to other tasks or another reader."""
        here, there = self._identity(), state.get("of", {})
        for key, value in here.items():
            if there.get(key) != value:
                raise InputError(
                    expected=f"a reader position with {key} = {value}",
                    got=f"{key} = {there.get(key)}",
                    where="the saved position of TaskRows",
                    fix="resume with the tasks and settings the run was started with, or start a new run",
                )
        self._index = int(state["index"])

    def _identity(self) -> dict[str, Any]:
        return {
            "reader": self.kind,
            "tasks": self.fingerprint,
            "context_length": self.context_length,
            "seed": self.seed,
        }
