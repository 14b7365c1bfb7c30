"""The token store: documents as token ids in one memory-mapped file, with their boundaries.

Layout of a store folder (all numbers little-endian):

    tokens.bin      ids of all documents, one after the other: uint8, uint16 or uint32, the smallest the vocabulary fits
    documents.bin   int64 [3, N+1]: token offset, name offset and UTF-8 size so far, each with its end
    names.bin       names of all documents, UTF-8, one after the other
    header.json     counts, dtype, tokenizer, hashes; written last

A store is written beside its final place and renamed when complete, so a folder that exists is whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import Tokenizer, spells_bytes
from lengthwise.errors import InputError, RunFailure
from lengthwise.runs import write_failure

FORMAT = "lengthwise-token-store"
FORMAT_VERSION = 1
HEADER_FILE = "header.json"
_TOKENS, _DOCUMENTS, _NAMES = "tokens.bin", "documents.bin", "names.bin"
_DTYPES: dict[str, np.dtype[Any]] = {"uint8": np.dtype("<u1"), "uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
_STALE_SECONDS = 24 * 3600


class TokenStore:
    """Read-only view of a store folder. Opening costs no memory for the tokens: they are mapped, not read."""

    def __init__(
        self, path: Path, header: dict[str, Any], tokens: NDArray[Any], table: NDArray[np.int64], names: bytes
    ) -> None:
        self.path = path
        self.header = header
        self.tokens = tokens
        """Ids of all documents, [num_tokens], unsigned, read-only."""
        self.offsets = table[0]
        """Document i is tokens[offsets[i]:offsets[i+1]]; int64 [num_documents + 1]."""
        self._name_offsets = table[1]
        self._byte_offsets = table[2]
        self._names = names
        self.lengths: NDArray[np.int64] = np.diff(self.offsets)
        """Tokens per document, int64 [num_documents]."""

    @classmethod
    def open(cls, folder: str | Path, tokenizer: Tokenizer | None = None) -> TokenStore:
        """Open a store and check that its files fit together.

        Args:
            folder: what `write` made.
            tokenizer: when given, the one the ids must come from.
        Raises:
            InputError: no store, another format version, truncated or inconsistent files, another tokenizer.
        """
        path = Path(folder)
        header = _read_header(path)
        dtype = _DTYPES[header["dtype"]]
        count, num_tokens = int(header["num_documents"]), int(header["num_tokens"])
        _check_size(path / _TOKENS, num_tokens * dtype.itemsize)
        _check_size(path / _DOCUMENTS, 3 * (count + 1) * 8)
        _check_size(path / _NAMES, int(header["names_bytes"]))
        raw = (path / _DOCUMENTS).read_bytes()
        names = (path / _NAMES).read_bytes()
        table = np.frombuffer(raw, dtype="<i8").reshape(3, count + 1).astype(np.int64, copy=False)
        ends = [num_tokens, int(header["names_bytes"]), int(header["num_bytes"])]
        intact = hashlib.sha256(raw + names).hexdigest() == header["documents_sha256"]
        if not intact or table[:, -1].tolist() != ends or table[:, 0].any() or (np.diff(table) < 0).any():
            raise _damaged(path / _DOCUMENTS, "boundaries that match the header", "other contents")
        # A memmap of an empty file is an error in numpy; an empty side of a split is not an error here.
        tokens = np.memmap(path / _TOKENS, dtype=dtype, mode="r") if num_tokens else np.zeros(0, dtype=dtype)
        store = cls(path, header, np.asarray(tokens), table, names)
        if tokenizer is not None:
            store.check_tokenizer(tokenizer)
        return store

    @property
    def num_documents(self) -> int:
        return int(self.header["num_documents"])

    @property
    def num_tokens(self) -> int:
        return int(self.header["num_tokens"])

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text the tokens came from."""
        return int(self.header["num_bytes"])

    @property
    def fingerprint(self) -> str:
        """sha256 hex of the contents: ids, boundaries, names and tokenizer. Goes into a run's manifest."""
        return str(self.header["fingerprint"])

    @property
    def num_undecodable_files(self) -> int:
        """Files of the corpus that were left out because they are not UTF-8."""
        return int(self.header["source"].get("num_undecodable_files", 0))

    @property
    def tokenizer_fingerprint(self) -> str:
        """`Tokenizer.fingerprint` of the tokenizer that made the ids."""
        return str(self.header["tokenizer"]["fingerprint"])

    def document(self, index: int) -> NDArray[Any]:
        """Ids of document `index` (0..num_documents-1), a read-only view [length]."""
        if not 0 <= index < self.num_documents:
            raise InputError(
                expected=f"a document index 0..{self.num_documents - 1}",
                got=str(index),
                where=str(self.path),
                fix="use an index below num_documents",
            )
        view: NDArray[Any] = self.tokens[self.offsets[index] : self.offsets[index + 1]]
        return view

    def names(self, index: int) -> str:
        """Name of document `index`."""
        return self._names[self._name_offsets[index] : self._name_offsets[index + 1]].decode("utf-8")

    def document_bytes(self, index: int) -> int:
        """UTF-8 bytes of the text of document `index`."""
        return int(self._byte_offsets[index + 1] - self._byte_offsets[index])

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise InputError unless `tokenizer` is the one that made the ids."""
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            made_by = self.header["tokenizer"]
            raise InputError(
                expected=f"tokens of the tokenizer '{tokenizer.name}' (fingerprint {tokenizer.fingerprint[:12]})",
                got=f"tokens of '{made_by['name']}' (fingerprint {self.tokenizer_fingerprint[:12]})",
                where=str(self.path),
                fix="tokenize the text again with the tokenizer of the model: lengthwise data tokenize",
            )

    def verify(self) -> None:
        """Read every token and compare the hash with the header. Raises InputError where a byte has changed."""
        digest = hashlib.sha256()
        with (self.path / _TOKENS).open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
        if digest.hexdigest() != self.header["tokens_sha256"]:
            raise _damaged(self.path / _TOKENS, f"sha256 {self.header['tokens_sha256'][:12]}", digest.hexdigest()[:12])

    @classmethod
    def write(
        cls,
        folder: str | Path,
        documents: Iterable[tuple[str, str | NDArray[Any]]],
        tokenizer: Tokenizer,
        *,
        source: dict[str, Any] | None = None,
    ) -> TokenStore:
        """Write a store and open it.

        Args:
            folder: must not exist yet, or be empty.
            documents: (name, text or ids [T]) in the order to keep; consumed once.
            tokenizer: what turns text into ids, or made the ids; recorded by fingerprint.
            source: JSON-able description of where the text came from.
        Raises:
            InputError: the folder is in use, or an id does not fit the vocabulary.
            RunFailure: no space left, or another failure of the operating system.
        """
        final = Path(folder)
        with new_folder(final) as partial:
            with StoreWriter(partial, tokenizer) as writer:
                for name, content in documents:
                    if isinstance(content, str):
                        writer.add(name, tokenizer.encode(content), len(content.encode("utf-8")))
                    else:
                        writer.add(name, content)
                writer.finish(source)
        return cls.open(final)


class StoreWriter:
    """Appends documents to the files of one store; `finish` writes the header. Memory grows by a few words a document.

    Prefer `TokenStore.write`; this class serves writing two stores (train and validation) in one pass over the text.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._dtype = next(d for d in _DTYPES.values() if tokenizer.vocab_size <= 2 ** (8 * d.itemsize))
        self._hash = hashlib.sha256()
        self._token_ends, self._name_ends, self._byte_ends = [0], [0], [0]
        self._names: list[bytes] = []
        self._stream: io.BufferedWriter | None = None

    def __enter__(self) -> StoreWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stream = (self._folder / _TOKENS).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, name: str, ids: NDArray[Any], num_bytes: int | None = None) -> None:
        """Append one document: name, ids [T], UTF-8 bytes of its text.

        Bytes that are None are counted from the ids: by the sizes of the tokens where they spell the text, else in the
        text that they decode to.
        """
        assert self._stream is not None, "use the writer in a with statement"
        if ids.size and (int(ids.max()) >= self._tokenizer.vocab_size or int(ids.min()) < 0):
            raise InputError(
                expected=f"ids 0..{self._tokenizer.vocab_size - 1} of the tokenizer '{self._tokenizer.name}'",
                got=f"ids {int(ids.min())}..{int(ids.max())}",
                where=f"document '{name}'",
                fix="encode the document with this tokenizer",
            )
        if num_bytes is None:
            if spells_bytes(self._tokenizer):
                num_bytes = int(self._tokenizer.token_bytes()[ids].sum())
            else:
                num_bytes = len(self._tokenizer.decode(ids).encode("utf-8"))
        block = np.ascontiguousarray(ids, dtype=self._dtype).tobytes()
        self._stream.write(block)
        self._hash.update(block)
        encoded = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode("utf-8")
        self._names.append(encoded)
        self._token_ends.append(self._token_ends[-1] + int(ids.size))
        self._name_ends.append(self._name_ends[-1] + len(encoded))
        self._byte_ends.append(self._byte_ends[-1] + num_bytes)

    @property
    def num_documents(self) -> int:
        return len(self._names)

    def finish(self, source: dict[str, Any] | None = None) -> None:
        """Write boundaries, names and, last, the header; everything is flushed to disk."""
        assert self._stream is not None, "use the writer in a with statement"
        _flush(self._stream)
        self._stream.close()
        table = np.array([self._token_ends, self._name_ends, self._byte_ends], dtype="<i8").tobytes()
        names = b"".join(self._names)
        _write_flushed(self._folder / _DOCUMENTS, table)
        _write_flushed(self._folder / _NAMES, names)
        tokens_sha, documents_sha = self._hash.hexdigest(), hashlib.sha256(table + names).hexdigest()
        identity = json.dumps([FORMAT_VERSION, self._tokenizer.fingerprint, tokens_sha, documents_sha])
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "dtype": self._dtype.name,
            "num_documents": self.num_documents,
            "num_tokens": self._token_ends[-1],
            "num_bytes": self._byte_ends[-1],
            "names_bytes": len(names),
            "tokenizer": {
                "name": self._tokenizer.name,
                "fingerprint": self._tokenizer.fingerprint,
                "vocab_size": self._tokenizer.vocab_size,
            },
            "tokens_sha256": tokens_sha,
            "documents_sha256": documents_sha,
            "fingerprint": hashlib.sha256(identity.encode()).hexdigest(),
            "source": source or {},
        }
        text = json.dumps(header, indent=1, sort_keys=True, allow_nan=False)
        _write_flushed(self._folder / HEADER_FILE, text.encode("utf-8"))


@contextmanager
def new_folder(final: Path, *, keep_existing: bool = False) -> Iterator[Path]:
    """A folder to fill beside `final`, renamed to it when the block ends well and removed when it does not.

    Leftovers of builds that were killed are removed once they are a day old.

    Args:
        final: where the filled folder goes.
        keep_existing: when another process made `final` in the meantime, keep that one (for caches, where both are
            equal) instead of raising.
    Raises:
        InputError: `final` exists and is not empty.
        RunFailure: no space left on the device, no permission to write.
    """
    if _in_use(final) and not keep_existing:
        raise InputError(
            expected="a folder that does not exist yet, or an empty one",
            got="one with other contents" if final.is_dir() else "a file",
            where=str(final),
            fix="choose another --out, or remove it",
        )
    partial = final.parent / f".{final.name}.{os.getpid()}-{time.time_ns()}.partial"
    try:
        partial.mkdir(parents=True)
        for old in final.parent.glob(f".{final.name}.*.partial"):
            if old != partial and time.time() - old.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        yield partial
        if not (keep_existing and _in_use(final)):
            os.replace(partial, final)
    except OSError as error:
        failure = write_failure(error, final)
        raise RunFailure(
            expected=failure.expected,
            got=failure.got,
            where=failure.where,
            fix="free some space or choose another folder, then repeat the command; nothing half-written was left",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _in_use(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _read_header(path: Path) -> dict[str, Any]:
    file = path / HEADER_FILE
    try:
        header = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            expected="a token store (a folder with header.json)",
            got="a folder without one" if path.is_dir() else "nothing at that path",
            where=str(path),
            fix="make one with: lengthwise data tokenize SOURCE --out FOLDER",
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(file, "a JSON object", f"something that does not read ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _damaged(file, f"the format '{FORMAT}'", "another one")
    if header.get("format_version") != FORMAT_VERSION:
        raise InputError(
            expected=f"token store version {FORMAT_VERSION}",
            got=f"version {header.get('format_version')}",
            where=str(file),
            fix="tokenize the text again with this version: lengthwise data tokenize SOURCE --out FOLDER",
        )
    counts = ("num_documents", "num_tokens", "num_bytes", "names_bytes")
    complete = all(isinstance(header.get(key), int) and header[key] >= 0 for key in counts)
    texts = ("fingerprint", "tokens_sha256", "documents_sha256")
    complete = complete and all(isinstance(header.get(key), str) for key in texts)
    tokenizer = header.get("tokenizer")
    complete = complete and isinstance(tokenizer, dict) and {"name", "fingerprint", "vocab_size"} <= tokenizer.keys()
    if not complete or header.get("dtype") not in _DTYPES:
        raise _damaged(file, "counts, dtype, hashes and tokenizer", "a header without some of them")
    return header


def _check_size(file: Path, expected: int) -> None:
    actual = file.stat().st_size if file.is_file() else None
    if actual != expected:
        raise _damaged(file, f"{expected} bytes", "no file" if actual is None else f"{actual} bytes")


def _damaged(file: Path, expected: str, got: str) -> InputError:
    return InputError(
        expected=f"a whole token store with {expected}",
        got=f"{got}: the store is truncated or corrupt",
        where=str(file),
        fix="remove the folder and tokenize the text again",
    )


def _write_flushed(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        _flush(stream)


def _flush(stream: io.BufferedWriter) -> None:
    stream.flush()
    os.fsync(stream.fileno())
