"""Three ways to put a passkey prompt together for a number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.tasks.counting import Counter, count_tokens, filling_prefix, last_fitting
from lengthwise.tasks.passkey.wording import PasskeyWording
from lengthwise.tasks.sentences import split_sentences

_ROUNDS = 8  # how often an estimate may be corrected; two or three are usual
_REACH = 80  # characters by which the end of the landmark filler is tried longer and shorter


@dataclass(frozen=True)
class Layout:
    """A prompt that fits, and how it was put together."""

    prompt: str
    num_tokens: int
    meta: dict[str, Any]


class ExactLayout:
    """Sentences of filler to the exact token; the key line after a share of them.

    The order is: instruction, a blank line, filler with the key line between two sentences, a blank line, question. The
    last sentence of the filler is cut where the count asks for it. Sentences are counted once, so that a prompt is made
    without reading it token by token.

    Args:
        wording: the pieces.
        tokenizer: what the length is measured with.
    """

    def __init__(self, wording: PasskeyWording, tokenizer: Tokenizer) -> None:
        self._wording, self._tokenizer = wording, tokenizer
        self._head = wording.instruction + "\n\n"
        self._tail = "\n\n" + wording.question
        self._sentences = list(split_sentences(wording.filler))
        pieces = [" " + sentence for sentence in self._sentences]
        self._tokens = [len(ids) for ids in tokenizer.encode_batch(pieces)]
        self._ends = [0]  # tokens of the first sentences of a round of filler, as they stand in running text
        counter = Counter(tokenizer)
        counter.add(self._head + " ".join(self._sentences))
        before = counter.total()
        for count in range(1, len(pieces) + 1):
            self._ends.append(counter.total("".join(pieces[:count])) - before)

    def shortest(self, key: str, ending: str = "") -> str:
        """The prompt without filler."""
        return self._head + self._wording.line(key) + self._tail + ending

    def build(self, key: str, depth: float, room: int, ending: str = "") -> Layout | None:
        """The prompt that has, with `ending` after it, as many tokens as there is room; None where that is too few."""
        spare = room - len(self._tokenizer.encode(self.shortest(key, ending)))
        if spare < 0:
            return None
        num = self._sentences_in(spare)
        best: Layout | None = None
        for _ in range(_ROUNDS):
            before = min(num, self._nearest(depth * spare))
            layout, lacking = self._fill(key, num, before, room, ending, key_last=depth == 1)
            reached = 1.0 if depth == 1 or spare == 0 else self._cost(before) / spare
            layout = Layout(layout.prompt, layout.num_tokens, {"depth_reached": reached})
            if lacking >= 0 and (best is None or layout.num_tokens > best.num_tokens):
                best = layout
            if lacking == 0 or (num == 0 and lacking < 0):
                break
            num = max(0, num + (1 if lacking > 0 else -1))
        return best

    def _fill(self, key: str, num: int, before: int, room: int, ending: str, *, key_last: bool) -> tuple[Layout, int]:
        """A prompt with so many whole sentences and a part of the next, and what it lacks."""
        line = self._wording.line(key)
        counter = Counter(self._tokenizer)
        counter.add(self._head)
        text = [self._head]
        order: list[tuple[str, int | None]] = [self._sentence(number) for number in range(num)]
        if not key_last:
            order.insert(before, (line, None))
        for place, (piece, tokens) in enumerate(order):
            text.append(" " + piece if place else piece)
            counter.add(text[-1], tokens if place else None)
        following = " ".join(self._sentence(number)[0] for number in (num, num + 1))
        part = " " + following if order else following

        def closing(cut: str) -> str:
            end = self._tail
            if key_last:
                end = (" " if order or cut else "") + line + end
            return cut.rstrip() + end

        def totals(cuts: Sequence[str]) -> list[int]:
            return counter.totals([closing(cut) + ending for cut in cuts])

        cut, lacking = filling_prefix(part, totals, room)
        num_tokens = counter.total(closing(cut)) if ending else room - lacking
        return Layout("".join(text) + closing(cut), num_tokens, {}), lacking

    def _sentence(self, number: int) -> tuple[str, int]:
        place = number % len(self._sentences)
        return self._sentences[place], self._tokens[place]

    def _cost(self, num: int) -> int:
        """Tokens of so many sentences."""
        rounds, rest = divmod(num, len(self._sentences))
        return rounds * self._ends[-1] + self._ends[rest]

    def _sentences_in(self, tokens: int) -> int:
        """How many sentences have at most so many tokens."""
        rounds, rest = divmod(tokens, max(1, self._ends[-1]))
        return rounds * len(self._sentences) + max(i for i, end in enumerate(self._ends) if end <= rest)

    def _nearest(self, tokens: float) -> int:
        """How many sentences come nearest to a number of tokens."""
        below = self._sentences_in(int(tokens))
        return below if tokens - self._cost(below) <= self._cost(below + 1) - tokens else below + 1


def landmark_text(wording: PasskeyWording, key: str, before: int, after: int) -> str:
    """Five lines: instruction, filler, key line, filler, question; the filler by its characters, from its beginning."""
    unit = wording.filler + " "
    filler = unit * (max(before, after) // len(unit) + 1)
    return "\n".join([wording.instruction, filler[:before], wording.line(key), filler[:after], wording.question])


def landmark(wording: PasskeyWording, key: str, share: float, room: int, tokenizer: Tokenizer) -> Layout | None:
    """As in Landmark Attention: as many characters of filler as fit, `share` (0-1) of them before the key line.

    The published prompts are for numbers of characters; here it is the largest number that fits the tokens.
    """
    unit = wording.filler + " "
    rate = max(1, len(tokenizer.encode(unit * 8))) / (8 * len(unit))
    fixed = count_tokens(tokenizer, [landmark_text(wording, key, 0, 0)])
    if fixed > room:
        return None
    chars = int((room - fixed) / rate)
    for _ in range(_ROUNDS):
        before = int(share * (chars + 1))
        lacking = room - count_tokens(tokenizer, [landmark_text(wording, key, before, chars - before)])
        if abs(lacking) <= rate * _REACH / 2:
            break
        chars = max(0, chars + int(lacking / rate))
    end = "\n" + wording.question
    layout: Layout | None = None
    for _ in range(_ROUNDS):
        before = int(share * (chars + 1))
        least = max(0, chars - before - _REACH)
        text = landmark_text(wording, key, before, least + 2 * _REACH).removesuffix(end)
        begin, filler = text[: -2 * _REACH], text[-2 * _REACH :]
        counter = Counter(tokenizer)
        counter.add(begin)

        def totals(cuts: Sequence[str], counter: Counter = counter) -> list[int]:
            return counter.totals([cut + end for cut in cuts])

        more = last_fitting(filler, range(len(filler) + 1), totals, room)
        if more is not None:
            meta = {"filler_chars": before + least + more, "filler_chars_before": before}
            layout = Layout(begin + filler[:more] + end, totals([filler[:more]])[0], meta)
            if more < len(filler):
                break
        chars = max(0, chars + (-_REACH if more is None else _REACH))
    return layout


def blocks_text(wording: PasskeyWording, key: str, depth: float, num_blocks: int) -> str:
    """Instruction, blocks of filler with one replaced by the key block, question; nothing in between."""
    place = int(depth * (num_blocks - 1))
    return "".join(
        [
            wording.instruction,
            wording.filler * place,
            wording.line(key),
            wording.filler * (num_blocks - 1 - place),
            wording.question,
        ]
    )


def blocks(wording: PasskeyWording, key: str, depth: float, room: int, tokenizer: Tokenizer) -> Layout | None:
    """As in Stuffed Mamba and InfiniteBench: the largest number of blocks that fits."""

    def tokens(num_blocks: int) -> int:
        return count_tokens(tokenizer, [blocks_text(wording, key, depth, num_blocks)])

    if tokens(1) > room:
        return None
    one, two = (count_tokens(tokenizer, [wording.instruction + wording.filler * number]) for number in (2, 3))
    block = max(1, two - one)  # what every further block adds, as filler repeats
    num_blocks, best = 1 + (room - tokens(1)) // block, (1, tokens(1))
    for _ in range(_ROUNDS):
        count = tokens(num_blocks)
        if count <= room:
            best = max(best, (num_blocks, count))
        if 0 <= room - count < block:
            break
        num_blocks = max(1, num_blocks + (room - count) // block)
    num_blocks, count = best
    meta = {"blocks": num_blocks, "key_block": int(depth * (num_blocks - 1))}
    return Layout(blocks_text(wording, key, depth, num_blocks), count, meta)
