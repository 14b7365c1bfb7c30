"""`lengthwise eval`: what it prints and records, what survives a kill, and what is wrong with its input."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engines.models import save_byte_model
from tests.engines.test_server import completion, stub

import lengthwise.runs as runs
from lengthwise.cli.eval import SETTINGS, Options, effective_lengths
from lengthwise.evaluate.config import EvalConfig
from lengthwise.runs import RunFolder

PASSKEY = ["--tasks", "passkey", "--lengths", 256, 384, "--limit", 5]


def lines(folder: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "samples.jsonl").read_text().splitlines()]


def test_prints_a_table_with_intervals(lengthwise, tiny_model: Path) -> None:
    done = lengthwise("eval", tiny_model, *PASSKEY, "--out", "run")
    assert done.code == 0, done.err
    assert "5 samples of each task at each length; per cent, with 95 % intervals" in done.out
    assert "0.0 (0.0 to 43.4)" in done.out  # Wilson's interval for 0 of 5
    assert "256" in done.out
    assert "384" in done.out
    assert "run folder: run" in done.out
    manifest = RunFolder.open("run").manifest
    assert (manifest["kind"], manifest["status"]) == ("eval", "complete")
    subject = manifest["evaluation"]["subject"]
    assert (subject["engine"], subject["backend"]) == (
        "native",
        "native" if subject["backend"] == "native" else "torch",
    )
    assert subject["parameters"] > 0
    assert len(manifest["data_hashes"]["weights"]) == 64
    assert manifest["evaluation"]["tokenizer"]["name"] == "bytes"
    assert manifest["evaluation"]["tasks"]["passkey"]["version"] >= 1


def test_json_is_the_summary(lengthwise, tiny_model: Path) -> None:
    found = lengthwise("eval", tiny_model, *PASSKEY, "--json").json
    assert found.pop("run") == "runs/eval-tiny"
    assert found == json.loads(Path("runs/eval-tiny/summary.json").read_text())


def test_repeats_a_run_from_its_folder(lengthwise, tiny_model: Path) -> None:
    lengthwise("eval", tiny_model, *PASSKEY, "--out", "first")
    assert lengthwise("eval", "--config", "first", "--out", "again").code == 0
    assert Path("first/samples.jsonl").read_bytes() == Path("again/samples.jsonl").read_bytes()
    assert lengthwise("eval", "--config", "first", "--seed", 7, "--out", "other").code == 0
    assert Path("first/samples.jsonl").read_bytes() != Path("other/samples.jsonl").read_bytes()


def test_dry_run_says_what_would_be_asked(lengthwise, tiny_model: Path) -> None:
    plan = lengthwise("eval", tiny_model, "--tasks", "niah", "--lengths", "1k", "2k", "--dry-run", "--json").json
    assert len(plan["tasks"]["at 2,048"]) == 8
    assert plan["samples"] == 100 * sum(len(tasks) for tasks in plan["tasks"].values())
    assert plan["tokens_at_most"] == 100 * sum(
        int(at.removeprefix("at ").replace(",", "")) * len(tasks) for at, tasks in plan["tasks"].items()
    )
    assert plan["left_out"] == ["niah_multiquery at 1,024 (needs 1,074)"]
    assert plan["memory_bytes"]["all"] > plan["memory_bytes"]["weights"] > 0
    assert not Path("runs").exists()
    assert "left out" in lengthwise("eval", tiny_model, "--tasks", "niah", "--lengths", "1k", "--dry-run").out


def test_lists_tasks(lengthwise) -> None:
    known = lengthwise("eval", "--list-tasks", "--json").json
    assert known["groups"]["ruler"]["tasks"] == 13
    assert "hops" in known["tasks"]["vt"]["parameters"]
    assert "babilong_qa20" in lengthwise("eval", "--list-tasks").out


def test_every_setting_is_an_option() -> None:
    fields = set(EvalConfig.__dataclass_fields__)
    assert set(SETTINGS) == fields - {"reuse_prefixes"}
    rest = {"config", "out", "resume", "dry_run", "json", "list_tasks", "no_prefix_reuse"}
    assert set(Options.__dataclass_fields__) - set(SETTINGS) == rest


def test_prefix_reuse_can_be_switched_off(lengthwise, tiny_model: Path) -> None:
    words = ["eval", tiny_model, "--tasks", "niah_single_2", "--lengths", "1k", "--limit", 6]
    assert lengthwise(*words, "--out", "with").code == 0
    assert lengthwise(*words, "--out", "without", "--no-prefix-reuse").code == 0
    assert RunFolder.open("without").manifest["config"]["reuse_prefixes"] is False
    assert [line["output"] for line in lines("with")] == [line["output"] for line in lines("without")]


def test_tasks_of_a_group_that_need_more_are_left_out_aloud(lengthwise, tiny_model: Path) -> None:
    done = lengthwise("eval", tiny_model, "--tasks", "niah", "--lengths", "1k", "--limit", 2, "--out", "run")
    assert done.code == 0, done.err
    assert "! left out: niah_multiquery at 1,024; it needs at least 1,074 tokens." in done.out
    left_out = [{"task": "niah_multiquery", "length": 1024, "least": 1074}]
    assert RunFolder.open("run").manifest["evaluation"]["left_out"] == left_out
    assert json.loads(Path("run/summary.json").read_text())["left_out"] == left_out
    assert len(lines("run")) == 14


@pytest.mark.parametrize("tasks", [["niah_multiquery"], ["niah", "niah_multiquery"]])
def test_a_task_named_by_itself_is_never_left_out(lengthwise, tiny_model: Path, tasks: list[str]) -> None:
    done = lengthwise("eval", tiny_model, "--tasks", *tasks, "--lengths", "1k", "2k")
    assert done.code == 2
    assert done.part("expected") == "lengths of at least 1,074 tokens for niah_multiquery with the tokenizer bytes"
    assert done.part("got") == "1,024"


def test_a_group_of_which_nothing_is_left(lengthwise, tiny_model: Path) -> None:
    done = lengthwise("eval", tiny_model, "--tasks", "niah", "--lengths", 200)
    assert done.code == 2
    assert done.part("expected").startswith("lengths of at least 6")
    assert not Path("runs").exists()


def test_effective_lengths_in_words() -> None:
    summary: dict[str, Any] = {
        "ruler_mean": {"1024": {}},
        "lengths": [1024, 2048],
        "mean_tasks": ["vt"],
        "effective_length": {
            "ruler_threshold": 0.856,
            "by_ruler_threshold": 1024,
            "own_share": 0.85,
            "by_own_share": 2048,
        },
    }
    assert effective_lengths(summary) == [
        "Effective length: 1,024 tokens, the longest up to which it scores 85.6 % over RULER's 13 tasks.",
        "It keeps 85 % of its own mean at 1,024 tokens up to 2,048 tokens.",
    ]
    summary["effective_length"] |= {"by_ruler_threshold": None, "by_own_share": None}
    assert effective_lengths(summary) == [
        "Effective length: none; it does not reach 85.6 % over RULER's 13 tasks at 1,024 tokens.",
        "Its mean at 1,024 tokens is 0, so there is nothing to keep at longer ones.",
    ]


# --- interrupted and shared runs -------------------------------------------------------------------------------------


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "lengthwise.cli.main", *map(str, words)]


def plain_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_killed_run_goes_on_and_ends_with_the_same_file(lengthwise, tiny_model: Path, tmp_path: Path) -> None:
    words = ["eval", tiny_model, "--tasks", "passkey", "--lengths", 256, 384, "--limit", 70]
    assert lengthwise(*words, "--out", "whole").code == 0
    process = subprocess.Popen(
        command(*words, "--out", "cut"), env=plain_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    file = Path("cut/samples.jsonl")
    deadline = time.monotonic() + 300
    while not file.exists() or file.read_bytes().count(b"\n") < 75:  # in the middle of the second block
        assert process.poll() is None, "it was too quick to be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    answered = len(lines("cut")) if file.read_bytes().endswith(b"\n") else len(file.read_bytes().splitlines()) - 1
    assert 75 <= answered < 140
    assert RunFolder.open("cut").manifest["status"] == "running"
    refused = lengthwise(*words, "--out", "cut")
    assert refused.code == 2
    assert "--resume" in refused.part("try")
    assert lengthwise(*words, "--out", "cut", "--resume").code == 0
    assert file.read_bytes() == Path("whole/samples.jsonl").read_bytes()
    assert Path("cut/summary.json").read_bytes() == Path("whole/summary.json").read_bytes()


@pytest.mark.slow
def test_torchrun_makes_the_file_of_one_process(lengthwise, tiny_model: Path) -> None:
    words = ["eval", tiny_model, "--tasks", "passkey", "--lengths", 256, 384, "--limit", 70]
    assert lengthwise(*words, "--out", "one").code == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29537"]
    done = subprocess.run(
        [*launcher, "-m", "lengthwise", *map(str, words), "--out", "two"],
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("run folder: two") == 1, "the first process alone prints"
    assert Path("two/samples.jsonl").read_bytes() == Path("one/samples.jsonl").read_bytes()
    assert Path("two/summary.json").read_bytes() == Path("one/summary.json").read_bytes()
    assert not list(Path("two").glob("samples.rank-*"))


# --- other engines ---------------------------------------------------------------------------------------------------


def test_a_model_of_transformers(lengthwise, tmp_path: Path) -> None:
    folder = save_byte_model(tmp_path / "llama", "llama")
    done = lengthwise("eval", folder, "--engine", "transformers", "--tokenizer", "bytes", *PASSKEY)
    assert done.code == 2, "its positions end at 64"
    assert done.part("expected") == f"lengths of at most 64 tokens, the context of {folder}"
    assert "--context-length" in done.part("try")
    done = lengthwise(
        "eval", folder, "--engine", "transformers", "--tokenizer", "bytes", *PASSKEY, "--context-length", 512,
        "--out", "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    subject = RunFolder.open("run").manifest["evaluation"]["subject"]
    assert (subject["engine"], subject["class"], subject["padding"]) == ("transformers", "LlamaForCausalLM", "left")
    assert subject["backend"] == "transformers"


def server_words(url: str, *more: object) -> list[object]:
    return ["eval", "tiny", "--engine", "server", "--server-url", url, "--tokenizer", "bytes", *PASSKEY, *more]


def test_a_server(lengthwise) -> None:
    def reply(path: str, body: dict[str, Any]) -> Any:
        return completion(" 12345", prompt_tokens=len(body["prompt"]))

    with stub(reply) as (url, times):
        done = lengthwise(*server_words(url, "--context-length", 512, "--out", "run"))
    assert done.code == 0, done.err
    assert len(times) == 10
    assert {line["output"] for line in lines("run")} == {" 12345"}
    assert RunFolder.open("run").manifest["evaluation"]["subject"]["url"] == url


def test_a_server_that_cuts_and_fails(lengthwise) -> None:
    replies = iter(range(100))

    def reply(path: str, body: dict[str, Any]) -> Any:
        if next(replies) % 2:
            return 400, {"error": {"message": "no"}}
        return completion(" 12345", prompt_tokens=20)

    with stub(reply) as (url, _):
        done = lengthwise(*server_words(url, "--context-length", 512, "--out", "run"))
    assert done.code == 0, done.err
    assert "! 10 of 10 samples failed and count as 0" in done.out
    errors = {line["error"] for line in lines("run")}
    assert "status 400: no" in errors
    assert any("read 20 tokens of a prompt of" in error for error in errors)


def test_a_server_that_is_down(lengthwise) -> None:
    done = lengthwise(*server_words("http://127.0.0.1:9/v1", "--context-length", 512))
    assert done.code == 2
    assert done.part("expected") == "a server"
    assert "--server-url" in done.part("try")


def test_a_server_whose_context_nobody_knows_and_that_is_too_short(lengthwise) -> None:
    with stub(lambda path, body: completion("x")) as (url, times):
        done = lengthwise(*server_words(url))
        assert done.code == 2
        assert done.part("try") == "give --context-length"
        done = lengthwise(*server_words(url, "--context-length", 300))
        assert done.code == 2
        assert done.part("got") == "384"
        assert not times, "nothing was asked"


def test_a_server_that_goes_away_leaves_a_run_to_resume(lengthwise) -> None:
    words: list[object] = []
    with stub(lambda path, body: completion("x")) as (url, _):
        words = server_words(url, "--context-length", 512, "--server-retries", 0, "--server-timeout", 0.2)

        def slow(path: str, body: dict[str, Any]) -> Any:
            time.sleep(0.6)
            return completion("x")

    with stub(slow) as (url, _):
        words[words.index("--server-url") + 1] = url
        done = lengthwise(*words)
    assert done.code == 1
    assert "found none" in done.part("got")
    assert "--resume" in done.part("try")
    assert RunFolder.open("runs/eval-tiny").manifest["status"] == "failed"
    assert not Path("runs/eval-tiny/samples.jsonl").exists(), "what was not answered is no failure of the model"


def test_a_server_needs_a_tokenizer_to_count_with(lengthwise) -> None:
    with stub(lambda path, body: completion("x")) as (url, _):
        words = server_words(url, "--context-length", 512)
        del words[words.index("--tokenizer") : words.index("--tokenizer") + 2]
        done = lengthwise(*words)
    assert done.code == 2
    assert done.part("in") == "--tokenizer"


# --- wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part", "text"),
    [
        (["--tasks", "niah_sigle_1"], "try", "did you mean 'niah_single_1'"),
        (["--tasks", "niah_grid:dept=50"], "try", "did you mean 'depth'"),
        (["--tasks", "niah_grid:depth=500"], "expected", "a depth between 0"),
        (["--lengths", "4q"], "got", "'4q' is not a size"),
        (["--lengths", "1k", "1024"], "expected", "each length once"),
        (["--lengths", "0"], "expected", "at least one length, each at least 1"),
        (["--limit", "0"], "in", "EvalConfig.num_samples"),
        (["--scorer", "strict_match_al@1", "--tasks", "vt"], "try", "did you mean 'strict_match_all@1'"),
        (["--engine", "nativ"], "try", "did you mean 'native'"),
        (["--limt", "3"], "try", "did you mean '--limit'"),
        (["--server-url", "http://x/v1"], "try", "--engine server"),
        (["--ruler-source", "x"], "try", "--wording official"),
        (["--tasks", "vt", "--wording", "official", "--ruler-source", "nowhere"], "try", "lengthwise data get ruler"),
        (["--tokenizer", "./none.json", "--tasks", "vt"], "expected", "a tokenizer"),
    ],
)
def test_wrong_options(lengthwise, tiny_model: Path, words: list[str], part: str, text: str) -> None:
    done = lengthwise("eval", tiny_model, *words)
    assert done.code == 2
    assert text in done.part(part)
    assert not Path("runs").exists()


def test_no_model(lengthwise) -> None:
    assert lengthwise("eval").part("expected") == "a model to evaluate"
    assert lengthwise("eval", "./models/none", "--tasks", "vt").code == 2


def test_a_missing_benchmark_file(lengthwise, tiny_model: Path, tmp_path: Path) -> None:
    done = lengthwise("eval", tiny_model, "--tasks", "ruler", "--data-dir", tmp_path)
    assert done.code == 2
    assert "dev-v2.0.json, which qa_1 reads" in done.part("in")
    assert "lengthwise data get squad" in done.part("try")


def make_tokenizer(path: Path, *, lower: bool = False, special: str | None = None, extra: int = 0) -> Path:
    """A byte-level tokenizer with one id a byte, and what is wrong with it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(letters)}
    vocab |= {f"extra{index}": 256 + index for index in range(extra)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    if special is not None:
        tokenizer.add_special_tokens([AddedToken(special, special=True)])
    tokenizer.save(str(path))
    return path


def test_a_tokenizer_that_does_not_fit_the_vocabulary(lengthwise, tiny_model: Path) -> None:
    file = make_tokenizer(Path("big.json"), extra=4)
    done = lengthwise("eval", tiny_model, "--tasks", "vt", "--lengths", "2k", "--tokenizer", file)
    assert done.code == 2
    assert done.part("expected") == "a tokenizer with at most 256 tokens, the model's vocabulary"
    assert "260" in done.part("got")


@pytest.mark.parametrize("task", ["vt", "niah_single_2", "passkey"])
def test_a_tokenizer_that_does_not_round_trip(lengthwise, tiny_model: Path, task: str) -> None:
    file = make_tokenizer(Path("lower.json"), lower=True)
    done = lengthwise("eval", tiny_model, "--tasks", task, "--lengths", "2k", "--tokenizer", file, "--limit", 1)
    assert done.code == 2
    assert "gives" in done.part("expected") or "round trip" in done.part("expected"), done.err


def test_special_tokens_inside_a_haystack(lengthwise, tmp_path: Path) -> None:
    from lengthwise import Checkpoint, LanguageModel, Mamba2Config, ModelConfig, save_checkpoint

    mixer = Mamba2Config(d_state=8, headdim=16, chunk_size=16)
    config = ModelConfig(d_model=32, num_layers=1, vocab_size=257, mixer=mixer)
    save_checkpoint(tmp_path / "m", Checkpoint(model=LanguageModel(config, seed=1), config=config, context_length=32))
    file = make_tokenizer(tmp_path / "special.json", special="<|endoftext|>")
    hay = tmp_path / "hay.txt"
    hay.write_text("A sentence of some length stands here. " * 90 + "Then <|endoftext|> comes. " + "And more. " * 50)
    done = lengthwise(
        "eval", tmp_path / "m", "--tokenizer", file, "--lengths", "1k", "--limit", 1,
        "--tasks", f"niah_grid:haystack_file={hay}",
    )  # fmt: skip
    assert done.code == 2
    assert done.part("expected") == "text without special tokens"
    assert "<|endoftext|>" in done.part("got")
    assert done.part("in") == str(hay)


def test_a_folder_of_other_parameters_or_weights(lengthwise, tiny_model: Path, tmp_path: Path) -> None:
    from lengthwise import load_checkpoint, save_checkpoint

    model = tmp_path / "m"
    checkpoint = load_checkpoint(str(tiny_model))
    save_checkpoint(model, checkpoint)
    assert lengthwise("eval", model, *PASSKEY, "--out", "run").code == 0
    done = lengthwise("eval", model, *PASSKEY, "--out", "run", "--seed", 3, "--resume")
    assert done.code == 2
    assert "seed (0 there, 3 here)" in done.part("got")
    with torch.no_grad():
        next(checkpoint.model.parameters()).add_(1.0)
    save_checkpoint(model, checkpoint)
    done = lengthwise("eval", model, *PASSKEY, "--out", "run", "--resume")
    assert done.code == 2
    assert done.part("got") == "other weights of the same name"


def test_a_full_disk(lengthwise, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = iter(range(1000))
    whole = RunFolder._append

    def append(self: RunFolder, name: str, record: dict[str, Any]) -> None:
        if next(written) == 4:
            raise runs.write_failure(OSError(errno.ENOSPC, "No space left on device"), self.path / name, 100)
        whole(self, name, record)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_append", append)
        done = lengthwise("eval", tiny_model, *PASSKEY, "--out", "run")
    assert done.code == 1
    assert "no space left on the device" in done.part("got")
    assert "--resume" in done.part("try")
    assert len(lines("run")) == 4
    assert RunFolder.open("run").manifest["status"] == "failed"
    assert lengthwise("eval", tiny_model, *PASSKEY, "--out", "run", "--resume").code == 0
    assert lengthwise("eval", tiny_model, *PASSKEY, "--out", "whole").code == 0
    assert Path("run/samples.jsonl").read_bytes() == Path("whole/samples.jsonl").read_bytes()
