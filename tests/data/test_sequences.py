"""Sampled sequences: one a document, stable under the number asked for, and honest when there are too few."""

from collections.abc import Callable

import numpy as np
import pytest

from lengthwise.data import TokenStore, sample_sequences
from lengthwise.errors import InputError

MakeStore = Callable[[list[int]], TokenStore]


def test_one_window_inside_each_of_many_documents(counting_store: MakeStore) -> None:
    store = counting_store([30, 5, 31, 100, 29, 64])
    tokens, documents = sample_sequences(store, 29, 4, seed=0)
    assert tokens.shape == (4, 30)
    assert tokens.dtype == documents.dtype == np.int64
    assert sorted(documents.tolist()) == [0, 2, 3, 5]  # 29 tokens are one short
    for row, document in zip(tokens, documents, strict=True):
        assert row.tolist() == list(range(row[0], row[0] + 30))
        assert store.offsets[document] <= row[0]
        assert row[-1] < store.offsets[document + 1]


def test_offsets_reach_both_ends(counting_store: MakeStore) -> None:
    store = counting_store([12])
    starts = {int(sample_sequences(store, 9, 1, seed=seed)[0][0, 0]) for seed in range(60)}
    assert starts == {0, 1, 2}


def test_more_sequences_leave_the_first_as_they_were(counting_store: MakeStore) -> None:
    store = counting_store([50] * 10)
    few, many = sample_sequences(store, 20, 3, seed=1), sample_sequences(store, 20, 10, seed=1)
    assert np.array_equal(few[0], many[0][:3])
    assert np.array_equal(few[1], many[1][:3])
    assert not np.array_equal(many[0], sample_sequences(store, 20, 10, seed=2)[0])


def test_several_windows_only_when_asked(counting_store: MakeStore) -> None:
    store = counting_store([41, 11, 30, 10])  # 4, 1, 2 and 0 windows of length 10
    with pytest.raises(InputError):
        sample_sequences(store, 10, 4, seed=0)
    tokens, documents = sample_sequences(store, 10, 6, seed=0, windows_per_document=3)
    assert sorted(documents[:3].tolist()) == [0, 1, 2], "documents not used yet come first"
    assert sorted(documents.tolist()) == [0, 0, 0, 1, 2, 2]
    targets = tokens[:, 1:].flatten()
    assert len(set(targets.tolist())) == len(targets), "two windows share targets"


def test_too_few_documents_says_how_many_and_the_longest(counting_store: MakeStore) -> None:
    store = counting_store([100, 40, 70])
    with pytest.raises(InputError) as caught:
        sample_sequences(store, 64, 64, seed=0)
    assert caught.value.expected == "64 sequences of 65 tokens (length 64 and a target)"
    assert caught.value.got == "2 of 3 documents that long; the longest has 100 tokens"
    assert caught.value.where == str(store.path)
    assert caught.value.fix.startswith("lower --length or --num-sequences")
    with pytest.raises(InputError, match="got 2 of 3 documents that long with 4 windows; the longest has 100"):
        sample_sequences(counting_store([100, 20, 70]), 30, 9, seed=0, windows_per_document=2)
    with pytest.raises(InputError, match="got 0 of 3 documents that long; the longest has 100 tokens"):
        sample_sequences(store, 100, 1, seed=0)


def test_fewer_are_taken_only_where_that_is_allowed(counting_store: MakeStore) -> None:
    store = counting_store([41, 11, 30, 10])  # 4, 1, 2 and 0 windows of length 10
    tokens, documents = sample_sequences(store, 10, 5, seed=0, at_least=3)
    assert sorted(documents.tolist()) == [0, 1, 2]
    assert np.array_equal(tokens, sample_sequences(store, 10, 3, seed=0)[0])
    enough = sample_sequences(store, 10, 2, seed=0, at_least=1)
    assert np.array_equal(enough[0], tokens[:2])
    with pytest.raises(InputError) as caught:
        sample_sequences(store, 10, 5, seed=0, at_least=4)
    assert caught.value.expected == "5, or at least 4, sequences of 11 tokens (length 10 and a target)"
    assert caught.value.fix == (
        "lower --length or --num-sequences, raise --windows-per-document (7 windows in all), or add longer documents"
    )
    with pytest.raises(InputError) as caught:
        sample_sequences(store, 10, 8, seed=0, windows_per_document=4)
    assert caught.value.fix == "lower --length or --num-sequences, or add longer documents"


@pytest.mark.parametrize(
    ("length", "count", "windows", "name"),
    [(0, 1, 1, "length"), (1, 0, 1, "number of sequences"), (1, 1, 0, "number of windows a document")],
)
def test_numbers_of_zero(counting_store: MakeStore, length: int, count: int, windows: int, name: str) -> None:
    with pytest.raises(InputError, match=f"expected a {name} of at least 1; got 0"):
        sample_sequences(counting_store([9]), length, count, seed=0, windows_per_document=windows)
