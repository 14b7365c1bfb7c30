"""Batches of documents keep order and sizes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lengthwise.data import ByteTokenizer, Document, HFTokenizer, encoding
from lengthwise.data.encoding import encode_documents
from lengthwise.errors import InputError

DOCUMENTS = [Document(f"d{i}", "the cat sat " * (i % 7) + str(i)) for i in range(50)]


@pytest.mark.parametrize("batch_characters", [1, 100, 10**9])
def test_order_and_contents_do_not_depend_on_batches(
    bpe_file: Path, monkeypatch: pytest.MonkeyPatch, batch_characters: int
) -> None:
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", batch_characters)
    tokenizer = HFTokenizer(bpe_file)
    encoded = list(encode_documents(DOCUMENTS, tokenizer))
    assert [e.name for e in encoded] == [d.name for d in DOCUMENTS]
    assert [e.ids.tolist() for e in encoded] == [tokenizer.encode(d.text).tolist() for d in DOCUMENTS]
    assert [e.num_bytes for e in encoded] == [len(d.text) for d in DOCUMENTS]
    assert all(e.exact for e in encoded)


def test_reading_runs_at_most_two_batches_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", 1)
    read: list[str] = []

    def documents() -> Iterator[Document]:
        for document in DOCUMENTS:
            read.append(document.name)
            yield document

    for done, _ in enumerate(encode_documents(documents(), ByteTokenizer()), start=1):
        assert len(read) <= done + 1


def test_errors_while_reading_come_through() -> None:
    def documents() -> Iterator[Document]:
        yield DOCUMENTS[0]
        raise InputError(expected="text", got="none", where="a file", fix="write some")

    with pytest.raises(InputError, match="expected text; got none"):
        list(encode_documents(documents(), ByteTokenizer()))
