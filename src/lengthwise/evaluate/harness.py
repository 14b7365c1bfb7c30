"""Our engines as a model of lm-evaluation-harness, under the name `lengthwise`.

    lengthwise lm-eval run --model lengthwise --model_args pretrained=mamba2-bytes-t64 --tasks lambada_openai

The state is carried through whole documents: `loglikelihood_rolling` reads a document of any length in one stretch, so
that every token is predicted from all before it, where models with a limited context are shown windows. Nothing is cut:
a request longer than a limited model takes is an error.

Importing this module needs the package lm_eval (the extra `lm-eval`) and registers the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lengthwise.engines.base import Answer, Request
from lengthwise.errors import InputError, RunFailure
from lengthwise.evaluate.config import EvalConfig
from lengthwise.evaluate.run import Subject
from lengthwise.evaluate.subject import open_subject

NEWLINE = "\n"
"""What stands before a text for models whose tokenizer knows no end of text, such as bytes."""
ARGUMENTS = (
    "pretrained",
    "engine",
    "tokenizer",
    "batch_size",
    "chunk",
    "device",
    "dtype",
    "context_length",
    "prefix_token",
)
_BUDGETS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
MAX_NEW_TOKENS = 256
"""Tokens of a generation where the task names no number; that of the harness."""


@register_model("lengthwise")
class LengthwiseLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """A model as the harness sees it.

    Args:
        pretrained: whatever `lengthwise eval` takes as MODEL.
        engine, tokenizer, chunk, device, dtype, context_length: as in `lengthwise eval`.
        batch_size: prompts that are answered side by side.
        prefix_token: id that stands before a text; None: the tokenizer's end of text, else a line break.
        subject: model and tokenizer, already there; then all of the above but the last is left aside.
        more: what the harness hands to every model; nothing that would change a result is accepted.
    """

    backend = "causal"

    def __init__(
        self,
        pretrained: str = "",
        *,
        engine: str = "auto",
        tokenizer: str | None = None,
        batch_size: int | str = 8,
        chunk: int = 1024,
        device: str | None = None,
        dtype: str = "float32",
        context_length: int | None = None,
        prefix_token: int | None = None,
        subject: Subject | None = None,
        **more: Any,
    ) -> None:
        super().__init__()
        if unknown := sorted(set(more) - {"max_batch_size"}):
            raise InputError(
                expected=f"arguments among {', '.join(ARGUMENTS)}",
                got=", ".join(unknown),
                where="--model_args",
                fix="leave it out",
            )
        if subject is None:
            config = EvalConfig(
                model=str(pretrained),
                engine=engine,  # type: ignore[arg-type]  # checked by the config
                tokenizer=tokenizer,
                batch_size=8 if str(batch_size).startswith("auto") else int(batch_size),
                chunk=int(chunk),
                # The harness asks for cuda:0 where nobody asked for anything.
                device="auto" if device is None or not _is_there(device) else device,
                dtype=dtype,  # type: ignore[arg-type]
                context_length=context_length,
            )
            subject = open_subject(config)
            context_length = config.context_length
        self.subject = subject
        self.limit = context_length if context_length is not None else subject.engine.context_limit
        ends = subject.facts.get("stop_tokens") or []
        first = ends[0] if ends else int(subject.tokenizer.encode(NEWLINE)[0])
        self._prefix = first if prefix_token is None else int(prefix_token)

    @property
    def eot_token_id(self) -> int:
        """The token that stands before a text."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return f"{self.subject.tokenizer.name}-{self.subject.tokenizer.fingerprint[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
        """Ids of a text; no token is ever added."""
        ids: list[int] = self.subject.tokenizer.encode(string).tolist()
        return ids

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        return {name: value for name, value in self.subject.facts.items() if value is not None}

    def _loglikelihood_tokens(self, requests: Sequence[Any], **more: Any) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding would give it) of each (texts, context ids, continuation ids)."""
        asked = [
            Request(np.asarray(context), continuation=np.asarray(continuation)) for _, context, continuation in requests
        ]
        found = []
        for request, answer in zip(asked, self._answers(asked), strict=True):
            assert answer.logprobs is not None
            assert request.continuation is not None
            greedy = bool(np.array_equal(answer.tokens, request.continuation))
            found.append((float(answer.logprobs.sum()), greedy))
        for (texts, _, _), result in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, result)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts: in one stretch, or in windows where the context is limited."""
        windows, owners = [], []
        for place, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            parts = [([self._prefix], ids)] if ids else []
            if self.limit is not None:
                rolling = get_rolling_token_windows(ids, self._prefix, self.limit, 1)
                parts = [make_disjoint_window(window) for window in rolling]
            windows += [(None, context, continuation) for context, continuation in parts]
            owners += [place] * len(parts)
        totals = [0.0] * len(requests)
        for place, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[place] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, each up to the first of its stop texts."""
        asked, stops = [], []
        for request in requests:
            context, options = request.args
            if options.get("do_sample"):
                raise InputError(
                    expected="greedy generation",
                    got="do_sample",
                    where="generation_kwargs of the task",
                    fix="set do_sample to false",
                )
            named = options.get("until") or []
            until = [text for text in ([named] if isinstance(named, str) else named) if text]
            budget = next((int(options[name]) for name in _BUDGETS if name in options), MAX_NEW_TOKENS)
            prompt = self.tok_encode(context) or [self._prefix]
            asked.append(Request(np.asarray(prompt), budget, until=self._until(until)))
            stops.append(until)
        texts = []
        for request, answer, until in zip(requests, self._answers(asked), stops, strict=True):
            text = _before(self.subject.tokenizer.decode(answer.tokens), until)
            self.cache_hook.add_partial("generate_until", request.args, text)
            texts.append(text)
        return texts

    def _until(self, stops: Sequence[str]) -> Callable[[Sequence[int]], bool] | None:
        """Whether one of the stop texts has come; only the end is looked at, where a new one can be."""
        if not stops:
            return None
        tokenizer = self.subject.tokenizer
        reach = max(len(tokenizer.encode(stop)) for stop in stops) + 8

        def content(ids: Sequence[int]) -> bool:
            tail = tokenizer.decode(list(ids[-reach:]))
            return any(stop in tail for stop in stops)

        return content

    def _answers(self, requests: Sequence[Request]) -> list[Answer]:
        """All answers in order.

        Raises:
            InputError: a request is longer than the model takes.
            RunFailure: one failed; a mean over the rest would be another task.
        """
        for request in requests:
            more = request.max_new_tokens if request.continuation is None else len(request.continuation) - 1
            if self.limit is not None and len(request.prompt) + more > self.limit:
                raise InputError(
                    expected=f"requests of at most {self.limit:,} tokens, the context of the model",
                    got=f"{len(request.prompt):,} and {more:,} more",
                    where="lm-eval",
                    fix="choose another task or fewer shots, or give context_length in --model_args",
                )
        answers = {answer.index: answer for answer in self.subject.engine.run(requests)}
        for index, answer in answers.items():
            if answer.error is not None:
                raise RunFailure(
                    expected="an answer to every request",
                    got=answer.error,
                    where=f"request {index} of lm-eval",
                    fix="lower batch_size or chunk in --model_args",
                )
        return [answers[index] for index in range(len(requests))]


def _before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop text."""
    for stop in stops:
        text = text.split(stop)[0]
    return text


def _is_there(device: str) -> bool:
    return not device.startswith("cuda") or torch.cuda.is_available()
