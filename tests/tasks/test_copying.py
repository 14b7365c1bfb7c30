"""Copying: examples, packed rows, and the two ways of scoring on models whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
from tests.tasks.sources import tokenizer_of_kind

from lengthwise.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lengthwise.data import ByteTokenizer, CopyTokenizer
from lengthwise.errors import InputError
from lengthwise.models.config import Mamba2Config, ModelConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.tasks.base import Task
from lengthwise.tasks.copying import CopyingConfig, CopyingTask, copying_tasks, example_length
from lengthwise.train.prepare import checkpoint_tokenizer

COPY = CopyTokenizer()


@pytest.mark.parametrize("length", [5, 6, 7, 23, 203, 603])
def test_an_example_fills_its_length(length: int) -> None:
    for task in copying_tasks():
        assert isinstance(task, Task)
        for sample in task.samples(range(3), length, COPY, seed=0):
            letters = sample.meta["letters"]
            assert example_length(letters) == sample.num_tokens + sample.max_new_tokens
            assert 0 <= length - example_length(letters) <= 1
            assert len(COPY.encode(sample.prompt)) == sample.num_tokens
            string = sample.prompt[1:-1]
            assert sample.prompt == f"<{string}="
            assert sample.answers == (string,)
            assert len(string) == letters
            assert string.islower()
            assert sample.continuation == (None if task.config.free_running else string)


def test_samples_are_independent_and_the_same_for_both_scorings() -> None:
    forced, free = copying_tasks()
    many = forced.samples(range(6), 63, COPY, seed=4)
    assert forced.samples([5], 63, COPY, seed=4) == [many[5]]
    assert [s.prompt for s in free.samples(range(6), 63, COPY, seed=4)] == [s.prompt for s in many]
    assert len({sample.prompt for sample in many}) == 6
    assert forced.samples([5], 63, COPY, seed=5)[0].prompt != many[5].prompt


def test_fewer_letters() -> None:
    samples = CopyingTask(CopyingConfig(letters=3)).samples(range(5), 203, COPY, seed=0)
    assert set("".join(sample.answers[0] for sample in samples)) == set("abc")
    assert CopyingTask(CopyingConfig(letters=3)).floor == 1 / 3


@pytest.mark.parametrize(
    ("said", "characters", "string"),
    [("abcd", 1.0, 1.0), ("abcx", 0.75, 0.0), ("xabc", 0.0, 0.0), ("____", 0.0, 0.0), ("abcdz", 1.0, 1.0)],
)
def test_forced_scores_go_by_place(said: str, characters: float, string: float) -> None:
    task = CopyingTask()
    (sample,) = task.samples([0], example_length(4), COPY, seed=0)
    sample = type(sample).from_dict({**sample.to_dict(), "answers": ["abcd"]})
    assert task.score(sample, said).value == characters
    assert task.score(sample, said, "string").value == string
    assert task.score(sample, said).details == {"characters": characters, "string": string}
    assert task.score(sample, said).scorer == "copying/characters/1"


@pytest.mark.parametrize(
    ("said", "characters", "string"),
    [
        ("abcd>", 1.0, 1.0),
        ("abcd", 1.0, 1.0),
        ("abcde", 0.8, 0.0),
        ("ab>cd", 0.5, 0.0),
        ("bcd>", 0.0, 0.0),
        ("", 0.0, 0.0),
        (">abcd", 0.0, 0.0),
    ],
)
def test_free_scores_end_at_the_end_symbol(said: str, characters: float, string: float) -> None:
    task = CopyingTask(CopyingConfig(free_running=True))
    (sample,) = task.samples([0], example_length(4), COPY, seed=0)
    sample = type(sample).from_dict({**sample.to_dict(), "answers": ["abcd"]})
    assert task.score(sample, said).value == pytest.approx(characters)
    assert task.score(sample, said, "string").value == string


def test_a_guesser_scores_the_floor() -> None:
    task = CopyingTask()
    random = np.random.default_rng(0)
    samples = task.samples(range(40), 603, COPY, seed=0)
    guesses = ["".join(COPY.letters[i] for i in random.integers(26, size=300)) for _ in samples]
    mean = np.mean([task.score(sample, guess).value for sample, guess in zip(samples, guesses, strict=True)])
    assert mean == pytest.approx(1 / 26, abs=4 * (1 / 26 / 12000) ** 0.5)


@pytest.mark.parametrize(("context", "lengths"), [(43, (3, 20)), (220, (50, 100)), (256, (50, 100)), (23, (1, 4))])
def test_rows_are_packed_examples(context: int, lengths: tuple[int, int]) -> None:
    tokens, mask = CopyingTask().rows(40, context, COPY, seed=1, lengths=lengths)
    assert tokens.shape == mask.shape == (40, context + 1)
    assert not mask[:, 0].any()
    seen = set()
    for row, counted in zip(tokens, mask, strict=True):
        text = COPY.decode(row)
        expected = np.zeros(context + 1, dtype=bool)
        place = 0
        for example in text.split(">")[:-1]:
            string, copy = example.removeprefix("<").split("=")
            assert example.startswith("<")
            assert string == copy
            assert lengths[0] <= len(string) <= lengths[1]
            seen.add(len(string))
            expected[place + len(string) + 2 : place + len(example) + 1] = True
            place += len(example) + 1
        # What is left is the beginning of an example, and does not count.
        assert ">" not in text[place:]
        assert text[place:][:1] in ("<", "")
        np.testing.assert_array_equal(counted, expected)
    if lengths == (1, 4):
        assert seen == {1, 2, 3, 4}


def test_an_example_that_ends_with_the_row_counts() -> None:
    tokens, mask = CopyingTask().rows(300, 9, COPY, seed=0, lengths=(1, 2))
    ends = [counted for row, counted in zip(tokens, mask, strict=True) if COPY.decode(row)[-1] == ">"]
    assert ends
    assert all(counted[-1] for counted in ends)
    assert all(not counted[-1] for row, counted in zip(tokens, mask, strict=True) if COPY.decode(row)[-1] != ">")


def test_rows_do_not_depend_on_their_number() -> None:
    tokens, mask = CopyingTask().rows(5, 220, COPY, seed=1)
    again, its_mask = CopyingTask().rows(3, 220, COPY, seed=1)
    np.testing.assert_array_equal(again, tokens[:3])
    np.testing.assert_array_equal(its_mask, mask[:3])
    assert len(np.unique(tokens, axis=0)) == 5
    assert not np.array_equal(CopyingTask().rows(1, 220, COPY, seed=2)[0], tokens[:1])


def test_rows_can_be_asked_for_by_number_and_take_lengths_from_the_config() -> None:
    task = CopyingTask(CopyingConfig(shortest=3, longest=4))
    tokens, mask = task.rows(6, 40, COPY, seed=1)
    some, its_mask = task.rows([5, 0], 40, COPY, seed=1)
    np.testing.assert_array_equal(some, tokens[[5, 0]])
    np.testing.assert_array_equal(its_mask, mask[[5, 0]])
    np.testing.assert_array_equal(CopyingTask().rows(6, 40, COPY, seed=1, lengths=(3, 4))[0], tokens)
    strings = COPY.decode(tokens[0]).split("<")[1:-1]
    assert {len(string.split("=")[0]) for string in strings} <= {3, 4}
    everything = task.rows(1, 40, COPY, seed=1, all_tokens=True)[1]
    assert everything[0, 1:].all()
    assert not everything[0, 0]


def error_of(call: object) -> InputError:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    return caught.value


def test_errors(unchecked: None) -> None:
    task = CopyingTask()
    error = error_of(lambda: task.samples([0], 4, COPY, 0))
    assert error.expected == "a length of at least 5 tokens, twice the string and three"
    assert error.got == "4"
    error = error_of(lambda: task.samples([0], 63, tokenizer_of_kind("bpe"), 0))
    assert error.expected == "a tokenizer with one token for each letter and mark"
    assert error.fix.startswith("use the tokenizer 'copy'")
    error = error_of(lambda: task.rows(1, 202, COPY, 0))
    assert error.expected == "at least 203 tokens for strings of 100 letters"
    assert error_of(lambda: task.rows(1, 300, COPY, 0, lengths=(5, 4))).where == "lengths of copying"
    error = error_of(lambda: CopyingConfig(shortest=30, longest=20))
    assert (error.where, error.got) == ("shortest and longest of copying", "30 and 20")
    assert error_of(lambda: CopyingConfig(letters=27)).expected == "2 to 26"
    sample = task.samples([0], 63, COPY, 0)[0]
    assert error_of(lambda: task.score(sample, "", "strings")).fix == "did you mean 'string'?"


def test_bytes_can_be_asked_too() -> None:
    assert CopyingTask().samples([0], 63, ByteTokenizer(), 0) == CopyingTask().samples([0], 63, COPY, 0)


def test_a_checkpoint_names_its_tokenizer(tmp_path: Path) -> None:
    config = ModelConfig(d_model=16, num_layers=1, vocab_size=COPY.vocab_size, mixer=Mamba2Config(d_state=8, headdim=8))
    save_checkpoint(tmp_path, Checkpoint(model=LanguageModel(config), config=config, tokenizer_spec="copy", source="."))
    assert isinstance(checkpoint_tokenizer(load_checkpoint(tmp_path)), CopyTokenizer)
