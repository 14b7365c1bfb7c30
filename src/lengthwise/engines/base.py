"""What an evaluation needs from a model, wherever it runs.

An engine takes token ids and gives back token ids or likelihoods. It says beforehand how much it can read, so that
nothing is ever truncated; it hands back each answer as soon as it is there, in any order, so that a run can be killed
at any moment; and it reports a failure of one request as the answer to that request.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import InputError


@dataclass(frozen=True)
class Request:
    """One prompt.

    Args:
        prompt: token ids, at least one.
        max_new_tokens: generation budget.
        continuation: ids whose likelihood is asked for instead of a generation; None to generate.
        text: the prompt as text, for engines that have a tokenizer of their own (servers); None where ids are all.
        continuation_text: the continuation as text, likewise.
        until: told the ids generated so far, whether they are an answer already; None to go on to the budget. Servers
            do not ask.
    """

    prompt: NDArray[Any]
    max_new_tokens: int = 0
    continuation: NDArray[Any] | None = None
    text: str | None = None
    continuation_text: str | None = None
    until: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class Answer:
    """What came back for a request.

    Args:
        index: number of the request.
        tokens: ids that were generated; for a continuation, the ids that were most likely at each of its places.
        logprobs: log-likelihood of each token of the continuation in nats; None for a generation, and where the engine
            cannot tell.
        text: the answer as the engine's own tokenizer spells it; None where the caller decodes.
        finish: "length" (budget used up), "stop" (a stop token came, or `until` was content), "scored", or "error".
        num_prompt_tokens: tokens of the prompt as the model saw them.
        error: what went wrong, where `finish` is "error".
    """

    index: int
    tokens: NDArray[np.int64]
    logprobs: NDArray[np.float64] | None
    finish: str
    num_prompt_tokens: int
    text: str | None = None
    error: str | None = None


@runtime_checkable
class Engine(Protocol):
    """A way to run a model."""

    name: str
    """native, transformers or server."""

    @property
    def context_limit(self) -> int | None:
        """Most tokens of prompt and answer together; None where there is no limit."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a run's manifest should say: model, settings that may change results, versions."""
        ...

    def run(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer every request, each once, in any order, as they are finished."""
        ...


_HALVED = (
    "memory ran out with up to {size} rows side by side: the batch is halved for the rest of the run, as often as it "
    "takes; answers are the same, and a smaller --batch-size saves the attempts that fail"
)


class BatchedEngine:
    """What engines have in common that answer rows side by side.

    When memory runs out the batch is halved, for good, and the work goes on, with one warning; a row that does not fit
    alone is an answer that says so.

    Args:
        batch_size: most rows that stand together.
        chunk: most tokens of a row per forward pass.
        stop_tokens: ids that end a generation; they are not part of the answer.
    """

    def __init__(self, *, batch_size: int, chunk: int, stop_tokens: Iterable[int]) -> None:
        for what, value in (("batch_size", batch_size), ("chunk", chunk)):
            if value < 1:
                raise InputError(
                    expected="at least 1",
                    got=str(value),
                    where=f"{type(self).__name__} {what}",
                    fix=f"give a positive {what}",
                )
        self.batch_size, self.chunk, self.stop_tokens = batch_size, chunk, frozenset(stop_tokens)
        self.halvings = 0
        """Times that memory ran out and the batch was halved."""

    def _batch_facts(self) -> dict[str, Any]:
        """Rows that stand together now, and how often there were too many."""
        return {"batch_size": self.batch_size, **({"halvings": self.halvings} if self.halvings else {})}

    def _surviving(
        self,
        indices: Iterable[int],
        requests: Sequence[Request],
        attempt: Callable[[list[int]], Iterable[Answer]],
        *,
        whole: bool,
    ) -> Iterator[Answer]:
        """Answer some requests; where memory runs out, what is left of them in smaller batches, at last one by one.

        Args:
            indices: their numbers.
            requests: all requests.
            attempt: answers those of these numbers, in any order.
            whole: an attempt is given all that are left and makes its own batches; otherwise a batch of them.
        """
        left, one_by_one = list(indices), False
        while left:
            part = left[: 1 if one_by_one else len(left) if whole else self.batch_size]
            answered, reason = set(), None
            try:
                for answer in attempt(part):
                    answered.add(answer.index)
                    yield answer
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:200] or "no memory left"
            # Outside of the handler, so that the exception no longer holds the tensors of the attempt.
            if reason is not None:
                _free_device_memory()
                if len(part) == 1:
                    answered.add(part[0])
                    yield _out_of_memory_answer(part[0], requests[part[0]], reason)
                elif self.batch_size > 1:
                    if not self.halvings:
                        warnings.warn(_HALVED.format(size=self.batch_size), stacklevel=2)
                    self.batch_size = max(1, min(self.batch_size, len(part)) // 2)
                    self.halvings += 1
                else:
                    one_by_one = True
            left = [index for index in left if index not in answered]

    def _take(self, token: int, found: list[int], request: Request) -> str | None:
        """Add a generated token to what was found so far; how the answer ends with it, None where it goes on."""
        if request.max_new_tokens > 0:
            if token in self.stop_tokens:
                return "stop"
            found.append(token)
            if request.until is not None and request.until(found):
                return "stop"
        return "length" if len(found) >= request.max_new_tokens else None


def check_request(index: int, request: Request, vocab: int) -> None:
    """Raise InputError for an empty prompt or continuation, and for a token id outside of the vocabulary."""
    continuation = request.continuation
    ids = request.prompt if continuation is None else np.append(request.prompt, continuation)
    problem = None
    if len(request.prompt) == 0:
        problem = "an empty prompt"
    elif int(ids.min()) < 0 or int(ids.max()) >= vocab:
        problem = f"ids {int(ids.min())}..{int(ids.max())}"
    elif continuation is not None and len(continuation) == 0:
        problem = "an empty continuation"
    if problem:
        raise InputError(
            expected=f"a prompt of at least one token, all ids in 0..{vocab - 1}",
            got=problem,
            where=f"request {index}",
            fix="encode it with the model's own tokenizer",
        )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode for the duration of the block, then whatever it was. Gradients are the caller's matter."""
    before = bool(model.training)
    model.train(False)
    try:
        yield
    finally:
        model.train(before)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of Python, of a device or of torch's allocator means that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "not enough memory" in text


def _free_device_memory() -> None:
    """Give back what torch's allocator keeps of the device."""
    import torch  # the protocol is wanted where torch is not

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _out_of_memory_answer(index: int, request: Request, reason: str) -> Answer:
    """The answer to a request that does not fit even alone."""
    nothing = np.zeros(0, dtype=np.int64)
    return Answer(index, nothing, None, "error", len(request.prompt), error=f"out of memory: {reason}")
