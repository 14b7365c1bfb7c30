"""Questions and facts of the bAbI tasks (version 1.2, English).

A line is a number, a space and a text; number 1 begins a story. A question holds two tabs: after the first its answer,
after the second the numbers of the lines that support it. Every question gives one `Story`: it, and the facts of its
story told so far. Earlier questions are left out.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lengthwise.errors import InputError, near_matches

TASK_NAMES = {
    "qa1": "single-supporting-fact",
    "qa2": "two-supporting-facts",
    "qa3": "three-supporting-facts",
    "qa4": "two-arg-relations",
    "qa5": "three-arg-relations",
    "qa6": "yes-no-questions",
    "qa7": "counting",
    "qa8": "lists-sets",
    "qa9": "simple-negation",
    "qa10": "indefinite-knowledge",
    "qa11": "basic-coreference",
    "qa12": "conjunction",
    "qa13": "compound-coreference",
    "qa14": "time-reasoning",
    "qa15": "basic-deduction",
    "qa16": "basic-induction",
    "qa17": "positional-reasoning",
    "qa18": "size-reasoning",
    "qa19": "path-finding",
    "qa20": "agents-motivations",
}
"""Every task and what it is about, as the files are called."""
SPLITS = ("test", "train")
_ARCHIVES = (".tar.gz", ".tgz", ".tar.xz", ".tar", ".zip")
# Where several folders of the release hold a file of one name: the questions of test files are the same in both.
_FOLDERS = ("en-10k", "en")


@dataclass(frozen=True, slots=True)
class Story:
    """One question."""

    index: int
    """Number of the question in its file, from 0."""
    number: int
    """Number of its story in the file, from 0: questions of one story share facts."""
    facts: tuple[str, ...]
    """Facts told before the question, in their order."""
    question: str
    """As it stands in the file, a space at its end included."""
    answer: str
    """One word; several words of a list are joined by commas."""
    supporting: tuple[int, ...]
    """Which of `facts` support the answer, in their order."""


def parse_stories(text: str, where: str) -> list[Story]:
    """Questions of a bAbI file, in its order.

    Args:
        text: contents of the file.
        where: its name, for messages.
    Raises:
        InputError: a line that is none of bAbI's; names it.
    """
    stories: list[Story] = []
    facts: list[str] = []
    places: dict[int, int] = {}  # line number in the story -> fact
    number = -1
    for row, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        first, _, rest = line.partition(" ")
        if not first.isdigit() or not rest.strip():
            raise _not_babi(where, row, line)
        if int(first) == 1:
            facts, places, number = [], {}, number + 1
        if number < 0:
            raise _not_babi(where, row, line)
        if "\t" not in rest:
            places[int(first)] = len(facts)
            facts.append(rest)
            continue
        question, answer, *references = rest.split("\t")
        lines = " ".join(references).split()
        if not answer or not all(line_number.isdigit() for line_number in lines):
            raise _not_babi(where, row, line)
        supporting = sorted({places[int(n)] for n in lines if int(n) in places})
        stories.append(Story(len(stories), number, tuple(facts), question, answer, tuple(supporting)))
    if not stories:
        raise InputError(
            expected="a bAbI file with questions",
            got="none",
            where=where,
            fix="give the files of tasks_1-20_v1-2 unchanged",
        )
    return stories


def least_budget(story: Story) -> int:
    """Tokens that a context must have for a story to be used in the published sets: eight for each fact, and eight for
    the question."""
    return 8 * (len(story.facts) + 1)


@dataclass(frozen=True)
class StoryFile:
    """A bAbI file that was read."""

    name: str
    stories: list[Story]
    sha256: str
    """Of its contents."""


def read_task(source: str | Path, task: str, split: str = "test") -> StoryFile:
    """Questions of one task.

    Args:
        source: folder with the bAbI files, at any depth, packed or not; or an archive (.tar.gz, .tar.xz, .zip).
        task: qa1 to qa20.
        split: test or train.
    Raises:
        InputError: unknown task or split, nothing there, no file of this task, or a file that is not bAbI's.
    """
    check_task(task)
    if split not in SPLITS:
        raise InputError(
            expected=" or ".join(SPLITS), got=f"'{split}'", where="split of bAbI", fix=near_matches(split, SPLITS)
        )
    return read_file(source, f"{task}_{TASK_NAMES[task]}_{split}.txt")


def check_task(task: str) -> None:
    """Raise InputError unless `task` is one of qa1 to qa20."""
    if task not in TASK_NAMES:
        raise InputError(
            expected="a bAbI task, qa1 to qa20",
            got=f"'{task}'",
            where="task of BABILong",
            fix=near_matches(task, TASK_NAMES),
        )


def read_file(source: str | Path, name: str) -> StoryFile:
    """The bAbI file of this name; of several, that of the folder en-10k, then en, then the first by its path."""
    path = Path(source)
    if not path.exists():
        raise _missing(path, name, "nothing at that path")
    found = list(_files(path, name))
    if not found:
        raise _missing(path, name, "no such file there")
    found.sort(key=lambda entry: (_rank(entry[0]), entry[0]))
    where, raw = found[0]
    stories = parse_stories(raw.decode("utf-8", errors="replace"), where)
    return StoryFile(name, stories, hashlib.sha256(raw).hexdigest())


def _rank(path: str) -> int:
    folder = PurePosixPath(path).parent.name
    return _FOLDERS.index(folder) if folder in _FOLDERS else len(_FOLDERS)


def _files(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Path and contents of every file of this name in a folder or an archive."""
    if path.is_dir():
        for inner in sorted(path.rglob("*")):
            if inner.is_file() and inner.name == name:
                yield inner.as_posix(), inner.read_bytes()
            elif inner.is_file() and inner.name.lower().endswith(_ARCHIVES) and _may_hold_babi(inner.name):
                yield from _packed(inner, name)
    elif path.name == name:
        yield path.as_posix(), path.read_bytes()
    elif path.name.lower().endswith(_ARCHIVES):
        yield from _packed(path, name)


def _may_hold_babi(name: str) -> bool:
    return re.search(r"babi|tasks_1-20", name, re.IGNORECASE) is not None


def _packed(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    try:
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                for inner in archive.namelist():
                    if PurePosixPath(inner).name == name:
                        yield f"{path}/{inner}", archive.read(inner)
        else:
            with tarfile.open(path) as packed:
                for member in packed:
                    if member.isfile() and PurePosixPath(member.name).name == name:
                        stream = packed.extractfile(member)
                        if stream is not None:
                            yield f"{path}/{member.name}", stream.read()
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise InputError(
            expected="a complete archive of the bAbI tasks",
            got=f"one that cannot be read ({error})",
            where=str(path),
            fix="copy or download the file again",
        ) from error


def _missing(path: Path, name: str, got: str) -> InputError:
    return InputError(
        expected=f"the bAbI file {name}, in a folder or an archive",
        got=got,
        where=str(path),
        fix="get the bAbI tasks with `lengthwise data get babi`, or put tasks_1-20_v1-2 (as released, packed or not) "
        "into that folder",
    )


def _not_babi(where: str, row: int, line: str) -> InputError:
    return InputError(
        expected="a line of bAbI: a number and a fact, or a number, a question, a tab, its answer, a tab and numbers",
        got=repr(line[:80]),
        where=f"{where}, line {row}",
        fix="give the files of tasks_1-20_v1-2 unchanged",
    )
