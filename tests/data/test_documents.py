"""Files to documents: formats, order, and messages for what cannot be read."""

import gzip
import json
import lzma
import sys
from pathlib import Path

import pytest

from lengthwise.data.documents import Document, ReadCounts, hash_files, list_files, read_documents
from lengthwise.errors import InputError

LINES = [{"text": "first", "id": "one", "source": "x"}, {"text": "zweite Zeile\nmit Umlaut ä"}, {"text": "3", "id": 7}]
JSONL = "\n".join(json.dumps(line, ensure_ascii=False) for line in LINES).encode() + b"\n\n"


def _zst(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard", reason="needs the extra lengthwise[data]")
    packed: bytes = zstandard.ZstdCompressor().compress(data)
    return packed


PACKERS = {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".zst": _zst}


def read(*paths: Path) -> list[Document]:
    return list(read_documents(list_files(paths)))


@pytest.mark.parametrize("suffix", PACKERS)
def test_jsonl_plain_and_compressed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"corpus.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](JSONL))
    assert read(path) == [
        Document("one", "first"),
        Document(f"corpus.jsonl{suffix}#2", "zweite Zeile\nmit Umlaut ä"),
        Document("7", "3"),
    ]


@pytest.mark.parametrize("suffix", PACKERS)
def test_text_is_one_document_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    text = "\ufeffzeile\r\nähm\n" * 50_000
    path = tmp_path / f"book.txt{suffix}"
    path.write_bytes(PACKERS[suffix](text.encode()))
    assert read(path) == [Document(f"book.txt{suffix}", text)]


def test_several_zst_frames_are_one_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(_zst(b"one ") + _zst(b"two"))
    assert read(path)[0].text == "one two"


def test_folders_are_walked_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.py", "a/b.TXT", "c.bin", ".hidden/x.py", "__pycache__/y.py", "a/.env.py", "d.jsonl.gz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(JSONL) if name.endswith("gz") else name.encode())
    files = list_files([tmp_path])
    assert [file.name for file in files] == ["a/b.TXT", "a/z.py", "b.py", "d.jsonl.gz"]
    assert [document.name for document in read_documents(files)][-3:] == ["one", "d.jsonl.gz#2", "7"]
    assert [file.name for file in list_files([tmp_path], extensions=["bin"])] == ["c.bin"]


def test_hash_sees_names_and_contents_but_not_places(tmp_path: Path) -> None:
    def corpus(folder: str, name: str, text: str) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
        return hash_files(list_files([tmp_path / folder]))

    here = corpus("1", "a.txt", "x")
    assert corpus("2", "a.txt", "x") == here
    assert corpus("3", "b.txt", "x") != here
    assert corpus("4", "a.txt", "y") != here


def test_stored_bytes_are_reported_for_progress(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.xz"
    path.write_bytes(lzma.compress(b"word " * 100_000))
    seen: list[int] = []
    assert len(list(read_documents(list_files([path]), on_bytes=seen.append))) == 1
    assert sum(seen) == path.stat().st_size


def test_undecodable_files_of_a_folder_are_counted(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "latin.txt").write_bytes("süß".encode("latin-1"))
    (tmp_path / "none.txt").write_text("")
    counts = ReadCounts()
    documents = list(read_documents(list_files([tmp_path]), counts))
    assert [document.name for document in documents] == ["good.txt"]
    assert (counts.undecodable, counts.undecodable_names, counts.empty) == (1, ["latin.txt"], 1)


def test_a_named_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("aé".encode("latin-1"))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.expected == "text in UTF-8"
    assert caught.value.got == "byte 0xe9 at offset 1"
    assert caught.value.where == str(path)
    assert "iconv" in caught.value.fix


@pytest.mark.parametrize(
    ("line", "got"),
    [
        (b'{"content": "x", "id": 1}', "an object with the keys content, id"),
        (b'{"text": 5}', "an object with the keys text"),
        (b"{}", "an object with the keys none"),
        (b'["text"]', "a JSON list"),
        (b'{"text": "x"', "a line that is not JSON"),
        (b'{"text": "\\ud800"}', "half of a surrogate pair at character 0"),
        (b'{"text": "x", "id": "a\\udc80"}', "half of a surrogate pair at character 1"),
        (b'{"text": "x", "id": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "a line nested too deeply to be read"),
        (b'{"text": "\xff"}', "byte 0xff at offset 10"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: bytes, got: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.got.startswith(got)
    assert caught.value.where == f"{path}, line 2"


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
@pytest.mark.parametrize("inner", ["a.txt", "a.jsonl"])
def test_cut_off_and_corrupt_compression(tmp_path: Path, suffix: str, inner: str) -> None:
    packed = PACKERS[suffix](JSONL * 100)
    for content in (packed[: len(packed) // 2], packed[:-1], b"no such format at all"):
        path = tmp_path / f"{inner}{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"expected a complete {suffix} file; got a truncated or corrupt one"):
            read(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an existing file or folder; got nothing at that path"):
        read(tmp_path / "nowhere.txt")


def test_missing_zstandard_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match=r"package zstandard.*pip install 'lengthwise\[data\]'"):
        read(path)
