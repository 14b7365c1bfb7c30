"""Every architecture of transformers, checked: ``python -m lengthwise.check.survey > docs/check-transformers.md``.

Small random models of each model type (`--config-only`), so neither weights nor a network are needed. Give model types
to have only those.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from lengthwise.check.config import CheckConfig
from lengthwise.check.findings import BY_NAME, NAMES
from lengthwise.check.run import check, versions
from lengthwise.engines.opening import library
from lengthwise.errors import LengthwiseError

COLUMNS = (
    ("two-pieces", "two pieces"),
    ("uneven-pieces", "uneven pieces"),
    ("single-tokens", "single tokens"),
    ("generate", "generate()"),
    ("left-padding", "left padding"),
    ("after-left-padding", "... then"),
    ("after-right-padding", "right padding, then"),
    ("gradients", "gradients"),
)
"""Properties of the table; the others are named in the last column where they fail."""
NOT_CAUSAL = (
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "cpmant",
    "data2vec-text",
    "electra",
    "ernie",
    "git",
    "megatron-bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xlnet",
    "xmod",
)
"""Registered as causal language models, and not causal as their configurations stand."""
HALVES = (
    "bart",
    "bigbird_pegasus",
    "blenderbot",
    "blenderbot-small",
    "marian",
    "mbart",
    "mllama",
    "musicgen",
    "musicgen_melody",
    "mvp",
    "pegasus",
    "plbart",
    "prophetnet",
    "trocr",
    "whisper",
)
"""Decoders that are made to follow an encoder."""


def model_types() -> list[str]:
    """Model types of the library that have a causal language model, without those of `NOT_CAUSAL` and `HALVES`."""
    names = library().models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return [name for name in sorted(names) if name not in NOT_CAUSAL + HALVES]


def survey(types: Sequence[str], *, seed: int = 0) -> list[dict[str, Any]]:
    """Results of a check of every model type, or under "refused" why none was possible."""
    found: list[dict[str, Any]] = []
    for name in types:
        print(f"{len(found) + 1} of {len(types)}: {name}", file=sys.stderr)
        try:
            found.append(check(CheckConfig(model=name, config_only=True, seed=seed), script=False).record)
        except LengthwiseError as error:
            found.append({"model": name, "refused": error.got})
    return found


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: models with a fault in a table, then lists of those without, and of those that could not be built."""
    checked = [record for record in records if "findings" in record]
    bad = [record for record in checked if not record["passed"] and _other_than(record, "after-right-padding")]
    right = [record for record in checked if not record["passed"] and record not in bad]
    good = [record for record in checked if record["passed"]]
    refused = [record for record in records if "refused" in record]
    lists = {
        "Wrong only in what follows a text padded on the right": right,
        "Right in everything they offer": good,
        "Not checked, because no small model could be built from the default configuration": refused,
    }
    lines = ["| model type | " + " | ".join(title for _, title in COLUMNS) + " | also, and causes found by trying |"]
    lines += ["|---" * (len(COLUMNS) + 2) + "|", *map(_row, bad)]
    for title, found in lists.items():
        lines += ["", _filled(f"{title} ({len(found)}): {_names(found)}.")]
    return "\n".join(lines) + "\n"


def _filled(paragraph: str) -> str:
    return textwrap.fill(paragraph, width=120, break_on_hyphens=False, break_long_words=False)


def _names(records: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"`{record['model']}`" for record in records) or "none"


def _other_than(record: dict[str, Any], name: str) -> bool:
    return any(each["name"] != name for each in record["findings"] if each["status"] in ("fail", "error"))


def _row(record: dict[str, Any]) -> str:
    cells = [_cell(record["findings"], name) for name, _ in COLUMNS]
    shown = {name for name, _ in COLUMNS}
    faults = [each for each in record["findings"] if each["status"] in ("fail", "error")]
    also = [BY_NAME[each["name"]].title for each in faults if each["name"] not in shown]
    causes = [each["note"] for each in faults if each["note"] and each["name"] != "after-right-padding"]
    words = "; ".join(dict.fromkeys([*also, *causes])).replace("|", "/")
    return f"| `{record['model']}` | " + " | ".join(cells) + f" | {words} |"


def _cell(findings: Sequence[dict[str, Any]], name: str) -> str:
    """ok, the error over the spread, error for an exception, - for what is not offered; without position ids apart."""
    found = []
    for each in findings:
        if each["name"] == name:
            text = {"pass": "ok", "error": "**error**", "not supported": "-"}.get(each["status"])
            text = text or (f"**{each['error']:.1g}**" if each["error"] is not None else "**wrong**")
            found.append(text + (" without positions" if each["positions"] == "own" else ""))
    return ", ".join(found) or "-"


def page(records: Sequence[dict[str, Any]]) -> str:
    """The whole page."""
    found = versions()
    made = (
        f"transformers {found['transformers']}, torch {found['torch']}, on a CPU without kernels of other packages. "
        "Small random models of every model type with a causal decoder, 64 tokens, float32. Made by "
        "`python -m lengthwise.check.survey`; `lengthwise check TYPE --config-only` repeats a row."
    )
    read = (
        "A number is the largest difference of logits over their spread (of gradients: over the gradient's norm): 1 is "
        "as large as what tells tokens apart, and rounding explains about 1e-4. Windows are cut to 20 tokens, so what "
        "shows at a window's edge here shows at its full size in practice. See [check.md](check.md)."
    )
    return "\n".join(["# What was found in transformers", "", _filled(made), "", _filled(read), "", table(records)])


def main(arguments: Sequence[str]) -> int:
    """Print the page about all model types, or about those that are named."""
    print(page(survey(list(arguments) or model_types())), end="")
    return 0


assert {name for name, _ in COLUMNS} <= set(NAMES)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
