"""Perplexity and both verdicts of a model in one call, for scripts and searches; no files are written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from lengthwise.errors import InputError
from lengthwise.measure.bins import log_bins
from lengthwise.measure.bootstrap import Resamples
from lengthwise.measure.perplexity import LossTable, Perplexity, check_token_bytes, perplexity_by_position
from lengthwise.measure.restart import restart_sums
from lengthwise.measure.stream import Advance, SequenceModel, check_tokens, full_history_sums
from lengthwise.measure.verdict import (
    DEFINITION_TOLERANCE,
    RESTART_TOLERANCE,
    Control,
    DefinitionVerdict,
    RestartVerdict,
    definition_verdict,
    restart_verdict,
)
from lengthwise.measure.windows import join, window_lengths, window_sums
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
        advance: told of tokens read (full history and restarts together).

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
    edges = log_bins(tokens.shape[1] - 1, context_length, per_octave=bins_per_octave)
    beyond = edges[np.searchsorted(edges, context_length) :]
    full, restarted = [], []
    short: dict[int, list[np.ndarray]] = {window: [] for window in window_lengths(tokens.shape[1] - 1, context_length)}
    for first in range(0, len(tokens), batch_size):
        rows = tokens[first : first + batch_size]
        full.append(full_history_sums(model, rows, edges, chunk=chunk, advance=advance))
        for window, found in short.items():
            found.append(window_sums(model, rows, edges, window, chunk=chunk, batch_size=batch_size, advance=advance))
        restarted.append(
            restart_sums(
                model,
                rows,
                beyond,
                context_length,
                stride=restart_stride,
                chunk=chunk,
                batch_size=batch_size,
                advance=advance,
            )
        )
    ids = np.arange(len(tokens)) if documents is None else documents
    table = LossTable.build(edges, np.concatenate(full), tokens, ids, token_bytes)
    restart = LossTable.build(beyond, np.concatenate(restarted), tokens, ids)
    joined = table
    for window, found in short.items():
        joined = join(joined, np.concatenate(found), tokens, ids, window, token_bytes)
    whole = table.beyond(context_length)
    control = Control(full=whole.sums, restarted=restart.sums, tokens=restart.tokens) if control_text else None
    draws = Resamples.draw(table.num_documents, resamples=resamples, seed=seed)
    return LengthEvaluation(
        perplexity=perplexity_by_position(joined, draws, overall=table),
        definition=definition_verdict(
            joined.sums, joined.tokens, edges, context_length, draws, tolerance=tolerance, control=control
        ),
        restart=restart_verdict(whole.sums, restart.sums, restart.tokens, beyond, draws, tolerance=restart_tolerance),
    )
