"""BABILong (arXiv 2406.10149): bAbI questions whose facts are scattered through books, at any length.

Nothing is stored: a sample is made when it is asked for, from the user's bAbI files and books. What is ours and what is
the published rule stands in docs/tasks/babilong.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import Tokenizer, load_tokenizer
from lengthwise.errors import InputError, near_matches
from lengthwise.seeds import derive_seed, numpy_rng
from lengthwise.tasks.babilong.background import MIN_SENTENCE_TOKENS, Background, as_piece, measure_background
from lengthwise.tasks.babilong.books import Books, read_books
from lengthwise.tasks.babilong.config import PUBLISHED_RESERVE, BabilongConfig, wrong
from lengthwise.tasks.babilong.plan import Plan
from lengthwise.tasks.babilong.score import FLOORS, LABELS, SCORERS
from lengthwise.tasks.babilong.stories import Story, StoryFile, check_task, least_budget, read_task
from lengthwise.tasks.babilong.wording import Wording, official_wording, own_wording
from lengthwise.tasks.base import Sample, Score, sample_id
from lengthwise.tasks.counting import PieceCounts
from lengthwise.tasks.rows import answer_rows, numbers_of
from lengthwise.tasks.texts import check_round_trip, check_special

_FITTING_ROUNDS = 6  # how often the background may be measured anew until the prompt has its exact length


class BabilongTask:
    """One of the twenty tasks. Sample i is a function of the configuration, length, tokenizer, seed and i.

    Args:
        config: what decides the samples.
        books: the text around the facts, where it is at hand already; read from `config.books` otherwise.
        wording: the words around the context, where they are at hand already.
    """

    version = 1
    binary = True

    def __init__(self, config: BabilongConfig, *, books: Books | None = None, wording: Wording | None = None) -> None:
        self.config = config
        self.name = f"babilong_{config.task}"
        self.floor: float | None = FLOORS[config.task]
        self._given_books, self._given_wording = books, wording
        self._costs: dict[str, _Costs] = {}
        self._checked: set[str] = set()
        self._orders: dict[tuple[str, int, int | None], list[Story]] = {}

    @cached_property
    def file(self) -> StoryFile:
        """The questions."""
        return read_task(self.config.babi, self.config.task, self.config.split)

    @cached_property
    def books(self) -> Books:
        """The text around the facts."""
        return read_books(self.config.books) if self._given_books is None else self._given_books

    @cached_property
    def wording(self) -> Wording:
        """The words around the context."""
        if self._given_wording is not None:
            return self._given_wording
        source = self.config.babilong_source
        return own_wording() if source is None else official_wording(source)

    @cached_property
    def _counter(self) -> Tokenizer | None:
        return None if self.config.counter is None else load_tokenizer(self.config.counter)

    def parameters(self) -> dict[str, Any]:
        """Settings, and hashes of questions, books, wording and of the tokenizer that lengths are measured with."""
        settings = asdict(self.config)
        del settings["babilong_source"]  # where files lie decides nothing; what is in them does
        return {
            **settings,
            "babi": self.file.sha256,
            "books": self.books.fingerprint,
            "wording": {"name": self.wording.name, "sha256": self.wording.fingerprint},
            "counter": None if self._counter is None else self._counter.fingerprint,
        }

    def min_length(self, tokenizer: Tokenizer) -> int:
        """Shortest length at which a question can be posed; length 0, the facts alone, is possible as well."""
        return min(self._costs_of(tokenizer).shortest)

    def num_samples(self, length: int, tokenizer: Tokenizer) -> int:
        """How many samples there are at a length: one for each question that is short enough."""
        return len(self._questions(length, tokenizer, None))

    def samples(self, indices: Sequence[int], length: int, tokenizer: Tokenizer, seed: int) -> list[Sample]:
        """The samples of these numbers.

        Raises:
            InputError: the length is too short, a number too high, the books cannot be used, the facts do not fit
                between the fractions asked for, or the tokenizer reads a special token in a text or does not give it
                back.
        """
        return [self._sample(self.plan(i, length, tokenizer, seed), i, length) for i in indices]

    def plan(self, index: int, length: int, tokenizer: Tokenizer, seed: int) -> Plan:
        """A sample ready to be written: its `pieces` are the prompt, in bounded memory. Raises as `samples` does."""
        possible = self._questions(length, tokenizer, seed)
        if not possible:
            raise self._too_short(length, tokenizer)
        if not 0 <= index < len(possible):
            raise InputError(
                expected=f"a sample number 0..{len(possible) - 1}: one for each question",
                got=str(index),
                where=f"{self.name} at length {length}",
                fix=f"ask for at most {len(possible)} samples",
            )
        return self._plan(possible[index], length, self.config.max_new_tokens, tokenizer, (seed, length, index))

    def scorers(self) -> tuple[str, ...]:
        """official, strict, contains."""
        return tuple(SCORERS)

    def score(self, sample: Sample, text: str, scorer: str | None = None) -> Score:
        """Judge an output: 1 or 0."""
        name = self.scorers()[0] if scorer is None else scorer
        if name not in SCORERS:
            raise wrong("scorer", f"one of {', '.join(SCORERS)}", repr(name), near_matches(name, SCORERS))
        right = SCORERS[name](sample.answers[0], text, str(sample.meta["question"]), LABELS[self.config.task])
        return Score(value=float(right), scorer=f"babilong/{name}/{self.version}")

    def rows(
        self,
        rows: int | Sequence[int],
        context_length: int,
        tokenizer: Tokenizer,
        seed: int,
        *,
        all_tokens: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows for finetuning: a prompt and its answer, exactly `context_length` + 1 tokens.

        Args:
            rows: how many, or the numbers of those wanted; row i does not depend on it.
            context_length: tokens the model reads.
            tokenizer: of the model.
            seed: decides questions, books and places.
            all_tokens: count the loss of every token, not that of the answer alone.
        Returns:
            tokens [rows, context_length + 1] and loss mask of the same shape: True where the prediction of that token
            counts. The first column is False.
        """
        room = context_length + 1
        numbers = numbers_of(rows)
        possible = self._questions(room, tokenizer, None)
        if not possible:
            raise self._too_short(room, tokenizer)

        def texts() -> Iterator[tuple[str, str]]:
            for row in numbers:
                random = numpy_rng(seed, f"{self.name}/rows", context_length, row)
                story = possible[int(random.integers(len(possible)))]
                ending = " " + story.answer
                key = (int(random.integers(2**62)), context_length, row)
                yield "".join(self._plan(story, room, 0, tokenizer, key, ending).pieces()), ending

        return answer_rows(tokenizer, texts(), len(numbers), context_length, self.name, all_tokens=all_tokens)

    # Which question

    def _questions(self, length: int, tokenizer: Tokenizer, seed: int | None) -> list[Story]:
        """Questions short enough for a length, in the order of the samples; of the file where the seed is None."""
        shuffled = self.config.order == "shuffled" and self.config.questions is None and seed is not None
        costs = self._costs_of(tokenizer)
        key = (costs.tokenizer.fingerprint, length, seed if shuffled else None)
        if key not in self._orders:
            chosen = self.file.stories
            if self.config.questions is not None:
                chosen = [self._question(number) for number in self.config.questions]
            possible = [story for story in chosen if length == 0 or costs.shortest[story.index] <= length]
            if shuffled:
                # By rank, and not a permutation of those that fit: so the order is the same at all lengths.
                possible.sort(key=lambda story: derive_seed(int(seed or 0), f"{self.name}/order", story.index))
            self._orders[key] = possible
        return self._orders[key]

    def _question(self, number: int) -> Story:
        stories = self.file.stories
        if not 0 <= number < len(stories):
            raise wrong("questions", f"numbers 0..{len(stories) - 1}", str(number), "correct it or leave the list out")
        return stories[number]

    def _costs_of(self, tokenizer: Tokenizer) -> _Costs:
        measure = self._counter or tokenizer
        for each in (measure, tokenizer):
            self._check(each)
        if measure.fingerprint not in self._costs:
            self._costs[measure.fingerprint] = _Costs(self.config, self.wording, self.file.stories, measure)
        return self._costs[measure.fingerprint]

    def _check(self, tokenizer: Tokenizer) -> None:
        """See that the words around the context and the facts survive a tokenizer."""
        if tokenizer.fingerprint in self._checked:
            return
        where, stories = f"wording of {self.name}", self.file.stories
        head, tail = self.wording.frame(self.config.task, stories[0].question.strip())
        check_round_trip([head + " ".join(stories[0].facts) + tail], tokenizer, where)
        check_special([head, tail], tokenizer, where)
        said = {text for story in stories for text in (*story.facts, story.question, story.answer)}
        check_special(sorted(said), tokenizer, f"the questions of {self.name}")
        self._checked.add(tokenizer.fingerprint)

    def _too_short(self, length: int, tokenizer: Tokenizer) -> InputError:
        return InputError(
            expected=f"a length of at least {self.min_length(tokenizer)} tokens, or 0 for the facts alone",
            got=str(length),
            where=f"{self.name} with the tokenizer {tokenizer.name}",
            fix="raise --lengths",
        )

    # How it is put together

    def _plan(
        self, story: Story, length: int, new: int, tokenizer: Tokenizer, key: tuple[int, ...], ending: str = ""
    ) -> Plan:
        """A prompt for a length of which `new` tokens are kept free, and the tokens of an ending."""
        costs = self._costs_of(tokenizer)
        self.books.check(tokenizer)
        measure = costs.tokenizer
        head, tail = self.wording.frame(self.config.task, story.question.strip())
        facts = costs.facts[story.index]
        reserve = self.config.reserve
        if length == 0:
            return self._draft(story, 0, 1, costs, key, head, tail).count(tokenizer, known=False)
        if reserve is not None and not ending:
            budget = length - reserve - facts
            plan = self._draft(story, budget, budget, costs, key, head, tail).cut_by_budget(measure)
            return plan.count(tokenizer, known=measure is tokenizer)
        reach = budget = length - new - costs.around[story.index] - facts - len(measure.encode(ending))
        best: tuple[Plan, int] | None = None
        for _ in range(_FITTING_ROUNDS):
            plan, lacking = self._draft(story, budget, reach, costs, key, head, tail).cut_to_fit(
                measure, length - new, ending
            )
            if lacking >= 0 and (best is None or lacking < best[1]):
                best = plan, lacking
            following = plan.next_budget(budget, lacking)
            if following is None:
                break
            budget = following
        if best is None:
            raise self._too_short(length, tokenizer)
        return best[0] if measure is tokenizer else best[0].count(tokenizer, known=False)

    def _draft(
        self, story: Story, budget: int, reach: int, costs: _Costs, key: tuple[int, ...], head: str, tail: str
    ) -> Plan:
        """Background of about so many tokens, and where the facts go in it."""
        seed, *indices = key

        def draw() -> np.random.Generator:
            return numpy_rng(seed, f"{self.name}/background", *indices)

        background = measure_background(self.books, draw, costs.pieces, budget, reach)
        low, high = self._places(background, budget, costs.facts[story.index])
        random = numpy_rng(seed, f"{self.name}/positions", *indices)
        places = random.integers(low, high + 1, size=len(story.facts))
        return Plan(story, tuple(sorted(int(place) for place in places)), background, "", head, tail)

    def _places(self, background: Background, budget: int, facts: int) -> tuple[int, int]:
        """First and last position that facts may have."""
        if self.config.window is None or not background.num_pieces:
            return 0, background.num_pieces
        begin, end = (int((budget + facts) * share) for share in self.config.window)
        inside = [i for i, start in enumerate(background.starts()) if begin <= start < end - facts]
        if not inside:
            raise InputError(
                expected=f"room for {facts} tokens of facts between {begin} and {end} of {budget + facts} tokens",
                got="no end of a sentence that leaves as much",
                where=f"window of {self.name}",
                fix="widen the window or raise --lengths",
            )
        return inside[0], inside[-1]

    def _sample(self, plan: Plan, index: int, length: int) -> Sample:
        story = plan.story
        return Sample(
            id=sample_id(self.name, length, index),
            task=self.name,
            index=index,
            length=length,
            prompt="".join(plan.pieces()),
            answers=(story.answer,),
            num_tokens=plan.num_tokens,
            max_new_tokens=self.config.max_new_tokens,
            meta={
                "question": story.question,
                "question_number": story.index,
                "story_number": story.number,
                "facts": list(story.facts),
                "fact_positions": list(plan.positions),
                "supporting": list(story.supporting),
                "num_background": plan.background.num_pieces,
                "wording": self.wording.name,
            },
        )


class _Costs:
    """Tokens that the questions of a file take, by one tokenizer; lists go by the number of the question."""

    def __init__(self, config: BabilongConfig, wording: Wording, stories: list[Story], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pieces = PieceCounts(tokenizer)
        frames = ["".join(wording.frame(config.task, story.question.strip())) for story in stories]
        texts = sorted({as_piece(fact) for story in stories for fact in story.facts} | set(frames))
        tokens = {text: len(ids) for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True)}
        self.facts = [sum(tokens[as_piece(fact)] for fact in story.facts) for story in stories]
        """Of the facts."""
        self.around = [tokens[frame] for frame in frames]
        """Of everything but the context."""
        exact = config.reserve is None
        reserve = PUBLISHED_RESERVE if config.reserve is None else config.reserve
        self.shortest = [
            max(
                reserve + least_budget(story),
                (around + config.max_new_tokens if exact else reserve) + facts + MIN_SENTENCE_TOKENS,
            )
            for story, around, facts in zip(stories, self.around, self.facts, strict=True)
        ]
        """Least length at which a question is asked."""


def published_questions(source: str | Path, task: str) -> tuple[int, ...]:
    """Numbers of the questions in the published sets of 100, out of a copy of the repository booydar/babilong."""
    check_task(task)
    file = Path(source) / "data" / "test_100_idxs.json"
    try:
        numbers = json.loads(file.read_text(encoding="utf-8"))[task]
        return tuple(int(number) for number in numbers)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            expected=f"the list of question numbers for {task}",
            got=f"none ({error})",
            where=str(file),
            fix="give an unchanged copy of booydar/babilong, or leave the list out",
        ) from error


def babilong_tasks(tasks: Sequence[str] = ("qa1", "qa2", "qa3", "qa4", "qa5"), **settings: Any) -> list[BabilongTask]:
    """Tasks by name with common settings of `BabilongConfig`; the default five are those that papers average."""
    return [BabilongTask(BabilongConfig(task=task, **settings)) for task in tasks]
