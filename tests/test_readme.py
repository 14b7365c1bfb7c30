"""The commands of the README and of docs/ are real: cheap ones run, long ones are planned, links lead somewhere."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import lengthwise.measure  # noqa: F401  (imported now, or it would keep the stand-in of a function below for good)
from lengthwise.cli.main import VERBS, main
from lengthwise.errors import InputError
from tests import architectures

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# These end at once. The others are given --dry-run, or only have their verb and options read.
CHEAP = {"models"}
PLANNED = {"measure", "extend", "eval", "train", "demo"}
PROGRAMS = {"make", "lengthwise", "pip", "python", "torchrun"}


def commands() -> list[tuple[str, str]]:
    """(page, command line) of every block that is not Python or JSON; trailing comments are cut off."""
    found = []
    for page in PAGES:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.split(r"\s{2,}#", line.removeprefix("$ "))[0].strip()
                known = command.split(" ")[0] in PROGRAMS
                assert known or not command or language not in ("sh", "bash", "console"), f"{page}: {command}"
                if known and language in ("", "sh", "bash", "console"):
                    found.append((str(page.relative_to(ROOT)), command))
        indented = re.findall(r"^ {4}(lengthwise .*)$", page.read_text("utf-8"), re.MULTILINE)
        found += [(str(page.relative_to(ROOT)), command) for command in indented]
    return found


def of(program: str) -> list[list[str]]:
    return [shlex.split(command)[1:] for _, command in commands() if command.split()[0] == program]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_readme_begins_with_the_two_commands() -> None:
    assert [command for page, command in commands() if page == "README.md"][:2] == ["make demo", "make test"]


def test_every_make_target_exists() -> None:
    wanted = {word for words in of("make") for word in words if "=" not in word}
    assert {"demo", "test"} <= wanted <= make_targets()


@pytest.mark.parametrize("words", [words for words in of("lengthwise") if words[0] in CHEAP], ids=" ".join)
def test_cheap_commands_run(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("words", [words for words in of("lengthwise") if words[0] not in CHEAP], ids=" ".join)
def test_long_commands_are_understood(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets as far as its input: whatever fails then is about files that are not there, never about the words."""
    if words[0] == "train":  # recipes are part of the checkout; the others may name runs that are not there
        words = [words[0], *(str(ROOT / word) if (ROOT / word).is_file() else word for word in words[1:])]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENGTHWISE_DEBUG", "0")
    monkeypatch.setattr("lengthwise.data.prepare_corpus", _not_now)
    monkeypatch.setattr("lengthwise.data.benchmarks.fetch", _not_now)
    monkeypatch.setenv("LENGTHWISE_DATA", str(tmp_path))
    monkeypatch.setattr("lengthwise.check.run.check", _not_now)
    code = main([*words, "--dry-run"] if words[0] in PLANNED else words)
    captured = capsys.readouterr()
    assert code in (0, 2), captured.err
    assert "the command line" not in captured.err
    assert "no defect in lengthwise" not in captured.err


def _not_now(*args: object, **options: object) -> None:
    raise InputError(expected="time for it", got="a test", where="tests", fix="run the command")


def test_the_table_of_verbs_is_complete() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `lengthwise ([\w-]+)", text, re.MULTILINE)) == set(VERBS)


def test_the_table_of_interventions_is_complete() -> None:
    from lengthwise.interventions import KINDS

    table = (ROOT / "README.md").read_text(encoding="utf-8").split("| intervention |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)) == set(KINDS)


def test_the_demo_is_told_apart_from_the_defaults_of_extend() -> None:
    """What the README says of the demo's settings, and of what extend would take instead, is what the code does."""
    from lengthwise.checkpoints import load_checkpoint
    from lengthwise.cli.demo import Options, demo_config
    from lengthwise.cli.extend import Options as ExtendOptions
    from lengthwise.cli.extend import read_config
    from lengthwise.extend import ExtendConfig

    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split("## What is mended")[1].split())
    demo = demo_config(Options())
    usual = ExtendConfig(model=demo.model).resolved(load_checkpoint(demo.model))
    assert usual.peak_lr is not None
    assert demo.peak_lr is not None
    times = f"{demo.peak_lr / usual.peak_lr:.0f}"
    assert f"a peak learning rate of 4e-3, {times} times what `extend` takes" in text
    assert (demo.peak_lr, usual.peak_lr) == (4e-3, pytest.approx(3e-4))
    assert f"a batch of {demo.batch_size} instead of {usual.batch_size}," in text
    zero, default = (100 * (config.intervention.zero_prob or 0) for config in (demo, usual))
    assert f"{zero:.0f} % of zero starts instead of {default:.0f} %" in text
    options = ("--peak-lr 4e-3", "--batch-size 128", "--zero-prob 0.02")
    assert f"`lengthwise extend {demo.model} {' '.join(options)}`" in text
    asked = read_config(ExtendOptions(model=demo.model, peak_lr=4e-3, batch_size=128, zero_prob=0.02))
    assert (asked.peak_lr, asked.batch_size, asked.intervention) == (demo.peak_lr, demo.batch_size, demo.intervention)


def test_the_time_of_training_is_that_of_the_log() -> None:
    told = [" ".join((ROOT / page).read_text(encoding="utf-8").split()) for page in ("README.md", "docs/log.md")]
    assert "was trained on one busy CPU core in 22 minutes by `recipes/mamba2_bytes.py`" in told[0]
    assert "22 minutes on one busy core" in told[1]


def test_the_table_of_architectures_is_what_its_script_writes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(architectures.BEGIN)[1].split(architectures.END)[0]
    results = json.loads(architectures.RESULTS.read_text(encoding="utf-8"))
    assert text.strip() == architectures.table(results)
    assert "failed" not in json.dumps(results["rows"])
    for row in results["rows"].values():
        assert row["oracle"]["passed"] > 20
        assert row["invariants"]["passed"] > 20
        assert row["verbs"]["check"]["passed"] >= 1
        assert row["verbs"]["measure"]["passed"] >= 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_source_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    paths = re.findall(r"`((?:src|tests|docs|recipes|benchmarks)/[\w./-]*)`", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_the_python_version_in_the_text_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["requires-python"].removeprefix(">=")
    assert f"Python {wanted} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "sys.version_info < (" + wanted.replace(".", ", ") + ")" in (ROOT / "Makefile").read_text()


def test_constraints_fit_the_ranges() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["data"], *extras["hf"], *extras["dev"]]
    for requirement in map(Requirement, asked):
        if requirement.name != "lengthwise":
            assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement
    assert pins["torch"] == "2.13.0"
