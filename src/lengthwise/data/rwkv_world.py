"""The World tokenizer of RWKV: at each place of the UTF-8 bytes, the longest entry of a vocabulary that matches.

The file (`rwkv_vocab_v20230424.txt`) holds one entry a line: an id, a Python literal of text or bytes, and the length
in bytes. Id 0 ends a text and has no entry; every single byte has one, so any text can be encoded and comes back.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lengthwise.data.documents import read_bytes
from lengthwise.errors import InputError

END_OF_TEXT = "<|endoftext|>"
"""How id 0 is spelled out."""
_SPACE_INSIDE = re.compile(rb"\S ")
_END = -1  # key of the id among the bytes of a node


class RWKVWorldTokenizer:
    """Greedy longest match by a trie of dictionaries, about a million tokens a second on one core.

    Args:
        path: the vocabulary file; `.xz`, `.gz` and `.zst` of it are read as well.
    Raises:
        InputError: missing, unreadable or not such a vocabulary.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._entries = _read(self.path)
        self.name = self.path.name
        self.vocab_size = max(self._entries) + 1
        # No entry has a space behind a character, so that tokens part before a single one: see tasks/splitting.py.
        self.parts_at_spaces = not any(_SPACE_INSIDE.search(content) for content in self._entries.values())
        self._trie: dict[int, Any] = {}
        digest = hashlib.sha256(b"lengthwise RWKV World tokenizer, version 1\n")
        for index, content in sorted(self._entries.items()):
            digest.update(f"{index} {content.hex()}\n".encode())
            node = self._trie
            for byte in content:
                node = node.setdefault(byte, {})
            node[_END] = index
        self.fingerprint = digest.hexdigest()

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of `text`, uint32 [T]."""
        source = text.encode("utf-8")
        ids: list[int] = []
        position, length = 0, len(source)
        while position < length:
            node: Any = self._trie
            place, best, end = position, -1, position
            while place < length:
                node = node.get(source[place])
                if node is None:
                    break
                place += 1
                if (found := node.get(_END)) is not None:
                    best, end = found, place
            ids.append(best)
            position = end
        return np.asarray(ids, dtype=np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """`encode` of each text, one after the other."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: ArrayLike) -> str:
        """Text of ids [T]; bytes that are not part of valid UTF-8 become U+FFFD."""
        values = np.asarray(ids).astype(np.int64).tolist()
        end = END_OF_TEXT.encode()
        try:
            parts = [self._entries[index] if index else end for index in values]
        except KeyError as error:
            raise InputError(
                expected=f"token ids 0..{self.vocab_size - 1} that have an entry",
                got=f"id {error.args[0]}",
                where=f"ids given to the tokenizer {self.path}",
                fix="decode with the tokenizer that made the ids",
            ) from error
        return b"".join(parts).decode("utf-8", errors="replace")

    def decode_batch(self, rows: Sequence[ArrayLike]) -> list[str]:
        """`decode` of each row of ids."""
        return [self.decode(row) for row in rows]

    def token_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes each id stands for, [vocab_size]; 0 for the end of text."""
        sizes = np.zeros(self.vocab_size, dtype=np.int64)
        for index, content in self._entries.items():
            sizes[index] = len(content)
        return sizes


def _read(path: Path) -> dict[int, bytes]:
    def refuse(got: str) -> InputError:
        return InputError(
            expected="an RWKV World vocabulary: lines of an id, a Python literal and its length in bytes",
            got=got,
            where=str(path),
            fix="copy the file again, or use --tokenizer bytes",
        )

    try:
        # Not splitlines: an entry may hold characters that it counts as ends of lines.
        lines = read_bytes(path).decode("utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise refuse(f"a file that is no UTF-8: {error}") from error
    entries: dict[int, bytes] = {}
    for number, line in enumerate(lines, 1):
        first, last = line.find(" "), line.rfind(" ")
        try:
            literal = ast.literal_eval(line[first + 1 : last])
            content = literal.encode("utf-8") if isinstance(literal, str) else bytes(literal)
            index, length = int(line[:first]), int(line[last + 1 :])
        except (ValueError, SyntaxError, TypeError) as error:
            raise refuse(f"line {number}: {line[:60]!r}") from error
        if len(content) != length or index < 1 or index in entries:
            raise refuse(f"line {number}: id {index} of {len(content)} bytes: {line[:60]!r}")
        entries[index] = content
    missing = 256 - len({content for content in entries.values() if len(content) == 1})
    if missing:
        raise refuse(f"{len(entries)} entries, without {missing} of the 256 single bytes")
    return entries
