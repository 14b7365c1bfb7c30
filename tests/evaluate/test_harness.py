"""Our models in lm-evaluation-harness: its own tasks, read from local files, against direct computation."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.measure.models import tiny_model

from lengthwise.checkpoints import Checkpoint, save_checkpoint
from lengthwise.cli.main import main
from lengthwise.data.tokenizers import ByteTokenizer
from lengthwise.engines.native import NativeEngine
from lengthwise.errors import InputError
from lengthwise.evaluate.run import Subject
from lengthwise.models.lm import LanguageModel

pytestmark = pytest.mark.filterwarnings("ignore")  # what the harness and its own dependencies warn of is not ours

CHOICE = """
task: choose
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}} Answer:"
doc_to_choice: ["yes", "no", "perhaps so"]
doc_to_target: label
metric_list: [{metric: acc}]
"""
ROLLING = """
task: read
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{long}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
"""
GENERATE = """
task: answer
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{long}}"
generation_kwargs: {until: ["STOP"], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_model(vocab_size=256).eval()


def lm(model: LanguageModel, **options: Any) -> Any:
    pytest.importorskip("lm_eval", reason="the package lm_eval is not installed")
    from lengthwise.evaluate.harness import LengthwiseLM

    return LengthwiseLM(subject=Subject(NativeEngine(model, batch_size=3, chunk=16), ByteTokenizer(), {}), **options)


def requests(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


def direct(model: LanguageModel, context: bytes, continuation: bytes) -> tuple[float, bool]:
    tokens = torch.tensor([list(context + continuation)])
    with torch.no_grad():
        logprobs = model(tokens[:, :-1]).logits[0, len(context) - 1 :].double().log_softmax(-1)
    wanted = tokens[0, len(context) :]
    return float(logprobs.gather(-1, wanted[:, None]).sum()), bool((logprobs.argmax(-1) == wanted).all())


def test_likelihoods_are_those_of_a_direct_computation(model: LanguageModel) -> None:
    found = lm(model).loglikelihood(requests(("The sky is", " blue"), ("", "alone"), ("x" * 50 + "  ", "y" * 40)))
    # A space at the end of a context belongs to what is scored.
    pairs = [(b"The sky is", b" blue"), (b"\n", b"alone"), (b"x" * 50, b"  " + b"y" * 40)]
    for (value, greedy), pair in zip(found, pairs, strict=True):
        expected = direct(model, *pair)
        assert value == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]


def test_a_document_is_read_in_one_stretch(model: LanguageModel) -> None:
    text = "A text of some length, which goes on. " * 9
    found = lm(model).loglikelihood_rolling(requests((text,), ("short",), ("",)))
    assert found[0] == pytest.approx(direct(model, b"\n", text.encode())[0], abs=1e-3)
    assert found[1] == pytest.approx(direct(model, b"\n", b"short")[0], abs=1e-4)
    assert found[2] == 0.0


def test_models_with_a_limit_are_shown_windows(model: LanguageModel) -> None:
    limited, text = lm(model, context_length=20), "abcdefghij" * 5
    (found,) = limited.loglikelihood_rolling(requests((text,)))
    data = text.encode()
    # Windows of 20: the first after the prefix; the last one with as much context as fits.
    expected = direct(model, b"\n", data[:20])[0] + direct(model, data[19:20], data[20:40])[0]
    expected += direct(model, data[29:40], data[40:])[0]
    assert found == pytest.approx(expected, abs=1e-4)
    with pytest.raises(InputError, match="at most 20 tokens, the context of the model; got 30 and 1 more"):
        limited.loglikelihood(requests(("a" * 30, "bc")))


def test_generation_ends_at_a_stop_text(model: LanguageModel) -> None:
    (free,) = lm(model).generate_until(requests(("Once upon a time", {"max_gen_toks": 20})))
    tokens = list(b"Once upon a time")
    with torch.no_grad():
        for _ in range(20):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1, :256].argmax()))
    assert free == ByteTokenizer().decode(np.array(tokens[16:]))
    stop = free[6:8]
    (cut,) = lm(model).generate_until(requests(("Once upon a time", {"max_gen_toks": 20, "until": [stop]})))
    assert cut == free.split(stop)[0]
    with pytest.raises(InputError, match="greedy generation"):
        lm(model).generate_until(requests(("a", {"do_sample": True})))


def test_unknown_arguments_are_refused(model: LanguageModel) -> None:
    with pytest.raises(InputError, match="got max_lenght"):
        lm(model, max_lenght=2048)


def test_the_harness_runs_local_tasks(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="the package lm_eval is not installed")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    save_checkpoint(
        tmp_path / "model",
        Checkpoint(model=model, config=model.config, tokenizer_spec="bytes", context_length=16),
    )
    docs = [
        {"question": f"Is {number} even?", "label": number % 3, "long": f"Number {number} is what it is. " * 6}
        for number in range(5)
    ]
    data = tmp_path / "docs.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "tasks").mkdir()
    for name, text in (("choose", CHOICE), ("read", ROLLING), ("answer", GENERATE)):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text.replace("FILE", str(data)))
    words = f"run --model lengthwise --model_args pretrained={tmp_path}/model --device cpu --tasks choose,read,answer"
    words += f" --include_path {tmp_path}/tasks --output_path {tmp_path}/out --log_samples"
    code = main(["lm-eval", *words.split()])
    printed = capsys.readouterr()
    assert code == 0, printed.err[-2000:]
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(file.read_text())["results"]
    scores = [
        [direct(model, f"Question: {doc['question']} Answer:".encode(), f" {choice}".encode())[0]
         for choice in ("yes", "no", "perhaps so")]
        for doc in docs
    ]  # fmt: skip
    right = [int(np.argmax(each)) == doc["label"] for each, doc in zip(scores, docs, strict=True)]
    assert results["choose"]["acc,none"] == pytest.approx(np.mean(right))
    total = sum(direct(model, b"\n", doc["long"].encode())[0] for doc in docs)
    size = sum(len(doc["long"].encode()) for doc in docs)
    assert results["read"]["byte_perplexity,none"] == pytest.approx(np.exp(-total / size), rel=1e-5)
    (logged,) = (tmp_path / "out").rglob("samples_choose_*.jsonl")
    for line in logged.read_text().splitlines():
        sample = json.loads(line)
        found = [float(response[0][0]) for response in sample["resps"]]
        assert found == pytest.approx(scores[sample["doc_id"]], abs=1e-4)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.__main__", None)
    assert main(["lm-eval", "run"]) == 2
    error = capsys.readouterr().err
    assert "expected  the package lm_eval" in error
    assert "pip install 'lengthwise[lm-eval]'" in error
    assert main(["lm-eval"]) == 2
    assert main(["lm-eval", "--help"]) == 0
