"""Our own samples stay what they are. `LENGTHWISE_WRITE_GOLDEN=1 pytest` on this file writes them anew.

A change here is a change of every figure measured with these tasks: raise the task's `version` with it.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.tasks.library import Library
from lengthwise.tasks.registry import make_task

FOLDER = Path(__file__).parents[1] / "golden" / "tasks"
LENGTH = 2048
TASKS = [
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
    "qa_1",
    "qa_2",
    "niah_grid:haystack=line,key=number,value=word,depth=20",
]


def sources(parameters: dict[str, Any]) -> dict[str, Any]:
    """What the samples are made from and this repository does not decide."""
    found = {key: parameters[key] for key in ("words_sha256",) if key in parameters}
    return {**found, **({"prose": parameters["prose"]} if "prose" in parameters else {})}


@pytest.mark.parametrize("wording", ["own", "official"])
@pytest.mark.parametrize("name", TASKS)
def test_samples_are_these(
    name: str, wording: str, library: Library, official_library: Library, tokenizers: dict[str, Tokenizer]
) -> None:
    task = make_task(name, library if wording == "own" else official_library)
    samples = task.samples(range(3), LENGTH, tokenizers["bytes"], 0)
    made = {
        "version": task.version,
        "sources": sources(task.parameters()),
        "first": samples[0].to_dict(),
        "sha256": [hashlib.sha256(json.dumps(sample.to_dict()).encode()).hexdigest() for sample in samples],
    }
    path = FOLDER / f"{name.partition(':')[0]}.{wording}.json"
    if os.environ.get("LENGTHWISE_WRITE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made, indent=1) + "\n")
    kept = json.loads(path.read_text())
    if kept["sources"] != made["sources"]:
        pytest.skip(f"another version of Python or wonderwords: {made['sources']} instead of {kept['sources']}")
    assert made == kept
