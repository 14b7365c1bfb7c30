"""Perplexity and both verdicts of a model in one call, for scripts and searches; no files are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Integer

from lengthwise.errors import InputError
from lengthwise.measure.bins import log_bins
from lengthwise.measure.bootstrap import Resamples
from lengthwise.measure.inputs import Sequences
from lengthwise.measure.judge import Losses, judge
from lengthwise.measure.perplexity import Perplexity, check_token_bytes
from lengthwise.measure.restart import restart_sums
from lengthwise.measure.stream import Advance, SequenceModel, check_tokens, full_history_sums
from lengthwise.measure.verdict import DEFINITION_TOLERANCE, RESTART_TOLERANCE, DefinitionVerdict, RestartVerdict
from lengthwise.measure.windows import window_lengths, window_sums
from lengthwise.shapes import Int


@dataclass(frozen=True)
class LengthEvaluation:
    """What `evaluate_length` finds."""

    perplexity: Perplexity
    definition: DefinitionVerdict
    restart: RestartVerdict


def evaluate_length(
    model: SequenceModel,
    tokens: Integer[np.ndarray, "n T1"],
    context_length: int,
    *,
    documents: Int[np.ndarray, " n"] | None = None,
    token_bytes: Int[np.ndarray, " vocab"] | None = None,
    chunk: int = 512,
    batch_size: int = 16,
    bins_per_octave: int = 2,
    restart_stride: int | None = None,
    resamples: int = 2000,
    tolerance: float = DEFINITION_TOLERANCE,
    restart_tolerance: float = RESTART_TOLERANCE,
    control_text: bool = True,
    seed: int = 0,
    advance: Advance | None = None,
) -> LengthEvaluation:
    """How far does a model read? Perplexity by position and both verdicts.

    Args:
        model: a `LanguageModel`, in float32.
        tokens: sequences of T inputs and one more target, all of the same length.
        context_length: the training context.
        documents: id of the document that each sequence comes from; None where each has its own.
        token_bytes: bytes per token id, for bits per byte.
        chunk, batch_size: tokens of a row, and rows, per forward pass.
        bins_per_octave: bins per doubling of the position.
        restart_stride: distance between restarts; None for half the context.
        resamples: bootstrap resamples over documents.
        tolerance, restart_tolerance: excess perplexity that still passes.
        control_text: take the difficulty of the text out of the definition verdict; for sequences at random offsets.
        seed: of the bootstrap.
        advance: told of tokens read (full history, shorter windows and restarts together).

    Raises:
        InputError: where the sizes leave nothing to measure.
        RunFailure: where a loss is not finite.
    """
    vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
    check_tokens(tokens, vocab_size, batch_size=batch_size, chunk=chunk)
    if documents is not None and len(documents) != len(tokens):
        raise InputError(
            expected=f"a document id for each of {len(tokens)} sequences",
            got=f"{len(documents)} ids",
            where="documents",
            fix="pass the ids that came with the sequences",
        )
    if token_bytes is not None:
        check_token_bytes(token_bytes, tokens)
    ids = np.arange(len(tokens)) if documents is None else documents
    text = Sequences(tokens, ids, token_bytes, None)
    edges = log_bins(tokens.shape[1] - 1, context_length, per_octave=bins_per_octave)
    losses = _read(model, tokens, edges, context_length, restart_stride, chunk, batch_size, advance)
    found = judge(
        losses,
        text,
        edges,
        context_length,
        Resamples.draw(len(np.unique(ids)), resamples=resamples, seed=seed),
        tolerance=tolerance,
        restart_tolerance=restart_tolerance,
        control_text=control_text,
    )
    assert found.perplexity is not None
    assert found.definition is not None
    assert found.restart is not None
    return LengthEvaluation(found.perplexity, found.definition, found.restart)


def _read(
    model: SequenceModel,
    tokens: Integer[np.ndarray, "n T1"],
    edges: Int[np.ndarray, " edges"],
    context_length: int,
    stride: int | None,
    chunk: int,
    batch_size: int,
    advance: Advance | None,
) -> Losses:
    """The losses with the full history, of shorter windows, and restarted, some rows at a time."""
    beyond = edges[np.searchsorted(edges, context_length) :]
    full, restarted = [], []
    short: dict[int, list[np.ndarray]] = {window: [] for window in window_lengths(tokens.shape[1] - 1, context_length)}
    sizes: dict[str, Any] = {"chunk": chunk, "batch_size": batch_size, "advance": advance}
    for first in range(0, len(tokens), batch_size):
        rows = tokens[first : first + batch_size]
        full.append(full_history_sums(model, rows, edges, chunk=chunk, advance=advance))
        for window, found in short.items():
            found.append(window_sums(model, rows, edges, window, **sizes))
        restarted.append(restart_sums(model, rows, beyond, context_length, stride=stride, **sizes))
    windows = {window: np.concatenate(found) for window, found in short.items()}
    return Losses(np.concatenate(full), windows, np.concatenate(restarted))
