"""What surrounds the text of a sample: instruction, worked examples, form of the answer, question.

Our own wording ships. The published one is read, without being run, from the user's own copy of its repository.
"""

from __future__ import annotations

import ast
import hashlib
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lengthwise.errors import InputError

FIELDS = ("instruction", "examples", "post_prompt", "context", "question")
"""Places of a template; "post_prompt", the form of the answer, is called as in the published wording."""
TEMPLATE = "{instruction}\n\n{examples}\n\n{post_prompt}\n\n<context>\n{context}\n</context>\n\nQuestion: {question}"
"""How the published parts are put together."""
_OWN_TEMPLATE = TEMPLATE + "\nAnswer:"
_PROMPTS_FILE = "prompts.py"


@dataclass(frozen=True)
class Parts:
    """What is said about one task."""

    instruction: str
    examples: str
    post_prompt: str


@dataclass(frozen=True)
class Wording:
    """The words of every task and how they are put together."""

    name: str
    """own, official, or the name of a file."""
    template: str
    """With the places of `FIELDS`, each once."""
    parts: Mapping[str, Parts]

    @property
    def fingerprint(self) -> str:
        """sha256 hex of all of it."""
        values = {task: [p.instruction, p.examples, p.post_prompt] for task, p in sorted(self.parts.items())}
        return hashlib.sha256(json.dumps([self.template, values]).encode()).hexdigest()

    def of(self, task: str) -> Parts:
        """Words of a task. Raises InputError where there are none."""
        if task not in self.parts:
            raise InputError(
                expected=f"wording for {task}",
                got=f"wording for {', '.join(self.parts) or 'no task'}",
                where=f"wording '{self.name}'",
                fix="use the wording that ships, or a newer copy of the repository",
            )
        return self.parts[task]

    def frame(self, task: str, question: str) -> tuple[str, str]:
        """The prompt before the context and after it, without white space at its two ends."""
        parts = self.of(task)
        values = {
            "instruction": parts.instruction,
            "examples": parts.examples,
            "post_prompt": parts.post_prompt,
            "question": question,
        }
        sides = ["", ""]
        side = 0
        for literal, place, _, _ in string.Formatter().parse(self.template):
            sides[side] += literal
            if place == "context":
                side = 1
            elif place is not None:
                sides[side] += values[place]
        return sides[0].lstrip(), sides[1].rstrip()


def official_wording(source: str | Path) -> Wording:
    """The published wording, out of a copy of the repository booydar/babilong.

    The file with the prompts is parsed and never run.

    Args:
        source: the folder of the repository, or its prompts.py.
    Raises:
        InputError: no such file, or one that holds something else.
    """
    file = _prompts_file(Path(source))
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise _not_prompts(file, f"a file that is no Python ({error})") from error
    strings: dict[str, str] = {}
    prompts: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            continue
        name = node.targets[0].id
        if name == "DEFAULT_PROMPTS":
            prompts = _literal_prompts(node.value, file)
        elif (text := _constant(node.value, strings)) is not None:
            strings[name] = text
    template = strings.get("DEFAULT_TEMPLATE")
    if template is None or not prompts:
        raise _not_prompts(file, "none of that name")
    places = [place for _, place, _, _ in string.Formatter().parse(template) if place is not None]
    if sorted(places) != sorted(FIELDS):
        raise _not_prompts(file, f"a template with the places {', '.join(places) or 'none'}")
    parts = {task: Parts(p["instruction"], p["examples"], p["post_prompt"]) for task, p in prompts.items()}
    return Wording("official", template, parts)


def _prompts_file(source: Path) -> Path:
    candidates = [source, source / "babilong" / _PROMPTS_FILE, source / _PROMPTS_FILE]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(
        expected="a copy of the repository booydar/babilong, with babilong/prompts.py in it",
        got="nothing at that path" if not source.exists() else "a folder without that file",
        where=str(source),
        fix="clone the repository and give its folder, or leave it out to use the wording that ships",
    )


def _constant(node: ast.expr, known: Mapping[str, str]) -> str | None:
    """Value of a string, or of an f-string made of strings and of names that are known; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.FormattedValue):
        return known.get(node.value.id) if isinstance(node.value, ast.Name) else None
    if isinstance(node, ast.JoinedStr):
        values = [_constant(value, known) for value in node.values]
        return None if None in values else "".join(value for value in values if value is not None)
    return None


def _literal_prompts(node: ast.expr, file: Path) -> dict[str, dict[str, str]]:
    try:
        prompts = ast.literal_eval(node)
        wanted = ("instruction", "examples", "post_prompt")
        return {str(task): {key: str(values[key]) for key in wanted} for task, values in prompts.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise _not_prompts(file, f"one that cannot be read ({error})") from error


def _not_prompts(file: Path, got: str) -> InputError:
    return InputError(
        expected="DEFAULT_PROMPTS with instruction, examples and post_prompt of every task, and DEFAULT_TEMPLATE with "
        + ", ".join(FIELDS),
        got=got,
        where=str(file),
        fix="give an unchanged copy of booydar/babilong",
    )


def own_wording() -> Wording:
    """The wording that ships: ours."""
    return Wording("own", _OWN_TEMPLATE, {task: _own_parts(*words) for task, words in _OWN.items()})


def _own_parts(about: str, hint: str, form: str, *examples: tuple[str, str, str]) -> Parts:
    return Parts(
        instruction=f"A text follows. Scattered through it are short statements about {about}; the rest of the text "
        f"has nothing to do with them. Answer the question from these statements alone.{hint and ' ' + hint}",
        examples="\n".join(
            f"<example>\n{facts}\nQuestion: {question}\nAnswer: {answer}\n</example>"
            for facts, question, answer in examples
        ),
        post_prompt=f"Answer with {form} and write nothing else.",
    )


_LATEST = "Where somebody went to several places, the last one counts."
_CARRIED = "Things that are carried move along with whoever carries them, and stay where they are put down."

# Task: what the statements are about, a hint, the form of the answer, and examples (facts, question, answer).
_OWN: dict[str, tuple[str, str, str, *tuple[tuple[str, str, str], ...]]] = {
    "qa1": (
        "where people are",
        _LATEST,
        "the name of the place",
        ("Nina walked to the attic. Oscar went to the cellar. Nina went to the porch.", "Where is Nina?", "porch"),
        ("Oscar went to the barn. Petra walked to the attic.", "Where is Oscar?", "barn"),
    ),
    "qa2": (
        "where people go and what they carry",
        _CARRIED,
        "the name of the place",
        ("Nina took the lamp. Nina went to the cellar. Oscar went to the barn.", "Where is the lamp?", "cellar"),
        ("Oscar got the coin. Oscar went to the porch. Oscar left the coin. Oscar went to the attic.",
         "Where is the coin?", "porch"),
    ),
    "qa3": (
        "where people go and what they carry",
        _CARRIED,
        "the name of the place",
        ("Nina took the lamp. Nina went to the cellar. Nina went to the barn. Nina went to the attic.",
         "Where was the lamp before the attic?", "barn"),
        ("Oscar went to the porch. Oscar got the coin. Oscar went to the attic. Petra went to the porch.",
         "Where was the coin before the attic?", "porch"),
    ),
    "qa4": (
        "how places lie to one another",
        "",
        "the name of the place",
        ("The barn is north of the attic. The attic is north of the porch.", "What is north of the porch?", "attic"),
        ("The cellar is east of the barn. The porch is west of the barn.", "What is the barn east of?", "porch"),
    ),
    "qa5": (
        "people who carry things and give them to one another",
        "",
        "one word, a person or a thing",
        ("Nina got the lamp. Nina gave the lamp to Oscar.", "Who did Nina give the lamp to?", "Oscar"),
        ("Petra took the coin there. Petra handed the coin to Nina.", "What did Petra give to Nina?", "coin"),
        ("Oscar picked up the lamp. Oscar passed the lamp to Petra.", "Who gave the lamp?", "Oscar"),
    ),
    "qa6": (
        "where people are",
        _LATEST,
        "yes or no",
        ("Nina went to the attic. Nina went to the porch.", "Is Nina in the porch?", "yes"),
        ("Oscar went to the barn. Oscar went to the cellar.", "Is Oscar in the barn?", "no"),
    ),
    "qa7": (
        "people and the things they carry",
        "",
        "a number in words, none where there is nothing",
        ("Nina got the lamp. Nina took the coin there.", "How many objects is Nina carrying?", "two"),
        ("Oscar got the lamp. Oscar gave the lamp to Petra.", "How many objects is Oscar carrying?", "none"),
        ("Oscar got the lamp. Petra went to the barn.", "How many objects is Oscar carrying?", "one"),
    ),
    "qa8": (
        "people and the things they carry",
        "",
        "the things, parted by commas, or nothing",
        ("Nina got the lamp. Nina took the coin there.", "What is Nina carrying?", "lamp,coin"),
        ("Oscar got the lamp. Oscar put down the lamp.", "What is Oscar carrying?", "nothing"),
        ("Petra went to the barn. Petra took the coin there.", "What is Petra carrying?", "coin"),
    ),
    "qa9": (
        "where people are and where they are not",
        _LATEST,
        "yes or no",
        ("Nina is no longer in the attic. Oscar went to the porch.", "Is Nina in the attic?", "no"),
        ("Petra is not in the barn. Oscar went to the porch.", "Is Oscar in the porch?", "yes"),
    ),
    "qa10": (
        "where people are or may be",
        _LATEST,
        "yes, no or maybe",
        ("Nina is in the attic. Oscar is either in the barn or the porch.", "Is Oscar in the barn?", "maybe"),
        ("Nina is in the attic. Oscar went to the porch.", "Is Nina in the cellar?", "no"),
        ("Petra is either in the barn or the cellar. Nina went to the attic.", "Is Nina in the attic?", "yes"),
    ),
    "qa11": (
        "where people are",
        _LATEST,
        "the name of the place",
        ("Nina went to the attic. Then she went to the porch.", "Where is Nina?", "porch"),
        ("Oscar went to the barn. After that he went to the cellar. Nina went to the attic.",
         "Where is Oscar?", "cellar"),
    ),
    "qa12": (
        "where people are",
        _LATEST,
        "the name of the place",
        ("Nina and Oscar went to the attic. Oscar and Petra went to the barn.", "Where is Oscar?", "barn"),
        ("Petra and Nina went to the porch. Oscar and Nina went to the cellar.", "Where is Petra?", "porch"),
    ),
    "qa13": (
        "where people are",
        _LATEST,
        "the name of the place",
        ("Nina and Oscar went to the attic. Then they went to the porch.", "Where is Nina?", "porch"),
        ("Petra and Oscar went to the barn. After that they went to the cellar. Nina and Oscar went to the attic.",
         "Where is Petra?", "cellar"),
    ),
    "qa14": (
        "where people were at different times",
        "The times are yesterday, this morning, this afternoon and this evening, in this order.",
        "the name of the place",
        ("This morning Nina went to the attic. Yesterday Nina went to the barn.",
         "Where was Nina before the attic?", "barn"),
        ("Oscar went to the porch this evening. Yesterday he went to the barn. This afternoon Oscar went to the attic.",
         "Where was Oscar before the porch?", "attic"),
    ),
    "qa15": (
        "animals, their names and what they are afraid of",
        "",
        "the name of one kind of animal",
        ("Geese are afraid of dogs. Nina is a goose. Dogs are afraid of bears.", "What is nina afraid of?", "dog"),
        ("Dogs are afraid of bears. Geese are afraid of dogs. Oscar is a dog.", "What is oscar afraid of?", "bear"),
    ),
    "qa16": (
        "animals, their names and their colors",
        "Animals of one kind have one color.",
        "one color",
        ("Nina is a goose. Nina is brown. Petra is a goose.", "What color is Petra?", "brown"),
        ("Oscar is a dog. Nina is a goose. Oscar is black. Petra is a dog.", "What color is Petra?", "black"),
    ),
    "qa17": (
        "how shapes lie to one another",
        "",
        "yes or no",
        ("The green star is above the black ring. The black ring is above the pink cone.",
         "Is the green star above the pink cone?", "yes"),
        ("The green star is to the left of the black ring. The pink cone is to the right of the black ring.",
         "Is the pink cone to the left of the green star?", "no"),
    ),
    "qa18": (
        "the sizes of things",
        "",
        "yes or no",
        ("The jar fits inside the bucket. The bucket fits inside the barrel.",
         "Does the jar fit in the barrel?", "yes"),
        ("The barrel is bigger than the bucket. The jar fits inside the bucket.",
         "Is the jar bigger than the barrel?", "no"),
    ),
    "qa19": (
        "how places lie to one another",
        "",
        "two steps out of n, s, e and w, parted by a comma",
        ("The barn is north of the attic. The porch is east of the barn.",
         "How do you go from the attic to the porch?", "n,e"),
        ("The cellar is west of the attic. The attic is north of the barn.",
         "How do you go from the cellar to the barn?", "e,s"),
    ),
    "qa20": (
        "people, how they feel and where they go",
        "Somebody thirsty or hungry goes to the kitchen, somebody tired to the bedroom, somebody bored to the garden.",
        "one word, a feeling or a place",
        ("Nina is tired.", "Where will nina go?", "bedroom"),
        ("Oscar is hungry. Oscar went to the kitchen.", "Why did oscar go to the kitchen?", "hungry"),
        ("Petra is bored. Petra went to the garden. Petra took the ball there.",
         "Why did petra get the ball?", "bored"),
    ),
}  # fmt: skip
