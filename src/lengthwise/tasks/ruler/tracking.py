"""Variable tracking: which variables have this number, when each after the first takes the value of the one before?

The lines that assign stand in their order among a line repeated. A worked example comes first.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.tasks.draws import Draws
from lengthwise.tasks.library import Library
from lengthwise.tasks.passages import Built, Part, Shared, Slice
from lengthwise.tasks.ruler.task import RulerTask
from lengthwise.tasks.ruler.wording import Template, Wording
from lengthwise.tasks.tokens import TokenCounter

_NAME_LEN, _EXAMPLE_NAME_LEN = 5, 3
_LOWEST, _NUMBERS = 10_000, 90_000
_EXAMPLE_TOKENS = 500
_FULL_EXAMPLE_FROM = 1024  # below this length the example takes two fifths of the room
_SLACK = 16


@dataclass(frozen=True)
class Chain:
    """Variables in the order they are assigned, the number of the first, and before which noise line each stands."""

    names: tuple[str, ...]
    value: str
    places: tuple[int, ...]
    noise: int
    """Noise lines in all."""


class TrackingTask(RulerTask):
    """vt.

    Args:
        hops: assignments after the first.
    """

    family = "vt"

    def __init__(self, name: str, library: Library, hops: int = 4) -> None:
        super().__init__(name, library)
        self.hops = hops

    def own_parameters(self) -> dict[str, Any]:
        """Hops; there is one chain."""
        return {"hops": self.hops, "chains": 1}

    def widest_answer(self, counter: TokenCounter) -> str:
        """All names."""
        return ", ".join(["QXZJK"] * (self.hops + 1))

    def least_tokens(self, counter: TokenCounter) -> int:
        """Example and question with one noise line each."""
        wording, count = self.wording, self.hops + 1
        noise = counter.count(wording.noise + "\n")
        total = counter.count(wording.vt_head)
        for template, size in ((wording.vt_example, _EXAMPLE_NAME_LEN), (wording.vt, _NAME_LEN)):
            filled = template.filled(query="12345", num_v=count)
            line = counter.count(wording.assign_name.format(name="", source="") + "\n") + 2 * (size + 1)
            total += counter.count(filled.before) + counter.count(filled.ending) + 10 + noise + count * line
        return total + count * (_EXAMPLE_NAME_LEN + 1) + _SLACK

    def build_some(
        self, indices: Sequence[int], length: int, room: int, tokenizer: Tokenizer, seed: int
    ) -> list[Built]:
        """Draw names and places, fill with noise."""
        counter = self.library.counter(tokenizer)
        line = self.wording.noise + "\n"
        noise = Noise(Shared(line * (length // counter.count(line) + 2)), line, counter.count(line))
        return [self._build_one(index, length, room, counter, noise, seed) for index in indices]

    def _build_one(self, index: int, length: int, room: int, counter: TokenCounter, noise: Noise, seed: int) -> Built:
        wording, count = self.wording, self.hops + 1
        draws = self.draws(seed, index)
        names = draw_letters(draws, count, _NAME_LEN)
        example_names = draw_letters(draws, count, _EXAMPLE_NAME_LEN)
        value, example_value = (str(_LOWEST + number) for number in draws.integers(_NUMBERS, 2).tolist())
        spots, example_spots = draws.uniforms(count).tolist(), draws.uniforms(count).tolist()
        example_room = _EXAMPLE_TOKENS if length >= _FULL_EXAMPLE_FROM else room * 2 // 5

        def example_of(number: int) -> Chain:
            return Chain(example_names, example_value, sorted_places(example_spots, number), number)

        def chain_of(number: int) -> Chain:
            return Chain(names, value, sorted_places(spots, number), number)

        def tokens_of(pieces: list[Part]) -> int:
            return count_lines(counter, pieces, noise)

        bare = [*vt_pieces(wording, wording.vt_example, example_of(1), noise)]
        example = example_of(max(1, 1 + (example_room - tokens_of(bare)) // noise.tokens))
        example_pieces = [
            wording.vt_head,
            *vt_pieces(wording, wording.vt_example, example, noise),
            " " + " ".join(example_names) + wording.vt_example_end,
        ]

        def assemble(target: int) -> tuple[tuple[Part, ...], int]:
            least = tokens_of([*example_pieces, *vt_pieces(wording, wording.vt, chain_of(1), noise)])
            number = max(1, 2 + (target - least) // noise.tokens)
            while True:
                pieces = [*example_pieces, *vt_pieces(wording, wording.vt, chain_of(number), noise)]
                total = tokens_of(pieces)
                if total <= target or number == 1:
                    return tuple(pieces), total
                number = max(1, number - max(1, (total - target) // noise.tokens))

        parts, total = self.fit(index, counter, room, assemble, exact=counter.additive)
        number = sum((p.stop - p.start + 1) // len(noise.line) for p in parts if isinstance(p, Slice)) - example.noise
        places = chain_of(number).places
        meta = {
            "depths": [round(100 * place / number, 3) for place in places],
            "value": value,
            "noise_lines": number,
            "example": {"names": list(example_names), "noise_lines": example.noise},
        }
        return Built(index=index, parts=parts, answers=names, num_tokens=total, meta=meta)


@dataclass(frozen=True)
class Noise:
    """The line that fills, with its break."""

    shared: Shared
    """Enough of it in a row."""
    line: str
    tokens: int

    def run(self, count: int) -> Slice:
        """So many lines."""
        return Slice(self.shared, 0, count * len(self.line))


def vt_lines(wording: Wording, chain: Chain) -> list[str]:
    """The lines that assign."""
    first = wording.assign_value.format(name=chain.names[0], value=chain.value)
    pairs = zip(chain.names[1:], chain.names, strict=False)
    return [first, *(wording.assign_name.format(name=name, source=source) for name, source in pairs)]


def vt_pieces(wording: Wording, template: Template, chain: Chain, noise: Noise) -> list[Part]:
    """A question of this task in pieces: runs of noise are slices, all else is text."""
    filled = template.filled(query=chain.value, num_v=len(chain.names))
    pieces: list[Part] = [filled.before]
    done = 0
    for line, place in zip(vt_lines(wording, chain), chain.places, strict=True):
        if place > done:
            pieces.append(noise.run(place - done))
            done = place
        pieces.append(line + "\n")
    if done < chain.noise:
        pieces.append(noise.run(chain.noise - done))
    last = pieces[-1]
    pieces[-1] = last[:-1] if isinstance(last, str) else Slice(last.source, last.start, last.stop - 1)
    pieces.append(filled.ending)
    return pieces


def count_lines(counter: TokenCounter, pieces: Sequence[Part], noise: Noise) -> int:
    """Tokens of the joined pieces. In a run of noise the first and the last line are counted with their neighbours."""
    texts: list[str] = []
    extra = 0
    for piece in pieces:
        if isinstance(piece, str):
            texts.append(piece)
            continue
        text = noise.line if piece.stop % len(noise.line) == 0 else noise.line[:-1]
        number = (piece.stop - piece.start + 1) // len(noise.line)
        if number > 2 and (not counter.additive or counter.meet(noise.line, noise.line)):
            texts.extend([noise.line, text])
            extra += (number - 2) * noise.tokens
        else:
            texts.extend([noise.line] * (number - 1) + [text])
    return extra + counter.estimate([text for text in texts if text])


def draw_letters(draws: Draws, count: int, length: int) -> tuple[str, ...]:
    """Different strings of capital letters."""
    found: dict[str, None] = {}
    while len(found) < count:
        found.update(dict.fromkeys(draws.letters(count - len(found), length, string.ascii_uppercase)))
    return tuple(found)


def sorted_places(spots: Sequence[float], number: int) -> tuple[int, ...]:
    """Sorted places of 0..number-1, different ones where there are enough; uniform if `spots` are (Floyd's method)."""
    if number < len(spots):
        return tuple(sorted(int(spot * (number + 1)) for spot in spots))
    chosen: set[int] = set()
    for upper, spot in zip(range(number - len(spots), number), spots, strict=True):
        place = int(spot * (upper + 1))
        chosen.add(upper if place in chosen else place)
    return tuple(sorted(chosen))
