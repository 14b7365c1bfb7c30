"""A whole report on disk: the page, and on request the figures and the tables beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lengthwise.errors import InputError
from lengthwise.report import faces
from lengthwise.report.faces import AnyGroup
from lengthwise.report.figures import write_figures
from lengthwise.report.load import load_groups
from lengthwise.report.page import build_page
from lengthwise.runs import atomic_write_bytes

PAGE_NAME = "report.html"
# A folder may have a dot in its name; these endings are surely meant as files.
_OTHER_FILES = {".pdf", ".png", ".svg", ".md", ".csv", ".json", ".txt"}


@dataclass(frozen=True)
class Written:
    """What a report left on disk."""

    page: Path
    num_bytes: int
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]
    groups: tuple[AnyGroup, ...]


def write_report(
    runs: Sequence[str | Path], out: str | Path | None = None, *, figures: bool = False, samples: int | None = None
) -> Written:
    """Make a report of run folders.

    Args:
        runs: folders of measure, extend, demo, train or eval runs.
        out: a folder, which gets `report.html`, or a file ending in .html. None: the run folder where one is given,
            else `report.html` in the current folder.
        figures: also write every chart as PNG, SVG and PDF into `figures/`, and every table as CSV, with all of them in
            one `tables.md` and one `tables.tex`, into `tables/`. They stand beside the page; for a named file in a
            folder of its name.
        samples: of each task at each length, to be looked at one by one; None: as many as fit a page.

    Raises:
        InputError: see `load_groups`; or where `out` can be neither.
        RunFailure: where the device is full or cannot be written.
    """
    groups = load_groups(runs)
    page, beside = _places(Path(out) if out is not None else Path(runs[0]) if len(runs) == 1 else Path(PAGE_NAME))
    data = build_page(groups, samples=samples).encode()
    atomic_write_bytes(page, data)
    drawn = write_figures(groups, beside / "figures") if figures else []
    tables = write_tables(groups, beside / "tables") if figures else []
    return Written(page, len(data), tuple(drawn), tuple(tables), groups)


def write_tables(groups: tuple[AnyGroup, ...], folder: Path) -> list[Path]:
    """Write each table as CSV with full precision; all of them as Markdown in `tables.md`, as LaTeX in `tables.tex`."""
    written, parts, tex = [], [], ["% needs \\usepackage{booktabs}\n"]
    for index, group in enumerate(groups, start=1):
        prefix = f"{index}-" if len(groups) > 1 else ""
        parts.append(f"## {group.title}\n")
        for table in faces.all_tables(group):
            file = folder / f"{prefix}{table.key}.csv"
            atomic_write_bytes(file, table.csv().encode())
            written.append(file)
            parts.append(table.markdown())
            tex.append(table.latex())
    for name, texts in (("tables.md", parts), ("tables.tex", tex)):
        atomic_write_bytes(folder / name, "\n".join(texts).encode())
        written.append(folder / name)
    return written


def _places(out: Path) -> tuple[Path, Path]:
    """The page, and the folder for what stands beside it."""
    html = out.suffix.lower() in (".html", ".htm")
    wrong = out.is_dir() if html else (out.is_file() or out.suffix.lower() in _OTHER_FILES)
    if wrong:
        raise InputError(
            expected="a folder, or a file ending in .html",
            got=f"a {'folder' if out.is_dir() else 'file'} named '{out.name}'",
            where="--out",
            fix=f"give a folder, which gets {PAGE_NAME}, or a file ending in .html",
        )
    if html:
        return out, out.with_suffix("")
    return out / PAGE_NAME, out
