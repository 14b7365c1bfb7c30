"""What decides the samples of BABILong."""

from __future__ import annotations

from dataclasses import dataclass

from lengthwise.errors import InputError, near_matches
from lengthwise.tasks.babilong.books import PYTHON_BOOK
from lengthwise.tasks.babilong.stories import SPLITS, check_task

NOMINAL_LENGTHS = {
    "0k": 0,
    **{f"{k}k": 1000 * k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)},
    "1M": 1_000_000,
    "10M": 10_000_000,
}
"""The lengths of the published sets: k is a thousand, and 0k means the facts alone."""
PUBLISHED_RESERVE = 300
"""Tokens that the published sets keep free for everything but the context."""
ORDERS = ("shuffled", "file")


@dataclass(frozen=True, kw_only=True)
class BabilongConfig:
    """Settings of one task."""

    task: str
    """qa1 to qa20."""
    babi: str
    """Folder or archive with the bAbI files."""
    books: str | tuple[str, ...] = PYTHON_BOOK
    """Files and folders with the text around the facts; "python" for text of the Python installation."""
    babilong_source: str | None = None
    """Copy of the repository booydar/babilong, for the published wording; None for ours."""
    split: str = "test"
    """bAbI questions to ask: test or train."""
    order: str = "shuffled"
    """Which question sample i asks: "shuffled", an order that depends on the seed and not on the length, or "file", the
    order of the file, as in the published sets of 1000."""
    questions: tuple[int, ...] | None = None
    """Numbers of the questions to ask, in this order, instead of all; see `published_questions`."""
    reserve: int | None = None
    """Tokens kept free for all but the context: 300 in the published sets. None: as many as wording and answer take,
    so that prompt and generation budget are exactly the length."""
    counter: str | None = None
    """Tokenizer (path of a tokenizer.json) that lengths are measured with: GPT-2's in the published sets. None: the
    tokenizer of the run."""
    window: tuple[float, float] | None = None
    """Facts lie between these two fractions of the context only; None: anywhere."""
    max_new_tokens: int = 20
    """Generation budget."""

    def __post_init__(self) -> None:
        check_task(self.task)
        for what, value, known in (("split", self.split, SPLITS), ("order", self.order, ORDERS)):
            if value not in known:
                raise wrong(what, " or ".join(known), repr(value), near_matches(value, known))
        if self.reserve is not None and self.reserve < 0:
            raise wrong("reserve", "a number of tokens", str(self.reserve), "give 300, or leave it out")
        if self.max_new_tokens < 1:
            raise wrong("max_new_tokens", "at least 1", str(self.max_new_tokens), "give 20")
        if self.window is not None and not 0 <= self.window[0] < self.window[1] <= 1:
            raise wrong("window", "two fractions, 0 <= first < second <= 1", str(self.window), "give, e.g., 0.2 0.8")


def nominal_length(name: str) -> int:
    """Tokens of a published length, e.g. 4000 for 4k."""
    if name not in NOMINAL_LENGTHS:
        raise wrong("length", "a length of the published sets", repr(name), near_matches(name, NOMINAL_LENGTHS))
    return NOMINAL_LENGTHS[name]


def wrong(what: str, expected: str, got: str, fix: str) -> InputError:
    """A setting that cannot be."""
    return InputError(expected=expected, got=got, where=f"{what} of BABILong", fix=fix)
