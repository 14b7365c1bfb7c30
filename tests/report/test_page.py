"""The page stands alone: no network, nothing unescaped, the same input gives the same text."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.report.fabricate import write_measure

from lengthwise.report.load import load_groups
from lengthwise.report.page import build_page, javascript_library


class Elements(HTMLParser):
    """Start tags with their attributes, and the text of the page outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self.text += data


@pytest.fixture
def page(full_page: str) -> str:
    return full_page


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    found = Elements(page)
    for tag, attributes in found.tags:
        assert not {"src", "srcset", "poster", "data", "action", "background"} & set(attributes), tag
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), tag
        assert not (attributes.get("href") or "").startswith(("http", "//")), tag
    for style in found.styles:
        assert "@import" not in style
        assert "url(" not in style
    # And if something did ask, the browser would refuse.
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and "content-security" in str(a).lower())
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_charts_and_libraries_are_inside_once(page: str) -> None:
    found = Elements(page)
    charts = json.loads(found.scripts[0])
    ids = {a["id"] for tag, a in found.tags if "chart" in (a.get("class") or "").split()}
    assert ids == set(charts["specs"])
    assert len(ids) == 17
    assert page.count(javascript_library()[:2000]) == 1
    assert len(found.scripts) == 3


def test_weight(page: str) -> None:
    total, library = len(page.encode()), len(javascript_library().encode())
    assert total < 1_500_000
    assert total - library < 300_000


def test_verdicts_come_first(page: str) -> None:
    text = Elements(page).text
    order = [
        "Breaks past 256 tokens. Mended by 100 steps of State Passing",
        "Perplexity climbs to",
        "Does perplexity hold past 256 tokens?",
        "Perplexity climbs past 256 tokens; after State Passing it holds",
        "More history makes it worse; after State Passing it helps",
        "Why: it clings to old text",
        "Why: its state leaves the range it was trained on",
        "The heads that drift most",
        "The training runs",
        "Numbers and setting",
        "A made-up sentence about history.",
        "Setting: train-intervention",
    ]
    places = [text.find(words) for words in order]
    assert -1 not in places
    assert places == sorted(places)


def test_same_runs_same_text(runs: Path) -> None:
    assert build_page(load_groups([runs / "light"])) == build_page(load_groups([runs / "light"]))


def test_every_part_that_was_not_measured_says_so(runs: Path) -> None:
    text = Elements(build_page(load_groups([runs / "partial"]))).text
    assert re.findall(r"(.*): not measured\.", text) == [
        "Full history minus restart",
        "Effective Remembrance",
        "Spread of the state over time",
        "Heads that drift most",
        "Training loss",
    ]


def test_what_was_measured_but_lost_is_not_called_unmeasured(tmp_path: Path) -> None:
    write_measure(tmp_path / "run")
    whole = Elements(build_page(load_groups([tmp_path / "run"]))).text
    (tmp_path / "run" / "arrays.safetensors").unlink()
    text = Elements(build_page(load_groups([tmp_path / "run"]))).text
    assert re.findall(r"(.*): not measured\.", text) == re.findall(r"(.*): not measured\.", whole) == ["Training loss"]
    drawn_not = re.findall(r"(.*): not drawn\.", text)
    assert [words.rpartition("small-python-4m")[2] for words in drawn_not] == [
        "Effective Remembrance",
        "Single heads over time",
    ]
    assert "was measured, but the arrays of its curves are missing" in text
    assert f"lacks the file {tmp_path / 'run' / 'arrays.safetensors'}" in text


@pytest.mark.parametrize(("count", "expected"), [(3, "board"), (4, "board several"), (6, "board several wide")])
def test_answers_of_many_models_wrap_below_their_names(tmp_path: Path, count: int, expected: str) -> None:
    for index in range(count):
        write_measure(tmp_path / str(index), label=f'm "{index}"', metrics=("perplexity",))
    found = Elements(build_page(load_groups([tmp_path / str(index) for index in range(count)])))
    (board,) = [attributes for _, attributes in found.tags if (attributes.get("class") or "").startswith("board")]
    assert board["class"] == expected
    named = [attributes["data-model"] for tag, attributes in found.tags if tag == "td" and "data-model" in attributes]
    assert named == [f'm "{index}"' for index in range(count)] * 4


def test_notes_are_visible(tmp_path: Path) -> None:
    write_measure(tmp_path / "run", metrics=("perplexity",))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({**manifest, "status": "failed"}))
    found = Elements(build_page(load_groups([tmp_path / "run"])))
    assert "ended with status 'failed'" in found.text
    assert any(attributes.get("role") == "note" for _, attributes in found.tags)


def test_names_cannot_break_out(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=http://x>@before"
    write_measure(tmp_path / "a", label=hostile, metrics=("perplexity",))
    write_measure(tmp_path / "b", label="@control", metrics=("perplexity",))
    found = Elements(build_page(load_groups([tmp_path / "a", tmp_path / "b"])))
    assert len(found.scripts) == 3
    assert not any(tag == "img" for tag, _ in found.tags)
    assert any("alert(1)" in str(rows) for rows in json.loads(found.scripts[0])["specs"].values())


def test_several_groups_have_charts_of_their_own(runs: Path) -> None:
    found = Elements(build_page(load_groups([runs / "light", runs / "partial", runs / "train"])))
    ids = [a["id"] for _, a in found.tags if "chart" in (a.get("class") or "").split()]
    assert len(ids) == len(set(ids))
    assert {str(i).split("-")[0] for i in ids} == {"g1", "g2"}
    assert sum(tag == "h1" for tag, _ in found.tags) == 2


def test_training_run_alone_has_a_page(runs: Path) -> None:
    text = Elements(build_page(load_groups([runs / "train"]))).text
    assert "A training run, not measured yet" in text


def test_torch_is_never_imported(runs: Path) -> None:
    code = (
        "import sys; import lengthwise.report.page, lengthwise.report.write, lengthwise.cli.report; "
        "from lengthwise.report import load_groups; "
        f"load_groups([{str(runs / 'extend')!r}]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
