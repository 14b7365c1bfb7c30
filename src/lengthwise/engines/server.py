"""A model behind an OpenAI-compatible server: completions or chat, several requests at once.

The server has its own tokenizer. Prompts are sent as text, so that any server can take them; what it says it has read
is compared with what was sent, because a server that silently cuts a prompt would be measured as a model that forgets.

Requests that fail for a reason that may pass (no connection, a time-out, too many requests, an error inside the server)
are tried again a limited number of times with growing pauses; then the failure is the answer to that request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lengthwise.engines.base import Answer, Request
from lengthwise.errors import InputError, RunFailure

GIVE_UP = 8
"""Requests in a row that found no server before the run stops. They are not recorded as failures, so that a resumed run
asks them again."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How to reach a server."""

    url: str
    """Base address, for instance http://localhost:8000/v1."""
    model: str
    """Name by which the server knows the model."""
    api: Literal["completions", "chat"] = "completions"
    """completions continues the prompt; chat sends it as a user's message through the server's template."""
    api_key: str = "none"
    """Sent along; most local servers take anything."""
    concurrency: int = 8
    """Requests under way at once."""
    timeout: float = 600.0
    """Seconds that a request may take."""
    max_retries: int = 4
    """Times that a failed request is tried again."""
    context_length: int | None = None
    """Most tokens the model takes, where the server does not say."""


class ServerEngine:
    """An OpenAI-compatible server as an engine.

    Args:
        settings: how to reach it.

    Raises:
        InputError: the package openai is missing, no server answers, it does not know the model, or nobody says how
            much the model takes.
    """

    name = "server"

    def __init__(self, settings: ServerSettings) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError(
                expected="the package openai",
                got="it is not installed",
                where="the engine server",
                fix="pip install 'lengthwise[server]'",
            ) from error
        self.settings = settings
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=settings.url,
            api_key=settings.api_key,
            timeout=settings.timeout,
            max_retries=settings.max_retries,
        )
        try:
            self._context_length = self._greet()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _greet(self) -> int:
        """Make sure that the server answers and knows the model; returns how much the model takes."""
        settings, errors = self.settings, self._openai
        try:
            listed = {model.id: model for model in self._client.models.list()}
        except errors.APIConnectionError as error:
            raise InputError(
                expected="a server",
                got=f"no connection ({error.__cause__ or error})",
                where=settings.url,
                fix="start it, or correct --server-url (it usually ends in /v1)",
            ) from error
        except (errors.OpenAIError, AttributeError, TypeError, ValueError):
            listed = {}  # some servers have no such list, or a broken one
        if settings.model not in listed:
            self._try_out(sorted(listed))
        told = getattr(listed.get(settings.model), "max_model_len", None)
        limit = settings.context_length if settings.context_length is not None else told
        if not isinstance(limit, int):
            raise InputError(
                expected="to know how many tokens the model takes, so that nothing is cut silently",
                got="a server that does not say",
                where=settings.url,
                fix="give --context-length",
            )
        return limit

    def _try_out(self, listed: list[str]) -> None:
        """Ask for one token, to learn whether the server takes a model that it does not list."""
        try:
            self._ask("a", 1)
        except self._openai.OpenAIError as error:
            status = getattr(error, "status_code", None)
            raise InputError(
                expected=f"a model the server knows: {', '.join(listed) or 'it lists none'}",
                got=f"{self.settings.model!r} ({'no answer' if status is None else f'status {status}'}: "
                f"{_message(error)})",
                where=self.settings.url,
                fix="name a model of the server as MODEL; its address usually ends in /v1",
            ) from error

    @property
    def context_limit(self) -> int | None:
        """What the server or the user says that the model takes."""
        return self._context_length

    def facts(self) -> dict[str, Any]:
        """Address, model and form of the requests; no key."""
        settings = self.settings
        return {
            "engine": self.name,
            "url": settings.url,
            "model": settings.model,
            "api": settings.api,
            "context_length": self._context_length,
            "decoding": "temperature 0",
            "openai": self._openai.__version__,
        }

    def run(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer every request; see `Engine`.

        Raises:
            RunFailure: where so many requests in a row found no server that it must be gone.
        """
        lost: list[Answer] = []  # found no server; failures only if others do find it
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            waiting: set[Future[Answer]] = set()
            numbered = iter(enumerate(requests))
            try:
                while True:
                    # Few are handed out at a time, so that an interruption waits for these alone.
                    while len(waiting) < self.settings.concurrency and (item := next(numbered, None)) is not None:
                        waiting.add(pool.submit(self._answer, *item))
                    if not waiting:
                        break
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        answer = future.result()
                        if answer.finish == "unreached":
                            lost.append(answer)
                            self._check_lost(lost, at_least=GIVE_UP)
                            continue
                        yield from (_failure(each.index, requests[each.index], each.error or "") for each in lost)
                        lost = []
                        yield answer
            finally:
                for future in waiting:
                    future.cancel()
        self._check_lost(lost, at_least=1)

    def _check_lost(self, lost: Sequence[Answer], *, at_least: int) -> None:
        if len(lost) >= at_least:
            raise RunFailure(
                expected="a server that answers",
                got=f"the last {len(lost)} requests found none ({lost[-1].error})",
                where=self.settings.url,
                fix="start the server, then give the same command with --resume; these requests are asked again",
            )

    def _answer(self, index: int, request: Request) -> Answer:
        """One request, tried as often as allowed; a failure is an answer too."""
        if request.text is None:
            return _failure(index, request, "the request has no text")
        try:
            if request.continuation is not None:
                return self._score(index, request)
            return self._generate(index, request)
        except self._openai.APIConnectionError as error:  # time-outs too
            return Answer(index, _none(), None, "unreached", 0, error=f"no answer: {error.__cause__ or error}")
        except self._openai.APIStatusError as error:
            return _failure(index, request, f"status {error.status_code}: {_message(error)}")
        except self._openai.OpenAIError as error:
            return _failure(index, request, f"{type(error).__name__}: {error}")
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            return _failure(index, request, f"an answer that cannot be read ({type(error).__name__}: {error})")

    def _ask(self, text: str | None, max_tokens: int) -> tuple[Any, str | None]:
        """One request for a greedy continuation: the reply, and its text."""
        common: dict[str, Any] = {"model": self.settings.model, "max_tokens": max_tokens, "temperature": 0.0}
        if self.settings.api == "chat":
            message = {"role": "user", "content": text}
            reply: Any = self._client.chat.completions.create(messages=[message], **common)  # type: ignore[list-item]
            return reply, reply.choices[0].message.content
        reply = self._client.completions.create(prompt=text, **common)
        return reply, reply.choices[0].text

    def _generate(self, index: int, request: Request) -> Answer:
        reply, text = self._ask(request.text, request.max_new_tokens)
        if text is None:
            return _failure(index, request, "an answer without text")
        seen = getattr(reply.usage, "prompt_tokens", None)
        if problem := _cut(request, seen):
            return _failure(index, request, problem)
        finish = "stop" if reply.choices[0].finish_reason == "stop" else "length"
        return Answer(index, _none(), None, finish, seen or len(request.prompt), text=text)

    def _score(self, index: int, request: Request) -> Answer:
        """Likelihood of the continuation, by having the whole text echoed with its log-probabilities."""
        assert request.continuation is not None
        if self.settings.api == "chat":
            return _failure(index, request, "chat servers give no likelihoods of given text; use completions")
        if request.continuation_text is None:
            return _failure(index, request, "the request has no continuation as text")
        reply = self._client.completions.create(
            model=self.settings.model,
            prompt=f"{request.text}{request.continuation_text}",
            max_tokens=0,
            temperature=0.0,
            echo=True,
            logprobs=1,
        )
        logprobs = reply.choices[0].logprobs
        if logprobs is None or not logprobs.token_logprobs or not logprobs.text_offset:
            return _failure(index, request, "the server gives no log-probabilities of the prompt")
        start = len(request.text or "")
        wanted = [value for value, at in zip(logprobs.token_logprobs, logprobs.text_offset, strict=True) if at >= start]
        if not wanted or any(value is None for value in wanted):
            return _failure(index, request, "the server gives no log-probabilities of the continuation")
        if problem := _cut(request, getattr(reply.usage, "prompt_tokens", None)):
            return _failure(index, request, problem)
        return Answer(index, _none(), np.array(wanted, dtype=np.float64), "scored", len(request.prompt), text="")


def _none() -> Any:
    return np.zeros(0, dtype=np.int64)


def _failure(index: int, request: Request, error: str) -> Answer:
    return Answer(index, _none(), None, "error", len(request.prompt), error=error)


def _cut(request: Request, seen: int | None) -> str | None:
    """What to say where the server read clearly less than was sent; other tokenizers differ by a little."""
    sent = len(request.prompt)
    if seen is not None and seen < 0.9 * sent - 16:
        return f"the server read {seen} tokens of a prompt of {sent}: it cut the prompt, or has another tokenizer"
    return None


def _message(error: Any) -> str:
    body = getattr(error, "body", None)
    told = body if isinstance(body, dict) else {}
    return str(told.get("message") or told.get("detail") or getattr(error, "message", error))[:500]
