"""Random draws: pinned values, uniformity, independence of streams."""

import uuid

import numpy as np

from lengthwise.tasks.draws import Draws, as_uuids


def test_the_same_arguments_give_these_numbers_for_ever() -> None:
    draws = Draws(7, "pinned", 3)
    assert draws.words(2).tolist() == [17256822256741468083, 5156834969978296633]
    assert draws.integers(1000, 4).tolist() == [382, 3, 93, 683]
    assert draws.permutation(5).tolist() == [3, 2, 0, 1, 4]
    assert as_uuids(draws.words(2).reshape(1, 2)) == ["b290a994-4f80-4fa3-be15-9a956e0e81e9"]


def test_streams_differ_by_every_argument() -> None:
    streams = [Draws(0, "a", 0), Draws(1, "a", 0), Draws(0, "b", 0), Draws(0, "a", 1), Draws(0, "a", 0, 0)]
    assert len({int(stream.words(1)[0]) for stream in streams}) == len(streams)


def test_integers_are_uniform() -> None:
    counts = np.bincount(Draws(0, "uniform").integers(10, 20_000), minlength=10)
    # Standard deviation of each count is 42.
    assert np.abs(counts - 2000).max() < 5 * 42


def test_uuids_are_of_version_4() -> None:
    for text in as_uuids(Draws(0, "uuids").words(100).reshape(50, 2)):
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 4
        assert parsed.variant == uuid.RFC_4122


def test_letters_come_from_the_alphabet() -> None:
    words = Draws(0, "letters").letters(200, 5, "XYZ")
    assert {len(word) for word in words} == {5}
    assert set("".join(words)) == set("XYZ")
