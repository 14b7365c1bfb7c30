"""Figures, tables and the picture for a README as files."""

from pathlib import Path

import pytest
from tests.report.fabricate import write_measure

from lengthwise.errors import InputError
from lengthwise.report import load_groups, write_figures, write_picture, write_report
from lengthwise.report.records import Group
from lengthwise.report.write import write_tables

MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<svg", "pdf": b"%PDF-"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Group]:
    """A run with perplexity alone, which has one chart."""
    folder = tmp_path_factory.mktemp("small") / "run"
    write_measure(folder, metrics=("perplexity",))
    return folder, load_groups([folder])[0]


def test_each_chart_in_each_format(small: tuple[Path, Group], tmp_path: Path) -> None:
    written = write_figures((small[1],), tmp_path / "figures")
    assert [path.name for path in written] == ["perplexity.png", "perplexity.svg", "perplexity.pdf"]
    for path in written:
        assert path.read_bytes().startswith(MAGIC[path.suffix[1:]])
    svg = written[1].read_text()
    for words in ("position in tokens", "perplexity", "training length 256", "Lower is better", "small-python-4m"):
        assert words in svg
    assert "@" not in svg  # no colour token is left


def test_picture_for_a_readme(runs: Path, tmp_path: Path) -> None:
    (group,) = load_groups([runs / "light"])
    svg = write_picture(group, tmp_path / "deep" / "picture.svg").read_text()
    for words in ("Mended by 100 steps of State Passing", "before", "control (zero states)", "after (State Passing)"):
        assert words in svg
    png = write_picture(group, tmp_path / "picture.png", title="A title").read_bytes()
    assert png.startswith(MAGIC["png"])
    # Width in the header: wide enough for screens with fine pixels.
    assert int.from_bytes(png[16:20], "big") >= 1400


def test_picture_of_what_was_not_measured(small: tuple[Path, Group], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_picture(small[1], tmp_path / "picture.png", chart="states")
    assert caught.value.expected == "a run in which 'states' was measured"
    assert caught.value.got == "a run with perplexity"


def test_picture_in_an_unknown_format(small: tuple[Path, Group], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_picture(small[1], tmp_path / "picture.bmp")
    assert caught.value.expected == "a file ending in .png, .svg or .pdf"
    assert caught.value.got == "'picture.bmp'"


def test_tables_are_written_once_each_and_together(runs: Path, tmp_path: Path) -> None:
    (group,) = load_groups([runs / "extend"])
    written = write_tables((group,), tmp_path)
    assert [path.name for path in written] == [
        *(f"{k}.csv" for k in ("verdicts", "perplexity", "restart", "remembrance", "states", "heads", "training")),
        "tables.md",
        "tables.tex",
    ]
    text = (tmp_path / "tables.md").read_text()
    assert text.startswith("## small-python-4m\n")
    assert text.count("\n### ") == 7
    assert (tmp_path / "tables.tex").read_text().count("\\begin{tabular}") == 7


@pytest.mark.parametrize(
    ("out", "page"),
    [("folder", "folder/report.html"), ("v1.2", "v1.2/report.html"), ("some/page.html", "some/page.html")],
)
def test_place_of_the_page(small: tuple[Path, Group], tmp_path: Path, out: str, page: str) -> None:
    written = write_report([small[0]], tmp_path / out)
    assert written.page == tmp_path / page
    assert written.num_bytes == written.page.stat().st_size
    assert (written.figures, written.tables) == ((), ())


def test_figures_of_a_named_page_stand_in_a_folder_of_its_name(
    small: tuple[Path, Group], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise.report.figures._converted", lambda spec, kind: kind.encode())  # for speed
    written = write_report([small[0]], tmp_path / "page.html", figures=True)
    assert written.figures[0] == tmp_path / "page" / "figures" / "perplexity.png"
    assert written.tables[-1] == tmp_path / "page" / "tables" / "tables.tex"
    assert all(path.is_file() for path in written.figures + written.tables)


def test_default_place(small: tuple[Path, Group], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_report([small[0]]).page == small[0] / "report.html"
    write_measure(tmp_path / "other", metrics=("perplexity",))
    assert write_report([small[0], tmp_path / "other"]).page == Path("report.html")
    assert not (small[0] / "figures").exists()


@pytest.mark.parametrize(("out", "what"), [("page.pdf", "file"), ("taken", "file"), ("folder.html", "folder")])
def test_place_that_cannot_be(small: tuple[Path, Group], tmp_path: Path, out: str, what: str) -> None:
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(InputError) as caught:
        write_report([small[0]], tmp_path / out)
    assert caught.value.expected == "a folder, or a file ending in .html"
    assert caught.value.got == f"a {what} named '{out}'"
    assert caught.value.where == "--out"
    assert (tmp_path / "taken").read_text() == "mine"
