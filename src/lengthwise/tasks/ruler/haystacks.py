"""Haystacks: how needles are put among sentences, among one line repeated, or among other needles.

Each fills a prompt to a number of tokens that it adds up; see `lengthwise.tasks.tokens` for when the sum is exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.tasks.draws import Draws
from lengthwise.tasks.passages import Part, Passage, Shared, Slice
from lengthwise.tasks.ruler.names import RAW_WORDS, Kind, names_from, pairs_from, some_names
from lengthwise.tasks.ruler.wording import Template
from lengthwise.tasks.tokens import TokenCounter
from lengthwise.tasks.words import WordLists

_FULL = 0.98  # share of the room from which on nothing better is looked for
_BEGINS = 6


@dataclass(frozen=True)
class Needle:
    """A sentence to hide, and where: at `depth` (0-1) of the haystack."""

    text: str
    key: str
    value: str
    depth: float
    asked: bool


class Stack(ABC):
    """A haystack that needles are put into. `start` is whatever `begin` drew for a sample."""

    def __init__(self, counter: TokenCounter) -> None:
        self.counter = counter

    @abstractmethod
    def begin(self, streams: Sequence[Draws], shared: Sequence[Draws], room: int) -> Sequence[Any]:
        """What each sample needs to know of its haystack before it is laid out, drawn from its stream and from one that
        is the same for its neighbours."""

    @abstractmethod
    def assemble(
        self, start: Any, needles: list[Needle], template: Template, room: int
    ) -> tuple[tuple[Part, ...], int]:
        """The longest prompt whose parts add up to at most `room` tokens, and what they add up to."""

    @abstractmethod
    def exact(self, needles: list[Needle], template: Template) -> bool:
        """Whether the sum is the number of tokens of the whole."""

    def facts(self, start: Any) -> dict[str, Any]:
        """For `meta`."""
        return {}


@dataclass
class Begins:
    """Sentences a haystack may begin with: the next one where a short prompt is filled badly from the one before."""

    places: list[int]
    taken: int = 0


class ProseStack(Stack):
    """Sentences in a row, from a sentence that some samples have in common; after the last comes the first.

    Prompts that begin alike can be read once up to where they part ways. Where a short prompt is filled badly from the
    common sentence, others are tried that are drawn for the sample alone.
    """

    def __init__(self, counter: TokenCounter, passage: Passage, counts: NDArray[np.int64], empty: bool = False) -> None:
        super().__init__(counter)
        self.passage = passage
        self.empty = empty
        self.sums = np.concatenate([[0], np.cumsum(counts)])
        self.total = int(self.sums[-1])

    def begin(self, streams: Sequence[Draws], shared: Sequence[Draws], room: int) -> list[Begins]:
        size = len(self.passage)
        return [
            Begins([common.integer(size), *own.integers(size, _BEGINS - 1).tolist()])
            for own, common in zip(streams, shared, strict=True)
        ]

    def facts(self, start: Begins) -> dict[str, Any]:
        return {"first_sentence": start.taken}

    def exact(self, needles: list[Needle], template: Template) -> bool:
        return self.counter.additive

    def tokens(self, start: int, count: int) -> int:
        """Tokens of so many sentences from `start` on."""
        rounds, rest = divmod(count, len(self.passage))
        stop = start + rest
        over = stop - len(self.passage)
        some = self.sums[stop] - self.sums[start] if over <= 0 else self.total - self.sums[start] + self.sums[over]
        return rounds * self.total + int(some)

    def fitting(self, start: int, room: int) -> int:
        """The most sentences from `start` on that are at most `room` tokens."""
        rounds, rest = divmod(max(room, 0), self.total)
        target = int(self.sums[start]) + rest
        if target < self.total:
            some = int(np.searchsorted(self.sums, target, side="right")) - 1 - start
        else:
            some = len(self.passage) - start + int(np.searchsorted(self.sums, target - self.total, side="right")) - 1
        return rounds * len(self.passage) + some

    def assemble(
        self, start: Begins, needles: list[Needle], template: Template, room: int
    ) -> tuple[tuple[Part, ...], int]:
        best: tuple[tuple[Part, ...], int] | None = None
        for begin in start.places:
            parts, total, first = self._from(begin, needles, template, room)
            if best is None or (total <= room and total > best[1]):
                best, start.taken = (parts, total), first
            if best[1] >= room * _FULL:
                break
        assert best is not None
        return best

    def _from(
        self, start: int, needles: list[Needle], template: Template, room: int
    ) -> tuple[tuple[Part, ...], int, int]:
        """The longest prompt whose haystack begins with a sentence, its tokens, and the sentence it begins with."""
        count = self.counter.counts
        texts = [needle.text for needle in needles]
        hidden = int(count([f" {text}" for text in texts]).sum())
        around = self.counter.count(template.before) + self.counter.count(template.ending)
        start, number = self._enough(start, room - hidden - around)
        number += 1  # the estimate of `around` may be too high by a token or two
        while True:
            gaps = self._gaps(start, number, needles)
            order = sorted(range(len(needles)), key=lambda j: (gaps[j], needles[j].depth, j))
            hidden_at = [(gaps[j], texts[j]) for j in order]
            context = among_sentences(self.passage, start, number, hidden_at, empty=self.empty)
            parts = (template.before, *context, template.ending)
            total = count_sentences(self.counter, parts, self.passage, self.sums)
            if total <= room or number == 1:
                return parts, total, start
            number -= 1

    def _enough(self, start: int, room: int) -> tuple[int, int]:
        """The first start from `start` on whose first sentence fits, and how many sentences fit there."""
        for shift in range(len(self.passage)):
            begin = (start + shift) % len(self.passage)
            number = self.fitting(begin, room)
            if number:
                return begin, number
        return start, 0

    def _gaps(self, start: int, number: int, needles: list[Needle]) -> list[int]:
        """For each needle, before which sentence it stands: where as near as can be its share of the tokens is past."""
        total = self.tokens(start, number)
        gaps = []
        for needle in needles:
            target = needle.depth * total
            gap = min(self.fitting(start, int(target)), number)
            if gap < number and self.tokens(start, gap + 1) - target < target - self.tokens(start, gap):
                gap += 1
            gaps.append(gap)
        return gaps


class LineStack(Stack):
    """One line, again and again."""

    def __init__(self, counter: TokenCounter, line: str, length: int) -> None:
        super().__init__(counter)
        self.line = line
        self.tokens = counter.count(line + "\n")
        self.shared = Shared((line + "\n") * (length // self.tokens + 2))

    def begin(self, streams: Sequence[Draws], shared: Sequence[Draws], room: int) -> list[None]:
        return [None] * len(streams)

    def exact(self, needles: list[Needle], template: Template) -> bool:
        return self.counter.additive and _lines_add_up(self.counter, [self.line, *(n.text for n in needles)])

    def assemble(
        self, start: None, needles: list[Needle], template: Template, room: int
    ) -> tuple[tuple[Part, ...], int]:
        texts = [needle.text for needle in needles]
        hidden = int(self.counter.counts([text + "\n" for text in texts]).sum())
        around = self.counter.count(template.before) + self.counter.count(template.ending)
        number = max(1, (room - hidden - around) // self.tokens + 1)
        while True:
            gaps = [int(needle.depth * number + 0.5) for needle in needles]
            order = sorted(range(len(needles)), key=lambda j: (gaps[j], needles[j].depth, j))
            first = texts[order[0]] if gaps[order[0]] == 0 else self.line
            last = texts[order[-1]] if gaps[order[-1]] == number else self.line
            opening, alone, closing, bare = self.counter.counts(
                [f"{template.before}{first}\n", f"{first}\n", last + template.ending, f"{last}\n"]
            ).tolist()
            total = number * self.tokens + hidden + opening - alone + closing - bare
            if total <= room or number == 1:
                break
            number -= 1
        context = among_lines(self.shared, self.line, number, [(gaps[j], texts[j]) for j in order])
        return (template.before, *context, template.ending), int(total)


class NeedleStack(Stack):
    """Needles of other keys."""

    def __init__(self, counter: TokenCounter, form: NeedleForm) -> None:
        super().__init__(counter)
        self.form = form

    def begin(self, streams: Sequence[Draws], shared: Sequence[Draws], room: int) -> list[Distractors]:
        starts = [Distractors(self.form, draws) for draws in streams]
        enough = int(room / self.form.typical * 1.04) + 4
        if self.form.typical > room * (1 - _FULL):
            enough += Distractors.BATCH  # a better last line will be looked for
        for start, (lines, tokens) in zip(starts, self.form.draw([(d, enough) for d in streams]), strict=True):
            start.add(lines, tokens)
        return starts

    def exact(self, needles: list[Needle], template: Template) -> bool:
        return self.counter.additive and _lines_add_up(self.counter, [n.text for n in needles])

    def assemble(
        self, start: Distractors, needles: list[Needle], template: Template, room: int
    ) -> tuple[tuple[Part, ...], int]:
        hidden = int(self.counter.counts([needle.text + "\n" for needle in needles]).sum())
        around = self.counter.count(template.before) + self.counter.count(template.ending)
        number = max(1, start.fitting(room - hidden - around) + 1)
        while True:
            lines, edges = self._laid_out(start.lines(number), needles, template)
            total = start.tokens(number) + hidden + edges
            if total <= room or number == 1:
                break
            number -= 1
        if total < room * _FULL:
            # A line is much of a short prompt: another last line may fill it better.
            last = start.tokens(number) - start.tokens(number - 1)
            longer = start.longest(number, last + room - total)
            if longer is not None and longer[1] > last:
                other, edges = self._laid_out([*start.lines(number - 1), longer[0]], needles, template)
                swapped = start.tokens(number - 1) + longer[1] + hidden + edges
                if swapped <= room:
                    lines, total = other, swapped
        return (template.before + "\n".join(lines) + template.ending,), int(total)

    def _laid_out(self, lines: list[str], needles: list[Needle], template: Template) -> tuple[list[str], int]:
        """The lines with the needles among them, and the tokens of the edges beyond those of the lines there."""
        gaps = [int(needle.depth * len(lines) + 0.5) for needle in needles]
        order = sorted(range(len(needles)), key=lambda j: (gaps[j], needles[j].depth, j))
        lines = among_needles(lines, [(gaps[j], needles[j].text) for j in order])
        opening, alone, closing, bare = self.counter.counts(
            [f"{template.before}{lines[0]}\n", f"{lines[0]}\n", lines[-1] + template.ending, f"{lines[-1]}\n"]
        ).tolist()
        return lines, opening - alone + closing - bare


def among_sentences(
    passage: Passage, start: int, number: int, needles: Sequence[tuple[int, str]], *, empty: bool = False
) -> list[Part]:
    """So many sentences of a passage from `start` on, and needles among them.

    Args:
        passage: after its last sentence comes its first.
        start: the sentence to begin with.
        number: of sentences.
        needles: each with the number of sentences before it, in order.
        empty: a needle at the beginning or the end, or next to another, has an empty piece on that side, and so one
            joint more: as RULER does it.
    """
    pieces: list[list[Part]] = []
    done = 0
    for gap, text in [*needles, (number, None)]:
        if gap > done:
            pieces.append(_sentences(passage, start + done, start + gap))
        elif empty:
            pieces.append([])
        done = gap
        if text is not None:
            pieces.append([text])
    parts: list[Part] = []
    for place, piece in enumerate(pieces):
        parts.extend([passage.joint, *piece] if place else piece)
    return parts


def _sentences(passage: Passage, first: int, stop: int) -> list[Part]:
    """Sentences first..stop-1, counted round and round, with the joints between them."""
    size = len(passage)
    parts: list[Part] = []
    while first < stop:
        inside = first % size
        upto = min(size, inside + stop - first)
        parts.extend([passage.joint, passage.run(inside, upto)] if parts else [passage.run(inside, upto)])
        first += upto - inside
    return parts


def count_sentences(counter: TokenCounter, parts: Sequence[Part], passage: Passage, sums: NDArray[np.int64]) -> int:
    """Tokens of joined parts, text and slices of a passage. Of a slice only the first and last sentence are counted
    with what stands beside them; `sums` knows the others."""
    pieces: list[str] = []
    inside = 0
    pending = ""
    for part in parts:
        if isinstance(part, str):
            pending += part
            continue
        first = int(np.searchsorted(passage.starts, part.start, side="right")) - 1
        last = int(np.searchsorted(passage.starts, part.stop, side="left")) - 1
        pending += passage.units[first]
        if last > first:
            pieces.append(pending)
            inside += int(sums[last] - sums[first + 1])
            pending = passage.joint + passage.units[last]
    return inside + counter.estimate([*pieces, pending])


def among_lines(lines: Shared, line: str, number: int, needles: Sequence[tuple[int, str]]) -> list[Part]:
    """One line so many times, and needles, each a line of its own, among them.

    Args:
        lines: the line with its break, often enough in a row.
        line: it.
        number: of times.
        needles: each with the number of lines before it, in order.
    """
    parts: list[Part] = []
    done = 0
    for gap, text in needles:
        if gap > done:
            parts.append(Slice(lines, 0, (gap - done) * (len(line) + 1)))
            done = gap
        parts.append(f"{text}\n")
    if done < number:
        parts.append(Slice(lines, 0, (number - done) * (len(line) + 1)))
    last = parts[-1]
    parts[-1] = last[:-1] if isinstance(last, str) else Slice(last.source, last.start, last.stop - 1)
    return parts


def among_needles(lines: Sequence[str], needles: Sequence[tuple[int, str]]) -> list[str]:
    """Other needles, each a line, and the needles among them, each with the number of lines before it, in order."""
    result = list(lines)
    for gap, text in reversed(needles):
        result.insert(gap, text)
    return result


class Distractors:
    """The other needles of one sample, drawn as they are needed."""

    BATCH = 64

    def __init__(self, form: NeedleForm, draws: Draws) -> None:
        self._form = form
        self.draws = draws
        self._lines: list[str] = []
        self._sums: NDArray[np.int64] = np.zeros(1, dtype=np.int64)

    def _draw(self, count: int) -> None:
        ((lines, tokens),) = self._form.draw([(self.draws, max(count, self.BATCH))])
        self.add(lines, tokens)

    def add(self, lines: list[str], tokens: NDArray[np.int64]) -> None:
        """Take the next lines that were drawn."""
        self._lines.extend(lines)
        self._sums = np.concatenate([self._sums, self._sums[-1] + np.cumsum(tokens)])

    def fitting(self, room: int) -> int:
        """The most lines that are at most `room` tokens."""
        while self._sums[-1] <= room:
            have = len(self._lines)
            mean = self._sums[-1] / have if have else self._form.typical
            self._draw(max(1, int((room - self._sums[-1]) / mean) + 2))
        return int(np.searchsorted(self._sums, room, side="right")) - 1

    def lines(self, count: int) -> list[str]:
        """The first `count` lines."""
        if count > len(self._lines):
            self._draw(count - len(self._lines))
        return self._lines[:count]

    def longest(self, first: int, room: int) -> tuple[str, int] | None:
        """Of the lines after the first `first`, the one with the most tokens up to `room`."""
        while len(self._lines) < first + self.BATCH:
            self._draw(self.BATCH)
        sizes = np.diff(self._sums)[first : first + self.BATCH]
        sizes = np.where(sizes <= room, sizes, -1)
        place = int(sizes.argmax())
        return None if sizes[place] < 0 else (self._lines[first + place], int(sizes[place]))

    def tokens(self, count: int) -> int:
        """Their tokens, each line with its break."""
        return int(self._sums[count])


class NeedleForm:
    """Draws needles and counts them: what is the same in all of them is counted once.

    Args:
        sentence: with ``{0}`` for the key and ``{1}`` for the value.
        kinds: of key and value.
    """

    def __init__(self, counter: TokenCounter, words: WordLists, sentence: str, kinds: tuple[Kind, Kind]) -> None:
        self._counter = counter
        self._words = words
        self._sentence = sentence
        self._kinds = kinds
        key, value = (some_names(Draws(0, "typical"), kind, 1, words)[0] for kind in kinds)
        line = sentence.format(key, value) + "\n"
        whole, first, second = counter.counts([line, f" {key}", f" {value}"]).tolist()
        self.typical = int(whole)
        """Tokens of one needle with its line break."""
        self._fixed = int(whole - first - second)
        self._in_parts = counter.inside and _stand_apart(sentence.format("\0", "\1") + "\n")
        self._word_counts: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def draw(self, wanted: Sequence[tuple[Draws, int]]) -> list[tuple[list[str], NDArray[np.int64]]]:
        """Needles and the tokens of each with its line break, so many from each stream; counted all together."""
        first, second = (RAW_WORDS[kind] for kind in self._kinds)
        size = first + second
        raw = np.concatenate([draws.words(size * count).reshape(count, size) for draws, count in wanted])
        columns: list[list[str]] = []
        tokens = np.full(len(raw), self._fixed, dtype=np.int64)
        for kind, part in zip(self._kinds, (raw[:, :first], raw[:, first:]), strict=True):
            names = names_from(part, kind, self._words)
            columns.append(names)
            if self._in_parts:
                tokens += self._count_words(part) if kind == "word" else self._counter.counts_of_names(names)
        lines = list(map(self._sentence.format, *columns))
        if not self._in_parts:
            tokens = self._counter.counts([line + "\n" for line in lines])
        ends = np.cumsum([count for _, count in wanted]).tolist()
        begins = [0, *ends[:-1]]
        return [(lines[begin:end], tokens[begin:end]) for begin, end in zip(begins, ends, strict=True)]

    def _count_words(self, raw: NDArray[np.uint64]) -> NDArray[np.int64]:
        if self._word_counts is None:
            self._word_counts = (
                self._counter.counts([f" {word}" for word in self._words.adjectives]),
                self._counter.counts([f"-{word}" for word in self._words.nouns]),
            )
        adjectives, nouns = pairs_from(raw, self._words)
        return self._word_counts[0][adjectives] + self._word_counts[1][nouns]


def _stand_apart(line: str) -> bool:
    """Whether key and value, here two marks, stand behind a space and before a space or a mark that ends the line."""
    for mark in "\0\1":
        before, _, after = line.partition(mark)
        space = len(before) > 1 and before[-1] == " " and not before[-2].isspace()
        ends = after in (".\n", ",\n", ":\n", "\n") or (after[0] == " " and not after[1].isspace())
        if not (line.count(mark) == 1 and space and ends):
            return False
    return True


def _plain_ends(text: str) -> bool:
    return bool(text) and text == text.strip()


def _lines_add_up(counter: TokenCounter, lines: list[str]) -> bool:
    return all(_plain_ends(line) and counter.meet("x\n", line) and counter.meet(line + "\n", "x") for line in lines)
