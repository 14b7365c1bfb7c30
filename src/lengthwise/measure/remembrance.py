"""Effective Remembrance: how much the beginning of a text changes the prediction at its end.

Definition 3.3 of arXiv 2507.02782: ``EffRem_T(t) = d(q(. | x[0..T]), q(. | x[t..T]))``, the distance between the
next-token distributions with the full context and with the tokens before t left out, both from a zero state. It is 0
at t = 0 by definition, and large (bounded by 1) as t approaches T. Values far from the end that stay high say that the
model cannot let go of what it read first.

Distances, all between 0 and 1: total variation, half the L1 distance; Jensen-Shannon distance, the square root of the
divergence in bits; one minus the cosine of the two probability vectors.

The whole surface, every start t and every end T of a grid, takes one pass over the text. Rows enter the batch at their
start with a zero state, or, where an end follows soon, after it; from there on all rows read the same tokens. At each
end the predictions of all rows are compared with that of the row that started at 0. Because the text is the same for
all, a `LanguageModel` does most of its lowest layer once for all rows, and because only the ends are predicted, its
uppermost layer makes no output in between (`models/reading.py`). Memory holds one state per start, whatever the length.

States of models that are not ours cannot be laid side by side; there every start is read by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Integer

from lengthwise.engines import HFModel, OneShot
from lengthwise.engines.base import evaluating
from lengthwise.errors import InputError, RunFailure
from lengthwise.measure.stream import (
    Advance,
    SequenceModel,
    as_rows,
    device_of,
    pieces,
    read_and_predict,
    read_past,
)
from lengthwise.shapes import Float, Tensor
from lengthwise.state import State

DISTANCES = ("tv", "js", "cosine")
TOKENS_PER_FORWARD = 8192
"""Rows times tokens of a forward pass: enough to fill the matrix products, little enough to bound memory."""
CHUNK = 64
"""Tokens to which the chunked recurrences fill up a piece."""
ALONE = 128
"""A start so few tokens before the next end, or fewer, is read by itself up to there."""


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
        tokens: documents, one after the other; the prediction at end e is made after reading tokens 0..e (or t..e).
        starts: positions of the first token read, increasing.
        ends: positions of the last token read, increasing, below T.
        tokens_per_forward: rows times tokens of a forward pass; for speed alone.
        advance: told of tokens read, all rows together.

    Returns:
        For each of `DISTANCES` the values, NaN where the start lies beyond the end; exactly 0 at start 0.

    Raises:
        InputError: where starts or ends are empty, not increasing, or outside the text.
        RunFailure: where a prediction is not finite.
    """
    _check_grid("starts", starts, tokens.shape[1])
    _check_grid("ends", ends, tokens.shape[1])
    # The full context is the yardstick and always runs, also where the caller does not ask for its row.
    entering = sorted({0, *starts})
    asked = [entering.index(start) for start in starts]
    rest = (entering, list(ends), tokens_per_forward, advance)
    with evaluating(model):
        if isinstance(model, HFModel | OneShot):
            found = [_surface_by_start(model, row, *rest) for row in tokens]
        else:
            found = [_surface(model, row, *rest) for row in tokens]
    return {name: np.stack([each[name][asked] for each in found]) for name in DISTANCES}


def _surface(
    model: SequenceModel,
    text: Integer[np.ndarray, " T"],
    entering: list[int],
    ends: list[int],
    tokens_per_forward: int,
    told: Advance | None,
) -> dict[str, Float[np.ndarray, "starts ends"]]:
    """The surface of one document; `entering` begins with 0."""
    surface = {name: np.full((len(entering), len(ends)), np.nan, dtype=np.float64) for name in DISTANCES}
    reader = _Reader(model, text, tokens_per_forward, told)
    state: State | None = None
    for column, (begin, stop) in enumerate(pairwise([0, *(end + 1 for end in ends)])):
        # Rows that enter shortly before the end are short, and cutting the text of all others would cost more.
        here = [start for start in entering if begin <= start < stop]
        alone = [start for start in here if start > 0 and stop - start <= ALONE]
        at = begin
        for start in here[: len(here) - len(alone)]:
            state, at = reader.past(at, start, state), start
            if state is not None:
                state = State.cat([state, state.rows(torch.zeros(1, dtype=torch.int64)).zeros_like()])
        found = [reader.predict(at, stop, state), *(reader.predict(start, stop, None) for start in alone)]
        state = found[0][1]
        if alone and stop <= ends[-1]:
            state = State.cat([each for _, each in found])
        chances = torch.softmax(torch.cat([logits for logits, _ in found]).double(), dim=-1)
        _check_finite(chances, stop - 1)
        for name, values in distances(chances[:1], chances[:, None]).items():
            surface[name][: len(chances), column] = values[:, 0].cpu().numpy()
            surface[name][0, column] = 0.0  # its distance to itself, free of rounding
    return surface


@dataclass(frozen=True)
class _Reader:
    """Reads parts of a text, the same for all rows of a state."""

    model: SequenceModel
    text: Integer[np.ndarray, " T"]
    tokens_per_forward: int
    told: Advance | None

    def past(self, begin: int, stop: int, state: State | None) -> State | None:
        """The state behind ``text[begin:stop]``, which may be empty."""
        for first, last in self._pieces(begin, stop, state):
            state = read_past(self.model, self._tokens(first, last), state)
            self._tell(last - first, state)
        return state

    def predict(self, begin: int, stop: int, state: State | None) -> tuple[Float[Tensor, "R vocab"], State]:
        """The logits of all rows behind ``text[begin:stop]``, which is not empty, and the state."""
        last = self._pieces(begin, stop, state)[-1][0]
        state = self.past(begin, last, state)
        logits, state = read_and_predict(self.model, self._tokens(last, stop), state)
        self._tell(stop - last, state)
        return logits, state

    def _pieces(self, begin: int, stop: int, state: State | None) -> list[tuple[int, int]]:
        """Pieces of at most so many tokens, whole chunks of the recurrence where possible.

        Chunked recurrences may fill up a piece to whole chunks, so that one of 65 tokens costs as much as one of 128.
        """
        largest = self.tokens_per_forward // (1 if state is None else state.batch_size)
        size = max(1, largest if largest < CHUNK else largest // CHUNK * CHUNK)
        return list(pairwise([*range(begin, stop, size), stop]))

    def _tokens(self, first: int, last: int) -> Tensor:
        return as_rows(self.text[None, first:last], device_of(self.model))

    def _tell(self, tokens: int, state: State) -> None:
        if self.told is not None:
            self.told(tokens * state.batch_size)


def _surface_by_start(
    model: HFModel | OneShot,
    text: Integer[np.ndarray, " T"],
    entering: list[int],
    ends: list[int],
    tokens_per_forward: int,
    told: Advance | None,
) -> dict[str, Float[np.ndarray, "starts ends"]]:
    """The same, one start after the other; `entering` begins with 0, whose predictions all others are compared with."""
    surface = {name: np.full((len(entering), len(ends)), np.nan, dtype=np.float64) for name in DISTANCES}
    full: dict[int, Tensor] = {}
    for index, start in enumerate(entering):
        for end, chances in _chances(model, text, start, [end for end in ends if end >= start], tokens_per_forward):
            _check_finite(chances, end)
            full.setdefault(end, chances)
            for name, values in distances(full[end], chances[:, None]).items():
                surface[name][index, ends.index(end)] = float(values[0, 0]) if start > 0 else 0.0
        if told is not None:
            told(ends[-1] + 1 - start)
    return surface


def _chances(
    model: HFModel | OneShot, text: Integer[np.ndarray, " T"], start: int, ends: list[int], tokens_per_forward: int
) -> Iterator[tuple[int, Float[Tensor, "1 vocab"]]]:
    """(end, probabilities after it) for a text that begins at `start`: in one pass, or streamed."""
    device = device_of(model)
    if isinstance(model, OneShot):
        with torch.inference_mode():
            tokens = as_rows(text[None, start : ends[-1] + 1], device)
            logits = model.predictions(tokens, torch.tensor(ends, device=device) - start)
        yield from ((end, torch.softmax(logits[:, i].double(), dim=-1)) for i, end in enumerate(ends))
        return
    state = None
    for begin, stop in pieces(ends[-1] + 1 - start, tokens_per_forward, cuts=[end + 1 - start for end in ends]):
        end = start + stop - 1
        with torch.inference_mode():
            read = as_rows(text[None, start + begin : start + stop], device)
            output = model(read, state, logits="last" if end in ends else "none")
        state = output.state
        if end in ends:
            assert output.logits is not None
            yield end, torch.softmax(output.logits[:, -1].double(), dim=-1)


def _check_finite(chances: Float[Tensor, "R vocab"], end: int) -> None:
    if not torch.isfinite(chances).all():
        raise RunFailure(
            expected="finite predictions",
            got=f"NaN or infinity in the prediction after position {end}",
            where="Effective Remembrance",
            fix="look for non-finite weights, or measure a shorter length: the state may overflow beyond it",
        )


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
