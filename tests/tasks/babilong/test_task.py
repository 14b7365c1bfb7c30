"""Samples of BABILong: length, order, places, independence, streams, rows and errors."""

import json
from collections import Counter as Count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tasks.sources import PROSE, books_text, shared_tokenizer, tokenizer_of_kind, write_babi

from lengthwise.data import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.babilong import (
    NOMINAL_LENGTHS,
    BabilongConfig,
    BabilongTask,
    Books,
    babilong_tasks,
    nominal_length,
    published_questions,
)
from lengthwise.tasks.base import Sample, Task

KINDS = ("bytes", "bpe", "metaspace")
BOOKS = Books(["a", "b"], [books_text(40), books_text(40).replace("harbour", "forest")], "books")


@pytest.fixture(scope="module")
def babi(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_babi(tmp_path_factory.mktemp("babi")))


def task(babi: str, name: str = "qa1", **settings: Any) -> BabilongTask:
    return BabilongTask(BabilongConfig(task=name, babi=babi, **settings), books=BOOKS)


def context_of(sample: Sample) -> str:
    return sample.prompt.split("<context>\n")[1].split("\n</context>")[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["qa1", "qa8"])
@pytest.mark.parametrize("more", [0, 1, 2, 400, 1500])
def test_prompt_and_budget_are_exactly_the_length(babi: str, kind: str, name: str, more: int) -> None:
    tokenizer, babilong = tokenizer_of_kind(kind), task(babi, name)
    assert isinstance(babilong, Task)
    length = babilong.min_length(tokenizer) + more
    for sample in babilong.samples(range(babilong.num_samples(length, tokenizer)), length, tokenizer, seed=0):
        assert sample.num_tokens == len(tokenizer.encode(sample.prompt)) == length - 20
        assert sample.prompt == sample.prompt.strip()


@pytest.mark.parametrize("name", ["neox", "gpt2"])
def test_exact_length_with_tokenizers_in_use(babi: str, name: str) -> None:
    tokenizer = shared_tokenizer(name)
    for length in (500, 4000):
        for sample in task(babi).samples(range(2), length, tokenizer, seed=0):
            assert sample.num_tokens == len(tokenizer.encode(sample.prompt)) == length - 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [700, 2100])
def test_the_published_rule_counts_pieces(babi: str, kind: str, length: int) -> None:
    tokenizer = tokenizer_of_kind(kind)
    babilong = task(babi, reserve=300)
    for index in range(3):
        plan = babilong.plan(index, length, tokenizer, seed=0)
        pieces = [text for text, _ in plan.context()]
        kept, cut = [], plan.cut
        for piece in pieces:
            assert piece.startswith(" ") or piece == cut
            kept.append(len(tokenizer.encode(piece)))
        # A cut can end inside a character, which then counts differently by itself.
        room = plan.background.room
        assert sum(kept) - len(tokenizer.encode(cut)) + room == length - 300
        assert cut == tokenizer.decode(tokenizer.encode(plan.background.last)[:room])
        sample = babilong.samples([index], length, tokenizer, seed=0)[0]
        assert context_of(sample) == "".join(pieces).strip()
        assert sample.num_tokens == len(tokenizer.encode(sample.prompt))


def test_facts_stand_in_order_where_it_says(babi: str) -> None:
    for sample in task(babi).samples(range(4), 2500, tokenizer_of_kind("bpe"), seed=1):
        context = context_of(sample)
        facts, positions = sample.meta["facts"], sample.meta["fact_positions"]
        assert positions == sorted(positions)
        assert 0 <= positions[0] <= positions[-1] <= sample.meta["num_background"]
        places = [context.index(fact) for fact in facts]
        assert places == sorted(places)
        for fact, place, position in zip(facts, places, positions, strict=True):
            at_start = sum(len(other) + 1 for other, at in zip(facts, positions, strict=True) if at == 0)
            assert (position == 0) == (place < at_start)
            if position == sample.meta["num_background"]:
                assert not context[place:].replace(" ".join(facts[facts.index(fact) :]), "").strip()
        assert sample.meta["supporting"]
        question = sample.meta["question"].strip()
        assert sample.prompt.endswith(f"</context>\n\nQuestion: {question}\nAnswer:")


def test_positions_are_drawn_evenly(babi: str) -> None:
    babilong = task(babi)
    tokenizer = tokenizer_of_kind("bytes")
    shares = []
    for seed in range(80):
        plan = babilong.plan(1, 2500, tokenizer, seed)
        shares += [(place + 0.5) / (plan.background.num_pieces + 1) for place in plan.positions]
    counts = np.histogram(shares, bins=4, range=(0, 1))[0]
    assert counts.min() > 0.7 * counts.mean()


@pytest.mark.parametrize("window", [(0.0, 0.3), (0.4, 0.8), (0.7, 1.0)])
def test_a_window_keeps_facts_in_it(babi: str, window: tuple[float, float]) -> None:
    tokenizer = tokenizer_of_kind("bytes")
    babilong = task(babi, window=window, reserve=300)
    for seed in range(8):
        plan = babilong.plan(seed % 4, 4000, tokenizer, seed)
        size = 3700
        so_far = 0
        for text, _ in plan.context():
            if text.strip() in plan.story.facts:
                assert int(size * window[0]) <= so_far
                assert so_far + len(text) <= int(size * window[1])
            so_far += len(text.encode())


def test_a_window_without_room(babi: str) -> None:
    with pytest.raises(InputError) as caught:
        task(babi, window=(0.5, 0.51)).samples([0], 1200, tokenizer_of_kind("bytes"), 0)
    assert caught.value.where == "window of babilong_qa1"
    assert caught.value.expected.startswith("room for ")
    assert caught.value.fix == "widen the window or raise --lengths"


def test_length_zero_is_the_facts_alone(babi: str) -> None:
    for sample in task(babi, order="file").samples(range(4), 0, tokenizer_of_kind("bpe"), seed=0):
        assert context_of(sample) == " ".join(sample.meta["facts"])
        assert sample.length == 0
        assert sample.num_tokens == len(tokenizer_of_kind("bpe").encode(sample.prompt))


def test_a_sample_depends_on_nothing_but_its_number(babi: str) -> None:
    tokenizer = tokenizer_of_kind("bpe")
    many = task(babi).samples(range(4), 1500, tokenizer, seed=5)
    assert task(babi).samples([2], 1500, tokenizer, seed=5) == [many[2]]
    assert task(babi).samples([3, 1], 1500, tokenizer, seed=5) == [many[3], many[1]]
    assert len({context_of(sample) for sample in many}) == 4
    for other in (task(babi).samples([2], 1500, tokenizer, 6), task(babi).samples([2], 1501, tokenizer, 5)):
        assert context_of(other[0]) != context_of(many[2])
    assert Sample.from_dict(json.loads(json.dumps(many[0].to_dict()))) == many[0]


def test_questions_keep_their_order_at_all_lengths(babi: str) -> None:
    tokenizer = tokenizer_of_kind("bytes")
    babilong = task(babi)

    def numbers(length: int, seed: int = 0) -> list[int]:
        count = babilong.num_samples(length, tokenizer)
        return [s.meta["question_number"] for s in babilong.samples(range(count), length, tokenizer, seed)]

    everything = numbers(0)
    assert sorted(everything) == [0, 1, 2, 3]
    assert numbers(2000) == everything
    short = babilong.min_length(tokenizer)
    assert numbers(short) == [number for number in everything if number in numbers(short)]
    assert len(numbers(short)) < 4
    assert len({tuple(numbers(0, seed)) for seed in range(20)}) > 5
    in_file = task(babi, order="file").samples(range(4), 0, tokenizer, 0)
    assert [sample.meta["question_number"] for sample in in_file] == [0, 1, 2, 3]
    chosen = task(babi, questions=(3, 0)).samples(range(2), 0, tokenizer, 0)
    assert [sample.meta["question_number"] for sample in chosen] == [3, 0]


def test_long_stories_are_left_out_by_the_published_rule(babi: str) -> None:
    # Four facts and a question are five lines; an eighth of 39 tokens is four, of 40 five.
    tokenizer = shared_tokenizer("gpt2")
    for budget, kept in ((39, [0, 2, 3]), (40, [0, 1, 2, 3]), (31, [0, 2]), (24, [0, 2]), (23, [2])):
        babilong = task(babi, order="file", reserve=300)
        length = 300 + budget
        numbers = [
            babilong.plan(i, length, tokenizer, 0).story.index for i in range(babilong.num_samples(length, tokenizer))
        ]
        # Facts must leave room for a sentence as well, which shortest lengths do not.
        assert set(numbers) <= set(kept)
        assert [n for n in kept if babilong._costs_of(tokenizer).facts[n] + 10 <= budget] == numbers


@pytest.mark.parametrize("settings", [{}, {"reserve": 300}, {"window": (0.1, 0.9)}])
def test_a_stream_is_the_prompt(babi: str, settings: dict[str, Any]) -> None:
    babilong, tokenizer = task(babi, **settings), tokenizer_of_kind("bpe")
    plan = babilong.plan(1, 3000, tokenizer, seed=2)
    (sample,) = babilong.samples([1], 3000, tokenizer, seed=2)
    pieces = list(plan.pieces())
    assert "".join(pieces) == sample.prompt == "".join(plan.pieces())
    assert len(pieces) > 30
    assert plan.num_tokens == sample.num_tokens


def test_a_plan_holds_a_number_a_sentence_and_no_text(babi: str) -> None:
    plan = task(babi).plan(0, 100_000, tokenizer_of_kind("bytes"), seed=0)
    background = plan.background
    held = [plan.head, plan.tail, plan.cut, background.last, *plan.story.facts]
    assert sum(map(len, held)) < 3000
    assert background.tokens.itemsize * len(background.tokens) < 100_000 / 10
    assert iter(pieces := plan.pieces()) is pieces
    assert sum(len(piece.encode()) for piece in pieces) == 100_000 - 20


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_a_prompt_and_its_answer(babi: str, kind: str) -> None:
    tokenizer = tokenizer_of_kind(kind)
    babilong = task(babi, split="train")
    context = babilong.min_length(tokenizer) + 200
    tokens, mask = babilong.rows(6, context, tokenizer, seed=0)
    assert tokens.shape == mask.shape == (6, context + 1)
    assert not mask[:, 0].any()
    answers = Count()
    for row, counted in zip(tokens, mask, strict=True):
        answer = tokenizer.decode(row[counted]).strip()
        answers[answer] += 1
        assert tokenizer.decode(row).endswith("\nAnswer: " + answer)
        assert counted[-int(counted.sum()) :].all()
    assert set(answers) <= {"bathroom", "hallway", "office", "bedroom"}
    some, _ = babilong.rows([5, 2], context, tokenizer, seed=0)
    np.testing.assert_array_equal(some, tokens[[5, 2]])
    alone, _ = babilong.rows(2, context, tokenizer, seed=0)
    np.testing.assert_array_equal(alone, tokens[:2])
    assert len(np.unique(tokens, axis=0)) == 6
    assert babilong.rows(1, context, tokenizer, seed=0, all_tokens=True)[1][0, 1:].all()


def test_scores_and_names(babi: str) -> None:
    babilong = task(babi)
    (sample,) = babilong.samples([0], 0, tokenizer_of_kind("bytes"), 0)
    answer = sample.answers[0]
    assert babilong.scorers() == ("official", "strict", "contains")
    assert babilong.score(sample, f" {answer}\n").value == 1
    assert babilong.score(sample, f"Let me see. {answer}").value == 0
    assert babilong.score(sample, f"Let me see. {answer}", "contains").value == 1
    assert babilong.score(sample, answer, "strict").scorer == "babilong/strict/1"
    assert babilong.floor == 0.187
    assert [each.name for each in babilong_tasks(babi=babi)] == [f"babilong_qa{number}" for number in range(1, 6)]


def test_parameters_hold_hashes_and_no_paths(babi: str, tmp_path: Path) -> None:
    values = task(babi).parameters()
    assert json.loads(json.dumps(values)) == values
    assert babi not in json.dumps(values)
    assert task(str(write_babi(tmp_path))).parameters() == values
    changed = BabilongTask(task(babi).config, books=Books(["x"], [PROSE], "other"))
    assert changed.parameters() != values


def test_lengths_have_names() -> None:
    assert nominal_length("4k") == 4000
    assert nominal_length("10M") == 10_000_000
    assert NOMINAL_LENGTHS["0k"] == 0
    with pytest.raises(InputError) as caught:
        nominal_length("4K")
    assert caught.value.where == "length of BABILong"


def error_of(call: object) -> InputError:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_too_short_says_the_least_length(babi: str, kind: str) -> None:
    tokenizer: Tokenizer = tokenizer_of_kind(kind)
    least = task(babi).min_length(tokenizer)
    error = error_of(lambda: task(babi).samples([0], least - 1, tokenizer, 0))
    assert error.expected == f"a length of at least {least} tokens, or 0 for the facts alone"
    assert (error.got, error.fix) == (str(least - 1), "raise --lengths")
    assert error.where == f"babilong_qa1 with the tokenizer {tokenizer.name}"
    assert error_of(lambda: task(babi).rows(1, least - 2, tokenizer, 0)).got == str(least - 1)


def test_errors(babi: str, unchecked: None, tmp_path: Path) -> None:
    tokenizer = tokenizer_of_kind("bpe")
    error = error_of(lambda: task(babi).samples([4], 2000, tokenizer, 0))
    assert error.expected == "a sample number 0..3: one for each question"
    assert error.where == "babilong_qa1 at length 2000"
    error = error_of(lambda: task(babi).samples([0], 2000, tokenizer_of_kind("lower"), 0))
    assert error.expected == "a tokenizer that gives the text back as it was"
    assert error.where == "wording of babilong_qa1"
    poor = BabilongTask(task(babi).config, books=Books(["poor"], ["Too. Short. To. Use."], "0"))
    assert error_of(lambda: poor.samples([0], 2000, tokenizer, 0)).where == "poor"
    assert (
        "qa2_two-supporting-facts_test.txt"
        in error_of(lambda: task(babi, "qa2").samples([0], 0, tokenizer, 0)).expected
    )
    assert error_of(lambda: task(babi, "qa21")).expected == "a bAbI task, qa1 to qa20"
    assert error_of(lambda: task(babi, split="dev")).where == "split of BABILong"
    assert error_of(lambda: task(babi, order="shuffle")).fix.startswith("did you mean 'shuffled'")
    assert error_of(lambda: task(babi, reserve=-1)).got == "-1"
    assert error_of(lambda: task(babi, window=(0.5, 0.5))).expected.startswith("two fractions")
    assert error_of(lambda: task(babi, max_new_tokens=0)).got == "0"
    assert error_of(lambda: task(babi, questions=(7,)).samples([0], 0, tokenizer, 0)).expected == "numbers 0..3"
    sample = task(babi).samples([0], 0, tokenizer, 0)[0]
    assert error_of(lambda: task(babi).score(sample, "", "officials")).fix == "did you mean 'official'?"


def test_published_questions_are_read_from_a_copy(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test_100_idxs.json").write_text('{"qa1": [1, 4, 10]}')
    assert published_questions(tmp_path, "qa1") == (1, 4, 10)
    error = error_of(lambda: published_questions(tmp_path, "qa2"))
    assert error.expected == "the list of question numbers for qa2"
    assert error_of(lambda: published_questions(tmp_path / "none", "qa1")).fix.startswith("give an unchanged copy")
