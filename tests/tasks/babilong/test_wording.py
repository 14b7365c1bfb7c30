"""Our wording, and the published one as it is read out of a copy of the repository."""

from pathlib import Path

import pytest

from lengthwise.errors import InputError
from lengthwise.tasks.babilong.score import LABELS, strict
from lengthwise.tasks.babilong.wording import TEMPLATE, official_wording, own_wording

PROMPTS = r"""
import os

TASK_TEMPLATE = '{instruction}\n\n{examples}\n\n{post_prompt}'
USER_TEMPLATE = '<context>\n{context}\n</context>\n\nQuestion: {question}'
DEFAULT_TEMPLATE = f'{TASK_TEMPLATE}\n\n{USER_TEMPLATE}'
OTHER = {'a': 'b'}
raise RuntimeError('this file must never be run')


def get_formatted_input(context, question):
    return context


DEFAULT_PROMPTS = {
    'qa1': {
        'instruction': 'Look '
                       'here.',
        'examples': '<example>\none {brace}\n</example>\n',
        'post_prompt': 'Say it.',
    },
    'qa2': {'instruction': 'A', 'examples': 'B', 'post_prompt': 'C', 'more': 'D'},
}
"""


def checkout(folder: Path, text: str = PROMPTS) -> Path:
    (folder / "babilong").mkdir()
    (folder / "babilong" / "prompts.py").write_text(text)
    return folder


def test_published_words_are_read_and_not_run(tmp_path: Path) -> None:
    wording = official_wording(checkout(tmp_path))
    assert wording.template == TEMPLATE
    assert set(wording.parts) == {"qa1", "qa2"}
    assert wording.parts["qa1"].instruction == "Look here."
    head, tail = wording.frame("qa1", "Where is {Mary}? ")
    assert head == "Look here.\n\n<example>\none {brace}\n</example>\n\n\nSay it.\n\n<context>\n"
    assert tail == "\n</context>\n\nQuestion: Where is {Mary}?"
    assert official_wording(tmp_path / "babilong") == official_wording(tmp_path / "babilong" / "prompts.py") == wording


def test_an_older_template_is_read_as_well(tmp_path: Path) -> None:
    old = r"'{instruction}\n{examples}\n{post_prompt}\n<context>\n{context}\n</context>\nQ: {question}'"
    wording = official_wording(
        checkout(tmp_path, PROMPTS.replace("DEFAULT_TEMPLATE", "NEW_TEMPLATE") + f"DEFAULT_TEMPLATE = {old}")
    )
    assert wording.frame("qa2", "Why?") == ("A\nB\nC\n<context>\n", "\n</context>\nQ: Why?")


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (("DEFAULT_PROMPTS", "PROMPTS"), "none of that name"),
        (("f'{TASK_TEMPLATE}\\n\\n{USER_TEMPLATE}'", "None"), "none of that name"),
        (("{context}", "{text}"), "a template with the places instruction, examples, post_prompt, text, question"),
        (("{context}", "{context} {context}"), "a template with the places instruction"),
        (("'post_prompt': 'Say it.',", ""), "one that cannot be read"),
        (("'Say it.'", "os.name"), "one that cannot be read"),
        (("import os", "import"), "a file that is no Python"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: tuple[str, str], got: str) -> None:
    folder = checkout(tmp_path, PROMPTS.replace(*change))
    with pytest.raises(InputError) as caught:
        official_wording(folder)
    assert caught.value.got.startswith(got)
    assert caught.value.where == str(folder / "babilong" / "prompts.py")
    assert caught.value.fix == "give an unchanged copy of booydar/babilong"


def test_missing_copies_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        official_wording(tmp_path)
    assert caught.value.got == "a folder without that file"
    assert caught.value.where == str(tmp_path)
    assert caught.value.fix.startswith("clone the repository and give its folder")
    with pytest.raises(InputError, match="nothing at that path"):
        official_wording(tmp_path / "none")


def test_a_task_without_words(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        official_wording(checkout(tmp_path)).frame("qa7", "How many?")
    assert caught.value.expected == "wording for qa7"
    assert caught.value.got == "wording for qa1, qa2"


def test_our_words_are_complete() -> None:
    wording = own_wording()
    assert set(wording.parts) == set(LABELS)
    for task in LABELS:
        head, tail = wording.frame(task, "Where is Mary?")
        assert head.endswith("\n\n<context>\n")
        assert tail == "\n</context>\n\nQuestion: Where is Mary?\nAnswer:"
        assert head.count("<example>") == head.count("</example>") == head.count("\nQuestion: ") in (1, 2, 3)
        assert "  " not in head
        assert "\n\n\n" not in head


@pytest.mark.parametrize("task", LABELS)
def test_our_examples_answer_as_asked(task: str) -> None:
    # Where the labels of a task are a closed set that the examples use, their answers are judged right.
    examples = own_wording().parts[task].examples.split("</example>")[:-1]
    for example in examples:
        question = example.split("Question: ")[1].split("\n")[0]
        answer = example.rsplit("Answer: ", 1)[1].strip()
        if task in ("qa6", "qa7", "qa9", "qa10", "qa17", "qa18", "qa19", "qa20"):
            assert strict(answer, answer, question, LABELS[task])
        else:
            assert answer not in LABELS[task] or answer == "nothing"  # nothing of the context is given away


def test_fingerprints_tell_wordings_apart(tmp_path: Path) -> None:
    wording = official_wording(checkout(tmp_path))
    (tmp_path / "other").mkdir()
    other = official_wording(checkout(tmp_path / "other", PROMPTS.replace("Say it", "Do say it")))
    assert len({own_wording().fingerprint, wording.fingerprint, other.fingerprint}) == 3
    assert own_wording().fingerprint == own_wording().fingerprint
