"""Judging an answer by the strings that should be in it.

The official rules find a string anywhere in the output, also inside a longer word or number: "no" is found in "not",
and "12345" in "3123456". The strict rules want it to stand alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lengthwise.errors import InputError, near_matches
from lengthwise.tasks.base import Score

_CONTROL = re.compile(r"[\x00-\x1f]")

ALL, ANY = "all", "any"


def postprocess(text: str) -> str:
    """What RULER does to an output before it looks at it: strip, control characters to line breaks, strip."""
    return _CONTROL.sub("\n", text.strip()).strip()


def contains(text: str, answer: str) -> bool:
    """Whether the answer is a part of the text, capitals or not."""
    return answer.lower() in text.lower()


def stands_alone(text: str, answer: str) -> bool:
    """Whether the answer is in the text and not a part of a longer word, number or hyphenated word; capitals or not.

    White space in either counts as one space.
    """
    words, wanted = " ".join(text.lower().split()), " ".join(answer.lower().split())
    if not wanted:
        return False
    begin = r"(?<!\w)(?<!\w-)" if wanted[0].isalnum() else ""
    end = r"(?!\w)(?!-\w)" if wanted[-1].isalnum() else ""
    return re.search(begin + re.escape(wanted) + end, words) is not None


_RULES: dict[str, tuple[str, Callable[[str, str], bool]]] = {
    "ruler_string_match_all@1": (ALL, contains),
    "ruler_string_match_part@1": (ANY, contains),
    "strict_match_all@1": (ALL, stands_alone),
    "strict_match_any@1": (ANY, stands_alone),
}


def scorers_for(mode: str) -> tuple[str, ...]:
    """Names of the rules that want all answers, or any; the official one first."""
    return tuple(name for name, (wants, _) in _RULES.items() if wants == mode)


def score_strings(text: str, answers: Sequence[str], scorer: str, known: Sequence[str]) -> Score:
    """Judge an output.

    Args:
        text: raw output of the model.
        answers: the strings that should be in it.
        scorer: name of the rule.
        known: rules that fit the task.
    Returns:
        with rules that want all answers, the share of them found; with the others, 1 where any is. `details` tells
        which were found.
    Raises:
        InputError: a rule the task does not know.
    """
    if scorer not in known:
        raise InputError(
            expected=f"a scorer of this task: {', '.join(known)}",
            got=f"'{scorer}'",
            where="the name of the scorer",
            fix=near_matches(scorer, known),
        )
    wants, matches = _RULES[scorer]
    output = postprocess(text)
    found = [matches(output, answer) for answer in answers]
    if not found:
        raise ValueError("a sample without answers cannot be judged")
    value = sum(found) / len(found) if wants == ALL else float(any(found))
    hits = [answer for answer, hit in zip(answers, found, strict=True) if hit]
    return Score(value=value, scorer=scorer, details={"found": hits})
