"""The command line as a whole: help without torch, near matches, messages, exit codes."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from lengthwise import __version__
from lengthwise.cli import main as cli
from lengthwise.errors import InputError, RunFailure


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Put a function in place of the verb `measure`."""

    def replace(function):
        module = type(sys)("lengthwise.cli.measure")
        module.main = function
        monkeypatch.setitem(sys.modules, "lengthwise.cli.measure", module)

    return replace


def raising(error: BaseException):
    def run(words: list[str]) -> int:
        raise error

    return run


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in cli.VERBS), ["data", "tokenize", "-h"]])
def test_help_answers_without_torch(words: list[str]) -> None:
    # Torch takes seconds to import, which is what makes a command line feel dead.
    code = (
        "import sys; from lengthwise.cli.main import main; code = main(sys.argv[1:]);"
        "sys.exit(code or ('torch imported' if 'torch' in sys.modules else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: lengthwise" in done.stdout
    assert done.stderr == ""


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, known in cli.VERBS.items():
        assert f"  {name} " in text
        assert known.summary in text


def test_no_verb_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "verbs:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"lengthwise {__version__}\n"


def test_misspelled_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mesure", "x"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "lengthwise: wrong input",
        "  expected  a verb",
        "  got       'mesure'",
        "  in        the command line, after `lengthwise`",
        "  try       did you mean 'measure' or 'models'? (all: `lengthwise --help`)",
    ]


def test_input_error_has_four_parts_and_code_2(verb, capsys: pytest.CaptureFixture[str]) -> None:
    verb(raising(InputError(expected="a", got="b", where="c", fix="d")))
    assert cli.main(["measure"]) == 2
    assert capsys.readouterr().err == (
        "lengthwise measure: wrong input\n  expected  a\n  got       b\n  in        c\n  try       d\n"
    )


def test_run_failure_has_code_1(verb, capsys: pytest.CaptureFixture[str]) -> None:
    verb(raising(RunFailure(expected="a", got="b", where="c", fix="d")))
    assert cli.main(["measure"]) == 1
    assert capsys.readouterr().err.startswith("lengthwise measure: failed\n")


def test_full_disk(verb, capsys: pytest.CaptureFixture[str]) -> None:
    verb(raising(OSError(errno.ENOSPC, "No space left on device", "runs/x/metrics.jsonl")))
    assert cli.main(["measure"]) == 1
    text = capsys.readouterr().err
    assert "expected  space on the device" in text
    assert "in        runs/x/metrics.jsonl" in text
    assert "--resume" in text


def test_full_disk_of_a_verb_that_does_not_resume(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = type(sys)("lengthwise.cli.models")
    module.main = raising(OSError(errno.ENOSPC, "No space left on device", "a"))
    monkeypatch.setitem(sys.modules, "lengthwise.cli.models", module)
    assert cli.main(["models"]) == 1
    text = capsys.readouterr().err
    assert "try       free some space, then give the same command again\n" in text


@pytest.mark.parametrize(
    ("error", "code"),
    [(FileNotFoundError(errno.ENOENT, "gone", "a"), 2), (PermissionError(errno.EACCES, "no", "a"), 1)],
)
def test_operating_system_errors_name_the_file(verb, capsys, error: OSError, code: int) -> None:
    verb(raising(error))
    assert cli.main(["measure"]) == code
    assert "in        a\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: tried 9 GB"),
        RuntimeError("Out of memory on the device"),
    ],
)
def test_out_of_memory_says_what_to_make_smaller(verb, capsys, error: Exception) -> None:
    verb(raising(error))
    assert cli.main(["measure"]) == 1
    assert "--batch-size" in capsys.readouterr().err


def test_a_defect_shows_no_traceback(verb, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)
    verb(raising(ZeroDivisionError("division by zero")))
    assert cli.main(["measure"]) == 1
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert "ZeroDivisionError: division by zero" in text
    assert "test_main.py, line" in text
    assert f"{cli.DEBUG_VARIABLE}=1" in text


def test_debug_variable_lets_the_error_through(verb, monkeypatch) -> None:
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    verb(raising(ZeroDivisionError("division by zero")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["measure"])


def test_interrupt_says_how_to_resume(verb, capsys: pytest.CaptureFixture[str]) -> None:
    verb(raising(KeyboardInterrupt()))
    assert cli.main(["measure", "my model", "--resume", "--length", "64k"]) == 130
    assert "lengthwise measure 'my model' --length 64k --resume\n" in capsys.readouterr().err


def test_the_demo_goes_on_by_itself(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = type(sys)("lengthwise.cli.demo")
    module.main = raising(KeyboardInterrupt())
    monkeypatch.setitem(sys.modules, "lengthwise.cli.demo", module)
    assert cli.main(["demo", "--out", "here"]) == 130
    assert capsys.readouterr().err.endswith("with\n  lengthwise demo --out here\n")


def test_interrupt_of_a_verb_that_does_not_resume(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = type(sys)("lengthwise.cli.models")
    module.main = raising(KeyboardInterrupt())
    monkeypatch.setitem(sys.modules, "lengthwise.cli.models", module)
    assert cli.main(["models"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m lengthwise.cli.main --help | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stderr == ""


def test_verb_names_are_pinned() -> None:
    assert list(cli.VERBS) == [
        "check",
        "measure",
        "extend",
        "eval",
        "lm-eval",
        "train",
        "report",
        "demo",
        "data",
        "models",
    ]
