"""Text on disk to training batches and measuring sequences: tokenizers, token store, readers, corpora.

The readers need torch and are imported when they are first used: tokenizing, downloading and making task samples do
without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lengthwise.data.corpora import prepare_corpus, split_of
from lengthwise.data.documents import Document, read_documents
from lengthwise.data.rwkv_world import RWKVWorldTokenizer
from lengthwise.data.sequences import sample_sequences
from lengthwise.data.store import StoreWriter, TokenStore
from lengthwise.data.tokenizers import (
    ByteTokenizer,
    CopyTokenizer,
    HFTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
)

if TYPE_CHECKING:
    from lengthwise.data.readers import Batch, Lanes, ShuffledWindows

_READERS = ("Batch", "Lanes", "ShuffledWindows")

__all__ = [
    "Batch",
    "ByteTokenizer",
    "CopyTokenizer",
    "Document",
    "HFTokenizer",
    "Lanes",
    "RWKVWorldTokenizer",
    "SentencePieceTokenizer",
    "ShuffledWindows",
    "StoreWriter",
    "TokenStore",
    "Tokenizer",
    "load_tokenizer",
    "prepare_corpus",
    "read_documents",
    "sample_sequences",
    "split_of",
]


def __getattr__(name: str) -> Any:
    if name not in _READERS:
        raise AttributeError(f"module 'lengthwise.data' has no attribute '{name}'")
    return getattr(import_module("lengthwise.data.readers"), name)
