"""A sample of BABILong before it is written: where everything goes, and how the last piece is cut.

The order of a sample and the white space in it are those of the published generator: every fact and every sentence of
the books stands behind one space, and nothing else comes between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.tasks.babilong.background import Background, as_piece
from lengthwise.tasks.babilong.stories import Story
from lengthwise.tasks.counting import Counter, filling_prefix

Piece = TypeVar("Piece")
Counted = tuple[str, int | None]
"""A text and its tokens, None where they are not known."""


def weave(facts: Sequence[Piece], positions: Sequence[int], background: Iterable[Piece]) -> Iterator[Piece]:
    """Facts and background in the order of the sample: a fact at position i comes before piece i of the background.

    Args:
        facts: in the order of their story.
        positions: one a fact, not falling; the number of pieces means after the last.
        background: pieces, in their order.
    """
    waiting = iter(zip(positions, facts, strict=True))
    following = next(waiting, None)
    for number, piece in enumerate(background):
        while following is not None and following[0] == number:
            yield following[1]
            following = next(waiting, None)
        yield piece
    while following is not None:
        yield following[1]
        following = next(waiting, None)


def trimmed(pieces: Iterable[Counted]) -> Iterator[Counted]:
    """Pieces without the white space at the two ends of the whole; tokens of a piece that changes are not known."""
    begun = False
    held: list[Counted] = []  # the last piece with text, and white space after it
    for text, tokens in pieces:
        if not begun:
            text, tokens = text.lstrip(), None
            begun = bool(text)
        if text.strip():
            yield from held
            held = []
        if begun:
            held.append((text, tokens))
    if len(held) == 1 and held[0][0] == held[0][0].rstrip():
        yield held[0]
    elif held:
        yield "".join(text for text, _ in held).rstrip(), None


@dataclass(frozen=True)
class Plan:
    """A sample that is not written yet: all but its background is here, and that is drawn while it is written."""

    story: Story
    positions: tuple[int, ...]
    """Piece of the background that each fact precedes; their number means at the end."""
    background: Background
    cut: str
    """The last piece of the background, as far as it goes."""
    head: str
    """The prompt up to the context."""
    tail: str
    """The prompt after the context."""
    num_tokens: int = 0
    """Tokens of the prompt, by the tokenizer it was counted with last."""

    def pieces(self) -> Iterator[str]:
        """The prompt, piece by piece; memory does not grow with its length, but for a number a sentence."""
        yield self.head
        yield from (text for text, _ in trimmed(self.context()))
        yield self.tail

    def context(self) -> Iterator[Counted]:
        """Pieces of the context: facts and background."""
        return weave([(as_piece(fact), None) for fact in self.story.facts], self.positions, self._background())

    def _background(self) -> Iterator[Counted]:
        yield from self.background.before_last()
        if self.background.last:
            yield self.cut, None

    def count(self, tokenizer: Tokenizer, *, known: bool) -> Plan:
        """This plan with its number of tokens; `known` where the background was measured with the same tokenizer."""
        counter = Counter(tokenizer)
        counter.add(self.head)
        for text, tokens in trimmed(self.context()):
            counter.add(text, tokens if known else None)
        return replace(self, num_tokens=counter.total(self.tail))

    def cut_by_budget(self, tokenizer: Tokenizer) -> Plan:
        """The last piece cut to the token, as the published samples are; that can cut a character in two."""
        ids = tokenizer.encode(self.background.last)[: self.background.room]
        return replace(self, cut=tokenizer.decode(ids))

    def cut_to_fit(self, tokenizer: Tokenizer, wanted: int, ending: str = "") -> tuple[Plan, int]:
        """The last piece cut such that the prompt, with `ending` after it, has as many tokens as wanted.

        Returns:
            the plan, and the tokens it lacks; less than zero where it has too many even without the last piece.
            `next_budget` says what to try then.
        """
        last = self.background.num_pieces - 1
        num_before = sum(place <= last for place in self.positions)
        facts = [as_piece(fact) for fact in self.story.facts]
        after = "".join(facts[num_before:])
        before: Iterator[Counted] = weave(
            [(fact, None) for fact in facts[:num_before]], self.positions[:num_before], self.background.before_last()
        )
        counter = Counter(tokenizer)
        counter.add(self.head)
        for number, (text, tokens) in enumerate(before):
            counter.add(text if number else text.lstrip(), tokens if number else None)
        is_first = last <= 0 and not num_before

        def prompt_end(cut: str) -> str:
            context = (cut + after).rstrip()
            return (context.lstrip() if is_first else context) + self.tail

        def totals(cuts: Sequence[str]) -> list[int]:
            return counter.totals([prompt_end(cut) + ending for cut in cuts])

        cut, lacking = filling_prefix(self.background.last, totals, wanted)
        num_tokens = wanted - lacking if not ending else counter.total(prompt_end(cut))
        return replace(self, cut=cut, num_tokens=num_tokens), lacking

    def next_budget(self, budget: int, lacking: int) -> int | None:
        """Budget for a background with which the length might be met, after `cut_to_fit`; None where none would help.

        Where the whole last piece is too little, another must follow; where nothing of it is too much, it must go.
        """
        if lacking > 0 and self.cut == self.background.last:
            return budget + self.background.last_tokens - self.background.room + lacking
        if lacking < 0:
            return max(1, budget - self.background.room + lacking)
        return None
