"""Text on disk to training batches and measuring sequences: tokenizers, token store, readers, corpora."""

from lengthwise.data.corpora import prepare_corpus, split_of
from lengthwise.data.documents import Document, read_documents
from lengthwise.data.readers import Batch, Lanes, ShuffledWindows
from lengthwise.data.sequences import sample_sequences
from lengthwise.data.store import StoreWriter, TokenStore
from lengthwise.data.tokenizers import ByteTokenizer, CopyTokenizer, HFTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "Batch",
    "ByteTokenizer",
    "CopyTokenizer",
    "Document",
    "HFTokenizer",
    "Lanes",
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
