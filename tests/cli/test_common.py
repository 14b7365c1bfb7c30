"""Reading options and printing results."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from lengthwise.cli.common import (
    OptionalSize,
    Size,
    default_out,
    option_names,
    output_for,
    parse,
    parse_size,
    print_table,
    shown,
)
from lengthwise.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Options:
    """A verb for tests."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Which."""
    length: OptionalSize = None
    """How long."""
    batch_size: Size = 8
    """How many."""
    metrics: tuple[Literal["perplexity", "states"], ...] = ("perplexity",)
    """What."""
    rate: float = 1.0
    """How fast."""
    json: bool = False
    """For machines."""


def complaint(*words: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(Options, words, verb="try")
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("4096", 4096), ("64k", 65536), ("1M", 1048576), ("2g", 2**31), ("1_000", 1000)]
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5k", "64kb", "x"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write a whole number such as 4096, 64k or 1m"):
        parse_size(text)


def test_options_are_read() -> None:
    words = ["m", "--length", "64k", "--batch-size=2", "--metrics", "states", "perplexity", "--rate", "-1e-3", "--json"]
    assert parse(Options, words, verb="try") == Options(
        model="m", length=65536, batch_size=2, metrics=("states", "perplexity"), rate=-1e-3, json=True
    )


def test_underscores_are_accepted() -> None:
    assert parse(Options, ["m", "--batch_size", "2"], verb="try").batch_size == 2


def test_misspelled_option() -> None:
    error = complaint("m", "--lenght", "3")
    assert error.expected == "an option of `lengthwise try`"
    assert error.got == "'--lenght'"
    assert error.where == "the command line"
    assert error.fix.startswith("did you mean '--length'")


def test_misspelled_choice() -> None:
    error = complaint("m", "--metrics", "states", "perplexty")
    assert error.expected == "--metrics to be one of perplexity, states"
    assert error.got == "'perplexty'"
    assert error.fix == "did you mean 'perplexity'?"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["m", "--length", "3q"], "Error parsing --length: '3q' is not a size"),
        (["m", "--rate", "fast"], "Error parsing --rate: could not convert string to float: 'fast'"),
        (["m", "--rate"], "Missing value for argument '--rate'"),
        (["m", "n"], "Unrecognized options: n"),
        ([], "MODEL"),
    ],
)
def test_values_that_do_not_fit(words: list[str], part: str) -> None:
    error = complaint(*words)
    assert part in error.got
    assert "\n" not in error.got
    assert "│" not in error.got
    assert error.fix == "see `lengthwise try --help`"


def test_option_names() -> None:
    assert set(option_names(Options)) == {"--length", "--batch-size", "--metrics", "--rate", "--json"}


def test_json_alone_reaches_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with output_for(True) as emit:
        print("progress")
        emit({"path": Path("a"), "missing": None})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"path": "a", "missing": None}
    assert captured.err == "progress\n"


def test_json_refuses_numbers_that_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    with output_for(True) as emit, pytest.raises(ValueError, match="not JSON compliant"):
        emit({"loss": float("nan")})
    assert capsys.readouterr().out == ""


def test_stdout_is_given_back_after_an_error() -> None:
    before = sys.stdout
    with pytest.raises(KeyError), output_for(True):
        raise KeyError
    assert sys.stdout is before


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (12345.6, "12,346"),
        ([1, None], "1, -"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert shown(value) == text


def test_table_has_title_columns_and_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Sizes", ("name", "parameters"), [("a", 12345), ("b", None)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["Sizes"]
    assert lines[1] == ["name", "parameters"]
    assert lines[3:] == [["a", "12,345"], ["b", "-"]]


def test_default_out(tmp_path: Path) -> None:
    recipe = tmp_path / "small.py"
    recipe.write_text("")
    assert default_out("train", recipe) == Path("runs/train-small")
    assert default_out("measure", "models/mamba2-1.3b") == Path("runs/measure-mamba2-1.3b")
    assert default_out("measure", "runs/demo/checkpoint") == Path("runs/measure-demo")


@pytest.mark.parametrize(
    ("verb", "purpose"), [("measure", "measure"), ("eval", "evaluate"), ("extend", "extend"), ("check", "check")]
)
def test_a_verb_without_a_model(lengthwise, tmp_path: Path, verb: str, purpose: str) -> None:
    done = lengthwise(verb)
    assert done.code == 2
    assert done.part("expected") == f"a model to {purpose}"
    assert done.part("got") == "no MODEL and no --config"
    assert done.part("in") == "the command line"
    assert ("--config-only" if verb == "check" else "`lengthwise models` lists") in done.part("try")
    Path("settings.json").write_text('{"seed": 1}')
    done = lengthwise(verb, "--config", "settings.json")
    assert done.code == 2
    assert done.part("expected") == f"a model to {purpose}"
    assert done.part("got") == "no MODEL, and none in settings.json"


@pytest.mark.parametrize("verb", ["measure", "train", "extend"])
def test_files_that_are_not_utf8_are_told_once(lengthwise, verb: str, tiny_model: Path, corpus: Path, recipe) -> None:
    folder = Path("corpus")
    shutil.copytree(corpus, folder)
    for index in range(6):
        (folder / f"latin-{index}.txt").write_bytes(b"na\xefve")
    quick = ["--data", folder, "--length", 128, "--num-sequences", 2, "--metrics", "perplexity"]
    words = {
        "measure": ["measure", tiny_model, *quick],
        "train": ["train", recipe(data=str(folder))],
        "extend": ["extend", tiny_model, *quick, "--steps", 2, "--batch-size", 2],
    }[verb]
    told = "! 6 files of the corpus left out: not UTF-8."
    done = lengthwise(*words, "--out", "run")
    assert done.code == 0, done.err
    assert done.out.count(told) == 1
    assert told not in done.err
    assert json.loads(Path("run/manifest.json").read_text())["num_undecodable_files"] == 6
    resumed = lengthwise(*words, "--out", "run", "--resume", "--json")
    assert resumed.json["run"] == "run"  # nothing but JSON on stdout
    assert resumed.err.count(told) == 1
    for latin in folder.glob("latin-*"):
        latin.unlink()
    other = lengthwise(*words, "--out", "other")
    assert other.code == 0
    assert "left out" not in other.out + other.err
    assert json.loads(Path("other/manifest.json").read_text())["num_undecodable_files"] == 0
