"""Needles in a haystack: RULER's eight tasks, and one needle at a chosen depth.

A needle is a sentence that gives a key its value; the question names keys and asks for their values. The haystack is
prose (sentences in a row), one line repeated, or needles of other keys. Arguments and rules: docs/tasks/ruler.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.documents import read_bytes
from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.draws import Draws
from lengthwise.tasks.library import Library
from lengthwise.tasks.passages import Built, Part, join_parts
from lengthwise.tasks.ruler.haystacks import LineStack, Needle, NeedleForm, NeedleStack, ProseStack, Stack
from lengthwise.tasks.ruler.names import Kind, draw_names, widest, widest_len
from lengthwise.tasks.ruler.task import RulerTask
from lengthwise.tasks.ruler.wording import Template, listed, plural
from lengthwise.tasks.texts import check_special, check_texts
from lengthwise.tasks.tokens import TokenCounter

Haystack = Literal["prose", "line", "needles"]

SHARED = 32
"""Samples in a row (0-31, 32-63, ...) whose haystack of prose begins at the same sentence, so that an engine can read
what they have in common once. Their needles and depths are their own."""
_TRIES = 100
_SLACK = 8  # tokens by which pieces may differ from what they are in other company


@dataclass(frozen=True, kw_only=True)
class NeedleConfig:
    """What is hidden where."""

    haystack: Haystack
    key: Kind
    value: Kind
    num_keys: int = 1
    """Keys that have a needle."""
    num_values: int = 1
    """Needles of each key."""
    num_asked: int = 1
    """Keys the question names."""
    depth: float | None = None
    """0-100, where the needle asked for stands; None for anywhere, uniformly."""
    haystack_file: str | None = None
    """Text to use as prose."""
    needle_file: str | None = None
    """Needles and questions of the user's."""

    def __post_init__(self) -> None:
        if self.depth is not None and not 0 <= self.depth <= 100:
            raise InputError(
                expected="a depth between 0 (beginning) and 100 (end)",
                got=str(self.depth),
                where="depth",
                fix="give a per cent, for example depth=50",
            )
        if self.depth is not None and self.num_values * self.num_asked != 1:
            raise InputError(
                expected="one needle asked for, which can stand at one depth",
                got=f"{self.num_values * self.num_asked}",
                where="depth",
                fix="leave depth out",
            )
        if self.haystack_file is not None and self.haystack != "prose":
            raise InputError(
                expected="haystack=prose, which a haystack_file replaces",
                got=f"haystack={self.haystack}",
                where="haystack_file",
                fix="leave one of the two out",
            )


@dataclass(frozen=True)
class OwnNeedle:
    """A needle of the user's file."""

    needle: str
    question: str
    answer_prefix: str
    answers: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> tuple[OwnNeedle, ...]:
        """The needles of a JSON file: an object, or a list of them, with needle, question and more.

        Raises:
            InputError: not of this form.
        """
        try:
            entries = json.loads(read_bytes(path))
            entries = entries if isinstance(entries, list) else [entries]
            found = tuple(
                cls(
                    str(entry["needle"]).strip(),
                    str(entry["question"]).strip(),
                    str(entry.get("answer_prefix", " Answer:")).rstrip(),
                    tuple(map(str, entry.get("answers", ["{value}"]))),
                )
                for entry in entries
            )
            for needle in found:
                for text in (needle.needle, needle.question, needle.answer_prefix, *needle.answers):
                    text.format(key="", value="")
            if not found or not all(needle.answers for needle in found):
                raise ValueError("no needle, or one without answers")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(
                expected='needles as JSON, [{"needle": "... {key} ... {value}.", "question": "...?", '
                '"answer_prefix": " ...", "answers": ["{value}"]}]',
                got=f"something else ({type(error).__name__}: {error})",
                where=str(path),
                fix="see docs/tasks/needle-grid.md; {key} and {value} may be left out, the prefix and the answers too",
            ) from error
        return found


class NeedleTask(RulerTask):
    """One needle task."""

    family = "niah"

    def __init__(self, name: str, library: Library, config: NeedleConfig, purpose: str | None = None) -> None:
        super().__init__(name, library)
        self.config = config
        self.version = 2 if config.haystack == "prose" else 1  # 2: neighbours' haystacks begin alike
        self._purpose = name if purpose is None else purpose
        self.binary = config.num_asked * config.num_values == 1

    def purpose(self) -> str:
        """The grid draws the same needles at every depth."""
        return self._purpose

    def own_parameters(self) -> dict[str, Any]:
        """Configuration and hashes of the haystack, words and needles."""
        config = self.config
        values: dict[str, Any] = {
            name: value for name, value in vars(config).items() if name not in ("haystack_file", "needle_file")
        }
        if config.haystack == "prose":
            passage = self.library.prose(config.haystack_file)
            origin = config.haystack_file or ("essays" if self.wording.source else "python")
            values["prose"] = {"origin": origin, "sha256": passage.fingerprint, "sentences": len(passage)}
        if "word" in (config.key, config.value):
            values["words_sha256"] = self.library.words.fingerprint
        if config.needle_file is not None:
            values["needles"] = [vars(needle) for needle in self._own_needles()]
        return values

    def _own_needles(self) -> tuple[OwnNeedle, ...]:
        file = self.config.needle_file
        if file is None:
            return ()
        return self.library.once(("needles", file), lambda: OwnNeedle.read(Path(file)))

    # What is asked

    def _template(self) -> Template:
        return self.wording.needles(self.config.num_asked * self.config.num_values)

    def _kind_word(self) -> str:
        """The type of value as the template has it: singular where one is asked for."""
        asked = self.config.num_asked * self.config.num_values
        return self.config.value if asked == 1 else plural(self.config.value)

    def _filled(self, query: str) -> Template:
        return self._template().filled(type_needle_v=self._kind_word(), query=query)

    def needle_text(self, key: str, value: str) -> str:
        """The sentence that gives a key its value."""
        return self.wording.needle.format(type_needle_v=plural(self.config.value), key=key, value=value)

    def widest_answer(self, counter: TokenCounter) -> str:
        """As many values as are asked for, of the longest."""
        own = [answer for needle in self._own_needles() for answer in needle.answers]
        value = widest(self.config.value, self.library.words)
        if own:
            return max((answer.format(key=value, value=value) for answer in own), key=len)
        return ", ".join([value] * (self.config.num_asked * self.config.num_values))

    def least_tokens(self, counter: TokenCounter) -> int:
        """All words around, the needles with the longest names, and one unit of haystack."""
        config = self.config
        key_len = widest_len(config.key, self.library.words, counter)
        value_len = widest_len(config.value, self.library.words, counter)
        own = self._own_needles()
        if own:
            around = max(
                counter.count(self._template().filled(type_needle_v="", query="").before)
                + counter.count(f"\n{o.question}{o.answer_prefix}{o.needle}")
                + (o.question + o.answer_prefix + o.needle).count("{key}") * key_len
                + (o.question + o.answer_prefix + o.needle).count("{value}") * value_len
                for o in own
            )
            return around + self._least_unit(counter, key_len + value_len) + _SLACK
        template = self._template()
        queries = sum(part.count("{query}") for part in (template.before, template.after, template.prefix))
        empty = self._filled("")
        around = counter.count(empty.before) + counter.count(empty.ending)
        around += queries * config.num_asked * (key_len + 2)
        needle = counter.count(self.needle_text("", "") + "\n") + key_len + value_len
        return around + config.num_keys * config.num_values * needle + self._least_unit(counter, needle) + _SLACK

    def _least_unit(self, counter: TokenCounter, needle: int) -> int:
        if self.config.haystack == "prose":
            return int(np.median(self._sentence_counts(counter.tokenizer)))
        return counter.count(self.wording.noise + "\n") if self.config.haystack == "line" else needle

    def _sentence_counts(self, tokenizer: Tokenizer) -> NDArray[np.int64]:
        passage = self.library.prose(self.config.haystack_file)
        return self.library.unit_counts(passage, tokenizer, self.config.haystack_file or "the haystack")

    # Samples

    def build_some(
        self, indices: Sequence[int], length: int, room: int, tokenizer: Tokenizer, seed: int
    ) -> list[Built]:
        """Draw each sample's needles, lay out its haystack, fill it up."""
        counter, config = self.library.counter(tokenizer), self.config
        if own := [text for needle in self._own_needles() for text in (needle.needle, needle.question)]:
            check_texts(own, tokenizer, f"needle_file {config.needle_file}")
            prefixes = [needle.answer_prefix for needle in self._own_needles()]
            check_special(prefixes, tokenizer, f"needle_file {config.needle_file}")
        stack: Stack
        if self.config.haystack == "prose":
            passage = self.library.prose(self.config.haystack_file)
            counts = self._sentence_counts(tokenizer)
            if self.config.haystack_file is not None and int(counts.sum()) < room:
                raise InputError(
                    expected=f"a haystack of at least {room:,} tokens for the length {length:,}",
                    got=f"{int(counts.sum()):,} tokens in {len(passage):,} sentences",
                    where=self.config.haystack_file,
                    fix="add text to it or ask for a shorter length; a file of yours is not repeated",
                )
            stack = ProseStack(counter, passage, counts, self.wording.empty_pieces)
        elif self.config.haystack == "line":
            stack = LineStack(counter, self.wording.noise, length)
        else:
            sentence = self.needle_text("{0}", "{1}")
            stack = NeedleStack(counter, NeedleForm(counter, self.library.words, sentence, (config.key, config.value)))
        return self._build_all(indices, room, counter, stack, seed)

    def _build_all(
        self, indices: Sequence[int], room: int, counter: TokenCounter, stack: Stack, seed: int
    ) -> list[Built]:
        """All samples; those whose haystack happens to hold a key or value that was drawn are drawn again."""
        built: dict[int, Built] = {}
        missing = list(dict.fromkeys(indices))
        for attempt in range(_TRIES):
            more = (attempt,) if attempt else ()
            streams = [self.draws(seed, index, *more) for index in missing]
            drawn = [self._draw(stream) for stream in streams]
            # The same at every length and depth, and for every draw of needles.
            shared = [Draws(seed, f"tasks/{self.purpose()}/haystack", index // SHARED) for index in missing]
            starts = stack.begin(streams, shared, room) if streams else []
            for index, what, start in zip(missing, drawn, starts, strict=True):
                if (made := self._lay_out(index, room, counter, stack, start, *what)) is not None:
                    built[index] = made
            missing = [index for index in missing if index not in built]
            if not missing:
                return [built[index] for index in indices]
        raise InputError(
            expected="needles that the haystack does not hold by itself",
            got=f"none in {_TRIES} draws for sample {missing[0]}",
            where=self.name,
            fix="use another needle or another haystack",
        )

    def _lay_out(
        self,
        index: int,
        room: int,
        counter: TokenCounter,
        stack: Stack,
        start: Any,
        needles: list[Needle],
        template: Template,
        answers: tuple[str, ...],
    ) -> Built | None:
        """The sample, or None where its haystack holds a key or value."""

        def assemble(target: int) -> tuple[tuple[Part, ...], int]:
            return stack.assemble(start, needles, template, target)

        parts, tokens = self.fit(index, counter, room, assemble, exact=stack.exact(needles, template))
        context = join_parts(parts)[len(template.before) : -len(template.ending)]
        if not self._found_once(context, needles):
            return None
        asked = [needle for needle in needles if needle.asked]
        meta = {
            "depths": [round(100 * needle.depth, 3) for needle in asked],
            "keys": list(dict.fromkeys(needle.key for needle in asked)),
            "haystack": stack.facts(start),
        }
        return Built(index=index, parts=parts, answers=answers, num_tokens=tokens, meta=meta)

    def _draw(self, draws: Draws) -> tuple[list[Needle], Template, tuple[str, ...]]:
        config = self.config
        if own := self._own_needles():
            chosen = own[draws.integer(len(own))]
            key = draw_names(draws, config.key, 1, self.library.words)[0]
            value = draw_names(draws, config.value, 1, self.library.words)[0]
            text = chosen.needle.format(key=key, value=value)
            depth = draws.uniform()
            depth = depth if config.depth is None else config.depth / 100
            before = self._template().filled(type_needle_v=self._kind_word(), query=key).before
            question = "\n" + chosen.question.format(key=key, value=value)
            template = Template(before, question, chosen.answer_prefix.format(key=key, value=value))
            answers = tuple(answer.format(key=key, value=value) for answer in chosen.answers)
            return [Needle(text, key, value, depth, True)], template, answers
        keys = draw_names(draws, config.key, config.num_keys, self.library.words)
        values = draw_names(draws, config.value, config.num_keys * config.num_values, self.library.words)
        depths = draws.uniforms(len(values)).tolist()
        needles = []
        for place, (value, depth) in enumerate(zip(values, depths, strict=True)):
            owner = place // config.num_values
            asked = owner < config.num_asked
            if asked and config.depth is not None:
                depth = config.depth / 100
            needles.append(Needle(self.needle_text(keys[owner], value), keys[owner], value, depth, asked))
        template = self._filled(listed(keys[: config.num_asked]))
        return needles, template, tuple(needle.value for needle in needles if needle.asked)

    def _found_once(self, context: str, needles: list[Needle]) -> bool:
        """Each needle stands once in the haystack, and so do its value and, per needle, its key."""
        if self._own_needles():
            return all(context.count(needle.text) == 1 for needle in needles)
        return all(
            context.count(needle.value) == 1 and context.count(needle.key) == self.config.num_values
            for needle in needles
        )
