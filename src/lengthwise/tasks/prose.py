"""Prose to hide things in: sentences of the documentation that every Python installation holds, or of a file."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from lengthwise.data.documents import SourceFile, list_files, read_bytes, read_documents, walk_folder
from lengthwise.errors import InputError, RunFailure
from lengthwise.paths import default_cache_dir
from lengthwise.runs import atomic_write_bytes

_TRIPLE_QUOTED = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'', re.DOTALL)
# Folders whose strings are test data, or that many installations leave out or add to.
_LEFT_OUT = re.compile(r"(^|/)(test|tests|idlelib|lib2to3|turtledemo|ensurepip|pydoc_data|config-[^/]*)/")
_PARAGRAPH = re.compile(r"\n\s*\n")
_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bcf\.)(?<!\bvs\.)[\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")
_SENTENCE = re.compile(r"[A-Z][A-Za-z0-9 ,;:'\"()\-/]*[.!?]")
_CODE = re.compile(r"\(\)|--|[A-Z]{2,}[a-z]|[a-z][A-Z]|- |/ | /|  |https?:")
_LEAST_WORDS, _MOST_WORDS = 5, 60
_RULES = 1  # rises when the same files would give other sentences
_WRITTEN = "."  # last line of a file that was written to its end
_UNBROKEN_WORDS, _CUT_WORDS = 100, 40


def kept_python_prose() -> tuple[str, ...]:
    """`python_prose`, kept in the cache folder as long as the files it was read from have their sizes and dates."""
    files = [(file.name, file.path.stat()) for file in _python_files()]
    state = [_RULES, sys.version, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)]
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    path = default_cache_dir() / "tasks" / "prose" / f"{key[:40]}.txt"
    try:
        *found, end = path.read_text(encoding="utf-8").split("\n")
        if end == _WRITTEN:
            return tuple(found)
    except (OSError, UnicodeDecodeError):
        pass
    prose = python_prose()
    with contextlib.suppress(RunFailure, OSError):  # a cache that cannot be written costs a second, no more
        atomic_write_bytes(path, "\n".join([*prose, _WRITTEN]).encode())
    return prose


def _python_files() -> list[SourceFile]:
    root = Path(sysconfig.get_path("stdlib"))
    return walk_folder(root, (".py",), skip=lambda name: _LEFT_OUT.search(name) is not None)


def python_prose() -> tuple[str, ...]:
    """English sentences from the documentation strings of the running Python's standard library, each once.

    Kept are sentences of plain words in ASCII; what looks like code is left out. Another version of Python gives other
    sentences, so the fingerprint of this text is in the parameters of every task that uses it.

    Raises:
        InputError: the installation holds no such text.
    """
    found: dict[str, None] = {}
    for file in _python_files():
        source = file.path.read_text(encoding="utf-8", errors="replace")
        for match in _TRIPLE_QUOTED.finditer(source):
            found.update(dict.fromkeys(_plain_sentences(match[1] or match[2] or "")))
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        topics = {}
    for text in topics.values():
        found.update(dict.fromkeys(_plain_sentences(text.replace('"', ""))))
    if not found:
        raise InputError(
            expected="a Python standard library with documentation strings, whose sentences serve as haystack",
            got="none (some Python distributions ship it compiled or in a zip file)",
            where=sysconfig.get_path("stdlib"),
            fix="give a text of your own: niah_grid:haystack_file=PATH",
        )
    return tuple(found)


def _plain_sentences(text: str) -> Iterator[str]:
    for paragraph in _PARAGRAPH.split(text):
        for sentence in _END.split(" ".join(paragraph.split())):
            words = sentence.count(" ") + 1
            if _LEAST_WORDS <= words <= _MOST_WORDS and _SENTENCE.fullmatch(sentence) and not _CODE.search(sentence):
                yield sentence


def sentences(text: str) -> list[str]:
    """Sentences of a text, white space collapsed: joined by single spaces they give the collapsed text back.

    What has no end within a hundred words, such as a table or code, is cut every forty words.
    """
    collapsed = " ".join(text.split())
    found = []
    start = 0
    for match in _END.finditer(collapsed):
        cut = match.end()
        found.append(collapsed[start:cut].rstrip(" "))
        start = cut
    if start < len(collapsed):
        found.append(collapsed[start:])
    return [part for sentence in found for part in _bounded(sentence)]


def _bounded(sentence: str) -> list[str]:
    words = sentence.split(" ") if sentence.count(" ") >= _UNBROKEN_WORDS else [sentence]
    return [" ".join(words[start : start + _CUT_WORDS]) for start in range(0, len(words), _CUT_WORDS)]


def file_sentences(path: Path) -> tuple[str, ...]:
    """Sentences of a file or folder of the user's: text, JSONL, or JSON with a key "text", compressed or not.

    Raises:
        InputError: missing, unreadable, not UTF-8, or without any text.
    """
    found: list[str] = []
    for text in _texts(path):
        found.extend(sentences(text))
    if not found:
        raise InputError(
            expected="a haystack with text",
            got="none",
            where=str(path),
            fix="give a text file, JSONL with a key 'text', or a folder of such files",
        )
    return tuple(found)


def _texts(path: Path) -> Iterable[str]:
    if path.is_file() and re.search(r"\.json(\.gz|\.xz|\.zst)?$", path.name):
        try:
            text = json.loads(read_bytes(path))["text"]
            if not isinstance(text, str):
                raise TypeError(f"its text is a {type(text).__name__}")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                expected='a JSON object with a text, {"text": "..."}',
                got=f"something else ({error})",
                where=str(path),
                fix="convert it, or give a .txt or .jsonl file",
            ) from error
        return [text]
    return (document.text for document in read_documents(list_files([path])))
