"""Effective Remembrance: how much the beginning of a text changes the prediction at its end.

Definition 3.3 of arXiv 2507.02782: ``EffRem_T(t) = d(q(. | x[0..T]), q(. | x[t..T]))``, the distance between the
next-token distributions with the full context and with the tokens before t left out, both from a zero state. It is 0
at t = 0 by definition, and large (bounded by 1) as t approaches T. Values far from the end that stay high say that the
model cannot let go of what it read first.

Distances, all between 0 and 1: total variation, half the L1 distance; Jensen-Shannon distance, the square root of the
divergence in bits; one minus the cosine of the two probability vectors.

The whole surface, every start t and every end T of a grid, takes one pass over the text. Rows enter the batch at their
start with a zero state, and from there on all rows read the same tokens; at each end the predictions of all rows are
compared with that of the row that started at 0. Memory holds one state per start, whatever the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Integer

from lengthwise.errors import InputError
from lengthwise.measure.stream import Advance, SequenceModel, as_rows, device_of, evaluating, pieces
from lengthwise.shapes import Float, Tensor
from lengthwise.state import State

DISTANCES = ("tv", "js", "cosine")
TOKENS_PER_FORWARD = 2048
"""Rows times tokens of a forward pass. Small enough for the activations of a layer to stay in the cache."""


def remembrance_starts(end: int, context_length: int, number: int = 32) -> list[int]:
    """A grid of starts: half of it even over the text, half of it dense near `end`, with 0 and `end - context_length`.

    The even half draws the curve over the whole text; the dense half, at log-spaced distances from the end, resolves
    the fall from full to no forgetting. Short ends have fewer starts.
    """
    _check_end(end)
    if number < 4:
        raise InputError(
            expected="at least 4 starts", got=str(number), where="remembrance_starts", fix="leave it at 32"
        )
    special = {0, max(end - context_length, 0), end}
    grid = set(special)
    even = np.linspace(0, end, number // 2)
    dense = end - np.geomspace(1, max(end, 1), number - number // 2)
    # The specials take the places of their nearest neighbours, so that the number is kept.
    for candidate in sorted({round(value) for value in (*even, *dense)}):
        grid.add(min(max(candidate, 0), end))
    while len(grid) > number:
        ordered = sorted(grid)
        gaps = {
            middle: min(middle - left, right - middle)
            for left, middle, right in zip(ordered, ordered[1:], ordered[2:], strict=False)
            if middle not in special
        }
        grid.remove(min(gaps, key=lambda position: (gaps[position], position)))
    return sorted(grid)


def remembrance_ends(end: int, context_length: int, number: int = 16) -> list[int]:
    """A grid of ends, log-spaced from a quarter of the training context to `end`."""
    _check_end(end)
    if number < 1:
        raise InputError(expected="at least 1 end", got=str(number), where="remembrance_ends", fix="leave it at 16")
    first = max(1, min(context_length // 4, end))
    return sorted({round(value) for value in np.geomspace(first, end, number)} | {end})


def _check_end(end: int) -> None:
    if end < 1:
        raise InputError(
            expected="an end of at least 1", got=str(end), where="remembrance_length", fix="give a longer text"
        )


def distances(
    reference: Float[Tensor, "D vocab"], other: Float[Tensor, "R D vocab"]
) -> dict[str, Float[Tensor, "R D"]]:
    """Total variation, Jensen-Shannon distance and one minus cosine between probability vectors.

    Args:
        reference: probabilities of each document with the full context.
        other: probabilities of each document from each start.
    """
    total_variation = (other - reference).abs().sum(dim=-1) / 2
    middle = (other + reference) / 2
    # xlogy is 0 at 0: impossible tokens and the padded rows of the vocabulary add nothing.
    divergence = (torch.xlogy(other, other) + torch.xlogy(reference, reference) - 2 * torch.xlogy(middle, middle)).sum(
        dim=-1
    ) / (2 * np.log(2))
    cosine = torch.nn.functional.cosine_similarity(other, reference.expand_as(other), dim=-1)
    return {
        "tv": total_variation,
        "js": divergence.clamp(min=0).sqrt(),
        "cosine": (1 - cosine).clamp(min=0),
    }


def remembrance_surface(
    model: SequenceModel,
    tokens: Integer[np.ndarray, "D T"],
    starts: Sequence[int],
    ends: Sequence[int],
    *,
    tokens_per_forward: int = TOKENS_PER_FORWARD,
    advance: Advance | None = None,
) -> dict[str, Float[np.ndarray, "D starts ends"]]:
    """Effective Remembrance of every document for every start and end, in one pass.

    Args:
        model: see `SequenceModel`.
        tokens: documents, read together; the prediction at end e is made after reading tokens 0..e (or t..e).
        starts: positions of the first token read, increasing.
        ends: positions of the last token read, increasing, below T.
        tokens_per_forward: rows times tokens of a forward pass; for speed alone.
        advance: told of tokens read, all rows together.

    Returns:
        For each of `DISTANCES` the values, NaN where the start lies beyond the end; exactly 0 at start 0.

    Raises:
        InputError: where starts or ends are empty, not increasing, or outside the text.
    """
    _check_grid("starts", starts, tokens.shape[1])
    _check_grid("ends", ends, tokens.shape[1])
    documents = tokens.shape[0]
    # The full context is the yardstick and always runs, also where the caller does not ask for its row.
    entering = sorted({0, *starts})
    surface = {name: np.full((documents, len(entering), len(ends)), np.nan, dtype=np.float64) for name in DISTANCES}
    stops = {end + 1: index for index, end in enumerate(ends)}
    with evaluating(model):
        state: State | None = None
        active = 0
        for begin, stop in pieces(ends[-1] + 1, ends[-1] + 1, cuts=(*entering, *stops)):
            if begin in entering:
                active += 1
                state = _with_entering_rows(state, documents)
            step = max(1, tokens_per_forward // (active * documents))
            for first in range(begin, stop, step):
                last = min(first + step, stop)
                logits, state = _read(model, tokens[:, first:last], active, state, last in stops)
                if advance is not None:
                    advance((last - first) * active * documents)
            if stop in stops:
                assert logits is not None
                chances = torch.softmax(logits.double(), dim=-1).view(active, documents, -1)
                for name, values in distances(chances[0], chances).items():
                    surface[name][:, :active, stops[stop]] = values.T.cpu().numpy()
    for name in DISTANCES:
        reached = ~np.isnan(surface[name][:, 0])
        surface[name][:, 0][reached] = 0.0  # a distribution's distance to itself, free of rounding
    asked = [entering.index(start) for start in starts]
    return {name: values[:, asked] for name, values in surface.items()}


def _with_entering_rows(state: State | None, documents: int) -> State | None:
    """One more row per document, at zero. The first rows need no state: None is zero."""
    if state is None:
        return None
    fresh = state.rows(torch.zeros(documents, dtype=torch.int64)).zeros_like()
    return State.cat([state, fresh])


def _read(
    model: SequenceModel, tokens: Integer[np.ndarray, "D t"], active: int, state: State | None, predict: bool
) -> tuple[Tensor | None, State]:
    """All rows read the same tokens; logits of the last one where they are wanted."""
    rows = as_rows(tokens, device_of(model)).repeat(active, 1)
    with torch.inference_mode():
        output = model(rows, state, logits="last" if predict else "none")
    return (output.logits[:, -1] if predict else None), output.state


def _check_grid(name: str, grid: Sequence[int], length: int) -> None:
    increasing = all(left < right for left, right in pairwise(grid))
    if not grid or not increasing or grid[0] < 0 or grid[-1] >= length:
        raise InputError(
            expected=f"increasing positions from 0 to {length - 1}",
            got=str(list(grid)) if len(grid) <= 8 else f"{len(grid)} positions from {grid[0]} to {grid[-1]}",
            where=f"{name} of Effective Remembrance",
            fix="sort them, or give a longer text",
        )


def area_under_curve(starts: Sequence[int], curve: Float[np.ndarray, " starts"], end: int) -> float | None:
    """Mean of the curve over ``[0, end]`` by the trapezoid rule; None where fewer than two starts have a value."""
    known = np.isfinite(curve)
    if known.sum() < 2:
        return None
    values, places = curve[known], np.array(starts)[known]
    return float(((values[1:] + values[:-1]) / 2 * np.diff(places)).sum() / end)
