"""What a config stands for: sources of tasks, ends of answers, weights by their bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.test_eval import make_tokenizer

from lengthwise.data.tokenizers import ByteTokenizer, load_tokenizer
from lengthwise.evaluate.config import EvalConfig
from lengthwise.evaluate.subject import stop_tokens, task_options, weights_hash


def options(**settings: Any) -> Any:
    return task_options(EvalConfig(model="m", **settings))


def test_our_wording_needs_no_sources(tmp_path: Path) -> None:
    found = options(data_dir=str(tmp_path), books=("a.txt",))
    assert (found.ruler_source, found.babilong_source, found.books) == (None, None, (Path("a.txt"),))


@pytest.mark.parametrize(
    ("task", "ruler", "babilong"),
    [("ruler", True, False), ("vt:hops=2", True, False), ("babilong", False, True), ("passkey", False, False)],
)
def test_the_official_wording_is_what_was_fetched(tmp_path: Path, task: str, ruler: bool, babilong: bool) -> None:
    found = options(wording="official", tasks=(task,), data_dir=str(tmp_path))
    assert found.ruler_source == (tmp_path / "ruler" if ruler else None)
    assert found.babilong_source == (tmp_path / "babilong" if babilong else None)


def test_a_named_source_wins(tmp_path: Path) -> None:
    found = options(wording="official", tasks=("vt",), ruler_source="here", model_template="RWKV")
    assert (found.ruler_source, found.model_template) == (Path("here"), "RWKV")


def test_special_tokens_that_end_a_text_end_an_answer(tmp_path: Path) -> None:
    assert stop_tokens(ByteTokenizer()) == []
    assert stop_tokens(load_tokenizer(make_tokenizer(tmp_path / "a.json", special="<|endoftext|>"))) == [256]
    assert stop_tokens(load_tokenizer(make_tokenizer(tmp_path / "b.json", special="<mask>"))) == []


def test_the_hash_of_weights_is_of_every_bit() -> None:
    first = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.bfloat16)}
    kept = weights_hash(first.items())
    assert weights_hash(first.items()) == kept
    for change in (
        {"a": torch.arange(6.0).view(3, 2)},
        {"b": torch.full((1,), 1.0078125, dtype=torch.bfloat16)},
        {"b": torch.ones(1, dtype=torch.float16)},
    ):
        assert weights_hash({**first, **change}.items()) != kept
