"""Documents out of files: plain text, JSONL and source folders, compressed or not.

A document is a name and a text. Names matter: the train/validation split hashes them, so they never contain where on
this machine the files lie.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lengthwise.errors import InputError

COMPRESSIONS = (".xz", ".gz", ".zst")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
TEXT_EXTENSIONS = (
    ".py", ".pyi", ".txt", ".md", ".rst", ".tex", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java",
    ".kt", ".js", ".ts", ".jl", ".lua", ".rb", ".sh", ".sql", ".scala", ".swift", ".hs", ".ml", ".lean",
)  # fmt: skip
"""Endings taken from a folder unless a list is given; JSONL files and compressed forms of all of them come as well."""

_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})

OnBytes = Callable[[int], None]
"""Called with the number of stored (compressed) bytes read since the last call."""


@dataclass(frozen=True)
class Document:
    """One text and the name that decides its side of the split."""

    name: str
    text: str


@dataclass(frozen=True)
class SourceFile:
    """One file of a corpus.

    `named` is True when the user gave this very file: then text that is not UTF-8 is an error. A file found while
    walking a folder is skipped and counted instead, as folders of sources hold a few odd encodings.
    """

    name: str
    path: Path
    named: bool


@dataclass
class ReadCounts:
    """What reading left out; filled while documents are read."""

    undecodable: int = 0
    empty: int = 0
    undecodable_names: list[str] = field(default_factory=list)


def read_bytes(path: Path) -> bytes:
    """Whole content of a file, decompressed by its ending (.xz, .gz, .zst).

    Raises:
        InputError: missing or unreadable file, broken compression.
    """
    with _open_binary(path, None) as stream:
        return _guarded_read(path, stream)


def list_files(paths: Sequence[Path], extensions: Sequence[str] | None = None) -> list[SourceFile]:
    """The files below `paths`, in a fixed order that does not depend on the file system.

    Args:
        paths: files and folders; folders are walked recursively, hidden and package folders left out.
        extensions: endings such as ".py" taken from folders; `TEXT_EXTENSIONS` and JSONL when None.
    Raises:
        InputError: a path does not exist.
    """
    wanted = tuple(_with_dot(e) for e in extensions) if extensions is not None else TEXT_EXTENSIONS + JSONL_SUFFIXES
    files: list[SourceFile] = []
    for path in paths:
        if path.is_dir():
            files.extend(walk_folder(path, wanted))
        elif path.is_file():
            files.append(SourceFile(path.name, path, named=True))
        else:
            raise InputError(
                expected="an existing file or folder",
                got="nothing at that path",
                where=str(path),
                fix="check the spelling of the path",
            )
    return files


def walk_folder(
    root: Path, extensions: Sequence[str], skip: Callable[[str], bool] = lambda relative: False
) -> list[SourceFile]:
    """Files below `root` whose ending is wanted, sorted by their path relative to it (with forward slashes)."""
    found: list[SourceFile] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and s not in _SKIPPED_FOLDERS)
        for name in names:
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if (
                not name.startswith(".")
                and _inner_name(name.lower()).endswith(tuple(extensions))
                and not skip(relative)
            ):
                if path.is_file():
                    found.append(SourceFile(relative, path, named=False))
    return sorted(found, key=lambda file: file.name)


def hash_files(files: Sequence[SourceFile]) -> str:
    """sha256 hex over names and stored bytes of the files: two equal corpora give equal hashes on any machine."""
    total = hashlib.sha256()
    for file in files:
        try:
            with file.path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(file.path, error) from error
        total.update(json.dumps([file.name, digest]).encode("ascii"))
    return total.hexdigest()


def read_documents(
    files: Sequence[SourceFile], counts: ReadCounts | None = None, on_bytes: OnBytes | None = None
) -> Iterator[Document]:
    """Documents of the files, in order; empty ones are left out and counted.

    A JSONL line gives one document (keys `text` and, optionally, `id`; without `id` the name is `file#line`); any other
    file is one document named after the file.

    Raises:
        InputError: text that is not UTF-8 in a named file, a JSONL line that is no object with a string `text`,
            broken compression, a missing zstandard package.
    """
    counts = counts if counts is not None else ReadCounts()
    for file in files:
        if _inner_name(file.path.name.lower()).endswith(JSONL_SUFFIXES):
            documents = _read_jsonl(file, on_bytes)
        else:
            documents = _read_text(file, counts, on_bytes)
        for document in documents:
            if document.text:
                yield document
            else:
                counts.empty += 1


def _read_text(file: SourceFile, counts: ReadCounts, on_bytes: OnBytes | None) -> Iterator[Document]:
    with _open_binary(file.path, on_bytes) as stream:
        raw = _guarded_read(file.path, stream)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if file.named:
            raise _not_utf8(str(file.path), error) from error
        counts.undecodable += 1
        counts.undecodable_names.append(file.name)
        return
    yield Document(file.name, text)


def _read_jsonl(file: SourceFile, on_bytes: OnBytes | None) -> Iterator[Document]:
    with _open_binary(file.path, on_bytes) as stream:
        number = 0
        while True:
            number += 1
            line = _guarded_read(file.path, stream, line=True)
            if not line:
                return
            if line.strip():
                yield _parse_line(file, number, line)


def _parse_line(file: SourceFile, number: int, line: bytes) -> Document:
    where = f"{file.path}, line {number}"
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from error
    except (ValueError, RecursionError) as error:
        nested = isinstance(error, RecursionError)
        raise InputError(
            expected="one JSON object a line",
            got="a line nested too deeply to be read" if nested else f"a line that is not JSON ({error})",
            where=where,
            fix='write each document as {"text": ..., "id": ...} on a line of its own',
        ) from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        keys = ", ".join(sorted(map(str, record))[:8]) or "none" if isinstance(record, dict) else None
        raise InputError(
            expected="an object with the key 'text' holding a string",
            got=f"an object with the keys {keys}" if keys is not None else f"a JSON {type(record).__name__}",
            where=where,
            fix="rename the key that holds the document to 'text'",
        )
    _check_encodable(text, "text", where)
    identity = record.get("id")
    if identity is None:
        return Document(f"{file.name}#{number}", text)
    name = str(identity)
    _check_encodable(name, "an id", where)
    return Document(name, text)


def _check_encodable(value: str, what: str, where: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            expected=f"{what} that can be written as UTF-8",
            got=f"half of a surrogate pair at character {error.start}",
            where=where,
            fix="replace the broken \\ud800-\\udfff escape",
        ) from error


class _Counting(io.RawIOBase):
    """A raw binary stream that reports how many bytes went through it."""

    def __init__(self, raw: io.FileIO, on_bytes: OnBytes | None) -> None:
        self._raw = raw
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._raw.readinto(buffer) or 0
        if self._on_bytes is not None and count:
            self._on_bytes(count)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _open_binary(path: Path, on_bytes: OnBytes | None) -> io.BufferedReader:
    try:
        counting: Any = _Counting(path.open("rb", buffering=0), on_bytes)
        raw = io.BufferedReader(counting, buffer_size=1 << 18)
    except FileNotFoundError as error:
        raise InputError(
            expected="an existing file",
            got="nothing at that path",
            where=str(path),
            fix="check the spelling of the path",
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    suffix = path.suffix.lower()
    if suffix == ".xz":
        return _Closing(lzma.LZMAFile(raw), raw)
    if suffix == ".gz":
        return _Closing(gzip.GzipFile(fileobj=raw), raw)
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raw.close()
            raise InputError(
                expected="the package zstandard, which reads .zst files",
                got="an installation without it",
                where=str(path),
                fix="pip install 'lengthwise[data]'",
            ) from error
        return _Closing(_ZstdReader(raw, zstandard.ZstdDecompressor().decompressobj), raw)
    return raw


class _ZstdReader(io.RawIOBase):
    """Decompressed bytes of zstandard frames; the package's own reader ends without a word where a file is cut off."""

    def __init__(self, raw: io.BufferedReader, new_frame: Callable[[], Any]) -> None:
        self._raw = raw
        self._new_frame = new_frame
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            block = self._raw.read(1 << 17)
            if not block:
                if self._frame is not None:
                    raise EOFError("compressed file ended before the end of a frame")
                return 0
            parts = []
            while block:
                self._frame = self._frame or self._new_frame()
                parts.append(self._frame.decompress(block))
                block = self._frame.unused_data if self._frame.eof else b""
                if self._frame.eof:
                    self._frame = None
            self._ready = b"".join(parts)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


class _Closing(io.BufferedReader):
    """A buffered reader over a decompressor that closes the file below it as well."""

    def __init__(self, stream: Any, raw: io.BufferedReader) -> None:
        super().__init__(stream, buffer_size=1 << 18)
        self._below = raw

    def close(self) -> None:
        super().close()
        self._below.close()


def _guarded_read(path: Path, stream: io.BufferedReader, line: bool = False) -> bytes:
    """Read a line or the rest, turning every way a compressed stream can be broken into one error."""
    try:
        return stream.readline() if line else stream.read()
    except (lzma.LZMAError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _broken(path, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        if type(error).__module__.startswith("zstandard") or type(error).__name__ == "ZstdError":
            raise _broken(path, error) from error
        raise


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(
        expected=f"a complete {path.suffix} file",
        got=f"a truncated or corrupt one ({error})",
        where=str(path),
        fix="copy or download the file again",
    )


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        expected="a readable file",
        got=f"an error of the operating system ({error.strerror or error})",
        where=str(path),
        fix="check the permissions of the file",
    )


def _not_utf8(where: str, error: UnicodeDecodeError) -> InputError:
    return InputError(
        expected="text in UTF-8",
        got=f"byte 0x{error.object[error.start]:02x} at offset {error.start}",
        where=where,
        fix="convert the file first, for example: iconv -f latin1 -t utf-8 OLD > NEW",
    )


def _inner_name(name: str) -> str:
    """File name without the ending of its compression."""
    for suffix in COMPRESSIONS:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _with_dot(extension: str) -> str:
    return extension.lower() if extension.startswith(".") else f".{extension.lower()}"
