"""Fabricated runs, written once for all tests of the report."""

from pathlib import Path

import pytest
from tests.report.fabricate import write_extend, write_measure, write_train


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `extend`, `broken` and `partial` (measure) and `train`; tests must not write into it."""
    folder = tmp_path_factory.mktemp("runs")
    write_extend(folder / "extend")
    write_measure(folder / "broken", model="models/large-24m")
    write_measure(folder / "partial", label="perplexity only", metrics=("perplexity",), strength=0.0)
    write_train(folder / "train")
    return folder
