"""What every verb shares: reading options, and printing for people or for machines.

A verb is a module with a frozen dataclass of options and `main(arguments) -> exit code`. The dataclass is the whole
interface: field names become options, field docstrings become help. This file must not import torch, because
`VERB --help` passes through it.
"""

import contextlib
import dataclasses
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from lengthwise.errors import InputError, near_matches
from lengthwise.measure.config import Metric
from lengthwise.units import human_bytes

Options = TypeVar("Options")

_MULTIPLES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def parse_size(text: str) -> int:
    """A count of tokens or sequences as people write it: ``4096``, ``64k`` (65,536) or ``1m`` (1,048,576).

    Raises:
        ValueError: the text is not a whole number with an optional k, m or g (powers of 1024).
    """
    match = re.fullmatch(r"(\d[\d_]*)([kmg]?)", text.strip().lower())
    if match is None:
        raise ValueError(f"'{text}' is not a size; write a whole number such as 4096, 64k or 1m")
    return int(match[1].replace("_", "")) * _MULTIPLES[match[2]]


def _size_spec() -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="SIZE",
        instance_from_str=lambda words: parse_size(words[0]),
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


Size = Annotated[int, _size_spec()]
"""An option that accepts ``64k`` as well as ``65536``."""

# Types of options that are None unless given. Optional[X] rather than `X | None`: the parser checks the default of the
# latter with a library whose import takes a fifth of the time that help may take.
OptionalText = Optional[str]  # noqa: UP045
OptionalInt = Optional[int]  # noqa: UP045
OptionalFloat = Optional[float]  # noqa: UP045
OptionalPath = Optional[Path]  # noqa: UP045
OptionalTexts = Union[None, tuple[str, ...]]  # noqa: UP007
OptionalMetrics = Union[None, tuple[Metric, ...]]  # noqa: UP007
# One annotation around the whole union, not Optional[Size]: the complaint about a union names Python types.
OptionalSize = Annotated[Optional[int], _size_spec()]  # noqa: UP045


def _sizes_spec() -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="SIZE ...",
        instance_from_str=lambda words: tuple(map(parse_size, words)),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: [] if value is None else list(map(str, value)),
    )


OptionalSizes = Annotated[Union[None, tuple[int, ...]], _sizes_spec()]  # noqa: UP007, RUF036

Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
"""An option that is either given or not; help need not say that it is off by default."""


def default_is(value: object, **more: Any) -> Any:
    """Annotation of an option that is None unless given: what help says it then stands for; `more` for the parser."""
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})", **more)


def parse(options: type[Options], arguments: Sequence[str], *, verb: str) -> Options:
    """Read the command line of one verb.

    Args:
        options: frozen dataclass; its docstring is the verb's help.
        arguments: words after the verb.
        verb: name for the usage line and for messages.

    Raises:
        InputError: unknown option (with the near ones), a value that does not fit, a missing argument.
        SystemExit: code 0 after ``--help``.
    """
    _check_names(options, arguments, verb)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                options,
                args=list(arguments),
                prog=f"lengthwise {verb}",
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff, tyro.conf.DisallowNone),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
    raise InputError(
        expected=f"options that `lengthwise {verb}` understands",
        got=_unboxed(complaint.getvalue()),
        where="the command line",
        fix=f"see `lengthwise {verb} --help`",
    )


def option_names(options: type[Any]) -> dict[str, Any]:
    """Every option of a verb by the name a user types (``--num-sequences``), with its resolved type."""
    hints = get_type_hints(options, include_extras=True)
    named = {
        field.name: hints[field.name] for field in dataclasses.fields(options) if not _is_positional(hints[field.name])
    }
    return {
        spelling: hint for name, hint in named.items() for spelling in ("--" + name.replace("_", "-"), *_aliases(hint))
    }


def _aliases(hint: Any) -> list[str]:
    """Other spellings of an option."""
    markers = getattr(hint, "__metadata__", ())
    return [alias for marker in markers for alias in getattr(marker, "aliases", None) or ()]


def _is_positional(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any(marker is _POSITIONAL for marker in hint.__metadata__)


_POSITIONAL = get_args(tyro.conf.Positional[int])[1]


def _check_names(options: type[Any], arguments: Sequence[str], verb: str) -> None:
    """Refuse unknown options and unknown choices with the near matches, before the parser sees them."""
    known = option_names(options)
    choices: tuple[str, ...] = ()
    option = ""
    for word in arguments:
        if word == "--":
            return
        value: str | None = word
        if word.startswith("-") and not re.fullmatch(r"-(\.?\d.*)?", word):  # neither a number nor the - of stdout
            option, equals, value_text = word.partition("=")
            option = option.replace("_", "-")
            if option not in known and option not in ("--help", "-h"):
                raise InputError(
                    expected=f"an option of `lengthwise {verb}`",
                    got=f"'{word}'",
                    where="the command line",
                    fix=f"{near_matches(option, known)} (all: `lengthwise {verb} --help`)",
                )
            choices = _choices(known.get(option))
            value = value_text if equals else None
        if value is not None and choices and value not in choices:
            raise InputError(
                expected=f"{option} to be one of {', '.join(choices)}",
                got=f"'{value}'",
                where="the command line",
                fix=near_matches(value, choices),
            )


def _choices(hint: Any) -> tuple[str, ...]:
    """The words a `Literal` option accepts, also inside `tuple[...]` and `... | None`; empty for any other type."""
    if get_origin(hint) is Literal:
        return tuple(str(choice) for choice in get_args(hint))
    found = [choice for part in get_args(hint) for choice in _choices(part)]
    return tuple(dict.fromkeys(found))


def _unboxed(text: str) -> str:
    """The parser's complaint on one line: without its frame, its title and the help below its first rule."""
    kept: list[str] = []
    for line in text.splitlines():
        words = line.strip("│╭╮╰╯─ \t")
        if kept and not words:
            break
        if words and not line.startswith("╭"):
            kept.append(words)
    return " ".join(kept) or "no reason given"


def default_out(verb: str, source: str | Path) -> Path:
    """Where a run goes when the user does not say: ``runs/<verb>-<name>``, after the model, recipe or run it is of."""
    path = Path(source)
    if path.name == "checkpoint" and path.parent.name:  # that of a run: the run has the telling name
        path = path.parent
    return Path("runs") / f"{verb}-{path.stem if path.is_file() else path.name}"


def given(options: Any, names: Sequence[str]) -> dict[str, Any]:
    """The settings among `names` that the user gave: those that are not None."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


_MODEL = "give a checkpoint folder or a name that `lengthwise models` lists"


def read_settings(
    options: Any, names: Sequence[str], *, kind: str, purpose: str, model: str = _MODEL
) -> dict[str, Any]:
    """Settings of `options.config`, where it is given, overridden by the options that were given.

    Args:
        options: of a verb that has MODEL and --config.
        names: options that are settings.
        kind: kind of run that the settings are of.
        purpose: what the verb does with a model.
        model: what to give where no model is named.

    Raises:
        InputError: no such file, or no model anywhere.
    """
    stored = {} if options.config is None else stored_config(options.config, kind)
    values = {**stored, **given(options, names)}
    if "model" not in values:
        raise InputError(
            expected=f"a model to {purpose}",
            got="no MODEL and no --config" if options.config is None else f"no MODEL, and none in {options.config}",
            where="the command line",
            fix=model,
        )
    return values


def stored_config(path: Path, kind: str) -> dict[str, Any]:
    """Settings kept in a JSON file, or the resolved settings of an earlier run, to repeat it.

    Args:
        path: JSON file with an object, or a run folder.
        kind: kind of run whose settings these must be.

    Raises:
        InputError: nothing there, no JSON object, or a run of another kind.
    """

    def refuse(got: str) -> InputError:
        return InputError(
            expected=f"a JSON file with settings, or the folder of a '{kind}' run",
            got=got,
            where=str(path),
            fix="check the path, or mend the file",
        )

    if path.is_dir():
        from lengthwise.runs import RunFolder

        manifest = RunFolder.open(path).manifest
        if manifest["kind"] != kind:
            raise refuse(f"a '{manifest['kind']}' run")
        return dict(manifest["config"])
    if not path.is_file():
        raise refuse("nothing of that name")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise refuse(f"no JSON: {error}") from error
    if not isinstance(values, dict):
        raise refuse(f"JSON with a {type(values).__name__} at the top")
    return values


def print_left_out(run: str | Path) -> None:
    """Say that a run read fewer files than its corpus has, where that is so.

    Not for the standard library: its few files in other encodings are tests of these encodings.

    Args:
        run: a folder of a measure, extend or train run.
    """
    from lengthwise.runs import RunFolder

    manifest = RunFolder.open(run).manifest
    count = manifest.get("num_undecodable_files")
    if count and manifest["config"].get("data") != "python":
        files = "1 file" if count == 1 else f"{count:,} files"
        print(f"! {files} of the corpus left out: not UTF-8. `iconv -f latin1 -t utf-8` converts one, for example.")


@contextlib.contextmanager
def output_for(json_wanted: bool) -> Iterator[Callable[[object], None]]:
    """Keep stdout for the result: inside the block everything printed goes to stderr when `json_wanted`.

    Yields a function that prints one JSON document to the real stdout. Non-finite numbers are refused, so that any
    JSON reader can read the result.
    """
    stdout = sys.stdout

    def emit(document: object) -> None:
        stdout.write(json.dumps(document, indent=2, allow_nan=False, default=_jsonable) + "\n")
        stdout.flush()

    if not json_wanted:
        yield emit
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield emit


def _jsonable(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people on stdout; None is shown as a dash, and columns after the first are right-aligned numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, because what comes from a run may hold brackets, which rich would read as markup.
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        numeric = index > 0 and all(row[index] is None or _is_number(row[index]) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Names and values, one per line; facts inside facts are named ``outer.inner``, counts of bytes get a unit."""
    print_table(title, ("what", "value"), list(_flat(facts)))


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in facts.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}.")
        elif "bytes" in path and isinstance(value, int):
            yield path.replace("_bytes", "").replace("_", " "), human_bytes(value)
        else:
            yield path.replace("_", " "), value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A cell as people read it: thousands separated, four significant digits, a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(shown(part) for part in value)
    return str(value)
