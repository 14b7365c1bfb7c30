"""The transformers engine against the library's own passes, and against our engine on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engines.cramped import OUT_OF_MEMORY, Cramped
from tests.engines.models import save_byte_model
from tests.measure.models import tiny_model

from lengthwise.checkpoints import Checkpoint, save_checkpoint
from lengthwise.engines import Engine, OpenedModel, Request, open_model
from lengthwise.engines.native import NativeEngine
from lengthwise.engines.transformers import TransformersEngine
from lengthwise.errors import InputError


@pytest.fixture(scope="module", params=["mamba2", "mamba", "llama"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    """Streamed, read in one pass, and with attention."""
    settings = {"eos_token_id": None, **({"max_position_embeddings": 256} if request.param == "llama" else {})}
    folder = save_byte_model(tmp_path_factory.mktemp(request.param), request.param, **settings)
    return open_model(str(folder), engine="transformers")


def ids(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 256, length)


def prompts() -> list[np.ndarray]:
    hay = ids(90, 0)
    return [hay, hay[:70], ids(90, 1), ids(1, 2), ids(33, 3), np.append(hay, ids(4, 4)), hay]


def alone(opened: OpenedModel, prompt: np.ndarray, count: int) -> list[int]:
    """Greedy decoding with a whole pass without a cache for every token."""
    model = getattr(opened.model, "inner", opened.model)
    tokens = prompt.tolist()
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model.without_cache(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(("batch_size", "chunk"), [(1, 1000), (3, 16), (8, 40)])
def test_generates_what_each_prompt_gives_alone(opened: OpenedModel, batch_size: int, chunk: int) -> None:
    requests = [Request(prompt, max_new_tokens=budget) for budget, prompt in enumerate(prompts())]
    engine = TransformersEngine(opened, batch_size=batch_size, chunk=chunk)
    assert isinstance(engine, Engine)
    answers = {answer.index: answer for answer in engine.run(requests)}
    assert sorted(answers) == list(range(len(requests)))
    for index, request in enumerate(requests):
        assert answers[index].tokens.tolist() == alone(opened, request.prompt, request.max_new_tokens)
        assert (answers[index].finish, answers[index].num_prompt_tokens) == ("length", len(request.prompt))


@pytest.mark.parametrize(("batch_size", "chunk"), [(1, 1000), (3, 16), (8, 40)])
def test_scores_continuations(opened: OpenedModel, batch_size: int, chunk: int) -> None:
    continuations = [ids(count, 10 + count) for count in (4, 1, 30, 5, 2, 7, 4)]
    requests = [Request(p, continuation=c) for p, c in zip(prompts(), continuations, strict=True)]
    answers = {a.index: a for a in TransformersEngine(opened, batch_size=batch_size, chunk=chunk).run(requests)}
    model = getattr(opened.model, "inner", opened.model)
    for index, request in enumerate(requests):
        whole = torch.from_numpy(np.concatenate([request.prompt, continuations[index]]))[None]
        with torch.no_grad():
            logprobs = model.without_cache(whole[:, :-1])[0, len(request.prompt) - 1 :].double().log_softmax(-1)
        expected = logprobs.gather(-1, torch.from_numpy(continuations[index])[:, None])[:, 0]
        # Sums in another order, float32.
        assert np.allclose(answers[index].logprobs, expected.numpy(), atol=1e-4)
        assert answers[index].tokens.tolist() == logprobs.argmax(-1).tolist()
        assert answers[index].finish == "scored"


def test_equals_our_engine_on_the_same_weights(tmp_path: Path) -> None:
    model = tiny_model(vocab_size=256)
    checkpoint = Checkpoint(model=model, config=model.config, tokenizer_spec="bytes", context_length=16)
    save_checkpoint(tmp_path / "ours", checkpoint)
    save_checkpoint(tmp_path / "theirs", checkpoint, format="transformers/mamba2")
    ours = NativeEngine(open_model(str(tmp_path / "ours")).model)
    theirs = TransformersEngine(open_model(str(tmp_path / "theirs"), engine="transformers"))
    requests = [Request(prompt, max_new_tokens=12) for prompt in prompts()]
    requests += [Request(prompt, continuation=ids(6, 9)) for prompt in prompts()]
    first = {answer.index: answer for answer in ours.run(requests)}
    second = {answer.index: answer for answer in theirs.run(requests)}
    for index in range(len(requests)):
        assert first[index].tokens.tolist() == second[index].tokens.tolist()
        if first[index].logprobs is not None:
            assert np.allclose(first[index].logprobs, second[index].logprobs, atol=1e-4)


def test_says_how_rows_are_batched(opened: OpenedModel) -> None:
    engine = TransformersEngine(opened)
    facts = engine.facts()
    assert engine.padding.right == (facts["padding"] == "left")
    assert facts["reading"] == opened.reading
    if opened.reading == "one-shot":
        assert "one pass" in facts["padding_why"]
    assert TransformersEngine(opened, batch_size=1).facts()["padding_why"] == "rows are read one at a time"


def test_rows_of_unequal_lengths_stand_together_only_where_padding_is_right(opened: OpenedModel) -> None:
    engine = TransformersEngine(opened, batch_size=8, chunk=100)
    rows = [engine._row(index, Request(prompt)) for index, prompt in enumerate(prompts())]
    sizes = [[len(row.tokens) for row in batch] for batch in engine._batches(rows)]
    if engine.padding.right:
        assert sizes == [[1, 33, 70, 90, 90, 90, 94]]
    else:
        assert sizes == [[1], [33], [70], [90, 90, 90], [94]]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["python", "cuda", "cpu"])
def test_the_batch_halves_when_memory_runs_out(opened: OpenedModel, error: Callable[[], Exception]) -> None:
    requests = [Request(ids(40, seed), max_new_tokens=3) for seed in range(8)]
    expected = {a.index: a.tokens.tolist() for a in TransformersEngine(opened, batch_size=1).run(requests)}
    engine = TransformersEngine(opened, batch_size=8)
    engine.model = cramped = Cramped(opened.model, 3, error)
    assert "halvings" not in engine.facts()
    with pytest.warns(UserWarning, match="memory ran out with up to 8 rows side by side") as warned:
        answers = {answer.index: answer for answer in engine.run(requests)}
    assert len(warned) == 1
    assert {index: answer.tokens.tolist() for index, answer in answers.items()} == expected
    assert engine.batch_size == 2
    assert (engine.facts()["batch_size"], engine.facts()["halvings"]) == (2, 2)
    # 8 do not fit, then the first 4 do not; from then on two at a time, in the rest of the run as well.
    assert (cramped.refused, engine.halvings) == (2, 2)
    list(engine.run(requests))
    assert cramped.refused == 2


def test_a_row_that_does_not_fit_alone_is_a_failed_answer(opened: OpenedModel) -> None:
    engine = TransformersEngine(opened, batch_size=2)
    engine.model = Cramped(opened.model, 0, MemoryError)
    answers = list(engine.run([Request(ids(5, 1), 2), Request(ids(5, 2), continuation=ids(2, 3))]))
    assert [answer.finish for answer in answers] == ["error", "error"]
    assert "out of memory" in str(answers[0].error)


def test_other_errors_are_not_taken_for_memory(opened: OpenedModel) -> None:
    engine = TransformersEngine(opened)
    engine.model = Cramped(opened.model, 0, lambda: RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(engine.run([Request(ids(5, 1), 2)]))


def test_ends_of_answers(opened: OpenedModel) -> None:
    prompt = ids(30, 5)
    free = alone(opened, prompt, 8)
    stop = free[4]
    (answer,) = TransformersEngine(opened, stop_tokens=[stop]).run([Request(prompt, 8)])
    assert (answer.finish, answer.tokens.tolist()) == ("stop", free[: free.index(stop)])
    (answer,) = TransformersEngine(opened).run([Request(prompt, 8, until=lambda found: len(found) == 3)])
    assert (answer.finish, answer.tokens.tolist()) == ("stop", free[:3])


def test_the_context_and_the_end_of_text_come_from_the_model(tmp_path: Path) -> None:
    opened = open_model(str(save_byte_model(tmp_path, "llama")), engine="transformers")
    engine = TransformersEngine(opened)
    assert engine.context_limit == 64
    assert engine.facts()["stop_tokens"] == [2]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(np.array([], dtype=np.int64), 1), "an empty prompt"),
        (Request(np.array([256]), 1), r"got ids 256\.\.256; in request 0"),
        (Request(np.array([1]), continuation=np.array([], dtype=np.int64)), "an empty continuation"),
    ],
)
def test_bad_requests(opened: OpenedModel, request_: Request, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(TransformersEngine(opened).run([request_]))
    with pytest.raises(InputError, match="TransformersEngine chunk"):
        TransformersEngine(opened, chunk=0)
