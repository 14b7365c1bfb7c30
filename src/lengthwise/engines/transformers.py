"""Any causal model of transformers as an engine: greedy generation and likelihoods.

Models whose cache is right are streamed: a prompt is read in pieces with its cache carried, and an answer grows token
by token. The others are read in one pass per text, again for every token of an answer.

Rows of unequal lengths stand in one batch only where padding was seen to change nothing (`probe.pads_left`); elsewhere
a batch holds rows of one length. When memory runs out the batch is halved, for good, and the work goes on; a single row
that does not fit is a failed answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.engines.base import Answer, BatchedEngine, Request, check_request, evaluating
from lengthwise.engines.hf import HFModel
from lengthwise.engines.opening import OpenedModel, quiet
from lengthwise.engines.probe import Carrying, pads_left
from lengthwise.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class _Row:
    """A request on its way: what has to be read, and at how many of its last places a prediction is wanted."""

    index: int
    tokens: NDArray[np.int64]
    wanted: int


_Answering = Callable[[list[_Row], Sequence[Request]], list[Answer]]


class TransformersEngine(BatchedEngine):
    """A model that transformers runs.

    Args:
        opened: the model, on its device, and how it is read.
        batch_size: most rows that are read together.
        chunk: most tokens of a row per forward pass, for models that are streamed.
        stop_tokens: ids that end a generation; they are not part of the answer. Those that the model's own settings of
            generation name are added.
    """

    name = "transformers"

    def __init__(
        self, opened: OpenedModel, *, batch_size: int = 8, chunk: int = 1024, stop_tokens: Sequence[int] = ()
    ) -> None:
        self.opened = opened
        self.model: Any = opened.model
        self.streamed = opened.reading == "streamed"
        stops = frozenset(stop_tokens) | _stops_of(self._adapter.model)
        super().__init__(batch_size=batch_size, chunk=chunk, stop_tokens=stops)
        with quiet():
            self.padding = (
                pads_left(self.model)
                if self.streamed and batch_size > 1
                else Carrying(False, "texts are read in one pass" if batch_size > 1 else "rows are read one at a time")
            )

    @property
    def _adapter(self) -> HFModel:
        return self.model if isinstance(self.model, HFModel) else self.model.inner

    @property
    def context_limit(self) -> int | None:
        """Most positions that the model's configuration names; None where it names none."""
        return self.opened.context_length

    def facts(self) -> dict[str, Any]:
        """Settings of the engine, and what they rest on."""
        import transformers

        return {
            "engine": self.name,
            **self._batch_facts(),
            "chunk": self.chunk,
            "reading": self.opened.reading,
            "padding": "left" if self.padding.right else "none, rows of one length together",
            "padding_why": self.padding.why,
            "decoding": "greedy",
            "stop_tokens": sorted(self.stop_tokens),
            "transformers": transformers.__version__,
        }

    def run(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer every request; see `Engine`.

        Raises:
            InputError: where a prompt is empty, or a token id lies outside the vocabulary.
        """
        rows = [self._row(index, request) for index, request in enumerate(requests)]
        with evaluating(self.model):
            for scored in (False, True):
                of_kind = [row for row in rows if (requests[row.index].continuation is not None) == scored]
                answer = self._score if scored else self._generate

                def attempt(part: list[int], answer: _Answering = answer) -> list[Answer]:
                    return answer([rows[index] for index in part], requests)

                for batch in self._batches(of_kind):
                    yield from self._surviving([row.index for row in batch], requests, attempt, whole=False)

    def _row(self, index: int, request: Request) -> _Row:
        check_request(index, request, self.opened.vocab_size)
        continuation = request.continuation
        tokens = request.prompt if continuation is None else np.append(request.prompt, continuation)
        wanted = 1 if continuation is None else len(continuation)
        return _Row(index, np.asarray(tokens if continuation is None else tokens[:-1], dtype=np.int64), wanted)

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows of similar lengths together, or of equal ones where padding is not to be had."""
        rest = sorted(rows, key=lambda row: (len(row.tokens), row.index))
        while rest:
            # The padding of a batch is part of its first piece, which is longer for it.
            widest = len(rest[0].tokens) + (self.chunk if self.padding.right else 0)
            count = 1
            while count < min(len(rest), self.batch_size) and len(rest[count].tokens) <= widest:
                count += 1
            yield rest[:count]
            rest = rest[count:]

    @torch.inference_mode()
    def _generate(self, batch: list[_Row], requests: Sequence[Request]) -> list[Answer]:
        """Greedy decoding; rows that are finished stay in the batch, unheard, until all are."""
        logits, state = self._read(batch, 1)
        found: list[list[int]] = [[] for _ in batch]
        finish: list[str | None] = [None] * len(batch)
        while True:
            chosen = logits[:, -1].argmax(dim=-1).tolist()
            for place, row in enumerate(batch):
                if finish[place] is None:
                    finish[place] = self._take(chosen[place], found[place], requests[row.index])
            if all(finish):
                break
            step = torch.tensor(chosen, device=self._device)[:, None]
            output = self.model(step, state, logits="last")
            logits, state = output.logits, output.state
        return [
            Answer(row.index, np.array(ids, dtype=np.int64), None, str(how), len(requests[row.index].prompt))
            for row, ids, how in zip(batch, found, finish, strict=True)
        ]

    @torch.inference_mode()
    def _score(self, batch: list[_Row], requests: Sequence[Request]) -> list[Answer]:
        """Likelihood of continuations, and what was most likely at each of their places."""
        logits, _ = self._read(batch, max(row.wanted for row in batch))
        answers = []
        for place, row in enumerate(batch):
            continuation = requests[row.index].continuation
            assert continuation is not None
            logprobs = logits[place, -row.wanted :].double().log_softmax(dim=-1)
            wanted = torch.from_numpy(np.asarray(continuation, dtype=np.int64)).to(self._device)
            chosen = logprobs.gather(-1, wanted[:, None])[:, 0]
            likely = logprobs.argmax(dim=-1).cpu().numpy()
            length = len(requests[row.index].prompt)
            answers.append(Answer(row.index, likely, chosen.cpu().numpy(), "scored", length))
        return answers

    def _read(self, batch: list[_Row], wanted: int) -> tuple[Float[Tensor, "B wanted vocab"], Any]:
        """Logits after the last `wanted` tokens of each row, fewer where the longest has no more, and the state."""
        longest = max(len(row.tokens) for row in batch)
        shortest = min(len(row.tokens) for row in batch)
        wanted = min(wanted, longest)
        padded = np.zeros((len(batch), longest), dtype=np.int64)
        for place, row in enumerate(batch):
            padded[place, longest - len(row.tokens) :] = row.tokens
        tokens = torch.from_numpy(padded).to(self._device)
        if not self.streamed:
            places = torch.arange(longest - wanted, longest, device=self._device)
            state = self.model(tokens, logits="none").state
            return self.model.predictions(tokens, places), state
        cuts = self._cuts(longest, longest - shortest + 1, longest - wanted)
        state, logits = None, None
        for begin, end in zip([0, *cuts], [*cuts, longest], strict=True):
            piece = tokens[:, begin:end]
            lengths = self._lengths(batch, longest, end) if begin == 0 and shortest < longest else None
            kind = "none" if end <= longest - wanted else "last" if wanted == 1 else "all"
            output = self.model(piece, state, logits=kind, **({} if lengths is None else _padded(lengths)))
            state = output.state
            if output.logits is not None:
                logits = output.logits[:, -wanted:]
        assert logits is not None
        return logits, state

    def _cuts(self, longest: int, least: int, tail: int) -> list[int]:
        """Where the text is cut: pieces of at most a chunk, the first long enough for a real token in every row, and
        the places at which all predictions are wanted in one piece."""
        cuts = list(range(max(self.chunk, least), max(tail, least), self.chunk))
        if least <= tail < longest and tail > 0 and (not cuts or cuts[-1] < tail):
            cuts.append(tail)
        return [cut for cut in cuts if 0 < cut < longest]

    def _lengths(self, batch: list[_Row], longest: int, end: int) -> Int[Tensor, " B"]:
        """Real tokens of each row up to `end`."""
        return torch.tensor([len(row.tokens) - (longest - end) for row in batch], device=self._device)

    @property
    def _device(self) -> torch.device:
        return next(iter(self.model.parameters())).device


def _padded(lengths: Tensor) -> dict[str, Any]:
    return {"lengths": lengths, "padding": "left"}


def _stops_of(model: Any) -> frozenset[int]:
    """The end of text by the model's settings of generation: one id or several."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])
