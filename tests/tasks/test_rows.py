"""Rows for training out of RULER's tasks: a prompt, what is asked for, and a filling that never counts."""

import numpy as np
import pytest
from tests.tasks.sources import tokenizer_of_kind

from lengthwise.errors import InputError
from lengthwise.tasks.reader import RowTask
from lengthwise.tasks.registry import make_tasks

NAMES = ("niah_single_1", "niah_single_2", "niah_single_3", "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe")


def row_task(name: str) -> RowTask:
    task = make_tasks([name])[0]
    assert isinstance(task, RowTask)
    return task


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_a_row_is_a_prompt_with_its_answer_and_the_beginning_of_the_prompt(name: str, kind: str) -> None:
    task, tokenizer, context = row_task(name), tokenizer_of_kind(kind), 4000
    tokens, mask = task.rows(3, context, tokenizer, 5)
    assert tokens.shape == mask.shape == (3, context + 1)
    assert len(np.unique(tokens, axis=0)) == 3
    for row, counted in zip(tokens, mask, strict=True):
        places = np.flatnonzero(counted)
        begin, end = int(places[0]), int(places[-1]) + 1
        assert len(places) == end - begin, "the answer is one stretch"
        prompt, answer, rest = (tokenizer.decode(part) for part in (row[:begin], row[begin:end], row[end:]))
        assert answer[0] == " "
        for value in answer[1:].split(", "):
            # Answers are in the text they are asked of; fwe's words stand in it many times.
            assert value in prompt
        assert rest == ("\n" + prompt)[: len(rest)]
        assert end > 0.8 * context, "as much haystack as fits"


@pytest.mark.parametrize("name", ["niah_single_1", "vt"])
def test_rows_go_by_number_and_can_count_everything_but_the_filling(name: str) -> None:
    task, tokenizer = row_task(name), tokenizer_of_kind("bytes")
    tokens, mask = task.rows(3, 1500, tokenizer, 5)
    some, everything = task.rows([2, 0], 1500, tokenizer, 5, all_tokens=True)
    np.testing.assert_array_equal(some, tokens[[2, 0]])
    for counted, answer in zip(everything, mask[[2, 0]], strict=True):
        end = int(np.flatnonzero(answer)[-1]) + 1
        assert counted[1:end].all()
        assert not counted[0]
        assert not counted[end:].any()
    assert not np.array_equal(task.rows(1, 1500, tokenizer, 6)[0], tokens[:1])


def test_rows_are_others_than_the_samples_of_an_evaluation() -> None:
    task, tokenizer = make_tasks(["niah_single_1"])[0], tokenizer_of_kind("bytes")
    assert isinstance(task, RowTask)
    tokens, _ = task.rows(8, 700, tokenizer, 5)
    texts = [tokenizer.decode(row) for row in tokens]
    for sample in task.samples(range(8), 700, tokenizer, 5):
        assert not any(sample.answers[0] in text for text in texts)


def test_a_context_too_short_says_the_least_that_will_do() -> None:
    task, tokenizer = row_task("niah_single_1"), tokenizer_of_kind("bytes")
    with pytest.raises(InputError) as failure:
        task.rows(1, 256, tokenizer, 0)
    error = failure.value
    assert error.where == "the context length"
    assert error.got == "256"
    assert error.fix == "raise it, or take a tokenizer with longer tokens"
    least = int(error.expected.split("at least ")[1].split()[0])
    assert (
        error.expected
        == f"a context length of at least {least} tokens for rows of niah_single_1 with the tokenizer bytes"
    )
    assert task.rows(1, least, tokenizer, 0)[1].any()
