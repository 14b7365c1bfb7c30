"""Questions over documents: SQuAD and HotpotQA, as their owners' files have them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from lengthwise.data.documents import read_bytes
from lengthwise.errors import InputError
from lengthwise.tasks.passages import Passage


@dataclass(frozen=True)
class Question:
    """A question and the numbers of its documents in the pool."""

    text: str
    answers: tuple[str, ...]
    """As in the file, repetitions included."""
    needed: tuple[int, ...]
    """Documents that answer it."""
    beside: tuple[int, ...]
    """Documents that come before others as company: of the same article, or the question's own distractors."""


@dataclass(frozen=True)
class Documents:
    """A pool of documents, sorted, each once; and questions in the order of the file."""

    pool: Passage
    questions: tuple[Question, ...]
    fingerprint: str
    """sha256 hex of the file."""


def read_squad(path: Path) -> Documents:
    """SQuAD 2.0: every paragraph is a document; questions without an answer are left out.

    Raises:
        InputError: unreadable, or not of this form.
    """
    raw = read_bytes(path)
    try:
        articles = json.loads(raw)["data"]
        pool = sorted({paragraph["context"] for article in articles for paragraph in article["paragraphs"]})
        number = {text: index for index, text in enumerate(pool)}
        questions = []
        for article in articles:
            own = [number[paragraph["context"]] for paragraph in article["paragraphs"]]
            for paragraph in article["paragraphs"]:
                gold = number[paragraph["context"]]
                beside = tuple(dict.fromkeys(document for document in own if document != gold))
                for entry in paragraph["qas"]:
                    answers = tuple(answer["text"] for answer in entry["answers"])
                    if not entry.get("is_impossible") and answers:
                        questions.append(Question(entry["question"], answers, (gold,), beside))
    except (ValueError, KeyError, TypeError) as error:
        raise _unfit(path, "SQuAD 2.0, {'data': [{'paragraphs': ...}]}", error) from error
    return _checked(path, raw, pool, questions)


def read_hotpotqa(path: Path) -> Documents:
    """HotpotQA, distractor setting: a document is a title, a line break, and its sentences.

    The documents a question needs are those its supporting facts name; in a file without supporting facts, all of its
    own.

    Raises:
        InputError: unreadable, or not of this form.
    """
    raw = read_bytes(path)
    try:
        entries = json.loads(raw)
        texts = [{title: f"{title}\n{''.join(parts)}" for title, parts in entry["context"]} for entry in entries]
        pool = sorted({text for own in texts for text in own.values()})
        number = {text: index for index, text in enumerate(pool)}
        questions = []
        for entry, own in zip(entries, texts, strict=True):
            named = dict.fromkeys(title for title, _ in entry.get("supporting_facts") or [] if title in own)
            needed = tuple(dict.fromkeys(number[own[title]] for title in named or own))
            beside = tuple(dict.fromkeys(d for d in (number[text] for text in own.values()) if d not in needed))
            questions.append(Question(entry["question"], (entry["answer"],), needed, beside))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unfit(
            path, "HotpotQA, [{'question': ..., 'answer': ..., 'context': [[title, [...]]]}]", error
        ) from error
    return _checked(path, raw, pool, questions)


def _checked(path: Path, raw: bytes, pool: list[str], questions: list[Question]) -> Documents:
    if not questions:
        raise InputError(
            expected="questions with answers",
            got="none",
            where=str(path),
            fix="give the development file, whose answers are public",
        )
    return Documents(Passage(pool, "\n\n"), tuple(questions), hashlib.sha256(raw).hexdigest())


def _unfit(path: Path, form: str, error: Exception) -> InputError:
    return InputError(
        expected=f"a file of the form of {form}",
        got=f"something else ({type(error).__name__}: {str(error)[:80]})",
        where=str(path),
        fix="get it again, see `lengthwise data get`",
    )
