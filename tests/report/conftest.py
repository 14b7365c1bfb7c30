"""Fabricated runs, written once for all tests of the report."""

from pathlib import Path

import pytest
from tests.report.fabricate import write_extend, write_measure, write_train


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `extend`, `light` (extend, perplexity only), `broken` and `partial` (measure) and `train`.

    Tests must not write into it.
    """
    folder = tmp_path_factory.mktemp("runs")
    write_extend(folder / "extend")
    write_extend(folder / "light", metrics=("perplexity",))
    write_measure(folder / "broken", model="models/large-24m")
    write_measure(folder / "partial", label="perplexity only", metrics=("perplexity",), strength=0.0)
    write_train(folder / "train")
    return folder


@pytest.fixture(scope="session")
def full_page(runs: Path) -> str:
    """The page of the full extend run."""
    from lengthwise.report import build_page, load_groups

    return build_page(load_groups([runs / "extend"]))
