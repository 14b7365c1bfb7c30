"""Text to token ids and back: plain bytes, `tokenizer.json` files, sentencepiece models, the World vocabulary of RWKV,
and the symbols of the copying task.

All give an exact round trip wherever the tokenizer allows one: no special tokens are added when encoding, none are
dropped when decoding. A tokenizer file that normalises its input (NFC, lower case) cannot restore what it changed; the
token store counts the documents this happened to.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lengthwise.data.documents import read_bytes
from lengthwise.data.rwkv_world import RWKVWorldTokenizer
from lengthwise.data.sentencepiece import convert
from lengthwise.errors import InputError, near_matches
from lengthwise.hub import HubName, fetch, hub_name

BYTES_SPEC = "bytes"
COPY_SPEC = "copy"
FILES = ("tokenizer.json", "tokenizer.model", "rwkv_vocab_v20230424.txt")
"""What a folder's tokenizer may be called; the first that is there counts."""
_COMPRESSED = (".xz", ".gz", ".zst")
_SAMPLE = """The cat sat on the mat, and nobody asked why.

def read(self, size=64):
    return self.buffer[:size]  # two  spaces
"""
_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the project needs from a tokenizer."""

    name: str
    vocab_size: int
    """Number of ids: every id is in 0..vocab_size-1."""
    fingerprint: str
    """sha256 hex of everything that decides the ids; equal fingerprints give equal ids."""

    def encode(self, text: str) -> NDArray[Any]:
        """Ids of `text`, unsigned integers [T], without added special tokens."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """`encode` of each text, on all cores where the tokenizer is worth it."""
        ...

    def decode(self, ids: ArrayLike) -> str:
        """Text of ids [T], special tokens spelled out."""
        ...

    def decode_batch(self, rows: Sequence[ArrayLike]) -> list[str]:
        """`decode` of each row of ids."""
        ...

    def token_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes each id stands for, [vocab_size]; 0 for unused ids. They add up to the bytes of a text only where
        the tokens spell it: see `spells_bytes`."""
        ...


class ByteTokenizer:
    """One token per UTF-8 byte; 256 ids, nothing learnt, nothing lost."""

    name = BYTES_SPEC
    vocab_size = 256
    fingerprint = hashlib.sha256(b"lengthwise byte tokenizer, version 1").hexdigest()

    def encode(self, text: str) -> NDArray[np.uint8]:
        """UTF-8 bytes of `text`, uint8 [T]."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint8]]:
        """`encode` of each text; a memory copy, so one core is enough."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: ArrayLike) -> str:
        """Text of byte values [T]; a byte that is not part of valid UTF-8 becomes U+FFFD."""
        values = np.asarray(ids)
        if values.size and (values.min() < 0 or values.max() >= self.vocab_size):
            raise InputError(
                expected="byte values 0..255",
                got=f"values {values.min()}..{values.max()}",
                where="ids given to ByteTokenizer.decode",
                fix="decode with the tokenizer that made the ids",
            )
        return values.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def decode_batch(self, rows: Sequence[ArrayLike]) -> list[str]:
        """`decode` of each row of byte values."""
        return [self.decode(row) for row in rows]

    def token_bytes(self) -> NDArray[np.int64]:
        """One byte per id, [256]."""
        return np.ones(self.vocab_size, dtype=np.int64)


class CopyTokenizer:
    """The vocabulary of the copying task: 26 letters and four marks, one id a character.

    It has no id for anything else, so it serves that task alone; a checkpoint trained with it names it "copy".
    """

    start, separator, end, padding = "<", "=", ">", "_"
    letters = "abcdefghijklmnopqrstuvwxyz"
    symbols = letters + start + separator + end + padding
    name = COPY_SPEC
    vocab_size = len(symbols)
    fingerprint = hashlib.sha256(b"lengthwise copy tokenizer, version 1\0" + symbols.encode()).hexdigest()

    def __init__(self) -> None:
        self._ids = np.full(128, 255, dtype=np.uint8)
        self._ids[list(self.symbols.encode())] = np.arange(self.vocab_size)
        self._symbols = np.frombuffer(self.symbols.encode(), dtype=np.uint8)

    def encode(self, text: str) -> NDArray[np.uint8]:
        """Ids of letters and marks, uint8 [T]. Raises InputError for other characters."""
        codes = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
        ids = self._ids[np.minimum(codes, 127)]
        if ids.size and ids.max() >= self.vocab_size:
            other = next(character for character in text if character not in self.symbols)
            raise InputError(
                expected=f"letters and the marks {self.symbols[26:]}, the vocabulary of the copying task",
                got=f"the character {other!r}",
                where="text given to CopyTokenizer.encode",
                fix="use the tokenizer 'copy' with the copying task only",
            )
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint8]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: ArrayLike) -> str:
        """Letters and marks of ids [T], one character each."""
        values = np.asarray(ids, dtype=np.int64)
        if values.size and (values.min() < 0 or values.max() >= self.vocab_size):
            raise InputError(
                expected=f"token ids 0..{self.vocab_size - 1}",
                got=f"ids {values.min()}..{values.max()}",
                where="ids given to CopyTokenizer.decode",
                fix="decode with the tokenizer that made the ids",
            )
        return self._symbols[values].tobytes().decode("ascii")

    def decode_batch(self, rows: Sequence[ArrayLike]) -> list[str]:
        """`decode` of each row of ids."""
        return [self.decode(row) for row in rows]

    def token_bytes(self) -> NDArray[np.int64]:
        """One byte per id, [30]."""
        return np.ones(self.vocab_size, dtype=np.int64)


class HFTokenizer:
    """A `tokenizer.json` of the `tokenizers` package, as a plain map between text and ids.

    Truncation and padding stored in the file are switched off: they belong to the model that the file was exported with
    and would cut documents without a word. No start or end tokens are added.

    Args:
        path: the file; `.xz`, `.gz` and `.zst` of it are read as well.
    Raises:
        InputError: missing, unreadable or not a tokenizer file.
    """

    def __init__(self, path: str | Path) -> None:
        from tokenizers import Tokenizer as Backend

        self.path = Path(path)
        raw = read_bytes(self.path)
        try:
            description = self._describe(raw)
            backend = Backend.from_str(json.dumps(description, ensure_ascii=False))
        except InputError:
            raise
        except Exception as error:  # the Rust side raises bare Exception for every malformed file
            raise InputError(
                expected="a Hugging Face tokenizer.json",
                got=f"a file that does not load: {str(error)[:200]}",
                where=str(self.path),
                fix="export the tokenizer again with save_pretrained, or use --tokenizer bytes",
            ) from error
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._description: dict[str, Any] = description
        self._vocab: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        if not self._vocab:
            raise InputError(
                expected="a tokenizer with at least one token",
                got="an empty vocabulary",
                where=str(self.path),
                fix="train the tokenizer, or use --tokenizer bytes",
            )
        self.name = self.path.name
        # Ids may have holes (removed tokens), so the largest id counts and not the number of entries.
        self.vocab_size = max(self._vocab.values()) + 1
        relevant = {key: value for key, value in description.items() if key not in ("truncation", "padding")}
        canonical = json.dumps(relevant, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self.fingerprint = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    def _describe(self, raw: bytes) -> dict[str, Any]:
        """Content of the file as that of a tokenizer.json."""
        description: dict[str, Any] = json.loads(raw.decode("utf-8"))
        return description

    @property
    def description(self) -> dict[str, Any]:
        """The file as parsed; to be read, not changed."""
        return self._description

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of `text`, uint32 [T]. Raises InputError where a word has no id and the file has none for such words."""
        with self._refusing():
            encoding = self._backend.encode(text, add_special_tokens=False)
        return np.asarray(encoding.ids, dtype=np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """`encode` of each text, one text per core at a time (threads of the Rust library)."""
        with self._refusing():
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, dtype=np.uint32) for encoding in encodings]

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Text that the tokenizer has no ids for as an error of four parts: the Rust side raises bare Exception."""
        try:
            yield
        except Exception as error:
            if type(error) is not Exception:
                raise
            raise InputError(
                expected="a tokenizer with ids for all of the text, or with an id for unknown words",
                got=f"text that it has no ids for ({str(error)[:200]})",
                where=str(self.path),
                fix="add its unknown token to the vocabulary of that file, or use the tokenizer the model was made for",
            ) from error

    def decode(self, ids: ArrayLike) -> str:
        """Text of ids [T], special tokens spelled out."""
        text: str = self._backend.decode(self._checked(ids), skip_special_tokens=False)
        return text

    def decode_batch(self, rows: Sequence[ArrayLike]) -> list[str]:
        """`decode` of each row of ids, one row per core at a time."""
        texts: list[str] = self._backend.decode_batch([self._checked(ids) for ids in rows], skip_special_tokens=False)
        return texts

    def token_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes each id stands for, [vocab_size]; 0 for ids without a token.

        Byte-level vocabularies write one character per byte; sentencepiece-like ones write a space as U+2581 and a
        single byte as `<0x0A>`. Added tokens stand for their own text. Where tokens do not spell the text (`</w>` for
        the end of a word, `##` for its middle, spaces that are dropped) this is the size of how they are written, and
        `spells_bytes` is False.
        """
        sizes = np.zeros(self.vocab_size, dtype=np.int64)
        added = {token.content for token in self._backend.get_added_tokens_decoder().values()}
        byte_level = "ByteLevel" in json.dumps(
            [self._description.get("decoder"), self._description.get("pre_tokenizer")]
        )
        for token, index in self._vocab.items():
            if token in added:
                sizes[index] = len(token.encode("utf-8"))
            elif byte_level:
                sizes[index] = len(token)
            elif _BYTE_FALLBACK.fullmatch(token):
                sizes[index] = 1
            else:
                sizes[index] = len(token.replace("\u2581", " ").encode("utf-8"))
        return sizes

    def _checked(self, ids: ArrayLike) -> list[int]:
        values = np.asarray(ids)
        if values.size and (values.min() < 0 or values.max() >= self.vocab_size):
            raise InputError(
                expected=f"token ids 0..{self.vocab_size - 1}",
                got=f"ids {values.min()}..{values.max()}",
                where=f"ids given to the tokenizer {self.path}",
                fix="decode with the tokenizer that made the ids",
            )
        row: list[int] = values.astype(np.int64).tolist()
        return row


class SentencePieceTokenizer(HFTokenizer):
    """A sentencepiece model (`tokenizer.model`), converted when it is opened; see `data.sentencepiece`.

    Most such models put a space before every text, so the first token counts one byte more than it has in the text.
    """

    def _describe(self, raw: bytes) -> dict[str, Any]:
        description, self._space_first = convert(raw, self.path)
        return description

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of `text`, uint32 [T]."""
        return super().encode(self._begun(text))

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """`encode` of each text, one text per core at a time."""
        return super().encode_batch([self._begun(text) for text in texts])

    def _begun(self, text: str) -> str:
        return " " + text if text and self._space_first else text


def spells_bytes(tokenizer: Tokenizer) -> bool:
    """Whether the sizes of tokens add up to the bytes of a text, tried on a few lines of prose and code.

    A space that sentencepiece puts before every text may be counted too.
    """
    if not isinstance(tokenizer, HFTokenizer):
        return True  # made of bytes or of single characters
    try:
        ids = tokenizer.encode(_SAMPLE)
    except InputError:
        return False
    return 0 <= int(tokenizer.token_bytes()[ids].sum()) - len(_SAMPLE.encode("utf-8")) <= 1


def load_tokenizer(spec: str | Path, base: Path | None = None) -> Tokenizer:
    """The tokenizer a specification names.

    Args:
        spec: "bytes"; "copy"; a `tokenizer.json`, a sentencepiece `tokenizer.model` or an RWKV vocabulary, compressed
            or not; a folder that holds one; or a repository on the Hugging Face hub that does.
        base: folder a relative path starts from; the working folder when None.
    Raises:
        InputError: nothing of that name, or a file that is no tokenizer.
    """
    path = tokenizer_file(spec, base)
    if path is None:
        return CopyTokenizer() if str(spec) == COPY_SPEC else ByteTokenizer()
    name = path.name
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    if name.endswith(".model"):
        return SentencePieceTokenizer(path)
    return RWKVWorldTokenizer(path) if name.endswith(".txt") else HFTokenizer(path)


def tokenizer_file(spec: str | Path, base: Path | None = None) -> Path | None:
    """The file a specification names, downloaded if need be; None for bytes and copy, which need none.

    Args and errors as for `load_tokenizer`.
    """
    if str(spec) in (BYTES_SPEC, COPY_SPEC):
        return None
    path = Path(spec) if base is None else base / Path(spec)
    if path.is_dir():
        path = next((path / name for name in FILES if (path / name).is_file()), path)
    if path.is_file():
        return path
    if not path.exists() and (repository := hub_name(str(spec))) is not None:
        folder = fetch(repository, lambda files: _first_of(files, repository))
        there = [path.name for path in folder.iterdir()]
        return folder / _first_of(there, repository)[0]
    if base is not None:
        raise InputError(
            expected="the tokenizer that the checkpoint names, in its folder",
            got=f"no '{spec}'",
            where=str(base),
            fix="copy the file there, or give --tokenizer",
        )
    raise InputError(
        expected=f"a tokenizer: 'bytes', a file ({', '.join(FILES)}), a folder with one, or a repository org/name",
        got=f"'{spec}', which is none ({near_matches(str(spec), [BYTES_SPEC, COPY_SPEC])})",
        where=f"--tokenizer {spec}",
        fix="write --tokenizer bytes, or give the path of an existing file",
    )


def _first_of(files: Sequence[str], repository: HubName) -> list[str]:
    for name in FILES:
        if name in files:
            return [name]
    raise InputError(
        expected=f"a repository with one of {', '.join(FILES)}",
        got=f"none of them among its {len(files)} files",
        where=repository.address,
        fix="name the repository that the model's tokenizer comes from",
    )
