"""RULER's own wording, read from the user's copy of its repository.

Files are parsed, never run. What is read: the task templates and answer prefixes, the model templates, the needle
sentence, the noise line, the document format. How variables are assigned and words are numbered is code over there and
form over here. The sha256 of every file read goes into the parameters of the tasks.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lengthwise.errors import InputError, near_matches
from lengthwise.tasks.ruler.wording import Template, Wording

CONSTANTS = "scripts/data/synthetic/constants.py"
TEMPLATES = "scripts/data/template.py"
NIAH = "scripts/data/synthetic/niah.py"
QA = "scripts/data/synthetic/qa.py"

_FAMILIES = {
    "niah": "niah",
    "vt": "variable_tracking",
    "cwe": "common_words_extraction",
    "fwe": "freq_words_extraction",
    "qa": "qa",
}
_NUM_COMMON = 10


class Checkout:
    """The files of a copy of RULER that hold words.

    Args:
        folder: the copy's top folder.
    Raises:
        InputError: not a copy of RULER.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes: dict[str, str] = {}
        if not (folder / CONSTANTS).is_file():
            raise InputError(
                expected=f"a copy of RULER, a folder with {CONSTANTS}",
                got="a folder without it" if folder.is_dir() else "no such folder",
                where=f"--ruler-source {folder}",
                fix="run `lengthwise data get ruler` and give the folder it names, or clone github.com/NVIDIA/RULER",
            )

    def parse(self, name: str) -> ast.Module:
        """The syntax tree of one file."""
        path = self.folder / name
        try:
            raw = path.read_bytes()
            tree = ast.parse(raw)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(
                expected=f"the file {name} of RULER",
                got=f"{type(error).__name__}: {error}",
                where=str(self.folder),
                fix="get a complete copy: lengthwise data get ruler",
            ) from error
        self.hashes[name] = hashlib.sha256(raw).hexdigest()
        return tree

    def value(self, name: str, variable: str) -> Any:
        """The literal that a module assigns to a variable."""
        for node in self.parse(name).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == variable for t in node.targets):
                try:
                    return ast.literal_eval(node.value)
                except ValueError as error:
                    raise self._unfit(name, variable) from error
        raise self._unfit(name, variable)

    def noise_line(self) -> str:
        """The text assigned to `haystack` where the type of haystack is compared with noise (once: repeat)."""
        for node in ast.walk(self.parse(NIAH)):
            if not isinstance(node, ast.If) or not isinstance(node.test, ast.Compare):
                continue
            compared = {c.value for c in node.test.comparators if isinstance(c, ast.Constant)}
            if not compared & {"noise", "repeat"}:
                continue
            for inner in node.body:
                if (
                    isinstance(inner, ast.Assign)
                    and any(isinstance(t, ast.Name) and t.id == "haystack" for t in inner.targets)
                    and isinstance(inner.value, ast.Constant)
                    and isinstance(inner.value.value, str)
                ):
                    return inner.value.value.strip()
        raise self._unfit(NIAH, "haystack in the branch for noise")

    def _unfit(self, name: str, variable: str) -> InputError:
        return InputError(
            expected=f"an assignment of a plain value to {variable}",
            got="none that can be read without running the file",
            where=str(self.folder / name),
            fix="use a copy of RULER of 2024 to 2026: lengthwise data get ruler",
        )


def official_wording(folder: Path, model_template: str = "base") -> Wording:
    """The wording of a copy of RULER.

    Args:
        folder: the copy's top folder.
        model_template: name of the model template that goes around tasks; base is none.
    Raises:
        InputError: not a copy of RULER, an unknown model template, a template without its places.
    """
    checkout = Checkout(folder)
    tasks = checkout.value(CONSTANTS, "TASKS")
    templates: Mapping[str, str] = checkout.value(TEMPLATES, "Templates")
    if model_template not in templates:
        raise InputError(
            expected="the name of a model template of RULER",
            got=f"'{model_template}'",
            where=str(folder / TEMPLATES),
            fix=near_matches(model_template, templates),
        )
    wrapper = str(templates[model_template])
    where = str(folder / CONSTANTS)

    def read(family: str, wrapper: str = wrapper) -> Template:
        try:
            entry = tasks[_FAMILIES[family]]
            template, prefix = str(entry["template"]), str(entry["answer_prefix"])
        except (KeyError, TypeError) as error:
            raise InputError(
                expected=f"a template and an answer_prefix of {_FAMILIES[family]}",
                got=f"an entry without {error}",
                where=where,
                fix="use a copy of RULER of 2024 to 2026: lengthwise data get ruler",
            ) from error
        if family == "cwe":
            template, prefix = (
                text.replace("{num_cw}", str(_NUM_COMMON)).replace("{query}", "") for text in (template, prefix)
            )
        if family == "fwe":
            template, prefix = (text.replace("{query}", "") for text in (template, prefix))
        return Template.parse(template, prefix, family, where, wrapper)

    several, bare = read("niah"), read("vt", "{task_template}")
    vt = read("vt")
    document = str(checkout.value(QA, "DOCUMENT_PROMPT"))
    return Wording(
        name="official",
        single=in_singular(several),
        several=several,
        needle=str(checkout.value(NIAH, "needle")),
        noise=checkout.noise_line(),
        vt=Template(bare.before, vt.after, vt.prefix),
        vt_example=bare,
        vt_head=vt.before.removesuffix(bare.before),
        assign_value="VAR {name} = {value}",
        assign_name="VAR {name} = VAR {source} ",
        vt_example_end="\n\n",
        cwe=read("cwe"),
        fwe=read("fwe"),
        qa=read("qa"),
        document=document.replace("{i}", "{number}").replace("{document}", "{text}"),
        empty_pieces=True,
        budgets={family: _budget(tasks[name], name, where) for family, name in _FAMILIES.items()},
        source={"model_template": model_template, "files": json.loads(json.dumps(checkout.hashes, sort_keys=True))},
    )


def _budget(entry: Mapping[str, Any], name: str, where: str) -> int:
    tokens = entry.get("tokens_to_generate")
    if not isinstance(tokens, int) or tokens < 1:
        raise InputError(
            expected=f"a positive whole number as tokens_to_generate of {name}",
            got=repr(tokens),
            where=where,
            fix="use a copy of RULER of 2024 to 2026: lengthwise data get ruler",
        )
    return tokens


def in_singular(several: Template) -> Template:
    """How RULER asks for one value: certain words of the whole prompt are replaced, also inside other words."""

    def one(text: str) -> str:
        for old, new in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
            text = text.replace(old, new)
        return text

    return Template(one(several.before), one(several.after), one(several.prefix))
