"""Three ways to judge an answer to BABILong, and what guessing reaches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

_ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
_YES_NO = ("no", "yes")

LABELS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4", "qa11", "qa12", "qa13"), _ROOMS),
    **dict.fromkeys(("qa6", "qa9", "qa17", "qa18"), _YES_NO),
    "qa5": ("Bill", "Fred", "Jeff", "Mary", "apple", "football", "milk"),
    "qa7": ("none", "one", "three", "two"),
    "qa8": ("apple", "football", "milk", "nothing"),
    "qa10": ("maybe", "no", "yes"),
    "qa14": ("bedroom", "cinema", "kitchen", "office", "park", "school"),
    "qa15": ("cat", "mouse", "sheep", "wolf"),
    "qa16": ("gray", "green", "white", "yellow"),
    "qa19": tuple(f"{a},{b}" for a in "ensw" for b in "ensw" if {a, b} not in ({"e", "w"}, {"n", "s"})),
    "qa20": ("bedroom", "bored", "garden", "hungry", "kitchen", "thirsty", "tired"),
}
"""What an answer can be, by task."""

FLOORS: dict[str, float] = {
    "qa1": 0.187,
    "qa2": 0.187,
    "qa3": 0.215,
    "qa4": 0.177,
    "qa5": 0.189,
    "qa6": 0.503,
    "qa7": 0.488,
    "qa8": 0.336,
    "qa9": 0.638,
    "qa10": 0.437,
    "qa11": 0.187,
    "qa12": 0.189,
    "qa13": 0.183,
    "qa14": 0.177,
    "qa15": 0.341,
    "qa16": 0.257,
    "qa17": 0.520,
    "qa18": 0.531,
    "qa19": 0.093,
    "qa20": 0.180,
}
"""Share of the most frequent answer among the test questions: what one and the same answer to all of them scores."""


def first_sentence(output: str) -> str:
    """The part of an output that is judged: in small letters, up to the first full stop, or to a tag of the prompt."""
    kept = output.lower()
    for end in (".", "<context>", "<example>"):
        kept = kept.split(end)[0]
    return kept


def official(target: str, output: str, question: str, labels: Sequence[str]) -> bool:
    """The rule of the benchmark.

    Labels are looked for as parts of the first sentence; those that the question mentions do not count; what is left
    must be the target alone, or, for a list, exactly its parts. A label inside another word counts as well: "know" says
    no, and "none" says one, so that "none" is never right in qa7.
    """

    def mentions(text: str, label: str) -> bool:
        return label in text

    return _only_target(target, output, question, labels, mentions)


def strict(target: str, output: str, question: str, labels: Sequence[str]) -> bool:
    """The rule of the benchmark with labels as whole words, in answer and question; a path must not go on either."""
    patterns: dict[str, re.Pattern[str]] = {
        label.lower(): re.compile(rf"(?<!\w)(?<!\w,){re.escape(label.lower())}(?!\w)(?!,\w)")
        if "," in label
        else re.compile(rf"(?<!\w){re.escape(label.lower())}(?!\w)")
        for label in labels
    }

    def mentions(text: str, label: str) -> bool:
        return patterns[label].search(text) is not None

    return _only_target(target, output, question, labels, mentions)


def contains(target: str, output: str, question: str, labels: Sequence[str]) -> bool:
    """Whether the target occurs anywhere in the output, in any case: the rule of lm-evaluation-harness."""
    return target.lower() in output.lower()


def _only_target(
    target: str, output: str, question: str, labels: Sequence[str], mentions: Callable[[str, str], bool]
) -> bool:
    said = first_sentence(output)
    small = {label.lower() for label in labels}
    named = {label for label in small if mentions(said, label) and not mentions(question.lower(), label)}
    return named == _wanted(target.lower())


def _wanted(target: str) -> set[str]:
    """What must be named: the parts of a list, or the target; three characters with a comma are a path of two steps."""
    return set(target.split(",")) if "," in target and len(target) > 3 else {target}


SCORERS: Mapping[str, Callable[[str, str, str, Sequence[str]], bool]] = {
    "official": official,
    "strict": strict,
    "contains": contains,
}
"""By name; the first is the default."""
