"""The pieces that a measurement is cut into, and how many tokens each reads; made from its settings alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lengthwise.engines.opening import Reading
from lengthwise.measure.bins import log_bins
from lengthwise.measure.config import MeasureConfig
from lengthwise.measure.remembrance import remembrance_ends, remembrance_starts
from lengthwise.measure.restart import default_stride, windows
from lengthwise.measure.states import state_positions
from lengthwise.measure.windows import window_lengths


@dataclass(frozen=True)
class Pieces:
    """The pieces of a measurement."""

    config: MeasureConfig
    context_length: int
    edges: np.ndarray
    batches: tuple[slice, ...]
    positions: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    num_documents: int
    windows: tuple[int, ...]

    @staticmethod
    def make(config: MeasureConfig, num_rows: int, reading: Reading) -> Pieces:
        """Cut the work. Where texts are read in one pass, a piece is one whole text.

        Args:
            config: with every length filled in.
            num_rows: sequences.
            reading: whether the state is carried from piece to piece.
        """
        if reading == "one-shot":
            assert config.length is not None
            config = replace(config, batch_size=1, chunk=config.length)
        context, length, end = config.context_length, config.length, config.remembrance_length
        assert context is not None
        assert length is not None
        assert end is not None
        metrics = config.metrics
        surface = "remembrance" in metrics
        return Pieces(
            config=config,
            context_length=context,
            edges=log_bins(length, context, per_octave=config.bins_per_octave),
            batches=tuple(
                slice(first, min(first + config.batch_size, num_rows))
                for first in range(0, num_rows, config.batch_size)
            ),
            positions=tuple(state_positions(length, context)) if "states" in metrics else (),
            starts=tuple(remembrance_starts(end, context, config.remembrance_starts)) if surface else (),
            ends=tuple(remembrance_ends(end, context, config.remembrance_ends)) if surface else (),
            num_documents=min(config.remembrance_documents, num_rows) if surface else 0,
            windows=window_lengths(length, context),
        )

    def pieces(self) -> list[tuple[str, int]]:
        """(metric, index) of every piece, in order."""
        found: list[tuple[str, int]] = []
        for index, rows in enumerate(self.batches):
            if {"perplexity", "restart"} & set(self.config.metrics) or self.state_rows(rows):
                found.append(("stream", index))
            if "perplexity" in self.config.metrics:
                found.append(("windows", index))
            if "restart" in self.config.metrics:
                found.append(("restart", index))
        return found + [("remembrance", index) for index in range(self.num_documents)]

    def state_rows(self, rows: slice) -> int:
        """How many of these rows have their states looked at."""
        if "states" not in self.config.metrics:
            return 0
        return max(0, min(rows.stop, self.config.state_sequences) - rows.start)

    def cost(self, piece: tuple[str, int]) -> int:
        """Tokens that a piece reads."""
        metric, index = piece
        if metric == "remembrance":
            return sum(self.ends[-1] + 1 - start for start in {0, *self.starts})
        rows = self.batches[index].stop - self.batches[index].start
        length = int(self.edges[-1])
        if metric == "windows":
            return rows * sum(length // window * window for window in self.windows)
        if metric == "stream":
            return rows * length
        stride = self.config.restart_stride or default_stride(self.context_length)
        return rows * self.context_length * len(list(windows(length, self.context_length, stride)))

    def tokens_read(self) -> dict[str, int]:
        """Tokens that all pieces read, by what they are for; a progress display counts their sum."""
        found: dict[str, int] = {}
        for piece in self.pieces():
            found[piece[0]] = found.get(piece[0], 0) + self.cost(piece)
        return {name: count for name, count in found.items() if count}  # no shorter window may fit
