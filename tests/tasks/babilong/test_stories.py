"""bAbI files: parsing, finding them packed or not, and what is said where they are missing."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.tasks.sources import BABI, QA1, QA8, write_babi

from lengthwise.errors import InputError
from lengthwise.tasks.babilong.score import FLOORS, LABELS, official
from lengthwise.tasks.babilong.stories import TASK_NAMES, least_budget, parse_stories, read_file, read_task


def test_a_question_has_the_facts_told_so_far() -> None:
    stories = parse_stories(QA1, "qa1")
    assert [(s.index, s.number, len(s.facts)) for s in stories] == [(0, 0, 2), (1, 0, 4), (2, 1, 1), (3, 1, 3)]
    first, second, third, fourth = stories
    assert first.facts == ("Mary went to the bathroom.", "John moved to the hallway.")
    assert (first.question, first.answer) == ("Where is Mary? ", "bathroom")
    assert second.facts == (*first.facts, "Daniel went back to the hallway.", "Sandra moved to the garden.")
    # Line 4 of the story is its third fact: the question before it does not count.
    assert second.supporting == (2,)
    assert third.facts == ("John travelled to the office.",)
    assert fourth.supporting == (0, 2)
    assert [least_budget(story) for story in stories] == [24, 40, 16, 32]


def test_lists_and_empty_references() -> None:
    lists, nothing = parse_stories(QA8, "qa8")
    assert (lists.answer, lists.supporting) == ("milk,apple", (0, 1))
    assert (nothing.answer, nothing.supporting) == ("nothing", ())


def test_line_ends_and_blank_lines_do_not_matter() -> None:
    assert parse_stories(QA1.replace("\n", "\r\n"), "qa1") == parse_stories("\n" + QA1 + "\n\n", "qa1")


def error_of(call: object) -> InputError:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    return caught.value


@pytest.mark.parametrize(
    "line", ["Mary went to the bathroom.", "1", "x Mary went", "2 Where is Mary? \t\t1", "2 Where? \tthere\tone"]
)
def test_other_lines_are_refused(line: str) -> None:
    error = error_of(lambda: parse_stories("1 John went.\n" + line, "file.txt"))
    assert error.where == "file.txt, line 2"
    assert error.got == repr(line)
    assert error.fix == "give the files of tasks_1-20_v1-2 unchanged"


def test_a_story_begins_with_one() -> None:
    assert error_of(lambda: parse_stories("2 John went.\n", "file.txt")).where == "file.txt, line 1"
    assert error_of(lambda: parse_stories("1 John went.\n", "file.txt")).got == "none"


def pack(folder: Path, ending: str) -> Path:
    """The released folder as an archive of its own in another folder."""
    path = folder / "packed" / f"tasks_1-20_v1-2{ending}"
    path.parent.mkdir()
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.rglob("*.txt"):
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if ending.endswith("gz") else "w:xz") as packed:
            packed.add(folder / "tasks_1-20_v1-2", "tasks_1-20_v1-2")
    return path


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz", ".tar.xz", ".zip"])
def test_packed_files_are_the_same(tmp_path: Path, ending: str) -> None:
    plain = read_task(write_babi(tmp_path), "qa1")
    assert plain.stories == parse_stories(QA1, "")
    archive = pack(tmp_path, ending)
    assert read_task(archive, "qa1") == plain
    assert read_task(archive.parent, "qa1") == plain
    name = "qa1_single-supporting-fact_test.txt"
    assert read_task(tmp_path / "tasks_1-20_v1-2" / "en" / name, "qa1") == plain
    assert read_file(archive, name) == plain


def test_the_larger_release_comes_first(tmp_path: Path) -> None:
    write_babi(tmp_path)
    name = "qa1_single-supporting-fact_train.txt"
    for folder in ("en-10k", "hn"):
        other = tmp_path / "tasks_1-20_v1-2" / folder
        other.mkdir()
        (other / name).write_text(QA1.replace("Mary", folder))
    assert read_task(tmp_path, "qa1", "train").stories[0].question == "Where is en-10k? "
    (tmp_path / "tasks_1-20_v1-2" / "en-10k" / name).unlink()
    assert read_task(tmp_path, "qa1", "train").stories[0].question == "Where is Mary? "


def test_missing_files_say_what_and_where(tmp_path: Path) -> None:
    error = error_of(lambda: read_task(tmp_path, "qa3"))
    assert error.expected == "the bAbI file qa3_three-supporting-facts_test.txt, in a folder or an archive"
    assert error.got == "no such file there"
    assert error.where == str(tmp_path)
    assert error.fix.startswith("get the bAbI tasks with `lengthwise data get babi`, or put tasks_1-20_v1-2")
    assert error_of(lambda: read_task(tmp_path / "none", "qa3")).got == "nothing at that path"


def test_unknown_tasks_and_splits(tmp_path: Path) -> None:
    error = error_of(lambda: read_task(tmp_path, "qa21"))
    assert (error.expected, error.got) == ("a bAbI task, qa1 to qa20", "'qa21'")
    assert "'qa2'" in error.fix
    assert error_of(lambda: read_task(tmp_path, "qa1", "tests")).fix == "did you mean 'test'?"


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.xz", ".zip"])
@pytest.mark.parametrize("keep", [0, 10, 0.6])
def test_broken_archives_are_named(tmp_path: Path, ending: str, keep: float) -> None:
    write_babi(tmp_path)
    archive = pack(tmp_path, ending)
    raw = archive.read_bytes()
    archive.write_bytes(raw[: int(keep * len(raw)) if keep < 1 else int(keep)])
    error = error_of(lambda: read_task(archive, "qa8"))
    assert error.where == str(archive)
    assert error.expected == "a complete archive of the bAbI tasks"


def test_a_folder_in_an_archive_is_no_file(tmp_path: Path) -> None:
    archive = tmp_path / "babi.tar"
    with tarfile.open(archive, "w") as packed:
        folder = tarfile.TarInfo("qa1_single-supporting-fact_test.txt")
        folder.type = tarfile.DIRTYPE
        packed.addfile(folder)
        text = tarfile.TarInfo("en/qa1_single-supporting-fact_test.txt")
        text.size = len(QA1)
        packed.addfile(text, io.BytesIO(QA1.encode()))
    assert len(read_task(archive, "qa1").stories) == 4


@pytest.mark.skipif(not BABI.exists(), reason=f"needs {BABI}")
def test_labels_floors_and_ceilings_are_those_of_the_files(tmp_path: Path) -> None:
    if BABI.is_dir() and (packed := BABI / "babi_v1.2_en.tar.xz").is_file():
        with tarfile.open(packed) as archive:
            archive.extractall(tmp_path, filter="data")
    source = tmp_path if any(tmp_path.iterdir()) else BABI
    for task in ("qa5", "qa7", "qa8", "qa19"):
        labels = LABELS[task]
        stories = read_task(source, task).stories
        assert len(stories) == 1000
        answers = [story.answer for story in stories]
        parts = {part for answer in answers for part in (answer.split(",") if task == "qa8" else [answer])}
        assert parts == set(labels)
        assert max(answers.count(answer) for answer in parts) / 1000 == FLOORS[task]
        # What the right answer itself scores: under the published rule "none" is never right.
        pairs = {(story.answer, story.question) for story in stories}
        never = {answer for answer, question in pairs if not official(answer, answer, question, labels)}
        assert never == ({"none"} if task == "qa7" else set())
        assert task != "qa7" or answers.count("none") == 468


def test_every_task_has_a_name_labels_and_a_floor() -> None:
    assert set(TASK_NAMES) == set(LABELS) == set(FLOORS) == {f"qa{number}" for number in range(1, 21)}
    assert len(LABELS["qa19"]) == 12
