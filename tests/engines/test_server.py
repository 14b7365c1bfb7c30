"""The server engine: against a real server process, and against servers that misbehave in known ways."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lengthwise.engines.base import Answer, Engine, Request
from lengthwise.engines.server import ServerEngine, ServerSettings
from lengthwise.errors import InputError, RunFailure

pytest.importorskip("openai", reason="the package openai is not installed")


def settings(url: str, **changes: Any) -> ServerSettings:
    return ServerSettings(**{"url": url, "model": "tiny", "context_length": 1000, "max_retries": 0, **changes})


def request(text: str, budget: int = 4, continuation: str | None = None) -> Request:
    ids = np.frombuffer(text.encode(), dtype=np.uint8)
    more = None if continuation is None else np.frombuffer(continuation.encode(), dtype=np.uint8)
    return Request(ids, budget, more, text, continuation)


# --- a real server ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address of `transformers serve` and the folder of the tiny Llama it serves."""
    pytest.importorskip("fastapi", reason="the parts of transformers that serve are not installed")
    pytest.importorskip("uvicorn", reason="the parts of transformers that serve are not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny-llama")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("hub"))}
    log = (tmp_path_factory.mktemp("log") / "server.txt").open("w")
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, Path(log.name).read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        yield f"{url}/v1", str(folder)
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


def test_a_real_server_answers_as_the_model_does(real_server: tuple[str, str]) -> None:
    import torch
    import transformers

    url, folder = real_server
    requests = [request(text, 6) for text in ("Once upon a time", "abc", "to be or not " * 10)]
    with closing(ServerEngine(settings(url, model=folder, context_length=512, max_retries=2))) as engine:
        assert isinstance(engine, Engine)
        assert engine.context_limit == 512
        answers = {answer.index: answer for answer in engine.run(requests)}
    model = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for index, one in enumerate(requests):
        ids = torch.tensor([tokenizer(one.text)["input_ids"]])
        with torch.no_grad():
            made = model.generate(ids, max_new_tokens=6, do_sample=False)
        answer = answers[index]
        assert answer.error is None
        assert answer.text == tokenizer.decode(made[0, ids.shape[1] :])
        assert answer.num_prompt_tokens == ids.shape[1] == len(one.prompt)
        assert answer.finish == "length"


def test_a_real_server_without_log_probabilities_is_named(real_server: tuple[str, str]) -> None:
    url, folder = real_server
    with closing(ServerEngine(settings(url, model=folder, context_length=512, max_retries=2))) as engine:
        (answer,) = engine.run([request("Once", 0, " upon")])
    assert answer.finish == "error"
    assert answer.error


# --- servers that misbehave ------------------------------------------------------------------------------------------

Reply = tuple[int, Any]


@contextmanager
def stub(reply: Callable[[str, dict[str, Any]], Reply], models: Any = None) -> Iterator[tuple[str, list[float]]]:
    """A server whose answers are a function of path and body; yields its address and the times of its requests."""
    times: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def _send(self, status: int, body: Any) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            listed = models if models is not None else [{"id": "tiny", "object": "model"}]
            self._send(200, {"object": "list", "data": listed})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            times.append(time.monotonic())
            with suppress(BrokenPipeError):  # where the client has given up, as it was meant to
                self._send(*reply(self.path, body))

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", times
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def completion(text: str, *, prompt_tokens: int | None = None, finish: str = "length", **choice: Any) -> Reply:
    usage = (
        None if prompt_tokens is None else {"prompt_tokens": prompt_tokens, "completion_tokens": 1, "total_tokens": 1}
    )
    body = {"text": text, "index": 0, "finish_reason": finish, "logprobs": None, **choice}
    return 200, {
        "id": "x",
        "object": "text_completion",
        "created": 0,
        "model": "tiny",
        "choices": [body],
        "usage": usage,
    }


def answers_of(url: str, requests: list[Request], **changes: Any) -> dict[int, Answer]:
    with closing(ServerEngine(settings(url, **changes))) as engine:
        found = {answer.index: answer for answer in engine.run(requests)}
    assert sorted(found) == list(range(len(requests)))
    return found


def test_what_is_sent() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    def reply(path: str, body: dict[str, Any]) -> Reply:
        seen.append((path, body))
        if "chat" in path:
            message = {"role": "assistant", "content": "hello"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            return 200, {"id": "x", "object": "chat.completion", "created": 0, "model": "tiny", "choices": [choice]}
        return completion("42", prompt_tokens=4)

    with stub(reply) as (url, _):
        plain = answers_of(url, [request("abcd", 7)])
        chat = answers_of(url, [request("abcd", 7)], api="chat")
    assert (plain[0].text, plain[0].finish, plain[0].num_prompt_tokens) == ("42", "length", 4)
    assert (chat[0].text, chat[0].finish) == ("hello", "stop")
    (first_path, first), (second_path, second) = seen
    assert first_path == "/v1/completions"
    assert (first["prompt"], first["max_tokens"], first["temperature"]) == ("abcd", 7, 0.0)
    assert second_path == "/v1/chat/completions"
    assert second["messages"] == [{"role": "user", "content": "abcd"}]


def test_errors_inside_the_server_are_tried_again_a_limited_number_of_times() -> None:
    failing = iter([500, 503])

    def reply(path: str, body: dict[str, Any]) -> Reply:
        status = next(failing, 200)
        return (status, {"error": {"message": "busy"}}) if status != 200 else completion("ok")

    with stub(reply) as (url, times):
        assert answers_of(url, [request("a")], max_retries=2)[0].text == "ok"
        assert len(times) == 3
    with stub(lambda path, body: (500, {"error": {"message": "broken"}})) as (url, times):
        answer = answers_of(url, [request("a")], max_retries=1)[0]
        assert len(times) == 2
    assert (answer.finish, answer.error) == ("error", "status 500: broken")


def test_one_bad_request_spoils_no_other() -> None:
    def reply(path: str, body: dict[str, Any]) -> Reply:
        return (400, {"error": {"message": "no such thing"}}) if body["prompt"] == "bad" else completion("fine")

    with stub(reply) as (url, times):
        found = answers_of(url, [request("good"), request("bad"), request("also good")])
        assert len(times) == 3, "what cannot pass is not tried again"
    assert [found[index].text for index in (0, 2)] == ["fine", "fine"]
    assert found[1].error == "status 400: no such thing"


def test_a_prompt_that_was_cut_is_a_failure() -> None:
    with stub(lambda path, body: completion("x", prompt_tokens=50)) as (url, _):
        answer = answers_of(url, [request("a" * 200)])[0]
    assert answer.finish == "error"
    assert "read 50 tokens of a prompt of 200" in (answer.error or "")


@pytest.mark.parametrize("body", [b"<html>", {"choices": []}, {"choices": [{"text": None}]}, {}, []], ids=str)
def test_answers_that_make_no_sense(body: Any) -> None:
    with stub(lambda path, _: (200, body)) as (url, _):
        answer = answers_of(url, [request("a")])[0]
    assert answer.finish == "error"
    assert answer.error


def test_a_slow_server_times_out() -> None:
    def reply(path: str, body: dict[str, Any]) -> Reply:
        if body["prompt"] == "slow":
            time.sleep(1.0)
        return completion("quick")

    with stub(reply) as (url, _):
        found = answers_of(url, [request("slow"), request("quick")], timeout=0.3, concurrency=1)
    assert found[0].finish == "error"
    assert "no answer" in (found[0].error or "")
    assert found[1].text == "quick"


def test_a_server_that_goes_away_stops_the_run_and_records_no_failure() -> None:
    with stub(lambda path, body: completion("ok")) as (url, _):
        engine = ServerEngine(settings(url, concurrency=2))
    with closing(engine):
        with pytest.raises(RunFailure, match=r"the last 8 requests found none.*--resume"):
            list(engine.run([request("a")] * 20))
        with pytest.raises(RunFailure, match="the last 3 requests found none"):
            list(engine.run([request("a")] * 3))


def test_several_requests_are_under_way_at_once() -> None:
    gate = threading.Barrier(4, timeout=10)

    def reply(path: str, body: dict[str, Any]) -> Reply:
        gate.wait()  # passes only when four requests are here together
        return completion("ok")

    with stub(reply) as (url, _):
        assert len(answers_of(url, [request("a")] * 8, concurrency=4, timeout=20.0)) == 8


def test_likelihood_of_a_continuation() -> None:
    def reply(path: str, body: dict[str, Any]) -> Reply:
        assert (body["prompt"], body["echo"], body["max_tokens"]) == ("ab cd", True, 0)
        told = {
            "token_logprobs": [None, -1.0, -2.0, -0.5],
            "text_offset": [0, 1, 2, 3],
            "tokens": ["a", "b", " ", "cd"],
        }
        return completion("ab cd", prompt_tokens=4, logprobs=told)

    with stub(reply) as (url, _):
        answer = answers_of(url, [request("ab", 0, " cd")])[0]
    assert answer.finish == "scored"
    assert answer.logprobs is not None
    assert answer.logprobs.tolist() == [-2.0, -0.5]


def test_servers_without_log_probabilities() -> None:
    with stub(lambda path, body: completion("ab cd")) as (url, _):
        assert "no log-probabilities" in (answers_of(url, [request("ab", 0, " cd")])[0].error or "")
        assert "chat servers give no likelihoods" in (
            answers_of(url, [request("ab", 0, " cd")], api="chat")[0].error or ""
        )


def test_no_server() -> None:
    with pytest.raises(InputError, match=r"expected a server; got no connection.*usually ends in /v1"):
        ServerEngine(settings("http://127.0.0.1:9/v1"))


def test_another_model() -> None:
    def reply(path: str, body: dict[str, Any]) -> Reply:
        return 404, {"error": {"message": "no such model"}}

    with stub(reply) as (url, _):
        with pytest.raises(InputError, match=r"the server knows: tiny; got 'big' \(status 404: no such model\)"):
            ServerEngine(settings(url, model="big"))


def test_a_model_that_is_not_listed_but_answers_is_taken() -> None:
    with stub(lambda path, body: completion("ok"), models="broken") as (url, times):
        assert answers_of(url, [request("a")], model="big")[0].text == "ok"
        assert len(times) == 2, "one request to try it out"


def test_the_context_is_told_by_the_server_or_the_user() -> None:
    with stub(lambda path, body: completion(""), [{"id": "tiny", "object": "model", "max_model_len": 4096}]) as (
        url,
        _,
    ):
        assert ServerEngine(settings(url, context_length=None)).context_limit == 4096
        assert ServerEngine(settings(url, context_length=100)).context_limit == 100
    with stub(lambda path, body: completion("")) as (url, _):
        with pytest.raises(InputError, match="give --context-length"):
            ServerEngine(settings(url, context_length=None))


def test_the_key_stays_out_of_the_records() -> None:
    with stub(lambda path, body: completion("")) as (url, _):
        with closing(ServerEngine(settings(url, api_key="secret"))) as engine:
            facts = engine.facts()
    assert "secret" not in json.dumps(facts)
    assert facts["model"] == "tiny"
