"""The one streaming loop: a model reads long sequences in pieces and its state is carried from piece to piece.

Memory depends on the rows and the piece, never on the length, and the result does not depend on how the text is cut:
one pass over a sequence equals any chain of pieces with the state carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Integer

from lengthwise.engines.base import evaluating
from lengthwise.errors import InputError, RunFailure
from lengthwise.models.lm import LanguageModel
from lengthwise.models.reading import advance as advance_state
from lengthwise.models.reading import advance_and_predict
from lengthwise.shapes import Float, Int, Tensor

Advance = Callable[[int], None]
"""Told how many tokens were just read; for progress displays."""
Carried = Any
"""What a model returns as its state and takes again: `State` for ours, the engines' own values for others. The stream
hands it on and never looks inside."""


@runtime_checkable
class SequenceModel(Protocol):
    """What the measurements need of a model. `lengthwise.models.LanguageModel` is one."""

    @property
    def training(self) -> bool:
        """Whether it is in training mode."""
        ...

    def __call__(self, tokens: Tensor, state: Carried | None = None, *, logits: str = "all") -> Any:
        """Output with `logits` [B, T, vocab] or None and `state`; `logits` is "all", "last" or "none"."""
        ...

    def nll(self, tokens: Int[Tensor, "B T1"], state: Carried | None = None) -> tuple[Float[Tensor, "B T"], Carried]:
        """Loss of ``tokens[:, 1:]`` in nats, and the state after ``tokens[:, :-1]``."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch between training and evaluation."""
        ...


@dataclass(frozen=True)
class Piece:
    """What one step of the stream yields.

    Args:
        start: position of the first loss.
        nll: [B, t], loss in nats of tokens start + 1 .. start + t given everything before them.
        state: after reading tokens 0 .. start + t - 1, so after ``start + t`` tokens.
    """

    start: int
    nll: Float[Tensor, "B t"]
    state: Carried

    @property
    def end(self) -> int:
        """Number of tokens read so far."""
        return self.start + self.nll.shape[1]


def device_of(model: SequenceModel) -> torch.device:
    """The device of the model's parameters; the CPU for one without parameters."""
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if parameters is not None else None
    return torch.device("cpu") if first is None else first.device


def pieces(length: int, chunk: int, cuts: Iterable[int] = ()) -> list[tuple[int, int]]:
    """Cut ``[0, length)`` at every multiple of `chunk` and at `cuts`: a list of (start, end)."""
    edges = sorted({0, length, *range(chunk, length, chunk), *(cut for cut in cuts if 0 < cut < length)})
    return list(pairwise(edges))


def as_rows(tokens: Integer[np.ndarray, "rows T"], device: torch.device) -> Int[Tensor, "rows T"]:
    """Rows of a token array of any integer type as the int64 that embeddings take."""
    return torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).to(device)


def stream(
    model: SequenceModel,
    tokens: Integer[np.ndarray, "B T1"],
    *,
    chunk: int,
    cuts: Iterable[int] = (),
    state: Carried | None = None,
) -> Iterator[Piece]:
    """Read every row once, from `state` or zero, and yield the losses piece by piece.

    Args:
        model: in evaluation mode (see `evaluating`).
        tokens: T inputs and the target of the last one.
        chunk: tokens of a row per forward pass.
        cuts: further positions at which a piece must end, for instance where the state is to be looked at.
        state: where the rows start from; None for zero.
    """
    device = device_of(model)
    for start, end in pieces(tokens.shape[1] - 1, chunk, cuts):
        with torch.inference_mode():
            nll, state = model.nll(as_rows(tokens[:, start : end + 1], device), state)
        yield Piece(start, nll, state)


def read_past(model: SequenceModel, tokens: Int[Tensor, "B T"], state: Carried | None) -> Carried:
    """The state after reading tokens without predicting; one row of tokens is read by all rows of the state.

    Args:
        model: see `SequenceModel`; a `LanguageModel` leaves out what only predictions need.
        tokens: as many rows as the state, or one.
        state: before the first token; None for zero.
    """
    with torch.inference_mode():
        if isinstance(model, LanguageModel):
            return advance_state(model, tokens, state)
        rows = tokens if state is None else tokens.expand(state.batch_size, -1)
        return model(rows, state, logits="none").state


def read_and_predict(
    model: SequenceModel, tokens: Int[Tensor, "B T"], state: Carried | None
) -> tuple[Float[Tensor, "R vocab"], Carried]:
    """Logits behind the last token, one row for each of the state, and the state after it; otherwise as `read_past`."""
    with torch.inference_mode():
        if isinstance(model, LanguageModel):
            return advance_and_predict(model, tokens, state)
        output = model(tokens if state is None else tokens.expand(state.batch_size, -1), state, logits="last")
        return output.logits[:, -1], output.state


def read_only(model: SequenceModel, tokens: Integer[np.ndarray, "B T"], *, chunk: int) -> Carried | None:
    """The state after reading every row from zero, without computing a loss; None where there is nothing to read."""
    device = device_of(model)
    state: Carried | None = None
    for start, end in pieces(tokens.shape[1], chunk):
        state = read_past(model, as_rows(tokens[:, start:end], device), state)
    return state


class BinSums:
    """Exact sums of losses per row and bin, in float64.

    Args:
        num_rows: rows of the table.
        edges: bin edges; bin i is ``[edges[i], edges[i + 1])``. Positions outside all bins are ignored.
    """

    def __init__(self, num_rows: int, edges: Int[np.ndarray, " edges"]) -> None:
        self.edges = edges
        self.sums: Float[np.ndarray, "rows bins"] = np.zeros((num_rows, len(edges) - 1), dtype=np.float64)

    def add(
        self, rows: Int[np.ndarray, " B"], positions: Int[np.ndarray, "B t"], nll: Float[Tensor, "B t"], *, where: str
    ) -> None:
        """Add losses at the given rows and positions.

        Raises:
            RunFailure: where a loss is not finite; a mean over it would hide which position broke.
        """
        values = nll.detach().to("cpu", torch.float64).numpy()
        if not np.isfinite(values.sum()):
            row, step = np.argwhere(~np.isfinite(values))[0]
            raise RunFailure(
                expected="a finite loss at every position",
                got=f"{values[row, step]} at position {positions[row, step]} of sequence {rows[row]}",
                where=where,
                fix="look for non-finite weights, or measure a shorter length: the state may overflow beyond it",
            )
        bins = np.searchsorted(self.edges, positions, side="right") - 1
        inside = (positions >= self.edges[0]) & (positions < self.edges[-1])
        np.add.at(self.sums, (np.broadcast_to(rows[:, None], bins.shape)[inside], bins[inside]), values[inside])


def full_history_sums(
    model: SequenceModel,
    tokens: Integer[np.ndarray, "B T1"],
    edges: Int[np.ndarray, " edges"],
    *,
    chunk: int,
    cuts: Iterable[int] = (),
    look: Callable[[Piece], None] | None = None,
    advance: Advance | None = None,
) -> Float[np.ndarray, "B bins"]:
    """Summed loss in nats of each row in each bin, every token predicted from its full history and a zero start.

    Args:
        model: see `SequenceModel`.
        tokens: rows of equal length, so that bins do not mix different sets of documents.
        edges: bin edges in positions.
        chunk: tokens of a row per forward pass.
        cuts, look: positions at which a piece must end, and a function that sees every piece.
        advance: told of tokens read.
    """
    rows = np.arange(tokens.shape[0])
    table = BinSums(tokens.shape[0], edges)
    with evaluating(model):
        for piece in stream(model, tokens, chunk=chunk, cuts=cuts):
            positions = np.broadcast_to(np.arange(piece.start, piece.end), piece.nll.shape)
            table.add(rows, positions, piece.nll, where="full-history losses")
            if look is not None:
                look(piece)
            if advance is not None:
                advance(piece.nll.numel())
    return table.sums


def check_tokens(tokens: np.ndarray, vocab_size: int | None, *, batch_size: int, chunk: int) -> None:
    """Refuse token arrays and sizes that cannot be measured, before any work.

    Raises:
        InputError: no rows or no targets, ids outside the vocabulary, a batch or chunk of zero.
    """
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(
            expected="integer tokens of shape [sequences, length + 1]",
            got=f"{tokens.dtype} of shape {list(tokens.shape)}",
            where="tokens",
            fix="sample sequences of equal length with lengthwise.data.sample_sequences",
        )
    if tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise InputError(
            expected="at least one sequence of at least one input and one target",
            got=f"shape {list(tokens.shape)}",
            where="tokens",
            fix="ask for a positive number of sequences and a positive length",
        )
    for name, value in (("batch_size", batch_size), ("chunk", chunk)):
        if value < 1:
            raise InputError(expected="at least 1", got=str(value), where=name, fix=f"give a positive {name}")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        raise InputError(
            expected=f"token ids from 0 to {'?' if vocab_size is None else vocab_size - 1}",
            got=f"ids from {low} to {high}",
            where="tokens",
            fix="use the tokenizer that the model was trained with",
        )
