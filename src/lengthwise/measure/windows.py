"""Losses from shorter windows of the same text: many more of the early positions, at a fixed cost.

A sequence of 64 training contexts holds each early position once. A bin next to the training context then has a few
dozen tokens a document, and the interval of its perplexity is wider than any tolerance. So every sequence is also cut
into windows of 2 and of 8 training contexts, each read from a zero state at its own start. As the sequences lie at
random offsets of their documents, so do the windows: the loss at position p of a window is one more draw of the loss at
position p. Sums and counts are added up by document, the unit of every interval.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Integer

from lengthwise.measure.bootstrap import sum_by_document
from lengthwise.measure.perplexity import LossTable
from lengthwise.measure.stream import Advance, SequenceModel, full_history_sums
from lengthwise.shapes import Float, Int

FACTORS = (2, 8)
"""Lengths of the shorter windows, in training contexts."""


def window_lengths(length: int, context_length: int) -> tuple[int, ...]:
    """The window lengths that fit a sequence of `length` at least twice."""
    return tuple(factor * context_length for factor in FACTORS if 2 * factor * context_length <= length)


def window_edges(edges: Int[np.ndarray, " edges"], window: int) -> Int[np.ndarray, " edges_w"]:
    """The bins that lie whole inside a window."""
    return edges[edges <= window]


def cut(tokens: Integer[np.ndarray, "n T1"], window: int) -> Integer[np.ndarray, "m W1"]:
    """Consecutive windows of every row, row by row, each with the target of its last token; a short rest is left."""
    count = (tokens.shape[1] - 1) // window
    starts = np.arange(count) * window
    return tokens[:, starts[:, None] + np.arange(window + 1)].reshape(-1, window + 1)


def window_sums(
    model: SequenceModel,
    tokens: Integer[np.ndarray, "n T1"],
    edges: Int[np.ndarray, " edges"],
    window: int,
    *,
    chunk: int,
    batch_size: int,
    advance: Advance | None = None,
) -> Float[np.ndarray, "n bins"]:
    """Summed loss in nats of each row in each bin inside the window, over all windows of the row.

    Args:
        model: see `SequenceModel`.
        tokens: rows of equal length.
        edges: bin edges; those beyond the window are ignored.
        window: length of a window in tokens.
        chunk, batch_size: the forward passes hold about ``chunk * batch_size`` tokens.
        advance: told of tokens read.
    """
    inside = window_edges(edges, window)
    pieces = cut(tokens, window)
    rows_at_once = max(1, batch_size * chunk // min(chunk, window))
    sums = [
        full_history_sums(model, pieces[first : first + rows_at_once], inside, chunk=chunk, advance=advance)
        for first in range(0, len(pieces), rows_at_once)
    ]
    return np.concatenate(sums).reshape(len(tokens), -1, len(inside) - 1).sum(axis=1)


def join(
    table: LossTable,
    sums: Float[np.ndarray, "n bins"],
    tokens: Integer[np.ndarray, "n T1"],
    documents: Int[np.ndarray, " n"],
    window: int,
    token_bytes: Int[np.ndarray, " vocab"] | None = None,
) -> LossTable:
    """Add the losses of shorter windows to a table of whole sequences.

    Args:
        table: of the whole sequences.
        sums: what `window_sums` found for the same rows.
        tokens, documents: the rows.
        window: length of a window in tokens.
        token_bytes: bytes per token id, or None.
    """
    inside = window_edges(table.edges, window)
    count = (tokens.shape[1] - 1) // window
    counts = np.broadcast_to(count * np.diff(inside), sums.shape)
    num_bytes = None
    if token_bytes is not None and table.num_bytes is not None:
        # Row by row, so that no copy of the whole text is made; the targets of a window do not hold its first token.
        # The last bin may end before the window does; its end then begins a stretch that is dropped.
        cuts = inside[inside < window]
        first = (np.arange(count)[:, None] * window + cuts).ravel()
        found = [np.add.reduceat(token_bytes[row[1 : count * window + 1]], first) for row in tokens]
        num_bytes = np.stack([each.reshape(count, -1).sum(axis=0)[: len(inside) - 1] for each in found])
    wide = ((0, 0), (0, len(table.edges) - len(inside)))
    return replace(
        table,
        sums=table.sums + np.pad(sum_by_document(sums, documents), wide),
        tokens=table.tokens + np.pad(sum_by_document(counts, documents), wide),
        num_bytes=None if num_bytes is None else table.num_bytes + np.pad(sum_by_document(num_bytes, documents), wide),
    )
