"""Rows made by the published generator are built again, byte for byte; verdicts of the published scorer are repeated.

From a row are taken: which question it is, where its facts stand, and the sentences drawn from books. Everything else
is made by our own code and compared: facts, question, target and supporting facts out of the bAbI file; which sentences
are long enough; where the last one is cut; order and white space of the text; tags, blank lines and question around it.
Words of instruction, examples and answer form are not ours to ship: they are read from the user's copy of the
repository where LENGTHWISE_BABILONG_SOURCE names one, and out of the row otherwise.

Other files of the same form can be checked: LENGTHWISE_BABILONG_GOLDEN (rows), LENGTHWISE_BABILONG_SCORES (verdicts),
LENGTHWISE_BABI (bAbI files).
"""

import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tasks.sources import BABI, SHARED, shared_tokenizer

from lengthwise.data import Tokenizer
from lengthwise.data.documents import read_bytes
from lengthwise.tasks.babilong.background import Background, as_piece, measure_background
from lengthwise.tasks.babilong.books import Books
from lengthwise.tasks.babilong.plan import Plan, trimmed, weave
from lengthwise.tasks.babilong.score import LABELS, contains, official
from lengthwise.tasks.babilong.stories import Story, least_budget, read_file
from lengthwise.tasks.babilong.wording import TEMPLATE, Parts, Wording, official_wording
from lengthwise.tasks.counting import PieceCounts

GOLDEN = Path(os.environ.get("LENGTHWISE_BABILONG_GOLDEN", SHARED / "babilong" / "golden.jsonl.gz"))
SCORES = Path(os.environ.get("LENGTHWISE_BABILONG_SCORES", SHARED / "babilong" / "metric_golden.jsonl.gz"))
SOURCE = os.environ.get("LENGTHWISE_BABILONG_SOURCE")
REST = " and what follows in the book is not part of the sample, however long it may be"

Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    if not path.is_file():
        pytest.skip(f"needs {path}")
    return [json.loads(line) for line in read_bytes(path).decode("utf-8").splitlines() if line.strip()]


def wording_of(row: Row) -> Wording:
    """Words of the user's copy, or those of the row, put together by the published template."""
    if SOURCE is not None:
        return official_wording(SOURCE)
    words = row["prompt"][: row["prompt"].index(row["input"])].removesuffix("\n\n<context>\n")
    instruction, _, rest = words.partition("\n\n<example>")
    examples, _, form = ("<example>" + rest).rpartition("\n\n")
    return Wording("row", TEMPLATE, {row["task"]: Parts(instruction, examples, form)})


class RowBooks(Books):
    """The sentences of a row, in its order, as if they had just been split; the last one goes on where it was cut.

    How it went on is not in the row. Behind white space that decides what its tokens are, so two ways are tried.
    """

    def __init__(self, pieces: list[str], tokenizer: Tokenizer, budget: int) -> None:
        super().__init__(["row"], ["row"], "")
        assert all(piece.startswith(" ") for piece in pieces)
        room = budget - sum(len(tokenizer.encode(piece)) for piece in pieces[:-1])
        ways = [cut + rest for cut in pieces[-1:] for rest in (REST, REST.lstrip())]
        last = [way for way in ways if tokenizer.decode(tokenizer.encode(way)[:room]) == pieces[-1]] or ways
        self.drawn = [piece[1:] for piece in [*pieces[:-1], *last[:1]]]

    def sentences(self, random: np.random.Generator, num_tokens: int) -> Iterator[str]:
        yield from self.drawn
        yield "The generator goes on, but nothing of this sentence may be used in the sample any more."


@cache
def stories_of(name: str) -> list[Story]:
    return read_file(BABI, name).stories


def story_of(row: Row) -> Story:
    """What our reader finds for the question of a row."""
    if not BABI.exists():
        pytest.skip(f"needs {BABI}")
    stories = stories_of(row["babi_file"])
    if row["sample_size"] > 0:
        stories = [story for story in stories if least_budget(story) <= row["sample_size"]]
    return stories[row["babi_index"]]


def plan_of(row: Row, story: Story, background: Background, cut: str = "") -> Plan:
    head, tail = wording_of(row).frame(row["task"], story.question)
    return Plan(story, tuple(row["fact_positions"]), background, cut, head, tail)


def misread(row: Row) -> list[str]:
    """Which parts of the question our reader gets wrong."""
    story = story_of(row)
    parts = {
        "facts": (list(story.facts), row["facts"]),
        "question": (story.question, row["question"]),
        "target": (story.answer, row["target"]),
        "references": ([story.facts[i] for i in story.supporting], row["references"]),
    }
    return [name for name, (ours, theirs) in parts.items() if ours != theirs]


def misjoined(row: Row) -> list[str]:
    """Which texts come out wrong, given facts, positions and background."""
    facts = [(as_piece(fact), None) for fact in row["facts"]]
    woven = weave(facts, row["fact_positions"], [(piece, None) for piece in row["background"]])
    context = "".join(text for text, _ in trimmed(woven))
    head, tail = wording_of(row).frame(row["task"], row["question"])
    wrong = [] if context == row["input"] else ["input"]
    return wrong + ([] if head + context + tail == row["prompt"] else ["prompt"])


def misbuilt(row: Row) -> list[str]:
    """What comes out wrong where the sample is built as any other, its sentences coming from the row."""
    tokenizer = shared_tokenizer(row["tokenizer"])
    story = story_of(row)
    pieces = [piece for piece in row["background"] if piece]
    fact_tokens = sum(len(tokenizer.encode(as_piece(fact))) for fact in story.facts)
    budget = max(0, row["n_tokens"] - fact_tokens)
    background = measure_background(
        RowBooks(pieces, tokenizer, budget),
        lambda: np.random.default_rng(0),
        PieceCounts(tokenizer),
        budget,
        reach=max(1, budget),
    )
    plan = plan_of(row, story, background)
    if pieces:
        plan = plan.cut_by_budget(tokenizer)
    wrong = [] if background.num_pieces == len(pieces) else ["pieces"]
    if "".join(plan.pieces()) != row["prompt"]:
        wrong.append("prompt")
    if "".join(text for text, _ in trimmed(plan.context())) != row["input"]:
        wrong.append("input")
    if sum(background.tokens) + background.room + fact_tokens != row["n_tokens"]:
        wrong.append("tokens")
    counted = plan.count(tokenizer, known=True).num_tokens
    return wrong + ([] if counted == len(tokenizer.encode(row["prompt"])) else ["count"])


CHECKS: list[Callable[[Row], list[str]]] = [misread, misjoined, misbuilt]


@pytest.mark.parametrize("check", CHECKS)
def test_every_row_is_built_again(check: Callable[[Row], list[str]]) -> None:
    rows = rows_of(GOLDEN)
    failures = {f"{row['task']} {row['babi_index']}": check(row) for row in rows}
    assert {name: wrong for name, wrong in failures.items() if wrong} == {}
    assert rows


def swap(values: list[Any], at: int) -> list[Any]:
    return [*values[:at], values[at + 1], values[at], *values[at + 2 :]]


def first_step(positions: list[int]) -> int:
    """Where positions differ from the one before."""
    return next(i for i in range(1, len(positions)) if positions[i] != positions[i - 1])


TAMPERED: dict[str, tuple[Callable[[Row], Row], list[Callable[[Row], list[str]]]]] = {
    "two facts change places": (lambda row: {**row, "facts": swap(row["facts"], 0)}, [misread, misjoined]),
    "a fact is missing": (
        lambda row: {**row, "facts": row["facts"][1:], "fact_positions": row["fact_positions"][1:]},
        [misread, misjoined],
    ),
    "a fact stands one piece later": (
        lambda row: {
            **row,
            "fact_positions": [
                place + (i == first_step(row["fact_positions"]) - 1) for i, place in enumerate(row["fact_positions"])
            ],
        },
        [misjoined, misbuilt],
    ),
    "two sentences change places": (
        lambda row: {**row, "background": swap(row["background"], 3)},
        [misjoined, misbuilt],
    ),
    "a sentence is missing": (
        lambda row: {**row, "background": row["background"][:5] + row["background"][6:]},
        [misjoined, misbuilt],
    ),
    "the cut is a word later": (
        lambda row: {**row, "background": [*row["background"][:-1], row["background"][-1] + " more"]},
        [misjoined],  # a sample is cut where the tokens say, whatever the row says
    ),
    "a short sentence was kept": (
        lambda row: {**row, "background": [" So it was.", *row["background"]]},
        [misbuilt],
    ),
    "there are fewer tokens": (lambda row: {**row, "n_tokens": row["n_tokens"] - 1}, [misbuilt]),
    "another question": (lambda row: {**row, "question": "Where is Nobody? "}, [misread, misjoined]),
    "another target": (lambda row: {**row, "target": "nowhere"}, [misread]),
    "no blank line before the question": (
        lambda row: {**row, "prompt": row["prompt"].replace("\n\nQuestion:", "\nQuestion:")},
        [misjoined, misbuilt],
    ),
    "white space at the end": (lambda row: {**row, "prompt": row["prompt"] + " "}, [misjoined, misbuilt]),
    "two spaces before a fact": (
        lambda row: {**row, "input": row["input"].replace(row["facts"][-1], " " + row["facts"][-1])},
        [misjoined],
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_the_checks_see_what_is_wrong(name: str) -> None:
    change, checks = TAMPERED[name]
    # A row whose facts stand at several places, and whose first two differ.
    rows = [
        row
        for row in rows_of(GOLDEN)
        if len(set(row["fact_positions"])) > 1 and row["facts"][0] != row["facts"][1] and len(row["background"]) > 8
    ]
    if not rows:
        pytest.skip("no row to change")
    for check in checks:
        assert check(rows[0]) == []
        changed = change(rows[0])
        try:
            wrong = check(changed)
        except (ValueError, AssertionError):
            wrong = ["the parts do not fit together"]
        assert wrong, check.__name__


def test_every_verdict_is_repeated() -> None:
    rows = rows_of(SCORES)
    wrong = []
    for row in rows:
        given = (row["target"], row["output"], row["question"], LABELS[row["task"]])
        if official(*given) != row["official_correct"] or contains(*given) != row["contains_target"]:
            wrong.append(row)
    assert wrong == []
    assert {row["official_correct"] for row in rows} == {True, False}
