"""Losses with a short history: the model restarts at zero, reads at most a training context, and is scored.

This is the yardstick of the restart verdict. A model that restarts every half context never meets a state that it did
not meet in training, so it shows what the model can do at every position of the corpus without length generalization.
Comparing it with the full history *on the same target tokens* takes the corpus out of the comparison: a text that
becomes harder further in becomes harder for both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Integer

from lengthwise.engines.base import evaluating
from lengthwise.errors import InputError
from lengthwise.measure.stream import Advance, BinSums, SequenceModel, read_only, stream
from lengthwise.shapes import Float, Int


def default_stride(context_length: int) -> int:
    """Half the training context, so that a scored token has seen between half a context and a whole one."""
    return max(1, context_length // 2)


def check_stride(stride: int, context_length: int) -> None:
    """Refuse strides that leave targets unscored.

    Raises:
        InputError: outside 1 .. context_length.
    """
    if not 1 <= stride <= context_length:
        raise InputError(
            expected=f"a restart stride from 1 to the training context {context_length}",
            got=str(stride),
            where="restart_stride",
            fix=f"leave it out for the default of {default_stride(context_length)}",
        )


def windows(length: int, context_length: int, stride: int) -> Iterator[tuple[int, int]]:
    """Windows that score every position of ``[context_length, length)`` exactly once.

    A window reads `context_length` tokens from its start; its last tokens are scored. The last window ends at `length`
    and scores what is left, so no window is shorter than the others.

    Yields:
        (start of the window, first position it scores); it scores up to its end.
    """
    for scored in range(context_length, length, stride):
        end = min(scored + stride, length)
        yield end - context_length, scored


def restart_sums(
    model: SequenceModel,
    tokens: Integer[np.ndarray, "B T1"],
    edges: Int[np.ndarray, " edges"],
    context_length: int,
    *,
    stride: int | None = None,
    chunk: int,
    batch_size: int,
    advance: Advance | None = None,
) -> Float[np.ndarray, "B bins"]:
    """Summed loss in nats of each row in each bin, every token predicted from at most one training context.

    Every `stride` tokens the state starts at zero; a window of `context_length` tokens is read and its last `stride`
    positions are scored. A scored token therefore has a history of ``context_length - stride + 1`` to
    ``context_length`` tokens, itself counted as read. Windows are independent and run side by side.

    Args:
        model: see `SequenceModel`.
        tokens: rows of equal length.
        edges: bin edges, none below `context_length`.
        context_length: the training context.
        stride: distance between restarts; None for half the context.
        chunk, batch_size: the forward passes hold about ``chunk * batch_size`` tokens.
        advance: told of tokens read.
    """
    stride = default_stride(context_length) if stride is None else stride
    check_stride(stride, context_length)
    table = BinSums(tokens.shape[0], edges)
    plan = list(windows(tokens.shape[1] - 1, context_length, stride))
    whole = [window for window in plan if window[0] + context_length - window[1] == stride]
    rest = [window for window in plan if window[0] + context_length - window[1] != stride]
    rows_at_once = max(1, batch_size * chunk // context_length)
    with evaluating(model):
        for group, scored in ((whole, stride), (rest, 0)):
            if not group:
                continue
            scored = scored or group[0][0] + context_length - group[0][1]
            starts = np.array([start for start, _ in group])
            # (row, window) pairs, row by row, so that one forward pass takes neighbouring text.
            row = np.repeat(np.arange(tokens.shape[0]), len(starts))
            start = np.tile(starts, tokens.shape[0])
            for first in range(0, len(row), rows_at_once):
                here = slice(first, first + rows_at_once)
                text = tokens[row[here, None], start[here, None] + np.arange(context_length + 1)]
                unscored = context_length - scored
                state = read_only(model, text[:, :unscored], chunk=chunk)
                for piece in stream(model, text[:, unscored:], chunk=chunk, state=state):
                    positions = start[here, None] + unscored + np.arange(piece.start, piece.end)
                    table.add(row[here], positions, piece.nll, where="restarted losses")
                if advance is not None:
                    advance(text.shape[0] * context_length)
    return table.sums
