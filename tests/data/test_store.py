"""What a token store keeps, and that a damaged one is refused."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.spelling import KINDS, write_tokenizer

from lengthwise.data import ByteTokenizer, HFTokenizer, TokenStore
from lengthwise.data.store import new_folder
from lengthwise.errors import InputError, RunFailure

TEXTS = {"a.py": "print('ä')\n", "leer": "", "b/汉.txt": "x" * 1000}


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore.write(tmp_path / "store", TEXTS.items(), ByteTokenizer(), source={"corpus": "test"})


def test_documents_come_back_with_names_and_sizes(store: TokenStore) -> None:
    assert store.num_documents == 3
    assert [store.names(i) for i in range(3)] == list(TEXTS)
    assert [ByteTokenizer().decode(store.document(i)) for i in range(3)] == list(TEXTS.values())
    assert store.lengths.tolist() == [12, 0, 1000]
    assert [store.document_bytes(i) for i in range(3)] == [12, 0, 1000]
    assert (store.num_tokens, store.num_bytes) == (1012, 1012)
    assert store.header["source"] == {"corpus": "test"}
    assert store.header["dtype"] == "uint8"
    store.verify()


def test_tokens_are_mapped_and_read_only(store: TokenStore) -> None:
    assert isinstance(store.tokens.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.document(0)[0] = 1


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_dtype_is_the_smallest_that_holds_the_vocabulary(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    class Sized(ByteTokenizer):
        pass

    Sized.vocab_size = vocab_size
    ids = np.array([0, vocab_size - 1], dtype=np.int64)
    store = TokenStore.write(tmp_path / "s", [("d", ids)], Sized())
    assert store.header["dtype"] == dtype
    assert store.document(0).tolist() == ids.tolist()


def test_bytes_of_ready_ids_are_counted(tmp_path: Path, bpe_file: Path) -> None:
    tokenizer = HFTokenizer(bpe_file)
    ids = tokenizer.encode("the cat sat <|end|> ä")
    from_ids = TokenStore.write(tmp_path / "ids", [("d", ids)], tokenizer)
    from_text = TokenStore.write(tmp_path / "text", [("d", "the cat sat <|end|> ä")], tokenizer)
    assert from_ids.num_bytes == from_text.num_bytes == len("the cat sat <|end|> ä".encode())
    assert from_ids.fingerprint == from_text.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_ready_ids_whose_tokens_do_not_spell_the_text(tmp_path: Path, kind: Any) -> None:
    text = "the cat sat on the mat and the dog sat on the log"
    tokenizer = HFTokenizer(write_tokenizer(tmp_path, kind, [text]))
    from_ids = TokenStore.write(tmp_path / "ids", [("d", tokenizer.encode(text))], tokenizer)
    assert from_ids.num_bytes == len(text) != int(tokenizer.token_bytes()[tokenizer.encode(text)].sum())


def test_fingerprint_follows_contents(tmp_path: Path, store: TokenStore) -> None:
    same = TokenStore.write(tmp_path / "same", TEXTS.items(), ByteTokenizer(), source={"other": "source"})
    renamed = TokenStore.write(tmp_path / "renamed", [("z", t) for t in TEXTS.values()], ByteTokenizer())
    joined = TokenStore.write(tmp_path / "joined", [("a.py", "".join(TEXTS.values()))], ByteTokenizer())
    assert same.fingerprint == store.fingerprint
    assert len({store.fingerprint, renamed.fingerprint, joined.fingerprint}) == 3


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"expected ids 0..255 of the tokenizer 'bytes'; got ids 1..256; in document 'd'"
    ):
        TokenStore.write(tmp_path / "s", [("d", np.array([1, 256]))], ByteTokenizer())
    assert list(tmp_path.iterdir()) == []


def test_another_tokenizer_is_refused(store: TokenStore, bpe_file: Path) -> None:
    with pytest.raises(InputError) as caught:
        TokenStore.open(store.path, HFTokenizer(bpe_file))
    assert caught.value.expected.startswith("tokens of the tokenizer 'tokenizer.json'")
    assert caught.value.got.startswith("tokens of 'bytes'")
    assert caught.value.where == str(store.path)
    assert "lengthwise data tokenize" in caught.value.fix
    assert TokenStore.open(store.path, ByteTokenizer()).num_documents == 3


@pytest.mark.parametrize("name", ["tokens.bin", "documents.bin", "names.bin"])
def test_truncated_files_are_refused(store: TokenStore, name: str) -> None:
    file = store.path / name
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError) as caught:
        TokenStore.open(store.path)
    assert caught.value.expected == f"a whole token store with {size} bytes"
    assert caught.value.got == f"{size - 1} bytes: the store is truncated or corrupt"
    assert caught.value.where == str(file)
    file.unlink()
    with pytest.raises(InputError, match="got no file: the store is truncated or corrupt"):
        TokenStore.open(store.path)


@pytest.mark.parametrize("name", ["documents.bin", "names.bin"])
def test_changed_boundaries_are_refused(store: TokenStore, name: str) -> None:
    content = bytearray((store.path / name).read_bytes())
    content[9] ^= 1
    (store.path / name).write_bytes(content)
    with pytest.raises(InputError, match="boundaries that match the header"):
        TokenStore.open(store.path)


def test_changed_tokens_are_found_by_verify(store: TokenStore) -> None:
    content = bytearray((store.path / "tokens.bin").read_bytes())
    content[500] ^= 1
    (store.path / "tokens.bin").write_bytes(content)
    with pytest.raises(InputError, match="truncated or corrupt"):
        TokenStore.open(store.path).verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "else"}, "the format 'lengthwise-token-store'"),
        ({"format_version": 99}, "expected token store version 1; got version 99"),
        ({"num_tokens": None}, "a header without some of them"),
        ({"num_documents": -1}, "a header without some of them"),
        ({"dtype": "float32"}, "a header without some of them"),
        ({"tokenizer": {"name": "bytes"}}, "a header without some of them"),
    ],
)
def test_a_header_that_does_not_fit(store: TokenStore, change: dict[str, object], message: str) -> None:
    (store.path / "header.json").write_text(json.dumps({**store.header, **change}))
    with pytest.raises(InputError, match=message):
        TokenStore.open(store.path)


def test_a_header_that_is_no_json(store: TokenStore) -> None:
    (store.path / "header.json").write_text("{")
    with pytest.raises(InputError, match="something that does not read"):
        TokenStore.open(store.path)


def test_no_store_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got a folder without one"):
        TokenStore.open(tmp_path)
    with pytest.raises(InputError, match="got nothing at that path"):
        TokenStore.open(tmp_path / "nowhere")


def test_index_out_of_range(store: TokenStore) -> None:
    with pytest.raises(InputError, match=r"expected a document index 0..2; got -1"):
        store.document(-1)


def test_a_store_without_documents_opens(tmp_path: Path) -> None:
    store = TokenStore.write(tmp_path / "s", [], ByteTokenizer())
    assert (store.num_documents, store.num_tokens, store.lengths.tolist()) == (0, 0, [])


def test_a_folder_in_use_is_left_alone(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got one with other contents"):
        TokenStore.write(store.path, [("x", "y")], ByteTokenizer())
    assert TokenStore.open(store.path).fingerprint == store.fingerprint
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="got a file"):
        TokenStore.write(tmp_path / "file", [("x", "y")], ByteTokenizer())


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def documents() -> Iterator[tuple[str, str]]:
        yield "a", "text"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TokenStore.write(tmp_path / "s", documents(), ByteTokenizer())
    assert list(tmp_path.iterdir()) == []


def test_a_full_device_is_a_failure_that_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailure) as caught:
        TokenStore.write(tmp_path / "s", [("a", "text")], ByteTokenizer())
    assert caught.value.exit_code == 1
    assert caught.value.got.startswith("no space left on the device")
    assert caught.value.where == str(tmp_path / "s")
    assert caught.value.fix.startswith("free some space")
    assert list(tmp_path.iterdir()) == []


def test_old_leftovers_of_killed_builds_go(tmp_path: Path) -> None:
    old, young = tmp_path / ".s.1-1.partial", tmp_path / ".s.2-2.partial"
    for folder in (old, young):
        folder.mkdir()
        (folder / "tokens.bin").write_bytes(b"half")
    os.utime(old, (0, 0))
    TokenStore.write(tmp_path / "s", [("a", "text")], ByteTokenizer())
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "s"]


def test_the_first_of_two_equal_builds_wins(tmp_path: Path) -> None:
    final = tmp_path / "cache"
    with new_folder(final, keep_existing=True) as slow:
        (slow / "who").write_text("slow")
        with new_folder(final, keep_existing=True) as fast:
            (fast / "who").write_text("fast")
    assert (final / "who").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    shutil.rmtree(final)
