"""Imports run downwards only: a folder never imports one that stands above it or beside it on the same line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lengthwise

ROOT = Path(lengthwise.__file__).parent
LINES = (
    "errors",
    "distributed hub paths progress seeds settings shapes runs devices units",
    "native state",
    "ops",
    "layers",
    "models",
    "checkpoints data",
    "engines interventions tasks",
    "check evaluate measure train",
    "extend report",
    "plan",
    "cli",
    "__init__ __main__",
)
"""The house from the ground up (docs/adding.md). A new folder or module of the top level takes its place here."""
LEVEL = {name: level for level, line in enumerate(LINES) for name in line.split()}


def imported(tree: ast.AST) -> Iterator[str]:
    """First names below `lengthwise` that a file imports, inside functions and for type checkers alone too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            package, _, rest = (node.module or "").partition(".")
            if package == "lengthwise":
                yield from [rest.split(".")[0]] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lengthwise."))


def upward(place: str, source: str) -> list[str]:
    """What a file at a place of the top level imports that does not stand below it."""
    names = set(imported(ast.parse(source))) & LEVEL.keys() - {place}
    return sorted(name for name in names if LEVEL[name] >= LEVEL[place])


def place_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_everything_has_a_place() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages | {path.stem for path in ROOT.glob("*.py")} == LEVEL.keys()


@pytest.mark.parametrize("place", LEVEL)
def test_imports_run_downwards(place: str) -> None:
    files = [path for path in sorted(ROOT.rglob("*.py")) if place_of(path) == place]
    assert files
    found = {str(path.relative_to(ROOT)): names for path in files if (names := upward(place, path.read_text()))}
    assert not found


def test_what_counts_as_upward() -> None:
    assert upward("ops", "from lengthwise.layers.mamba2 import Mamba2") == ["layers"]
    assert upward("data", "def f():\n    import lengthwise.checkpoints.weights") == ["checkpoints"]  # beside it
    assert upward("models", "from lengthwise import cli, __version__") == ["cli"]
    assert upward("cli", "from lengthwise.cli.common import table\nfrom lengthwise.plan import plan") == []
