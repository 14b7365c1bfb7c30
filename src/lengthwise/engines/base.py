"""What an evaluation needs from a model, wherever it runs.

An engine takes token ids and gives back token ids or likelihoods. It says beforehand how much it can read, so that
nothing is ever truncated; it hands back each answer as soon as it is there, in any order, so that a run can be killed
at any moment; and it reports a failure of one request as the answer to that request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


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


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of Python, of a device or of torch's allocator means that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "not enough memory" in text


def out_of_memory_answer(index: int, request: Request, reason: str) -> Answer:
    """The answer to a request that does not fit even alone."""
    nothing = np.zeros(0, dtype=np.int64)
    return Answer(index, nothing, None, "error", len(request.prompt), error=f"out of memory: {reason}")
