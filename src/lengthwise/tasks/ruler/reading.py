"""Questions over documents: SQuAD (qa_1) and HotpotQA (qa_2), the documents that answer among others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.draws import Draws
from lengthwise.tasks.library import Library
from lengthwise.tasks.passages import Built, Part
from lengthwise.tasks.questions import Documents, Question
from lengthwise.tasks.ruler.task import RulerTask
from lengthwise.tasks.ruler.wording import Wording
from lengthwise.tasks.scoring import ANY
from lengthwise.tasks.texts import check_special, check_texts
from lengthwise.tasks.tokens import TokenCounter

_LAST_CANDIDATES = 64  # documents of which the last ones are chosen to fill up
_QUESTIONS_SEEN = 500  # questions of which the shortest decides the least length
_SLACK = 8
_USUAL_ANSWERS = 0.95  # share of the answers that the generation budget is made for


class ReadingTask(RulerTask):
    """qa_1, qa_2.

    Args:
        data_set: squad or hotpotqa.
        file: the file to read instead of the data folder's.
    """

    family = "qa"
    binary = True
    wants = ANY

    def __init__(self, name: str, library: Library, data_set: str, file: str | None = None) -> None:
        super().__init__(name, library)
        self.data_set = data_set
        self.file = file

    @property
    def documents(self) -> Documents:
        """Pool and questions."""
        return self.library.documents(self.data_set, self.file, self.name)

    def own_parameters(self) -> dict[str, Any]:
        """The file, by its contents."""
        return {
            "data_set": self.data_set,
            "sha256": self.library.documents_hash(self.data_set, self.file, self.name),
        }

    def widest_answer(self, counter: TokenCounter) -> str:
        """An answer that is longer than nearly all."""
        shortest = sorted((min(question.answers, key=len) for question in self.documents.questions), key=len)
        return shortest[int(_USUAL_ANSWERS * (len(shortest) - 1))]

    def _counts(self, counter: TokenCounter) -> DocumentCounts:
        key = ("documents", self.documents.pool.fingerprint, self.wording.fingerprint, counter.tokenizer.fingerprint)
        return self.library.once(key, lambda: DocumentCounts(self.documents, self.wording, counter, self.name))

    def least_tokens(self, counter: TokenCounter) -> int:
        """The least that any of the first questions needs."""
        counts = self._counts(counter)
        return min(counts.needed(question) for question in self.documents.questions[:_QUESTIONS_SEEN])

    def build_some(
        self, indices: Sequence[int], length: int, room: int, tokenizer: Tokenizer, seed: int
    ) -> list[Built]:
        """The question's documents among others, in random order."""
        counter = self.library.counter(tokenizer)
        counts = self._counts(counter)
        return [self._build_one(index, room, counter, counts, seed) for index in indices]

    def _build_one(self, index: int, room: int, counter: TokenCounter, counts: DocumentCounts, seed: int) -> Built:
        number = counts.fitting(room).number(index)
        question = self.documents.questions[number]
        company = Company(self.documents, question, self.draws(seed, index))
        made: list[tuple[tuple[Part, ...], list[int]]] = []

        def assemble(target: int) -> tuple[tuple[Part, ...], int]:
            chosen = company.choose(counts, question, target)
            while True:
                order = Draws(company.shuffle_seed, "tasks/qa order", len(chosen)).permutation(len(chosen))
                documents = [chosen[place] for place in order.tolist()]
                total = counts.total(documents, question)
                if total <= target or len(chosen) == len(question.needed):
                    parts = qa_parts(self.wording, self.documents, documents, question.text)
                    made.append((parts, documents))
                    return parts, total
                chosen.pop()

        found = assemble(room) if counter.additive else None
        if found is None or found[1] > room or not counts.exact(made[-1][1]):
            found = self.fit(index, counter, room, assemble, exact=False)
        parts, total = found
        documents = next(documents for some, documents in made if some is parts)
        places = [documents.index(document) for document in question.needed]
        meta = {
            "question": number,
            "documents": len(documents),
            "needed": [place + 1 for place in places],
            "depths": [round(100 * (place + 0.5) / len(documents), 3) for place in places],
        }
        answers = tuple(dict.fromkeys(question.answers))
        return Built(index=index, parts=parts, answers=answers, num_tokens=total, meta=meta)


class Company:
    """In which order other documents are offered to a question: those beside it first, then any of the pool."""

    def __init__(self, documents: Documents, question: Question, draws: Draws) -> None:
        self._pool = len(documents.pool)
        self._draws = draws
        order = draws.permutation(len(question.beside)).tolist()
        self._taken = set(question.needed) | set(question.beside)
        self._offered = [question.beside[place] for place in order]
        self.shuffle_seed = draws.integer(1 << 53)

    def offer(self, first: int, count: int) -> list[int]:
        """Documents first..first+count-1; fewer where the pool has no more."""
        while len(self._offered) < first + count and len(self._taken) < self._pool:
            wanted = first + count - len(self._offered)
            if (len(self._taken) + wanted) * 4 >= self._pool:
                fresh = [d for d in self._draws.permutation(self._pool).tolist() if d not in self._taken]
            else:
                fresh = list(dict.fromkeys(self._draws.integers(self._pool, 2 * wanted).tolist()))
                fresh = [d for d in fresh if d not in self._taken]
            self._taken.update(fresh)
            self._offered.extend(fresh)
        return self._offered[first : first + count]

    def choose(self, counts: DocumentCounts, question: Question, target: int) -> list[int]:
        """The documents of a prompt of at most about `target` tokens, the needed ones first."""
        chosen = list(question.needed)
        left = target - counts.needed(question) + _SLACK - 2  # one document too many is taken out again
        place, batch = 0, 64
        while left > 0 and (offered := self.offer(place, batch)):
            sizes = counts.sizes(offered)
            taken = int(np.searchsorted(np.cumsum(sizes), left, side="right"))
            chosen.extend(offered[:taken])
            left -= int(sizes[:taken].sum())
            place += taken
            if taken < len(offered):
                break
        # The next document does not fit. Of those after it, the largest that fit.
        offered = self.offer(place, _LAST_CANDIDATES)
        sizes = counts.sizes(offered) if offered else np.zeros(0, dtype=np.int64)
        for candidate in np.argsort(-sizes, kind="stable").tolist():
            if sizes[candidate] <= left:
                chosen.append(offered[candidate])
                left -= int(sizes[candidate])
        return chosen


class DocumentCounts:
    """Tokens of documents as they stand in a prompt, counted when they are first needed.

    A document is counted from behind its number to before the next one's: then what is counted begins and ends where
    tokens part.
    """

    def __init__(self, documents: Documents, wording: Wording, counter: TokenCounter, where: str) -> None:
        self._documents = documents
        self._counter = counter
        self._where = where
        head, _, tail = wording.document.partition("{number}")
        mark, _, foot = tail.partition("{text}")
        self._head = head.removesuffix(" ")
        self._space = " " if head.endswith(" ") else ""
        self._mark = mark.rstrip(" ")
        self._lead = mark[len(self._mark) :]
        self._foot = foot
        self._joint = wording.document_joint
        self._template = wording.qa
        self._sizes: NDArray[np.int64] = np.full(len(documents.pool), -1, dtype=np.int64)
        self._numbers: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._around: dict[str, int] = {}
        self._fitting: dict[int, FittingQuestions] = {}

    def fitting(self, room: int) -> FittingQuestions:
        """The questions that can be posed in so many tokens."""
        return self._fitting.setdefault(room, FittingQuestions(self, self._documents.questions, room))

    def _text(self, document: int) -> str:
        return self._documents.pool.units[document]

    def _behind(self, document: int) -> str:
        return self._lead + self._text(document) + self._foot

    def bare(self, documents: Sequence[int]) -> NDArray[np.int64]:
        """Tokens of each without its number."""
        wanted = np.asarray(documents, dtype=np.int64)
        missing = [d for d in dict.fromkeys(wanted.tolist()) if self._sizes[d] < 0]
        if missing:
            texts = [self._text(d) for d in missing]
            check_texts(texts, self._counter.tokenizer, f"a document of {self._where}")
            self._sizes[missing] = self._counter.counts([self._behind(d) + self._joint + self._head for d in missing])
        return self._sizes[wanted]

    def numbers(self, count: int) -> NDArray[np.int64]:
        """Tokens of the numbers 1..count with what follows them."""
        if count > len(self._numbers):
            upto = max(64, 1 << count.bit_length())
            self._numbers = self._counter.counts([f"{self._space}{n}{self._mark}" for n in range(1, upto + 1)])
        return self._numbers[:count]

    def sizes(self, documents: Sequence[int]) -> NDArray[np.int64]:
        """Tokens of each with a number of three digits."""
        return self.bare(documents) + int(self.numbers(200)[-1])

    def around(self, question: str) -> int:
        """Tokens before and after the documents."""
        if question not in self._around:
            check_special([question], self._counter.tokenizer, f"a question of {self._where}")
            filled = self._template.filled(query=question)
            self._around[question] = self._counter.count(filled.before) + self._counter.count(filled.ending)
        return self._around[question]

    def needed(self, question: Question) -> int:
        """About what a prompt takes with the question's own documents alone, and not less."""
        return self.around(question.text) + int(self.sizes(question.needed).sum()) + _SLACK

    def total(self, documents: Sequence[int], question: Question) -> int:
        """Tokens of the prompt."""
        filled = self._template.filled(query=question.text)
        last = self._behind(documents[-1])
        sizes = self.bare(documents)
        edges = self._counter.counts([filled.before + self._head, last + filled.ending])
        return int(edges.sum() + self.numbers(len(documents)).sum() + sizes[:-1].sum())

    def exact(self, documents: Sequence[int]) -> bool:
        """Whether `total` is the number of tokens of the whole."""
        meet, number = self._counter.meet, f"{self._space}12{self._mark}"
        return (
            self._counter.additive
            and bool(self._head)
            and meet("x" + self._head, number)
            and all(meet(number, self._behind(document)) for document in documents)
        )


class FittingQuestions:
    """The questions whose documents fit a prompt, found in the order of the file as far as they are asked for."""

    def __init__(self, counts: DocumentCounts, questions: Sequence[Question], room: int) -> None:
        self._counts = counts
        self._questions = questions
        self._room = room
        self._fitting: list[int] = []
        self._looked_at = 0

    def number(self, index: int) -> int:
        """Number of the question for a sample."""
        while len(self._fitting) <= index and self._looked_at < len(self._questions):
            if self._counts.needed(self._questions[self._looked_at]) <= self._room:
                self._fitting.append(self._looked_at)
            self._looked_at += 1
        if not self._fitting:
            raise InputError(
                expected="a question whose documents fit the length",
                got=f"none among {len(self._questions):,}",
                where="the questions",
                fix="ask for a greater length",
            )
        return self._fitting[index % len(self._fitting)]


def qa_parts(wording: Wording, documents: Documents, chosen: Sequence[int], question: str) -> tuple[Part, ...]:
    """A prompt with these documents in this order."""
    filled = wording.qa.filled(query=question)
    head, _, tail = wording.document.partition("{text}")
    parts: list[Part] = []
    text = filled.before
    for number, document in enumerate(chosen, start=1):
        parts.append(text + head.format(number=number))
        parts.append(documents.pool.run(document, document + 1))
        text = tail.format(number=number) + wording.document_joint
    parts.append(tail.format(number=len(chosen)) + filled.ending)
    return tuple(parts)
