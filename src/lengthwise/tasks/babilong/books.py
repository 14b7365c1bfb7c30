"""The text that facts are hidden in: books of the user's, or prose that every Python installation holds."""

from __future__ import annotations

import hashlib
import importlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from lengthwise.data.corpora import python_files
from lengthwise.data.documents import hash_files, list_files, read_documents
from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.sentences import split_sentences
from lengthwise.tasks.texts import check_special

PYTHON_BOOK = "python"
_CHARACTERS_A_TOKEN = 10  # how much of a book is taken for a token, so that a short sample does not split a whole book
_LEAST_REACH = 200  # tokens for which text is taken at least: less may hold no whole sentence
_SHORTEST_PARAGRAPH = 80
_TRIPLE_QUOTED = re.compile(r'"""(.*?)"""', re.DOTALL)
_LEFT_OUT = re.compile(r"(^|/)(test|tests|idlelib|lib2to3|encodings|turtledemo)/")


class Books:
    """Texts to draw sentences from; kept in memory, whatever the length of a sample.

    Args:
        names: of the books, for the record.
        texts: the books.
        fingerprint: sha256 hex of what they were read from.
    """

    def __init__(self, names: Sequence[str], texts: Sequence[str], fingerprint: str) -> None:
        self.names = tuple(names)
        self.texts = tuple(texts)
        self.fingerprint = fingerprint
        self._checked: set[str] = set()  # tokenizers

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise InputError where the tokenizer would read a special token in a book; each is searched once."""
        if tokenizer.fingerprint not in self._checked:
            for name, text in zip(self.names, self.texts, strict=True):
                check_special([text], tokenizer, f"the book '{name}'")
            self._checked.add(tokenizer.fingerprint)

    def sentences(self, random: np.random.Generator, num_tokens: int) -> Iterator[str]:
        """Sentences without end, as the published samples draw them.

        Round after round a book and a character of it are drawn; its text is read from there on, at most ten
        characters for each of `num_tokens` (200 at least), and split; the first sentence and the last are dropped, as
        they may be incomplete. An empty string marks the end of every round.
        """
        most = max(_LEAST_REACH, num_tokens) * _CHARACTERS_A_TOKEN
        while True:
            text = self.texts[int(random.integers(len(self.texts)))]
            start = int(random.integers(len(text)))
            held: str | None = None
            for number, sentence in enumerate(split_sentences(text[start : start + most])):
                if held is not None:
                    yield held
                held = sentence if number else None
            yield ""


def read_books(source: str | Path | Sequence[str | Path] = PYTHON_BOOK) -> Books:
    """The books a source names; read once for all that ask for them one after the other.

    Args:
        source: "python", or files and folders (text or JSONL, compressed or not), such as the test books of PG-19.
    Raises:
        InputError: nothing there, or no text in it.
    """
    if source == PYTHON_BOOK:
        return _python_book()
    return _read(tuple(map(str, [source] if isinstance(source, str | Path) else source)))


@lru_cache(maxsize=1)
def _read(paths: tuple[str, ...]) -> Books:
    files = list_files([Path(path) for path in paths])
    documents = list(read_documents(files))
    if not documents:
        raise InputError(
            expected="books: text or JSONL files",
            got="no text",
            where=", ".join(paths) or "an empty list of paths",
            fix="give files that hold text, or leave it out to use the text of the Python installation",
        )
    return Books([d.name for d in documents], [d.text for d in documents], hash_files(files))


@lru_cache(maxsize=1)
def _python_book() -> Books:
    """One book of the prose in the manual of the Python language and in the documentation of its library."""
    paragraphs: list[str] = []
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
        for topic in sorted(topics):
            paragraphs += _prose(topics[topic])
    except (ImportError, AttributeError):
        pass  # some distributions leave it out
    for file in python_files():
        if file.name.endswith(".py") and not _LEFT_OUT.search(file.name):
            source = file.path.read_text(encoding="utf-8", errors="replace")
            for string in _TRIPLE_QUOTED.findall(source):
                first, _, rest = string.partition("\n")
                paragraphs += _prose(first.strip() + "\n" + textwrap.dedent(rest))
    text = "\n\n".join(paragraphs)
    return Books([PYTHON_BOOK], [text], hashlib.sha256(text.encode()).hexdigest())


def _prose(text: str) -> Iterator[str]:
    """Paragraphs that are sentences: not indented, no headings, no tables, no code."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.strip("\n").split("\n")
        if len(paragraph) > _SHORTEST_PARAGRAPH and paragraph.rstrip()[-1:] in ".:!?" and lines[0][:1].isalpha():
            if all(line and not line[0].isspace() for line in lines):
                yield " ".join(line.strip() for line in lines)
