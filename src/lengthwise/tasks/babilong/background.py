"""The background of a sample: sentences of books to an exact number of tokens, in bounded memory.

Facts may go anywhere among the background, and where they go is drawn once it is known how many pieces there are. So
the background is read twice: first it is only measured, then it is written. What stays in between is one number a
sentence; the text itself is never held.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lengthwise.errors import InputError
from lengthwise.tasks.babilong.books import Books
from lengthwise.tasks.counting import PieceCounts

MIN_SENTENCE_TOKENS = 10
"""Shorter sentences of a book are left out."""
_BATCH = 2048  # most sentences that are tokenized at once
_FRUITLESS_ROUNDS = 500  # draws from the books without one sentence that can be used


def as_piece(sentence: str) -> str:
    """A fact or a sentence as it stands in the text: behind a space, the way it is also tokenized."""
    return " " + sentence


@dataclass(frozen=True)
class Background:
    """Sentences of books that come to an exact number of tokens, measured and not held.

    Args:
        books: where they are from.
        draw: makes the generator that draws them; equal every time it is called.
        reach: tokens for which text is taken from a book at a time.
        tokens: of each sentence in the order they are drawn; 0 where it is left out.
        last: the last piece, which is cut.
        room: tokens that are left for the last piece.
        last_tokens: tokens of the last piece, before it is cut.
    """

    books: Books
    draw: Callable[[], np.random.Generator]
    reach: int
    tokens: array[int]
    last: str
    room: int
    last_tokens: int

    @property
    def num_pieces(self) -> int:
        """Pieces, the last one included."""
        return len(self.tokens) - self.tokens.count(0) + 1 if self.last else 0

    def before_last(self) -> Iterator[tuple[str, int]]:
        """All pieces but the last, with their tokens."""
        sentences = (sentence for sentence in self.books.sentences(self.draw(), self.reach) if sentence)
        for tokens, sentence in zip(self.tokens, sentences, strict=False):
            if tokens:
                yield as_piece(sentence), tokens

    def starts(self) -> Iterator[int]:
        """Tokens of the background before each piece, the last one included."""
        so_far = 0
        for tokens in self.tokens:
            if tokens:
                yield so_far
                so_far += tokens
        if self.last:
            yield so_far


def measure_background(
    books: Books, draw: Callable[[], np.random.Generator], counts_of: PieceCounts, budget: int, reach: int
) -> Background:
    """Draw sentences of at least `MIN_SENTENCE_TOKENS` until they reach a budget.

    Args:
        books: where they are from.
        draw: makes the generator that draws them.
        counts_of: measures the budget, piece by piece.
        budget: tokens wanted; nothing is drawn where it is not positive.
        reach: tokens for which text is taken from a book at a time.
    Raises:
        InputError: the books hold no sentence that can be used.
    """
    tokens: array[int] = array("I")
    if budget <= 0:
        return Background(books, draw, reach, tokens, "", 0, 0)
    total = fruitless = 0
    stream = books.sentences(draw(), reach)
    while True:
        # A sentence of prose has some 25 tokens: about as many are read as will be needed.
        drawn = list(islice(stream, min(_BATCH, 8 + (budget - total) // 20)))
        pieces = [as_piece(sentence) for sentence in drawn if sentence]
        counts = iter(counts_of(pieces))
        for sentence in drawn:
            if not sentence:  # the end of a round
                fruitless += 1
                if fruitless > _FRUITLESS_ROUNDS:
                    raise _too_short(books, budget, total)
                continue
            count = next(counts)
            if count < MIN_SENTENCE_TOKENS:
                tokens.append(0)
                continue
            fruitless = 0
            if total + count >= budget:
                return Background(books, draw, reach, tokens, as_piece(sentence), budget - total, count)
            tokens.append(count)
            total += count


def _too_short(books: Books, budget: int, total: int) -> InputError:
    return InputError(
        expected=f"books with sentences of {MIN_SENTENCE_TOKENS} tokens or more, for a background of {budget:,} tokens",
        got=f"{len(books.texts)} books of {sum(map(len, books.texts)):,} characters without one that can be used"
        + (f" after {total:,} tokens" if total else ""),
        where=", ".join(books.names[:3]) + (" and others" if len(books.names) > 3 else ""),
        fix="give longer books; their first and last sentence after a cut are never used",
    )
