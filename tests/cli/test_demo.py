"""`lengthwise demo`, on a tiny model in place of the shipped one."""

from pathlib import Path

import pytest

from lengthwise.cli import demo


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"length": 128, "num_sequences": 2, "remembrance_documents": 1, "remembrance_starts": 4}
    monkeypatch.setattr(demo, "MEASURE", small)


@pytest.fixture
def on_corpus(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's text replaced by the tiny corpus."""
    configured = demo.demo_config

    def with_corpus(options: demo.Options):
        from dataclasses import replace

        return replace(configured(options), data=str(corpus), batch_size=2)

    monkeypatch.setattr(demo, "demo_config", with_corpus)


@pytest.mark.usefixtures("on_corpus")
def test_demo_writes_a_page_and_goes_on_by_itself(lengthwise, tiny_model: Path) -> None:
    done = lengthwise("demo", "--model", tiny_model, "--steps", 2)
    assert done.code == 0
    for column in ("before", "control (zero states)", "after (State Passing)"):
        assert column in done.out
    page = Path("runs/demo/report.html")
    assert f"page:      {page}" in done.out
    assert "<html" in page.read_text()
    finished = (Path("runs/demo/comparison.json")).read_bytes()
    again = lengthwise("demo", "--model", tiny_model, "--steps", 2, "--json")
    assert again.code == 0
    assert again.json["page"] == str(page)
    assert Path("runs/demo/comparison.json").read_bytes() == finished


def test_another_demo_in_the_same_folder_is_refused(lengthwise, tiny_model: Path, recipe) -> None:
    assert lengthwise("train", recipe(), "--out", "runs/demo").code == 0
    done = lengthwise("demo", "--model", tiny_model)
    assert done.code == 2
    assert "a 'train' run" in done.part("got")
    assert "--out" in done.part("try")


def test_dry_run(lengthwise, tiny_model: Path) -> None:
    plan = lengthwise("demo", "--model", tiny_model, "--dry-run", "--json").json
    assert plan["out"] == "runs/demo"
    assert plan["train_twice"]["steps"] == 100
    assert not Path("runs").exists()


def test_installation_without_models(lengthwise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.checkpoints.list_shipped", list)
    done = lengthwise("demo")
    assert done.code == 2
    assert done.part("expected") == "a shipped model"
    assert "--model" in done.part("try")


def test_a_missing_model(lengthwise) -> None:
    done = lengthwise("demo", "--model", "none")
    assert done.code == 2
    assert "'none'" in done.part("got")
