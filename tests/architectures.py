"""The README's table of architectures, made from the code and from what the tests say.

    python -m tests.architectures --run     # run the tests behind the table, keep their results, write the table
    python -m tests.architectures           # write the table from the results that are kept

Sizes come from the presets, formats from the published layouts that the tests write; the last column counts tests that
passed, by what they compare with. `tests/test_readme.py` fails where the table is not what this file would write.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "architectures" / "results.json"
BEGIN, END = "<!-- architectures: made by python -m tests.architectures -->", "<!-- end of architectures -->"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A row of the table."""

    title: str
    preset: str
    """Published size whose state is given."""
    layers: frozenset[str]
    """Files of `layers/` that its layouts need, by which these are found."""
    families: tuple[str, ...]
    """Names in `tests/models/families.py`."""
    oracle: str
    """Tests of its recurrence against the sequential definition."""
    peers: tuple[tuple[str, str], ...]
    """What it is compared with, and a pattern of the ids of the tests that do."""


ARCHITECTURES = (
    Architecture(
        title="Mamba-1",
        preset="mamba-2.8b",
        layers=frozenset({"mamba1"}),
        families=("mamba1",),
        oracle=r"test_selective_scan",
        peers=(("transformers", r"test_mamba1_lm.*test_equals|test_against_transformers.*\[transformers mamba\]"),),
    ),
    Architecture(
        title="Mamba-2",
        preset="mamba2-2.7b",
        layers=frozenset({"mamba2"}),
        families=("mamba2",),
        oracle=r"test_ssd",
        peers=(("transformers", r"test_mamba2_lm.*test_equals|test_against_transformers.*\[transformers mamba-2\]"),),
    ),
    Architecture(
        title="Mamba-2 with attention",
        preset="mamba2attn-2.7b",
        layers=frozenset({"mamba2", "attention"}),
        families=("mamba2-attention",),
        oracle=r"test_ssd|ops.test_attention",
        peers=(("a loop over tokens", r"test_state_spaces.*hybrid"),),
    ),
    Architecture(
        title="GLA",
        preset="gla-1.3b",
        layers=frozenset({"gla"}),
        families=("gla", "gla-conv"),
        oracle=r"ops.test_gla",
        peers=(("fla", r"ops.test_gla.*recurrence_of_fla"),),
    ),
    Architecture(
        title="RWKV-6",
        preset="rwkv6-7b",
        layers=frozenset({"rwkv6"}),
        families=("rwkv6",),
        oracle=r"ops.test_rwkv6",
        peers=(("fla", r"ops.test_rwkv6.*recurrence_of_fla"),),
    ),
    Architecture(
        title="Griffin, RecurrentGemma",
        preset="recurrentgemma-9b",
        layers=frozenset({"rglru", "attention"}),
        families=("griffin",),
        oracle=r"ops.test_rglru|ops.test_attention",
        peers=(("transformers", r"test_griffin_lm|test_against_transformers.*\[transformers recurrentgemma\]"),),
    ),
    Architecture(
        title="Transformer++, Llama",
        preset="sheared-llama-2.7b",
        layers=frozenset({"attention"}),
        families=("transformer",),
        oracle=r"ops.test_attention",
        peers=(
            ("transformers", r"test_llama_lm|test_against_transformers.*\[transformers llama\]"),
            ("a loop over tokens", r"test_state_spaces.*transformerpp"),
        ),
    ),
)
VERBS = ("check", "measure", "extend")
PATHS = ("tests/ops", "tests/layers", "tests/models", "tests/checkpoints", "tests/test_families.py")


def formats_of(architecture: Architecture) -> list[str]:
    """Published formats of its checkpoints, read and written."""
    from tests.checkpoints.published import LAYOUTS

    found = {layout.format: None for layout in LAYOUTS.values() if set(layout.layers) == architecture.layers}
    return [*found, "lengthwise"]


def state_of(architecture: Architecture) -> str:
    """State of one sequence in float32, as `lengthwise models` gives it."""
    from lengthwise.cli.models import _preset
    from lengthwise.units import human_bytes

    sizes = _preset(architecture.preset)
    parts = []
    if sizes["state_bytes_per_sequence"] > 1000:  # below, only position counters
        parts.append(human_bytes(sizes["state_bytes_per_sequence"]))
    if sizes["state_bytes_per_token"]:
        parts.append(f"{human_bytes(sizes['state_bytes_per_token'])} a token")
    return " + ".join(parts)


def counts(outcomes: dict[str, str], pattern: str) -> dict[str, int]:
    """How many tests of these ids passed, failed and were skipped."""
    found = [outcome for name, outcome in outcomes.items() if re.search(pattern, name)]
    return {outcome: found.count(outcome) for outcome in ("passed", "failed", "skipped") if found.count(outcome)}


def evidence(architecture: Architecture, outcomes: dict[str, str]) -> dict[str, Any]:
    """Results of the tests behind a row."""
    families = "|".join(rf"[\[-]{re.escape(family)}\]" for family in architecture.families)  # the last parameter
    return {
        "oracle": counts(outcomes, f"({architecture.oracle})(?!.*recurrence_of_fla)"),
        "peers": {peer: counts(outcomes, pattern) for peer, pattern in architecture.peers},
        "invariants": counts(outcomes, rf"test_invariants.*({families})"),
        "verbs": {verb: counts(outcomes, rf"test_families.*test_{verb}({families})") for verb in VERBS},
    }


def run_tests() -> dict[str, str]:
    """Outcome of every test by its id."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", f"--junitxml={report}", *PATHS]
        subprocess.run(command, cwd=ROOT, check=False)
        cases = list(ET.parse(report).iter("testcase"))
    return {f"{case.get('classname')}::{case.get('name')}": _outcome(case) for case in cases}


def _outcome(case: ET.Element) -> str:
    tags = {child.tag for child in case}
    return "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"


def versions() -> dict[str, str]:
    """Versions of what was compared with."""
    found = {}
    for name in ("torch", "transformers", "flash-linear-attention"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def table(results: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [
        "| architecture | state of a sequence | formats in and out | verified against | works in |",
        "|---|---|---|---|---|",
    ]
    for architecture in ARCHITECTURES:
        found = results["rows"][architecture.title]
        checks = [f"float64 oracle ({_told(found['oracle'])})"]
        checks += [f"{peer} ({_told(each)})" for peer, each in found["peers"].items() if each.get("passed")]
        checks.append(f"invariants ({_told(found['invariants'])})")
        works = [verb for verb in VERBS if set(found["verbs"][verb]) == {"passed"}]
        cells = (
            architecture.title,
            f"{state_of(architecture)} (`{architecture.preset}`)",
            ", ".join(f"`{name}`" for name in formats_of(architecture)),
            ", ".join(checks),
            ", ".join(works),
        )
        lines.append("| " + " | ".join(cells) + " |")
    against = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return "\n".join([*lines, "", f"Numbers of tests that passed on {results['date']}, with {against}."])


def _told(found: dict[str, int]) -> str:
    failed = f", {found['failed']} FAILED" if found.get("failed") else ""
    return f"{found.get('passed', 0)}{failed}"


def write(text: str) -> None:
    """Put the table between its marks in the README."""
    readme = ROOT / "README.md"
    page = readme.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main(arguments: Iterable[str]) -> int:
    """Run the tests if asked to, and write the table; 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run the tests first")
    if parser.parse_args(list(arguments)).run:
        outcomes = run_tests()
        results = {
            "date": datetime.now(UTC).date().isoformat(),
            "versions": versions(),
            "rows": {each.title: evidence(each, outcomes) for each in ARCHITECTURES},
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    write(table(results))
    return int("failed" in json.dumps(results["rows"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
