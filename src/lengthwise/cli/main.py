"""`lengthwise VERB ...`: find the verb, run it, and turn every failure into a message and an exit code.

Exit codes: 0 done, 1 a run failed, 2 wrong usage or input, 130 interrupted. No traceback reaches the user unless
LENGTHWISE_DEBUG=1 asks for it. Only the verb that is called is imported, and none of them imports torch for help.
"""

import errno
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lengthwise import __version__
from lengthwise.errors import InputError, LengthwiseError, RunFailure, near_matches
from lengthwise.runs import CHECK_AND_RESUME, FREE_AND_RESUME


class Verb(NamedTuple):
    """One sub-command; its module is `lengthwise.cli.<name>`, with _ for -."""

    summary: str
    resume: tuple[str, ...] | None
    """What to add to the command of an interrupted run so that it goes on; None where nothing goes on."""


VERBS = {
    "check": Verb("does MODEL carry its state rightly from call to call?", None),
    "measure": Verb("up to which length does MODEL generalize, and why not further?", ("--resume",)),
    "extend": Verb("make MODEL generalize, against a control trained on the same text", ("--resume",)),
    "eval": Verb("does MODEL find, track, count and copy what stands far back in a long text?", ("--resume",)),
    "lm-eval": Verb("MODEL in lm-evaluation-harness, state carried", None),
    "train": Verb("train a model from a recipe", ("--resume",)),
    "report": Verb("one page with tables and charts from run folders", None),
    "demo": Verb("measure, extend and report the shipped model, in a few minutes", ()),
    "data": Verb("turn text into token stores", None),
    "models": Verb("presets and shipped models: sizes, state, training context", None),
}

_FREE_AND_RESUME = "free some space and run the same command with --resume, or choose another --out"
_FREE_AND_REPEAT = "free some space, then give the same command again"
_WITHOUT_RESUME = {
    _FREE_AND_RESUME: _FREE_AND_REPEAT,
    FREE_AND_RESUME: _FREE_AND_REPEAT,
    CHECK_AND_RESUME: "check the folder and its permissions, then give the same command again",
}
"""What to try instead where the verb has no --resume."""

DEBUG_VARIABLE = "LENGTHWISE_DEBUG"


def usage() -> str:
    """The text of ``lengthwise --help``."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: lengthwise VERB [options]\n\n"
        "Find out how far a sequence model really reads, and make it read further.\n\n"
        f"verbs:\n{verbs}\n\n"
        "options:\n"
        "  -h, --help  this text; `lengthwise VERB --help` explains one verb\n"
        "  --version   the version of lengthwise\n\n"
        "first command: lengthwise demo"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (the console script hands it to `sys.exit`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except KeyboardInterrupt:
        print(f"\n{_interrupted(words)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`lengthwise ... | head`): stop quietly. Python would complain once more
        # when it flushes stdout at exit, so stdout is pointed at nothing first.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        failure = explain(error)
        print(message(failure, words), file=sys.stderr)
        return failure.exit_code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"lengthwise {__version__}")
        return 0
    name, *rest = words
    if name not in VERBS:
        raise InputError(
            expected="a verb",
            got=f"'{name}'",
            where="the command line, after `lengthwise`",
            fix=f"{near_matches(name, VERBS)} (all: `lengthwise --help`)",
        )
    code: int = importlib.import_module(f"lengthwise.cli.{name.replace('-', '_')}").main(rest)
    return code


def explain(error: Exception) -> LengthwiseError:
    """Any exception as a four-part error.

    Ours pass through. Those of the operating system are named by file and reason; memory running out says what to make
    smaller; anything else is a defect of this program and says how to see more.
    """
    if isinstance(error, LengthwiseError):
        return error
    if isinstance(error, OSError):
        return _explain_os_error(error)
    from lengthwise.engines.base import is_out_of_memory  # needs numpy, which help does not

    if is_out_of_memory(error):
        return RunFailure(
            expected="enough memory for the run",
            got=" ".join(str(error).split())[:200] or "no memory left",
            where="this machine",
            fix="lower --batch-size or --chunk; --dry-run shows the estimate",
        )
    origin = error.__traceback__
    while origin is not None and origin.tb_next is not None:
        origin = origin.tb_next
    where = "lengthwise" if origin is None else f"{origin.tb_frame.f_code.co_filename}, line {origin.tb_lineno}"
    return RunFailure(
        expected="no defect in lengthwise",
        got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
        where=where,
        fix=f"run it again with {DEBUG_VARIABLE}=1 for the full trace, and report it",
    )


def _explain_os_error(error: OSError) -> LengthwiseError:
    where = str(error.filename) if error.filename is not None else "the file system"
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailure(
            expected="space on the device",
            got=reason,
            where=where,
            fix=_FREE_AND_RESUME,
        )
    kind = InputError if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) else RunFailure
    return kind(
        expected="a file or folder that can be used", got=reason, where=where, fix="check the path and its permissions"
    )


def message(error: LengthwiseError, words: Sequence[str]) -> str:
    """The four parts, one per line, headed by the verb that met them."""
    verb = f" {words[0]}" if words and words[0] in VERBS else ""
    head = "wrong input" if error.exit_code == 2 else "failed"
    resumes = bool(verb) and "--resume" in (VERBS[words[0]].resume or ())
    fix = error.fix if resumes else _WITHOUT_RESUME.get(error.fix, error.fix)
    return (
        f"lengthwise{verb}: {head}\n"
        f"  expected  {error.expected}\n"
        f"  got       {error.got}\n"
        f"  in        {error.where}\n"
        f"  try       {fix}"
    )


def _interrupted(words: Sequence[str]) -> str:
    resume = VERBS[words[0]].resume if words and words[0] in VERBS else None
    if resume is None:
        return "interrupted"
    again = shlex.join(["lengthwise", *(word for word in words if word not in resume), *resume])
    return f"interrupted; what is finished is on disk, and the run goes on where it stopped with\n  {again}"


if __name__ == "__main__":
    sys.exit(main())
