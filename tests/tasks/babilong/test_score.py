"""The three ways to judge."""

import pytest

from lengthwise.tasks.babilong.score import LABELS, contains, first_sentence, official, strict

CASES = [
    # task, question, target, output, official, strict, contains
    ("qa1", "Where is Mary? ", "kitchen", " kitchen", True, True, True),
    ("qa1", "Where is Mary? ", "kitchen", "Mary is in the kitchen. Not the garden.", True, True, True),
    ("qa1", "Where is Mary? ", "kitchen", "Let me see. The kitchen.", False, False, True),
    ("qa1", "Where is Mary? ", "kitchen", "the kitchen, or the garden", False, False, True),
    ("qa1", "Where is Mary? ", "kitchen", "the kitchenette", True, False, True),
    ("qa1", "Where is Mary? ", "kitchen", "KITCHEN<context>garden", True, True, True),
    ("qa1", "Where is Mary? ", "kitchen", "kitchen <example> garden", True, True, True),
    ("qa1", "Where is Mary? ", "kitchen", "kitchen\nQuestion: where is the garden", False, False, True),
    ("qa3", "Where was the milk before the kitchen? ", "garden", "before the kitchen: the garden", True, True, True),
    ("qa5", "Who gave the milk to Jeff? ", "Fred", "fred gave the milk to jeff", True, True, True),
    ("qa6", "Is John in the kitchen? ", "no", "I do not know", True, False, True),
    ("qa6", "Is John in the kitchen? ", "yes", "yes, no doubt", False, False, True),
    ("qa7", "How many objects is Mary carrying? ", "none", "none", False, True, True),
    ("qa7", "How many objects is Mary carrying? ", "one", "one", True, True, True),
    ("qa7", "How many objects is Mary carrying? ", "one", "none", False, False, True),
    ("qa8", "What is Daniel carrying? ", "apple,milk", "milk and apple", True, True, False),
    ("qa8", "What is Daniel carrying? ", "apple,milk", "apple,milk", True, True, True),
    ("qa8", "What is Daniel carrying? ", "apple,milk", "apple,milk,football", False, False, True),
    ("qa8", "What is Daniel carrying? ", "apple,milk", "apple", False, False, False),
    ("qa19", "How do you go from the kitchen to the garden?", "s,e", "s,e", True, True, True),
    ("qa19", "How do you go from the kitchen to the garden?", "s,e", "First s,e", True, True, True),
    ("qa19", "How do you go from the kitchen to the garden?", "s,e", "s,e, then", True, True, True),
    ("qa19", "How do you go from the kitchen to the garden?", "s,e", "walls,east", True, False, True),
    ("qa19", "How do you go from the kitchen to the garden?", "s,e", "s,e,x", True, False, True),
    ("qa1", "Where is Mary? ", "kitchen", "", False, False, False),
]


@pytest.mark.parametrize(("task", "question", "target", "output", "by_official", "by_strict", "by_contains"), CASES)
def test_verdicts(
    task: str, question: str, target: str, output: str, by_official: bool, by_strict: bool, by_contains: bool
) -> None:
    given = (target, output, question, LABELS[task])
    assert official(*given) is by_official
    assert strict(*given) is by_strict
    assert contains(*given) is by_contains


def test_what_is_judged() -> None:
    assert first_sentence("Kitchen. Garden") == "kitchen"
    assert first_sentence("a <EXAMPLE> b") == "a "
    assert first_sentence("") == ""


@pytest.mark.parametrize("task", LABELS)
def test_every_label_is_right_for_itself(task: str) -> None:
    for label in LABELS[task]:
        assert strict(label, label, "What?", LABELS[task])
        assert contains(label, label, "What?", LABELS[task])
        assert official(label, label, "What?", LABELS[task]) is (label != "none")
