"""Documents to token ids on all cores, in the order they came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from lengthwise.data.documents import Document
from lengthwise.data.tokenizers import Tokenizer

_BATCH_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Encoded:
    """One document as ids."""

    name: str
    ids: NDArray[Any]
    num_bytes: int
    """UTF-8 bytes of the text."""
    exact: bool
    """Decoding the ids gives the text back."""


def encode_documents(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Encode documents in batches of a few million characters; order is kept, memory is bounded by two batches.

    The tokenizer spreads one batch over the cores (its threads run outside the interpreter lock), while this thread
    reads and decompresses the next.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        running: Future[list[Encoded]] | None = None
        for batch in _batches(documents):
            following = pool.submit(_encode, batch, tokenizer)
            if running is not None:
                yield from running.result()
            running = following
        if running is not None:
            yield from running.result()


def _encode(batch: list[Document], tokenizer: Tokenizer) -> list[Encoded]:
    ids = tokenizer.encode_batch([document.text for document in batch])
    texts = tokenizer.decode_batch(ids)
    return [
        Encoded(document.name, row, len(document.text.encode("utf-8")), text == document.text)
        for document, row, text in zip(batch, ids, texts, strict=True)
    ]


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
