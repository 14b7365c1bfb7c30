"""Models that travel inside the package, each in a folder of its own with the recipe's name in its card."""

from __future__ import annotations

from pathlib import Path

import lengthwise


def _root() -> Path:
    return Path(lengthwise.__file__).parent / "shipped"


def list_shipped() -> list[str]:
    """Names of the shipped models."""
    root = _root()
    return (
        sorted(folder.name for folder in root.iterdir() if (folder / "config.json").exists()) if root.exists() else []
    )


def shipped_folder(name: str) -> Path | None:
    """The folder of a shipped model, or None."""
    return _root() / name if name in list_shipped() else None
