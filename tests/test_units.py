"""Sizes as people read them."""

import subprocess
import sys

import pytest

from lengthwise.units import human_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 KB"),
        (999_949, "999.9 KB"),
        (999_950, "1.0 MB"),
        (2_500_000_000, "2.5 GB"),
        (4_000_000_000_000_000, "4000.0 TB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_units_are_the_ground_floor() -> None:
    code = "import sys, lengthwise.units; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
