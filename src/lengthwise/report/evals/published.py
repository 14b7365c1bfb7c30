"""Published scores of released models, put beside ours where the model is one of them.

`published.csv` holds the figures of arXiv 2407.08112: Table 1 (mean of RULER), Tables 6 to 18 (its thirteen tasks),
Tables 2 and 3 (depth of one needle, mean of three formats) and Table 4 (those formats apart).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from lengthwise.models.presets import PRESETS

SOURCE = "arXiv 2407.08112"
MEAN, FORMATS_MEAN = "ruler_average", "mean-of-formats"
"""Tasks of the table that are means: over RULER's thirteen, and over three formats of one needle."""


@dataclass(frozen=True)
class Released:
    """A model of the paper.

    Args:
        repositories: where its weights lie, as far as the paper tells.
        context: length in tokens that the paper takes it to be trained on.
        preset: our name of its size, where the weights of that size are the paper's.
    """

    repositories: tuple[str, ...]
    context: int
    preset: str | None = None


MODELS: Mapping[str, Released] = {
    "Mamba2": Released(("state-spaces/mamba2-2.7b",), 2048, "mamba2-2.7b"),
    "M2A": Released(("state-spaces/mamba2attn-2.7b",), 2048, "mamba2attn-2.7b"),
    "TPP": Released(("state-spaces/transformerpp-2.7b",), 2048, "transformerpp-2.7b"),
    "RG": Released(("google/recurrentgemma-2b",), 2048, "recurrentgemma-2b"),
    "SL": Released(("princeton-nlp/Sheared-LLaMA-2.7B",), 4096, "sheared-llama-2.7b"),
    # The paper says RWKV with 3 billion parameters and no release.
    "RWKV": Released(PRESETS["rwkv6-3b"].repositories, 4096, "rwkv6-3b"),
    "RG-IT": Released(("google/recurrentgemma-2b-it",), 2048),
    "SL-IT": Released(("princeton-nlp/Sheared-LLaMA-2.7B-ShareGPT",), 4096),
}
"""The eight models, by the paper's names."""


@dataclass(frozen=True)
class Published:
    """The published scores of one model.

    Args:
        label: the paper's name of the model.
        context: length in tokens that the paper takes it to be trained on.
        scores: percent by (task, length, depth in percent or None).
        exact: whether a repository was named; otherwise only the name of a folder or preset agrees.
    """

    label: str
    context: int
    scores: Mapping[tuple[str, int, float | None], float]
    exact: bool

    def score(self, task: str, length: int, depth: float | None = None) -> float | None:
        """Percent, or None where nothing was printed."""
        return self.scores.get((task, length, depth))


def published_for(model: str) -> Published | None:
    """What is published about a model that is named as a repository, a preset, or a folder called like one of them."""
    for name, released in MODELS.items():
        if model in released.repositories:
            return Published(name, released.context, _table()[name], exact=True)
    last = Path(model).name
    for name, released in MODELS.items():
        if last in (released.preset, *(Path(repository).name for repository in released.repositories)):
            return Published(name, released.context, _table()[name], exact=False)
    return None


@cache
def _table() -> dict[str, dict[tuple[str, int, float | None], float]]:
    """Scores by model."""
    text = resources.files("lengthwise.report.evals").joinpath("published.csv").read_text(encoding="utf-8")
    found: dict[str, dict[tuple[str, int, float | None], float]] = {name: {} for name in MODELS}
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        depth = float(row["depth"]) if row["depth"] else None
        for key, value in row.items():
            if key.isdigit() and value:
                found[row["model"]][row["task"], int(key), depth] = float(value)
    return found
