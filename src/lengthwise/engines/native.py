"""Our own models as an engine: prompts are streamed with the state carried, and what prompts share is read once.

Rows of a batch advance side by side, each through its own tokens; a row that has finished its stretch makes room for
the next. Memory holds one state for each row in the batch and for each place where prompts part ways, whatever the
length of the prompts (but for the keys and values of attention layers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.engines.base import Answer, BatchedEngine, Request, check_request, evaluating
from lengthwise.engines.prefixes import Node, prefix_tree
from lengthwise.models.lm import LanguageModel
from lengthwise.shapes import Float, Tensor
from lengthwise.state import State

# Requests whose tree is built at once: enough to find what is shared, little enough for the first answers to come soon.
WINDOW = 512
# Answers are generated for so many times the rows that are read together: a pass of single tokens is mostly overhead,
# and needs little memory beyond the states.
GENERATED = 2


class NativeEngine(BatchedEngine):
    """A `LanguageModel` that generates greedily and scores continuations.

    When memory runs out the batch is halved, for good, and the work goes on; a prompt that does not fit alone is an
    answer that says so.

    Args:
        model: the model, on its device.
        batch_size: rows that advance together.
        chunk: most tokens of a row per forward pass.
        reuse_prefixes: read once what prompts have in common. Answers are the same without, up to rounding.
        stop_tokens: ids that end a generation; they are not part of the answer.
    """

    name = "native"

    def __init__(
        self,
        model: LanguageModel,
        *,
        batch_size: int = 8,
        chunk: int = 1024,
        reuse_prefixes: bool = True,
        stop_tokens: Sequence[int] = (),
    ) -> None:
        super().__init__(batch_size=batch_size, chunk=chunk, stop_tokens=stop_tokens)
        self.model, self.reuse_prefixes = model, reuse_prefixes
        self.tokens_read = 0
        """Tokens of prompts that were read so far, shared ones once."""

    @property
    def context_limit(self) -> int | None:
        """None: a recurrent state reads text of any length, and attention as much as memory holds."""
        return None

    def facts(self) -> dict[str, Any]:
        """Settings of the engine."""
        return {
            "engine": self.name,
            **self._batch_facts(),
            "chunk": self.chunk,
            "reuse_prefixes": self.reuse_prefixes,
            "decoding": "greedy",
        }

    def run(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer every request; see `Engine`.

        Raises:
            InputError: where a prompt is empty, or a token id lies outside the vocabulary.
        """
        for index, request in enumerate(requests):
            check_request(index, request, self.model.config.vocab_size)

        def attempt(part: list[int]) -> Iterator[Answer]:
            for answer in self._window([requests[index] for index in part]):
                yield replace(answer, index=part[answer.index])

        with evaluating(self.model):
            for first in range(0, len(requests), WINDOW):
                window = range(first, min(first + WINDOW, len(requests)))
                yield from self._surviving(window, requests, attempt, whole=True)

    def _window(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer some requests: read their prompts as a tree, and answer whenever a batch of them is read."""
        # A continuation needs a prediction at the prompt's last token, so that token is read along with it.
        prompts = [r.prompt if r.continuation is None else r.prompt[:-1] for r in requests]
        waiting: list[_Row] = []
        for index, prompt in enumerate(prompts):
            if len(prompt) == 0:  # a continuation of a single token
                waiting.append(_Row(index, None, None))
        numbers = [index for index, prompt in enumerate(prompts) if len(prompt)]
        roots = prefix_tree([prompts[number] for number in numbers], enabled=self.reuse_prefixes)
        for rows in self._read(roots):
            waiting += [_Row(numbers[row.index], row.state, row.logits) for row in rows]
            yield from self._answer_full(waiting, requests, whole=True)
        yield from self._answer_full(waiting, requests, whole=False)

    def _read(self, roots: list[Node]) -> Iterator[list[_Row]]:
        """Read a forest; yields prompts as they are read, with their state and their prediction."""
        # The last entry is taken first: depth first, so that few states wait.
        ready: list[tuple[Node, State | None]] = [(node, None) for node in reversed(roots)]
        active: list[_Branch] = []
        state: State | None = None
        while ready or active:
            # Rows stand in the order of `active`; those without a state yet start from zero.
            joined = [state] if state is not None else []
            while ready and len(active) < self.batch_size:
                node, start = ready.pop()
                active.append(_Branch(node))
                joined.append(self.model.init_state(1) if start is None else start)
            state = State.cat(joined) if len(joined) > 1 else joined[0]
            state, logits = self._step(active, state)
            done = [row for row, branch in enumerate(active) if branch.done]
            if not done:
                continue
            finished = []
            for row in done:
                node, own = active[row].node, state.rows(torch.tensor([row]))
                finished += [_Row(index, own, logits[row : row + 1]) for index in node.ends]
                ready += [(child, own) for child in reversed(node.children)]
            kept = [row for row in range(len(active)) if not active[row].done]
            active = [active[row] for row in kept]
            state = state.rows(torch.tensor(kept)) if kept else None
            if finished:
                yield finished

    @torch.inference_mode()
    def _step(self, active: list[_Branch], state: State) -> tuple[State, Float[Tensor, "rows vocab"]]:
        """Every row goes on by as many tokens as all of them have left, at most a chunk.

        So nothing is padded: a token of padding costs what any token costs, another pass much less than a chunk of it.
        """
        count = min(self.chunk, *(branch.left for branch in active))
        tokens = np.stack([branch.take(count) for branch in active]).astype(np.int64)
        self.tokens_read += tokens.size
        output = self.model(torch.from_numpy(tokens).to(self._device), state, logits="last")
        assert output.logits is not None
        return output.state, output.logits[:, 0]

    def _answer_full(self, waiting: list[_Row], requests: Sequence[Request], *, whole: bool) -> Iterator[Answer]:
        """Answer what waits, in batches; only whole ones if so asked. Scores and generations apart."""
        for scored in (False, True):
            of_kind = [row for row in waiting if (requests[row.index].continuation is not None) == scored]
            size = self.batch_size if scored else GENERATED * self.batch_size
            while len(of_kind) >= (size if whole else 1):
                batch, of_kind = of_kind[:size], of_kind[size:]
                waiting[:] = [row for row in waiting if not any(row is other for other in batch)]
                yield from self._score(batch, requests) if scored else self._generate(batch, requests)

    @torch.inference_mode()
    def _generate(self, batch: list[_Row], requests: Sequence[Request]) -> list[Answer]:
        """Greedy decoding of some rows; a row that is finished leaves the batch."""
        answers: list[Answer] = []
        found: dict[int, list[int]] = {row.index: [] for row in batch}
        state = State.cat([row.state for row in batch if row.state is not None])
        logits = torch.cat([row.logits for row in batch if row.logits is not None])
        alive = [row.index for row in batch]
        while alive:
            chosen = logits.argmax(dim=-1).tolist()
            kept = []
            for row, (index, token) in enumerate(zip(alive, chosen, strict=True)):
                finish = self._take(token, found[index], requests[index])
                if finish is None:
                    kept.append(row)
                else:
                    ids = np.array(found[index], dtype=np.int64)
                    answers.append(Answer(index, ids, None, finish, len(requests[index].prompt)))
            alive = [alive[row] for row in kept]
            if not alive:
                break
            if len(kept) < len(chosen):
                state = state.rows(torch.tensor(kept))
            tokens = torch.tensor([[chosen[row]] for row in kept], device=self._device)
            output = self.model(tokens, state, logits="last")
            state, logits = output.state, output.logits[:, 0]
        return answers

    @torch.inference_mode()
    def _score(self, batch: list[_Row], requests: Sequence[Request]) -> list[Answer]:
        """Likelihood of continuations, and what was most likely at each of their places; read in pieces of a chunk."""
        state = State.cat([self.model.init_state(1) if row.state is None else row.state for row in batch])
        rows = []
        for row in batch:
            request = requests[row.index]
            assert request.continuation is not None
            rows.append((request.prompt[-1:], request.continuation))
        longest = max(len(continuation) for _, continuation in rows)
        inputs = np.zeros((len(rows), longest), dtype=np.int64)
        targets = np.zeros_like(inputs)
        for place, (last, continuation) in enumerate(rows):
            inputs[place, : len(continuation)] = np.concatenate([last, continuation[:-1]])
            targets[place, : len(continuation)] = continuation
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in rows]
        alive = list(range(len(rows)))
        for begin in range(0, longest, self.chunk):
            counts = [min(self.chunk, len(rows[place][1]) - begin) for place in alive]
            piece = torch.from_numpy(inputs[alive, begin : begin + max(counts)]).to(self._device)
            lengths = torch.tensor(counts, device=self._device)
            output = self.model(piece, state, lengths=lengths, logits="none")
            for at, (place, count) in enumerate(zip(alive, counts, strict=True)):
                logprobs = self.model.head(output.hidden[at : at + 1, :count])[0].double().log_softmax(dim=-1)
                wanted = torch.from_numpy(targets[place, begin : begin + count]).to(self._device)
                found[place].append((logprobs.gather(-1, wanted[:, None])[:, 0], logprobs.argmax(dim=-1)))
            kept = [at for at, place in enumerate(alive) if len(rows[place][1]) > begin + self.chunk]
            if not kept:
                break
            alive, state = [alive[at] for at in kept], output.state.rows(torch.tensor(kept))
        answers = []
        for place, row in enumerate(batch):
            chosen, likely = (torch.cat(parts).cpu().numpy() for parts in zip(*found[place], strict=True))
            answers.append(Answer(row.index, likely, chosen, "scored", len(requests[row.index].prompt)))
        return answers

    @property
    def _device(self) -> torch.device:
        return self.model.backbone.embedding.weight.device


@dataclass
class _Branch:
    """A row on its way through the tokens of a node."""

    node: Node
    position: int = 0

    def take(self, count: int) -> NDArray[Any]:
        piece = self.node.tokens[self.position : self.position + count]
        self.position += len(piece)
        return piece

    @property
    def left(self) -> int:
        """Tokens still to be read."""
        return len(self.node.tokens) - self.position

    @property
    def done(self) -> bool:
        return self.left == 0


@dataclass
class _Row:
    """A prompt that was read: its state, and the prediction after it."""

    index: int
    state: State | None
    logits: Float[Tensor, "1 vocab"] | None
