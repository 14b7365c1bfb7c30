"""Position-wise perplexity and bits per byte from a table of losses.

Perplexity of a bin is ``exp(mean loss in nats)`` over all documents and positions of the bin. (Definition 3.1 of arXiv
2507.02782 prints ``E[exp(q)]``, without the logarithm and the sign; the levels of its figures are those of
``exp(mean)``.) Bits per byte divides the same losses, in bits, by the bytes of text that the target tokens stand for,
so models with different tokenizers can be compared. Lower is better for both. The first token of a sequence is never a
target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from lengthwise.errors import InputError
from lengthwise.measure.bootstrap import Resamples, sum_by_document
from lengthwise.shapes import Float, Int


@dataclass(frozen=True)
class LossTable:
    """Losses by document and bin.

    Args:
        edges: bin edges in positions.
        sums: summed loss in nats, per document.
        tokens: number of losses, as floats.
        num_bytes: bytes of the target tokens; None where the tokenizer is not known.
    """

    edges: Int[np.ndarray, " edges"]
    sums: Float[np.ndarray, "documents bins"]
    tokens: Float[np.ndarray, "documents bins"]
    num_bytes: Float[np.ndarray, "documents bins"] | None

    @staticmethod
    def build(
        edges: Int[np.ndarray, " edges"],
        sums: Float[np.ndarray, "n bins"],
        tokens: Integer[np.ndarray, "n T1"],
        documents: Int[np.ndarray, " n"],
        token_bytes: Int[np.ndarray, " vocab"] | None = None,
    ) -> LossTable:
        """Join the sequences of the same document and count tokens and bytes of every bin."""
        counts = np.broadcast_to(np.diff(edges), sums.shape)
        num_bytes = None
        if token_bytes is not None:
            # Row by row: the sizes of all tokens at once would take as much room as the tokens.
            sizes = np.stack([np.add.reduceat(token_bytes[row[1:]], edges[:-1]) for row in tokens])
            num_bytes = sum_by_document(sizes, documents)
        return LossTable(edges, sum_by_document(sums, documents), sum_by_document(counts, documents), num_bytes)

    @property
    def num_documents(self) -> int:
        """Rows of the table."""
        return self.sums.shape[0]

    def beyond(self, context_length: int) -> LossTable:
        """The bins beyond the training context."""
        first = int(np.searchsorted(self.edges, context_length))
        return LossTable(
            self.edges[first:],
            self.sums[:, first:],
            self.tokens[:, first:],
            None if self.num_bytes is None else self.num_bytes[:, first:],
        )


@dataclass(frozen=True)
class BinPerplexity:
    """Perplexity of the positions ``[start, end)``; `nll` in nats per token, bounds of the perplexity or None."""

    start: int
    end: int
    tokens: int
    nll: float
    perplexity: float
    low: float | None
    high: float | None
    bits_per_byte: float | None


@dataclass(frozen=True)
class Perplexity:
    """Perplexity by position, and over all positions together."""

    bins: tuple[BinPerplexity, ...]
    overall: BinPerplexity


def perplexity_by_position(table: LossTable, resamples: Resamples, *, overall: LossTable | None = None) -> Perplexity:
    """Perplexity of every bin and over all, with two-sided intervals over documents (each bin by itself).

    Args:
        table: losses by document and bin.
        resamples: drawn for these documents.
        overall: what the overall figure is taken from, where the table's bins hold unequal numbers of windows.
    """

    def describe(table: LossTable, start: int, end: int, columns: slice) -> BinPerplexity:
        sums = table.sums[:, columns].sum(axis=1, keepdims=True)
        tokens = table.tokens[:, columns].sum(axis=1, keepdims=True)
        mean = float(sums.sum() / tokens.sum())
        low = high = None
        if resamples.weights is not None:
            bounds = resamples.interval(np.array([mean]), resamples.means(sums, tokens))
            low, high = exponential(float(bounds[0][0])), exponential(float(bounds[1][0]))
        num_bytes = 0.0 if table.num_bytes is None else float(table.num_bytes[:, columns].sum())
        return BinPerplexity(
            start=start,
            end=end,
            tokens=int(tokens.sum()),
            nll=mean,
            perplexity=exponential(mean),
            low=low,
            high=high,
            bits_per_byte=float(sums.sum()) / math.log(2) / num_bytes if num_bytes else None,
        )

    edges = [int(edge) for edge in table.edges]
    bins = tuple(describe(table, edges[i], edges[i + 1], slice(i, i + 1)) for i in range(len(edges) - 1))
    return Perplexity(bins, describe(overall or table, edges[0], edges[-1], slice(None)))


def exponential(nats: float) -> float:
    """exp, held below the largest float: a broken model's perplexity stays a number that JSON can hold."""
    return math.exp(min(nats, 700.0))


def check_token_bytes(token_bytes: Int[np.ndarray, " vocab"], tokens: Integer[np.ndarray, "n T1"]) -> None:
    """Refuse a table of token sizes that does not cover the tokens.

    Raises:
        InputError: where a token id has no entry.
    """
    if int(tokens.max()) >= len(token_bytes):
        raise InputError(
            expected=f"token sizes for ids up to {int(tokens.max())}",
            got=f"{len(token_bytes)} sizes",
            where="token_bytes",
            fix="use the tokenizer that the tokens were made with",
        )
