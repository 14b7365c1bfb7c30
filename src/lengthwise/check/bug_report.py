"""The Markdown that a maintainer can work with: what, where, how large, since which position, and how to see it."""

from __future__ import annotations

from typing import Any

from lengthwise.check.findings import Finding


def bug_report(record: dict[str, Any], fault: Finding, script: str | None) -> str:
    """A bug report about the worst fault, with the other findings below.

    Args:
        record: content of `results.json`.
        fault: the worst finding.
        script: Python that shows it; None where it cannot be shown outside.
    """
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if name != "lengthwise")
    lines = [
        f"### {record['class']}: {fault.fault}",
        "",
        f"{_what(fault)} {fault.meaning}",
        "",
        "| | |",
        "|---|---|",
        f"| model class | `{record['class']}` (model type `{record['model_type']}`) |",
        f"| weights | {record['weights']} |",
        f"| versions | {versions} |",
        f"| precision | {record['dtype']}; logits have a spread of {record['spread']:.2g} |",
        f"| largest difference of logits | {_number(fault.difference)} |",
        f"| what rounding explains | {record['tolerance'] * record['spread']:.1g} ({record['rounding_from']}) |",
        f"| first position with a difference | {'-' if fault.first is None else fault.first} of {record['length']} |",
    ]
    if fault.note:
        lines += ["", f"Found by trying: {fault.note}."]
    if script is not None:
        lines += ["", "To see it, with nothing but torch and transformers:", "", "```python", script.rstrip(), "```"]
    others = [each for each in record["findings"] if each["status"] != "not supported"]
    lines += [
        "",
        "<details><summary>All properties</summary>",
        "",
        "| property | result | largest error / spread | allowed | from position | |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['title']} | {each['status']} | {_number(each['error'])} | {_number(each['tolerance'])} "
        f"| {'-' if each['first'] is None else each['first']} | {each['note'].replace('|', '/')} |"
        for each in others
    ]
    lines += ["", "</details>", "", f"Found with `lengthwise check` {record['versions']['lengthwise']}.", ""]
    return "\n".join(lines)


def _what(fault: Finding) -> str:
    if fault.status == "error":
        return f"The model raises an exception: `{fault.note}`."
    return "The two give different results, without a warning."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
