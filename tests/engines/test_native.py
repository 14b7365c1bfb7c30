"""The native engine against one prompt at a time, read in one piece."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.engines.cramped import OUT_OF_MEMORY, Cramped
from tests.models.families import FAMILIES, VOCAB, small_model

from lengthwise.engines.base import Engine, Request
from lengthwise.engines.native import NativeEngine
from lengthwise.errors import InputError
from lengthwise.models.lm import LanguageModel


def ids(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, length)


def alone(model: LanguageModel, prompt: np.ndarray, count: int) -> list[int]:
    """Greedy decoding that reads everything anew for every token."""
    tokens = prompt.tolist()
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1, :VOCAB].argmax()))
    return tokens[len(prompt) :]


def mixed_requests() -> list[Request]:
    """Different lengths and budgets, shared beginnings, an equal pair, one that is the beginning of another."""
    hay = ids(150, 0)
    prompts = [np.concatenate([hay[:at], ids(3, at), hay[at:]]) for at in (10, 70, 100, 140)]
    prompts += [ids(1, 1), ids(33, 2), ids(33, 2), hay[:100], hay]
    return [Request(prompt, max_new_tokens=budget) for prompt, budget in zip(prompts, range(9), strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_generates_what_each_prompt_gives_alone(family: str) -> None:
    model = small_model(family)
    requests = mixed_requests()
    engine = NativeEngine(model, batch_size=3, chunk=17)
    answers = {answer.index: answer for answer in engine.run(requests)}
    assert sorted(answers) == list(range(len(requests)))
    for index, request in enumerate(requests):
        assert answers[index].tokens.tolist() == alone(model, request.prompt, request.max_new_tokens)
        assert answers[index].finish == "length"
        assert answers[index].num_prompt_tokens == len(request.prompt)


@pytest.mark.parametrize(("batch_size", "chunk"), [(1, 1000), (2, 64), (16, 5)])
@pytest.mark.parametrize("reuse", [True, False])
def test_settings_change_no_answer(batch_size: int, chunk: int, reuse: bool) -> None:
    model, requests = small_model("mamba2"), mixed_requests()
    expected = {a.index: a.tokens.tolist() for a in NativeEngine(model).run(requests)}
    engine = NativeEngine(model, batch_size=batch_size, chunk=chunk, reuse_prefixes=reuse)
    assert {a.index: a.tokens.tolist() for a in engine.run(requests)} == expected


def cramped(model: LanguageModel, most: int, error: Callable[[], Exception]) -> NativeEngine:
    engine = NativeEngine(model, batch_size=8)
    engine.model = Cramped(model, most, error)  # type: ignore[assignment]
    return engine


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["python", "cuda", "cpu"])
@pytest.mark.parametrize("most", [1, 3])
def test_the_batch_halves_when_memory_runs_out(most: int, error: Callable[[], Exception]) -> None:
    model, requests = small_model("mamba2"), mixed_requests()
    expected = {a.index: a.tokens.tolist() for a in NativeEngine(model).run(requests)}
    engine = cramped(model, most, error)
    with pytest.warns(UserWarning, match="memory ran out with up to 8 rows side by side") as warned:
        answers = list(engine.run(requests))
    assert len(warned) == 1
    assert engine.facts()["halvings"] == engine.halvings
    assert engine.facts()["batch_size"] == engine.batch_size
    assert sorted(a.index for a in answers) == list(range(len(requests)))
    assert {a.index: a.tokens.tolist() for a in answers} == expected
    assert engine.batch_size <= most
    assert engine.halvings >= 2


def test_what_does_not_fit_alone_is_an_answer_that_says_so() -> None:
    engine = cramped(small_model("mamba2"), 0, MemoryError)
    with pytest.warns(UserWarning, match="memory ran out"):
        answers = list(engine.run(mixed_requests()))
    assert [a.finish for a in answers] == ["error"] * len(mixed_requests())
    assert "out of memory" in str(answers[0].error)


def test_other_errors_are_not_taken_for_memory() -> None:
    engine = cramped(small_model("mamba2"), 0, lambda: RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(engine.run(mixed_requests()))


def test_what_is_shared_is_read_once() -> None:
    model, requests = small_model("mamba2"), mixed_requests()
    with_reuse, without = NativeEngine(model), NativeEngine(model, reuse_prefixes=False)
    list(with_reuse.run(requests))
    list(without.run(requests))
    assert without.tokens_read == sum(len(r.prompt) for r in requests) - 33  # equal prompts are one
    assert with_reuse.tokens_read < 0.7 * without.tokens_read


@pytest.mark.parametrize("chunk", [3, 16])
@pytest.mark.parametrize("family", ["mamba2", "transformer", "griffin"])
def test_scores_continuations(family: str, chunk: int) -> None:
    model = small_model(family)
    prompts = [ids(1, 3), ids(90, 4), np.concatenate([ids(90, 4), ids(20, 5)]), ids(7, 6)]
    continuations = [ids(4, 7), ids(1, 8), ids(12, 9), ids(5, 10)]
    requests = [Request(p, continuation=c) for p, c in zip(prompts, continuations, strict=True)]
    answers = {answer.index: answer for answer in NativeEngine(model, batch_size=2, chunk=chunk).run(requests)}
    for index, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        whole = torch.from_numpy(np.concatenate([prompt, continuation]))[None]
        with torch.no_grad():
            logprobs = model(whole[:, :-1]).logits[0, len(prompt) - 1 :].log_softmax(-1)
        expected = logprobs.gather(-1, torch.from_numpy(continuation)[:, None])[:, 0]
        assert np.allclose(answers[index].logprobs, expected.numpy(), atol=1e-9)
        assert answers[index].tokens.tolist() == logprobs.argmax(-1).tolist()
        assert answers[index].finish == "scored"


def test_scores_and_generations_in_one_call() -> None:
    model = small_model("mamba2")
    requests = [Request(ids(20, 1), max_new_tokens=3), Request(ids(20, 1), continuation=ids(3, 2))]
    finishes = {answer.index: answer.finish for answer in NativeEngine(model).run(requests)}
    assert finishes == {0: "length", 1: "scored"}


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it() -> None:
    model = small_model("mamba2")
    free = next(NativeEngine(model).run([Request(ids(20, 1), max_new_tokens=8)]))
    stop = free.tokens.tolist()[5]
    first = free.tokens.tolist().index(stop)
    (answer,) = NativeEngine(model, stop_tokens=[stop]).run([Request(ids(20, 1), max_new_tokens=8)])
    assert answer.finish == "stop"
    assert answer.tokens.tolist() == free.tokens.tolist()[:first]


def test_an_answer_ends_when_the_caller_is_content() -> None:
    model = small_model("mamba2")
    free = next(NativeEngine(model).run([Request(ids(20, 1), max_new_tokens=8)]))
    (answer,) = NativeEngine(model).run([Request(ids(20, 1), 8, until=lambda found: len(found) == 3)])
    assert (answer.finish, answer.tokens.tolist()) == ("stop", free.tokens.tolist()[:3])


def test_answers_come_before_everything_is_read() -> None:
    model = small_model("mamba2")
    engine = NativeEngine(model, batch_size=2)
    answers = engine.run([Request(ids(50, seed), max_new_tokens=1) for seed in range(10)])
    next(answers)
    assert engine.tokens_read < 300


def test_is_an_engine_and_restores_the_mode() -> None:
    model = small_model("mamba2").train()
    engine = NativeEngine(model)
    assert isinstance(engine, Engine)
    assert engine.context_limit is None
    list(engine.run([Request(ids(5, 1), max_new_tokens=1)]))
    assert model.training


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(np.array([], dtype=np.int64), 1), "an empty prompt"),
        (Request(np.array([VOCAB]), 1), r"got ids 50\.\.50; in request 0"),
        (Request(np.array([1]), continuation=np.array([], dtype=np.int64)), "an empty continuation"),
    ],
)
def test_bad_requests(request_: Request, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(NativeEngine(small_model("mamba2")).run([request_]))


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="NativeEngine batch_size"):
        NativeEngine(small_model("mamba2"), batch_size=0)
