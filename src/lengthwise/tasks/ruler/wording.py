"""What the tasks say: instructions, questions, the beginning of the answer, needles, lines.

Two wordings have the same form. Ours is below and ships with the package. RULER's own is read at run time from the
user's copy (`ruler.checkout`); nothing of it is in this package.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lengthwise.errors import InputError
from lengthwise.tasks.tokens import key_of

KINDS = ("word", "number", "uuid")
"""What a key or a value can be."""

BUDGETS: Mapping[str, int] = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}
"""Tokens to generate, by family, as in the paper; a tokenizer that needs more for the right answer gets more."""

_FIELDS = {
    "niah": ("type_needle_v", "context", "query"),
    "vt": ("context", "query", "num_v"),
    "cwe": ("context",),
    "fwe": ("context",),
    "qa": ("context", "query"),
}
"""Placeholders a template or prefix may have, by family."""


@dataclass(frozen=True)
class Template:
    """The words around a context."""

    before: str
    """Up to the context; may have placeholders, as all three."""
    after: str
    """From the context to the end of the question."""
    prefix: str
    """The beginning of the answer, which the prompt ends with."""

    @classmethod
    def parse(cls, template: str, prefix: str, family: str, where: str, wrapper: str = "{task_template}") -> Template:
        """Split a template with ``{context}`` in it, put into a model's wrapper (the prefix stays behind that).

        Raises:
            InputError: no context, or a placeholder that the family does not have.
        """
        head, found, tail = wrapper.partition("{task_template}")
        for text in (template, prefix):
            unknown = [name for name in _placeholders(text, where) if name not in _FIELDS[family]]
            if unknown:
                raise InputError(
                    expected=f"placeholders of {family}: {', '.join(_FIELDS[family])}",
                    got=", ".join(unknown),
                    where=where,
                    fix="use a copy of RULER of 2024 to 2026, or the wording that ships",
                )
        before, context, after = template.partition("{context}")
        if not context or not found:
            raise InputError(
                expected="a template with {context}" if found else "a model template with {task_template}",
                got=repr(template[:60] if found else wrapper[:60]),
                where=where,
                fix="use a copy of RULER of 2024 to 2026, or the wording that ships",
            )
        return cls(escaped(head) + before, after + escaped(tail), prefix)

    def filled(self, **values: object) -> Template:
        """The same with placeholders filled in."""
        return Template(*(part.format(**values) for part in (self.before, self.after, self.prefix)))

    @property
    def ending(self) -> str:
        """All that follows the context."""
        return self.after + self.prefix


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Everything that is said in the tasks of the RULER family."""

    name: str
    """"own" or "official"."""
    single: Template
    """Needles: one value is asked for."""
    several: Template
    """Needles: several are."""
    needle: str
    """Sentence with ``{type_needle_v}``, ``{key}`` and ``{value}``; the type stands in the plural."""
    noise: str
    """The line that a repeated haystack repeats."""
    vt: Template
    """Without what a model's wrapper has before the task: the worked example stands between the two."""
    vt_example: Template
    """The same for the worked example, without any wrapper."""
    vt_head: str
    """What a model's wrapper has before the task."""
    assign_value: str
    """Line that gives ``{name}`` the number ``{value}``."""
    assign_name: str
    """Line that gives ``{name}`` what ``{source}`` has."""
    vt_example_end: str
    """Between the example's answer and the question proper; its answer follows the prefix behind a space."""
    cwe: Template
    fwe: Template
    qa: Template
    document: str
    """A document with its ``{number}`` and ``{text}``."""
    document_joint: str = "\n\n"
    entry: str = "{number}. {word}"
    """A word of the numbered list of cwe."""
    blank: str = "..."
    """The word of fwe that does not count."""
    empty_pieces: bool = False
    """Needles at an end of a prose haystack, or side by side, have an empty piece beside them; see `haystacks`."""
    budgets: Mapping[str, int]
    """Tokens to generate, by family."""
    source: Mapping[str, Any] | None = None
    """Where it was read, with hashes; None for ours."""

    @property
    def fingerprint(self) -> str:
        """sha256 hex of all texts."""
        values = {name: _plain(value) for name, value in vars(self).items() if name not in ("name", "source")}
        return hashlib.sha256(key_of(values).encode()).hexdigest()

    def needles(self, asked: int) -> Template:
        """The template for so many values asked for."""
        return self.single if asked == 1 else self.several


def _plain(value: object) -> object:
    if isinstance(value, Template):
        return [value.before, value.after, value.prefix]
    return dict(value) if isinstance(value, Mapping) else value


def plural(kind: str) -> str:
    """number -> numbers."""
    return kind + "s"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """a; a, and b; a, b, and c."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + ", and " + names[-1]


def _placeholders(text: str, where: str) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise InputError(
            expected="a template whose braces enclose names",
            got=f"{text[:60]!r} ({error})",
            where=where,
            fix="double the braces that belong to the text",
        ) from error


def escaped(text: str) -> str:
    """A text that `Template.filled` gives back as it is."""
    return text.replace("{", "{{").replace("}", "}}")


_OWN_VT = Template(
    "The text below gives variables a number, or the number that another variable has. Keep track of which variables "
    "have the same number.\n",
    "\nQuestion: which variables in the text above have the number {query}?",
    " Answer: in the text above, {num_v} variables have the number {query}, and they are",
)

OWN = Wording(
    name="own",
    single=Template(
        "The text below is long, and somewhere in it a note gives the secret {type_needle_v} of a name. Read all of it "
        "and keep that {type_needle_v} in mind; a question about it follows.\n",
        "\nQuestion: which secret {type_needle_v} does the text give for {query}?",
        " Answer: the secret {type_needle_v} of {query} is",
    ),
    several=Template(
        "The text below is long, and here and there in it notes give the secret {type_needle_v} of names. Read all of "
        "it and keep those {type_needle_v} in mind; a question about them follows.\n",
        "\nQuestion: which secret {type_needle_v} does the text give for {query}?",
        " Answer: the secret {type_needle_v} of {query} are",
    ),
    needle="Among the secret {type_needle_v}, that of {key} is {value}.",
    noise="Rain falls on the roof. A clock ticks in the hall. The kettle is warm. Nobody is in a hurry. So it goes on.",
    vt=_OWN_VT,
    vt_example=_OWN_VT,
    vt_head="",
    assign_value="LET {name} BE {value}.",
    assign_name="LET {name} BE {source}.",
    vt_example_end="\n\n",
    cwe=Template(
        "Here is a numbered list of words. A few of them come up far more often than the others; note which.\n",
        "\nQuestion: which 10 words come up most often in this list?",
        " Answer: the 10 words that come up most often in this list are",
    ),
    fwe=Template(
        "The text below is in code. Its words come up more or less often, and the dots between them mean nothing; note "
        "how often each word comes up.\n",
        "\nQuestion: apart from the dots, which 3 words come up most often in the coded text?",
        " Answer: the 3 words that come up most often in the coded text are",
    ),
    qa=Template(
        "Here are some texts, and after them a question that one or two of them answer. Give the answer alone, in as "
        "few words as it takes.\n\n",
        "\n\nQuestion: {query}",
        " Answer:",
    ),
    document="Text {number}. {text}",
    budgets=BUDGETS,
)
"""The wording that ships."""
