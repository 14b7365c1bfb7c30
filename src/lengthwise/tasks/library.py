"""What the tasks of a run share: wording, words, haystacks, documents, and their token counts.

Everything is read when it is first needed, once. A library that is sent to another process sends its options alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.benchmarks import find_file
from lengthwise.data.documents import read_bytes
from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.passages import Passage
from lengthwise.tasks.prose import file_sentences, kept_python_prose
from lengthwise.tasks.questions import Documents, read_hotpotqa, read_squad
from lengthwise.tasks.ruler.checkout import official_wording
from lengthwise.tasks.ruler.wording import OWN, Wording
from lengthwise.tasks.texts import check_texts
from lengthwise.tasks.tokens import TokenCounter
from lengthwise.tasks.words import WordLists, load_words

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Where tasks find what is not in the package."""

    data_dir: Path | None = None
    """Folder with benchmark files; `lengthwise.paths.default_data_dir()` when None."""
    ruler_source: Path | None = None
    """A copy of RULER, for its wording and the essays as haystack; None for our own wording and prose."""
    model_template: str = "base"
    """Model template of that copy that goes around the prompts; base is none."""
    babilong_source: Path | None = None
    """A copy of BABILong, for its wording; None for ours."""
    books: tuple[Path, ...] = ()
    """Files and folders with the text around BABILong's facts; none for text of the Python installation."""

    def __post_init__(self) -> None:
        if self.model_template != "base" and self.ruler_source is None:
            raise InputError(
                expected="a copy of RULER to read the model template from",
                got=f"the model template '{self.model_template}' without one",
                where="--ruler-source",
                fix="give --ruler-source FOLDER as well, or leave the template out",
            )


class Library:
    """Sources, read once."""

    def __init__(self, options: TaskOptions | None = None) -> None:
        self.options = TaskOptions() if options is None else options
        self._kept: dict[tuple[Any, ...], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self.options, "_kept": {}}

    def once(self, key: tuple[Any, ...], make: Callable[[], Value]) -> Value:
        """What `make` gives, made once."""
        if key not in self._kept:
            self._kept[key] = make()
        value: Value = self._kept[key]
        return value

    @property
    def wording(self) -> Wording:
        """Ours, or RULER's where the options name a copy of it."""
        source, template = self.options.ruler_source, self.options.model_template
        return self.once(("wording",), lambda: OWN if source is None else official_wording(source, template))

    @property
    def words(self) -> WordLists:
        """The word lists."""
        return self.once(("words",), load_words)

    def prose(self, file: str | None = None) -> Passage:
        """The haystack of sentences: a file of the user's; else the essays with RULER's wording, ours with our own."""

        def read() -> Passage:
            if file is not None:
                return Passage(file_sentences(Path(file)), " ")
            if self.options.ruler_source is None:
                return Passage(kept_python_prose(), " ")
            return Passage(file_sentences(self._essays(self.options.ruler_source)), " ")

        return self.once(("prose", file), read)

    def _essays(self, checkout: Path) -> Path:
        """Essays that RULER's own script left in the checkout, else those of the data folder."""
        own = checkout / "scripts/data/synthetic/json/PaulGrahamEssays.json"
        if own.is_file():
            return own
        return find_file(
            "essays", "PaulGrahamEssays.json", self.options.data_dir, needed_by="the prose haystack of RULER's wording"
        )

    def documents(self, data_set: str, file: str | None, needed_by: str) -> Documents:
        """Questions and documents of squad or hotpotqa."""

        def read() -> Documents:
            reader = read_squad if data_set == "squad" else read_hotpotqa
            return reader(self._documents_file(data_set, file, needed_by))

        return self.once(("documents", data_set, file), read)

    def documents_hash(self, data_set: str, file: str | None, needed_by: str) -> str:
        """sha256 hex of the contents of that file, uncompressed; much quicker than reading its documents."""

        def read() -> str:
            return hashlib.sha256(read_bytes(self._documents_file(data_set, file, needed_by))).hexdigest()

        return self.once(("hash", data_set, file), read)

    def _documents_file(self, data_set: str, file: str | None, needed_by: str) -> Path:
        if file is not None:
            return Path(file)
        name = "dev-v2.0.json" if data_set == "squad" else "hotpot_dev_distractor_v1.json"
        return find_file(data_set, name, self.options.data_dir, needed_by=needed_by)

    def counter(self, tokenizer: Tokenizer) -> TokenCounter:
        """The counter of a tokenizer."""
        return self.once(("counter", tokenizer.fingerprint), lambda: TokenCounter(tokenizer))

    def unit_counts(self, passage: Passage, tokenizer: Tokenizer, where: str) -> NDArray[np.int64]:
        """Tokens of every unit of a passage behind its joint.

        Raises:
            InputError: a unit holds a special token, or the tokenizer does not give it back as it is.
        """

        def count() -> NDArray[np.int64]:
            check_texts(passage.units, tokenizer, where)
            return passage.count_units(self.counter(tokenizer))

        return self.once(("counts", passage.fingerprint, tokenizer.fingerprint), count)
