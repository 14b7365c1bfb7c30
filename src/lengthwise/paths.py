"""Where the package keeps what it can make again (cache), and looks for benchmark files of others (data)."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """$LENGTHWISE_CACHE, else $XDG_CACHE_HOME/lengthwise, else ~/.cache/lengthwise."""
    if chosen := os.environ.get("LENGTHWISE_CACHE"):
        return Path(chosen)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "lengthwise"
    return Path.home() / ".cache" / "lengthwise"


def default_data_dir() -> Path:
    """$LENGTHWISE_DATA, else $XDG_DATA_HOME/lengthwise, else ~/.local/share/lengthwise."""
    if chosen := os.environ.get("LENGTHWISE_DATA"):
        return Path(chosen)
    if shared := os.environ.get("XDG_DATA_HOME"):
        return Path(shared) / "lengthwise"
    return Path.home() / ".local" / "share" / "lengthwise"
