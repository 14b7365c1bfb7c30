"""Names of tasks, and the tasks they stand for.

A name is ``family`` or ``family:key=value,key=value``, for example ``niah_grid:haystack=prose,key=word,value=uuid``.
Values joined by ``+`` make one task each: ``niah_grid:depth=0+50+100`` is three. A group is a name for several tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from lengthwise.data.benchmarks import folder_of
from lengthwise.errors import InputError, check_keys, near_matches
from lengthwise.tasks.babilong.books import PYTHON_BOOK
from lengthwise.tasks.babilong.config import BabilongConfig
from lengthwise.tasks.babilong.task import BabilongTask
from lengthwise.tasks.base import Task
from lengthwise.tasks.copying import CopyingConfig, CopyingTask
from lengthwise.tasks.library import Library, TaskOptions
from lengthwise.tasks.passkey.task import PasskeyConfig, PasskeyTask
from lengthwise.tasks.ruler.common_words import CommonWordsTask
from lengthwise.tasks.ruler.frequent_words import FrequentWordsTask
from lengthwise.tasks.ruler.names import Kind
from lengthwise.tasks.ruler.needles import Haystack, NeedleConfig, NeedleTask
from lengthwise.tasks.ruler.reading import ReadingTask
from lengthwise.tasks.ruler.tracking import TrackingTask

Parameters = Mapping[str, str]
BABILONG_TASKS = (
    "one fact says where someone is",
    "two facts",
    "three facts",
    "who stands where to whom",
    "who gave what to whom",
    "yes or no",
    "counting",
    "lists",
    "negation",
    "yes, no or maybe",
    "pronouns",
    "two people at once",
    "pronouns for two",
    "times of the day",
    "deduction",
    "induction",
    "positions of shapes",
    "sizes",
    "finding a way",
    "motives",
)
"""What each of qa1 to qa20 is about."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Tasks of one name."""

    about: str
    """One line."""
    make: Callable[[str, Library, Parameters], Task]
    """Given the full name, shared sources, and parameters as text."""
    parameters: tuple[str, ...] = ()
    """Parameters a name may have."""
    several: tuple[str, ...] = ()
    """Those of them whose value may be several, joined by +."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A name for several tasks."""

    about: str
    """One line."""
    members: tuple[str, ...]
    """Their names."""
    cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What a report averages: a label and the members whose mean stands behind it."""


def _needles(config: NeedleConfig) -> Callable[[str, Library, Parameters], Task]:
    return lambda name, library, parameters: NeedleTask(name, library, config)


def _grid(name: str, library: Library, parameters: Parameters) -> Task:
    values: dict[str, Any] = {"haystack": "prose", "key": "word", "value": "number", **parameters}
    for key, known in (("haystack", get_args(Haystack)), ("key", get_args(Kind)), ("value", get_args(Kind))):
        if values[key] not in known:
            raise InputError(
                expected=f"{key}={'|'.join(known)}",
                got=f"{key}={values[key]}",
                where=f"the task {name}",
                fix=near_matches(values[key], known),
            )
    if "depth" in values:
        values["depth"] = _number(values["depth"], name, "depth")
    same_at_all_depths = ",".join(f"{key}={value}" for key, value in sorted(values.items()) if key != "depth")
    try:
        config = NeedleConfig(**values)
    except InputError as error:
        where = f"{error.where} of the task {name}"
        raise InputError(expected=error.expected, got=error.got, where=where, fix=error.fix) from error
    return NeedleTask(name, library, config, purpose=f"niah_grid:{same_at_all_depths}")


def _number(text: str, name: str, key: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(
            expected=f"a number as {key}", got=f"'{text}'", where=f"the task {name}", fix=f"write {key}=2 or {key}=2.5"
        ) from error


def _vt(name: str, library: Library, parameters: Parameters) -> Task:
    hops = _number(parameters.get("hops", "4"), name, "hops")
    if hops != int(hops) or not 1 <= hops <= 20:
        raise InputError(expected="1 to 20 hops", got=parameters["hops"], where=f"the task {name}", fix="write hops=4")
    return TrackingTask(name, library, int(hops))


def _fwe(name: str, library: Library, parameters: Parameters) -> Task:
    return FrequentWordsTask(name, library, _number(parameters.get("alpha", "2.0"), name, "alpha"))


def _passkey(name: str, library: Library, parameters: Parameters) -> Task:
    values: dict[str, Any] = {}
    if "depth" in parameters:
        values["depths"] = (_number(parameters["depth"], name, "depth"),)
    if "digits" in parameters:
        values["digits"] = _whole(parameters["digits"], name, "digits")
    for key in ("variant", "wording"):
        if key in parameters:
            values[key] = parameters[key]
    return PasskeyTask(PasskeyConfig(**values), name=name)


def _babilong(question: str) -> Callable[[str, Library, Parameters], Task]:
    def make(name: str, library: Library, parameters: Parameters) -> Task:
        options = library.options
        return BabilongTask(
            BabilongConfig(
                task=question,
                babi=str(folder_of("babi", options.data_dir)),
                books=tuple(map(str, options.books)) if options.books else PYTHON_BOOK,
                babilong_source=None if options.babilong_source is None else str(options.babilong_source),
            )
        )

    return make


def _copying(free_running: bool) -> Callable[[str, Library, Parameters], Task]:
    def make(name: str, library: Library, parameters: Parameters) -> Task:
        values = {key: _whole(value, name, key) for key, value in parameters.items()}
        return CopyingTask(CopyingConfig(free_running=free_running, **values), name=name)

    return make


def _whole(text: str, name: str, key: str) -> int:
    value = _number(text, name, key)
    if value != int(value):
        raise InputError(
            expected=f"a whole number as {key}", got=f"'{text}'", where=f"the task {name}", fix=f"write {key}=5"
        )
    return int(value)


def _qa(data_set: str) -> Callable[[str, Library, Parameters], Task]:
    return lambda name, library, parameters: ReadingTask(name, library, data_set, parameters.get("file"))


FAMILIES: Mapping[str, Family] = {
    "niah_single_1": Family(
        about="one needle: a number in a line repeated",
        make=_needles(NeedleConfig(haystack="line", key="word", value="number")),
    ),
    "niah_single_2": Family(
        about="one needle: a number in prose", make=_needles(NeedleConfig(haystack="prose", key="word", value="number"))
    ),
    "niah_single_3": Family(
        about="one needle: a UUID in prose", make=_needles(NeedleConfig(haystack="prose", key="word", value="uuid"))
    ),
    "niah_multikey_1": Family(
        about="one needle asked for, three more in prose",
        make=_needles(NeedleConfig(haystack="prose", key="word", value="number", num_keys=4)),
    ),
    "niah_multikey_2": Family(
        about="one needle among nothing but needles",
        make=_needles(NeedleConfig(haystack="needles", key="word", value="number")),
    ),
    "niah_multikey_3": Family(
        about="one needle among nothing but needles, all UUIDs",
        make=_needles(NeedleConfig(haystack="needles", key="uuid", value="uuid")),
    ),
    "niah_multivalue": Family(
        about="four values of one key in prose",
        make=_needles(NeedleConfig(haystack="prose", key="word", value="number", num_values=4)),
    ),
    "niah_multiquery": Family(
        about="four keys asked for at once, in prose",
        make=_needles(NeedleConfig(haystack="prose", key="word", value="number", num_keys=4, num_asked=4)),
    ),
    "vt": Family(about="variable tracking: a chain of assignments in noise", make=_vt, parameters=("hops",)),
    "cwe": Family(
        about="the ten words that come up most often in a list",
        make=lambda name, library, parameters: CommonWordsTask(name, library),
    ),
    "fwe": Family(about="the three most frequent words of a code", make=_fwe, parameters=("alpha",)),
    "qa_1": Family(about="SQuAD: a question and its document among others", make=_qa("squad"), parameters=("file",)),
    "qa_2": Family(
        about="HotpotQA: a question and its two documents among others", make=_qa("hotpotqa"), parameters=("file",)
    ),
    "niah_grid": Family(
        about="one needle: any haystack, key, value and depth",
        make=_grid,
        parameters=("haystack", "key", "value", "depth", "haystack_file", "needle_file"),
        several=("haystack", "key", "value", "depth"),
    ),
    "passkey": Family(
        about="one number in a filler, at depths 0.1, 0.5 and 0.9 in turn",
        make=_passkey,
        parameters=("variant", "depth", "digits", "wording"),
        several=("variant", "depth"),
    ),
    **{
        f"babilong_qa{number}": Family(about=f"BABILong: {about}", make=_babilong(f"qa{number}"))
        for number, about in enumerate(BABILONG_TASKS, start=1)
    },
    "copying": Family(
        about="say a random string again, the right letters given (models with the tokenizer copy)",
        make=_copying(False),
        parameters=("letters", "shortest", "longest"),
    ),
    "copying_free": Family(
        about="say a random string again by oneself",
        make=_copying(True),
        parameters=("letters", "shortest", "longest"),
    ),
}
"""Rows are families; a task of another kind adds its own."""

_RULER = tuple(FAMILIES)[:13]
_BABILONG = tuple(name for name in FAMILIES if name.startswith("babilong_"))
_FORMATS = {
    "Essay-Word-Num": "haystack=prose,key=word,value=number",
    "Essay-Word-UUID": "haystack=prose,key=word,value=uuid",
    "Repeat-Word-Num": "haystack=line,key=word,value=number",
}


def _depth_cells(depths: Sequence[int]) -> dict[str, tuple[str, ...]]:
    return {f"depth {d}": tuple(f"niah_grid:{form},depth={d}" for form in _FORMATS.values()) for d in depths}


def _format_cells(depths: Sequence[int]) -> dict[str, tuple[str, ...]]:
    return {
        f"{label}, depth {depth}": (f"niah_grid:{form},depth={depth}",)
        for label, form in _FORMATS.items()
        for depth in depths
    }


def _members(cells: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(cells.values()))


_TABLE_2 = _depth_cells((0, 20, 40, 50, 60, 80, 100))
_TABLE_4 = _format_cells((0, 50, 100))

GROUPS: Mapping[str, Group] = {
    "ruler": Group(about="the thirteen tasks of RULER", members=_RULER, cells={"average": _RULER}),
    "niah": Group(about="the eight needle tasks of RULER", members=_RULER[:8], cells={"average": _RULER[:8]}),
    "needle-grid": Group(
        about="one needle: every haystack, key and value at depths 0, 25, 50, 75, 100",
        members=(
            "niah_grid:haystack=prose+line+needles,key=word+number+uuid,value=word+number+uuid,depth=0+25+50+75+100",
        ),
    ),
    "niah-depth": Group(
        about="Tables 2 and 3 of arXiv 2407.08112: mean of three formats at seven depths",
        members=_members(_TABLE_2),
        cells=_TABLE_2,
    ),
    "niah-format": Group(
        about="Table 4 of arXiv 2407.08112: three formats at three depths", members=_members(_TABLE_4), cells=_TABLE_4
    ),
    "passkey-depth": Group(
        about="Figure 7 of arXiv 2507.02782: passkey at depths 0.1, 0.5 and 0.9 apart",
        members=("passkey:depth=0.1+0.5+0.9",),
    ),
    "babilong": Group(
        about="the five tasks of BABILong that papers average",
        members=_BABILONG[:5],
        cells={"average": _BABILONG[:5]},
    ),
    "babilong-all": Group(about="the twenty tasks of BABILong", members=_BABILONG, cells={"average": _BABILONG}),
}
"""Rows are groups; a task of another kind adds its own."""


def expand(name: str) -> tuple[str, ...]:
    """The full names that a name stands for: members of a group, products of lists, parameters in a fixed order.

    Raises:
        InputError: an unknown name or parameter (with near matches), a parameter given twice or without a value.
    """
    if name in GROUPS:
        return tuple(dict.fromkeys(full for member in GROUPS[name].members for full in expand(member)))
    family, _, text = name.partition(":")
    if family not in FAMILIES:
        raise InputError(
            expected="the name of a task or group",
            got=f"'{family}'",
            where=f"the task {name}",
            fix=near_matches(family, [*FAMILIES, *GROUPS]),
        )
    row = FAMILIES[family]
    values = _parsed(name, text)
    check_keys(values, row.parameters, expected=f"a parameter of {family}", where=f"the task {name}")
    keys = [key for key in row.parameters if key in values]
    choices = [dict.fromkeys(values[key].split("+")) if key in row.several else [values[key]] for key in keys]
    names = []
    for chosen in itertools.product(*choices):
        settings = ",".join(f"{key}={value}" for key, value in zip(keys, chosen, strict=True))
        names.append(f"{family}:{settings}" if settings else family)
    return tuple(names)


def make_tasks(names: Iterable[str], options: TaskOptions | None = None) -> list[Task]:
    """The tasks of these names, each once, in order; they share their sources.

    Args:
        names: of tasks and groups.
        options: where benchmark files and RULER's wording are.
    Raises:
        InputError: see `expand`; a value that a parameter cannot have.
    """
    library = Library(options)
    full = dict.fromkeys(full for name in names for full in expand(name))
    return [make_task(name, library) for name in full]


def make_task(name: str, library: Library) -> Task:
    """The task of a full name."""
    family, _, text = name.partition(":")
    return FAMILIES[family].make(name, library, _parsed(name, text))


def _parsed(name: str, text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for setting in text.split(",") if text else []:
        key, equals, value = setting.partition("=")
        if not equals or not value or key in values:
            raise InputError(
                expected="parameters as key=value, each once, with commas between",
                got=f"'{setting}'",
                where=f"the task {name}",
                fix="write, for example, niah_grid:haystack=prose,depth=0+50+100",
            )
        values[key] = value
    return values
