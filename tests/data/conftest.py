"""Small tokenizers and stores that the data tests share."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lengthwise.data import ByteTokenizer, TokenStore


class WideTokenizer(ByteTokenizer):
    """A vocabulary wide enough to give every token of a test store an id of its own."""

    name = "wide"
    vocab_size = 100_000
    fingerprint = "0" * 64

    def token_bytes(self) -> np.ndarray:
        return np.ones(self.vocab_size, dtype=np.int64)


@pytest.fixture
def counting_store(tmp_path: Path) -> Callable[[list[int]], TokenStore]:
    """Makes a store of documents of the given lengths in which the id of a token is its place in the store."""

    def make(lengths: list[int]) -> TokenStore:
        ends = np.cumsum([0, *lengths])
        documents = [(f"d{i}", np.arange(ends[i], ends[i + 1], dtype=np.int64)) for i in range(len(lengths))]
        return TokenStore.write(tmp_path / f"store-{len(list(tmp_path.iterdir()))}", documents, WideTokenizer())

    return make


@pytest.fixture(scope="session")
def bpe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small byte-level BPE with a special token, truncation and padding switched on in the file."""
    from tokenizers import ByteLevelBPETokenizer

    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(
        ["def read(self, size):\n    return self.buffer[:size]\n", "the cat sat on the mat and the dog sat on the log"]
        * 3,
        vocab_size=320,
        min_frequency=2,
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    backend.enable_truncation(max_length=4)
    backend.enable_padding(length=16)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(backend.to_str(), encoding="utf-8")
    assert json.loads(path.read_text())["truncation"] is not None
    return path
