"""Log-spaced position bins with an edge at the training context.

A position is the number of tokens read before the prediction, less one: the loss at position p is that of token p + 1
given tokens 0..p. A bin ``[start, end)`` holds whole positions. No bin straddles the training context, so every bin is
either inside or beyond it; no bin is narrower than `MIN_WIDTH` positions where the length allows it, because a mean
over a handful of positions is noise.
"""

from __future__ import annotations

import numpy as np

from lengthwise.errors import InputError
from lengthwise.shapes import Int

MIN_WIDTH = 16


def log_bins(
    length: int, context_length: int, *, per_octave: int = 2, min_width: int = MIN_WIDTH
) -> Int[np.ndarray, " edges"]:
    """Edges of the bins over ``[0, length)``, anchored at the training context.

    Candidates lie at ``context_length * 2**(k / per_octave)`` for whole k. Going down from the training context a
    candidate is kept where it leaves at least `min_width` positions on both sides, going up where it does so below it;
    a short rest at the end joins the bin before it.

    Args:
        length: positions measured, more than `context_length`.
        context_length: the model's training context, an edge of the result.
        per_octave: bins per doubling of the position.
        min_width: least number of positions of a bin.

    Returns:
        Increasing int64 edges from 0 to `length`; bin i is ``[edges[i], edges[i + 1])``.

    Raises:
        InputError: where `length` does not exceed the context, or a number is not positive.
    """
    check_lengths(length, context_length)
    if per_octave < 1 or min_width < 1:
        raise InputError(
            expected="at least 1 bin per octave and bins of at least 1 position",
            got=f"per_octave={per_octave}, min_width={min_width}",
            where="log_bins",
            fix="leave them at their defaults of 2 and 16",
        )
    below = [context_length]
    step = 1
    while (edge := round(context_length * 2 ** (-step / per_octave))) >= min_width:
        if below[-1] - edge >= min_width:
            below.append(edge)
        step += 1
    above = [context_length]
    step = 1
    while (edge := round(context_length * 2 ** (step / per_octave))) < length:
        if edge - above[-1] >= min_width:
            above.append(edge)
        step += 1
    # A last bin of less than half its share, or of too few positions, would be noisier than its neighbours.
    last_width = above[-1] - above[-2] if len(above) > 1 else 0
    if len(above) > 1 and length - above[-1] < max(min_width, last_width // 2):
        above.pop()
    return np.array([0, *reversed(below), *above[1:], length], dtype=np.int64)


def check_lengths(length: int, context_length: int) -> None:
    """Refuse lengths that leave nothing to measure beyond the training context.

    Raises:
        InputError: where one is not positive, or `length` does not exceed `context_length`.
    """
    if context_length < 1:
        raise InputError(
            expected="a training context of at least 1 token",
            got=str(context_length),
            where="context_length",
            fix="give the context that the model was trained with",
        )
    if length < 1:
        raise InputError(
            expected="a length of at least 1 token",
            got=str(length),
            where="length",
            fix=f"give a length above the training context {context_length}, for instance {64 * context_length}",
        )
    if length <= context_length:
        raise InputError(
            expected=f"a length above the training context {context_length}",
            got=str(length),
            where="length",
            fix=f"give a longer one, for instance {64 * context_length}: nothing beyond the context is measured here",
        )
