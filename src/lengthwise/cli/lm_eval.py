"""`lengthwise lm-eval ...`: the command of lm-evaluation-harness, with our models under the name `lengthwise`."""

import sys
from collections.abc import Sequence

from lengthwise.errors import InputError

HELP = """\
usage: lengthwise lm-eval [--] ARGUMENTS OF lm_eval ...

Run lm-evaluation-harness with our models, whose state is carried through texts of any length:

  lengthwise lm-eval run --model lengthwise --model_args pretrained=MODEL --tasks lambada_openai

Everything after lm-eval goes to the harness as it is; `lengthwise lm-eval -- --help` is its own help. MODEL and the
other model_args (engine, tokenizer, batch_size, chunk, device, dtype, context_length, prefix_token) are those of
`lengthwise eval`. Needs the extra: pip install 'lengthwise[lm-eval]'. See docs/eval.md."""


def main(arguments: Sequence[str]) -> int:
    """Hand the arguments to the harness; returns its exit code."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return 0 if words else 2
    if words[0] == "--":
        words = words[1:]
    try:
        from lm_eval.__main__ import cli_evaluate

        import lengthwise.evaluate.harness  # noqa: F401  # registers the model
    except ImportError as error:
        raise InputError(
            expected="the package lm_eval",
            got=f"{type(error).__name__}: {error}",
            where="this Python installation",
            fix="install the extra: pip install 'lengthwise[lm-eval]'",
        ) from error
    before = sys.argv
    sys.argv = ["lm_eval", *words]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
    return 0
