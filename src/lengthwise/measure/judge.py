"""From the losses that were read to perplexity and the verdicts; nothing is read here, and nothing written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lengthwise.measure.bootstrap import Resamples
from lengthwise.measure.inputs import Sequences
from lengthwise.measure.perplexity import LossTable, Perplexity, perplexity_by_position
from lengthwise.measure.verdict import (
    Control,
    DefinitionVerdict,
    RestartVerdict,
    definition_verdict,
    restart_verdict,
)
from lengthwise.measure.windows import join
from lengthwise.shapes import Float, Int


@dataclass(frozen=True)
class Losses:
    """Summed losses in nats of each sequence in each bin.

    Args:
        full: with the full history.
        windows: of shorter windows, by their length, in the bins inside them; None where perplexity is not asked for.
        restarted: from at most one training context, in the bins beyond it; None where restarts are not asked for.
    """

    full: Float[np.ndarray, "n bins"]
    windows: Mapping[int, np.ndarray] | None
    restarted: Float[np.ndarray, "n beyond"] | None


@dataclass(frozen=True)
class Judgement:
    """Perplexity and verdicts, as far as the losses tell; None for the rest."""

    perplexity: Perplexity | None
    definition: DefinitionVerdict | None
    restart: RestartVerdict | None


def judge(
    losses: Losses,
    text: Sequences,
    edges: Int[np.ndarray, " edges"],
    context_length: int,
    draws: Resamples,
    *,
    tolerance: float,
    restart_tolerance: float,
    control_text: bool,
) -> Judgement:
    """Perplexity by position, the definition verdict and the restart verdict.

    Args:
        losses: what was read.
        text: the sequences they are of.
        edges: position bins.
        context_length: the training context.
        draws: resamples of the documents.
        tolerance, restart_tolerance: excess perplexity that still passes.
        control_text: take the difficulty of the text out of the definition verdict; needs the restarted losses.
    """
    table = LossTable.build(edges, losses.full, text.tokens, text.documents, text.token_bytes)
    beyond = table.beyond(context_length)
    perplexity = definition = restart = control = None
    if losses.restarted is not None:
        restarted = LossTable.build(beyond.edges, losses.restarted, text.tokens, text.documents)
        control = Control(full=beyond.sums, restarted=restarted.sums, tokens=beyond.tokens)
        restart = restart_verdict(
            control.full, control.restarted, control.tokens, beyond.edges, draws, tolerance=restart_tolerance
        )
    if losses.windows is not None:
        joined = table
        for window, sums in losses.windows.items():
            joined = join(joined, sums, text.tokens, text.documents, window, text.token_bytes)
        perplexity = perplexity_by_position(joined, draws, overall=table)
        definition = definition_verdict(
            joined.sums,
            joined.tokens,
            edges,
            context_length,
            draws,
            tolerance=tolerance,
            control=control if control_text else None,
        )
    return Judgement(perplexity, definition, restart)
