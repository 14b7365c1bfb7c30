"""Scorers, on outputs made by hand."""

import pytest

from lengthwise.errors import InputError
from lengthwise.tasks.scoring import ALL, ANY, contains, postprocess, score_strings, scorers_for, stands_alone

OFFICIAL_ALL, STRICT_ALL = scorers_for(ALL)
OFFICIAL_ANY, STRICT_ANY = scorers_for(ANY)


def test_names_carry_a_version() -> None:
    assert (OFFICIAL_ALL, STRICT_ALL) == ("ruler_string_match_all@1", "strict_match_all@1")
    assert (OFFICIAL_ANY, STRICT_ANY) == ("ruler_string_match_part@1", "strict_match_any@1")


@pytest.mark.parametrize(
    ("output", "cleaned"),
    [
        ("  a b \n", "a b"),
        ("a\tb\x00c", "a\nb\nc"),
        ("\x01 a \x1f", "a"),
        ("", ""),
        ("\r\na", "a"),
        ("a\x7fb", "a\x7fb"),
    ],
)
def test_postprocessing(output: str, cleaned: str) -> None:
    assert postprocess(output) == cleaned


@pytest.mark.parametrize(
    ("output", "answer", "official", "strict"),
    [
        ("It is 1234567.", "1234567", True, True),
        ("It is 31234567.", "1234567", True, False),
        ("It is 12345678", "1234567", True, False),
        ("It is 1,234,567.", "1234567", False, False),
        ("Not at all", "no", True, False),
        ("No.", "no", True, True),
        ("no", "No", True, True),
        ("the BLUE-HOUSE", "blue-house", True, True),
        ("the blue-houses", "blue-house", True, False),
        ("a light-blue-house", "blue-house", True, False),
        ("blue-house-boat", "blue-house", True, False),
        ("blue - house", "blue-house", False, False),
        ("(blue-house)", "blue-house", True, True),
        ("blue-house- and so on", "blue-house", True, True),
        ("chief\nof  protocol", "Chief of Protocol", False, True),
        ("Chief of Protocol", "chief of protocol", True, True),
        ("in 10th and 11th", "10th", True, True),
        ("x_1234567", "1234567", True, False),
        ("C++ it is", "C++", True, True),
        ("ÉCOLE", "école", True, True),
        ("", "x", False, False),
        ("a\x00b", "a\nb", True, True),
    ],
)
def test_official_and_strict(output: str, answer: str, official: bool, strict: bool) -> None:
    assert contains(postprocess(output), answer) is official
    assert stands_alone(postprocess(output), answer) is strict


def test_all_answers_count_in_parts() -> None:
    score = score_strings("1 and 2, not 33", ["1", "2", "3", "4"], OFFICIAL_ALL, scorers_for(ALL))
    assert (score.value, score.scorer, score.details) == (0.75, OFFICIAL_ALL, {"found": ["1", "2", "3"]})
    strict = score_strings("1 and 2, not 33", ["1", "2", "3", "4"], STRICT_ALL, scorers_for(ALL))
    assert (strict.value, strict.scorer, strict.details) == (0.5, STRICT_ALL, {"found": ["1", "2"]})


def test_any_answer_counts_whole() -> None:
    assert score_strings("in France", ["France", "Normandy"], OFFICIAL_ANY, scorers_for(ANY)).value == 1.0
    assert score_strings("nowhere", ["no", "none"], OFFICIAL_ANY, scorers_for(ANY)).value == 1.0
    assert score_strings("nowhere", ["no", "none"], STRICT_ANY, scorers_for(ANY)).value == 0.0


def test_an_unknown_scorer_lists_the_known() -> None:
    with pytest.raises(InputError) as caught:
        score_strings("x", ["x"], "strict_match_al@1", scorers_for(ALL))
    assert "did you mean 'strict_match_all@1'" in caught.value.fix
    with pytest.raises(InputError, match="a scorer of this task"):
        score_strings("x", ["x"], OFFICIAL_ANY, scorers_for(ALL))
