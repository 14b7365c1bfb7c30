"""The World tokenizer of RWKV: longest match, exact round trips."""

from __future__ import annotations

import lzma
import random
from pathlib import Path

import pytest
from tests.data.test_tokenizers import HARD_TEXTS

from lengthwise.data import RWKVWorldTokenizer, load_tokenizer
from lengthwise.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "rwkv_vocab_v20230424.txt.xz"
WORDS = ["the", "there", " the", "ther", "é", "汉", "  ", "\n\n", " '\"", "e", b"\xe6\xb1"]


def lines() -> list[str]:
    entries: list[str | bytes] = [bytes([byte]) for byte in range(256)]
    entries += [word for word in WORDS if len(word if isinstance(word, bytes) else word.encode()) > 1]
    return [
        f"{i} {entry!r} {len(entry if isinstance(entry, bytes) else entry.encode())}"
        for i, entry in enumerate(entries, 1)
    ]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "rwkv_vocab_v20230424.txt"
    path.write_text("\n".join(lines()) + "\n", encoding="utf-8")
    return path


def longest_match(text: str, entries: dict[bytes, int]) -> list[int]:
    """The definition: at each place try the longest slice first."""
    source, ids, place = text.encode(), [], 0
    while place < len(source):
        end = next(end for end in range(len(source), place, -1) if source[place:end] in entries)
        ids.append(entries[source[place:end]])
        place = end
    return ids


def entries_of(tokenizer: RWKVWorldTokenizer) -> dict[bytes, int]:
    return {content: index for index, content in tokenizer._entries.items()}


@pytest.mark.parametrize("text", [*HARD_TEXTS, "therethe the  there", "汉\n\n\né"])
def test_longest_match_and_back(vocabulary: Path, text: str) -> None:
    tokenizer = RWKVWorldTokenizer(vocabulary)
    ids = tokenizer.encode(text)
    assert ids.tolist() == longest_match(text, entries_of(tokenizer))
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.token_bytes()[ids].sum()) == len(text.encode())


def test_batches_sizes_and_the_end_of_text(vocabulary: Path) -> None:
    tokenizer = load_tokenizer(vocabulary)
    assert isinstance(tokenizer, RWKVWorldTokenizer)
    assert tokenizer.vocab_size == len(lines()) + 1
    assert [row.tolist() for row in tokenizer.encode_batch(["the", "é"])] == [
        tokenizer.encode("the").tolist(),
        tokenizer.encode("é").tolist(),
    ]
    assert tokenizer.decode_batch([[0], tokenizer.encode("the")]) == ["<|endoftext|>", "the"]
    assert tokenizer.token_bytes()[0] == 0
    assert tokenizer.decode([1 + 0xC3]) == "\ufffd"
    with pytest.raises(InputError, match="that have an entry; got id 5000"):
        tokenizer.decode([5000])


def test_found_in_folders_and_compressed(vocabulary: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.txt.xz"
    packed.write_bytes(lzma.compress(vocabulary.read_bytes()))
    assert load_tokenizer(vocabulary.parent).fingerprint == load_tokenizer(packed).fingerprint
    vocabulary.write_text(vocabulary.read_text().replace("'there'", "'thera'"))
    assert load_tokenizer(vocabulary).fingerprint != load_tokenizer(packed).fingerprint


def test_counts_add_up_at_spaces_where_no_entry_crosses_one(vocabulary: Path) -> None:
    from lengthwise.tasks.tokens import TokenCounter

    tokenizer = RWKVWorldTokenizer(vocabulary)
    counter, pieces = TokenCounter(tokenizer), ["the", " therethe", " é the", " 汉\n\n x"]
    assert counter.additive
    assert (
        counter.total(pieces) == sum(map(len, tokenizer.encode_batch(pieces))) == len(tokenizer.encode("".join(pieces)))
    )
    vocabulary.write_text(vocabulary.read_text() + "300 'e t' 3\n")
    assert not RWKVWorldTokenizer(vocabulary).parts_at_spaces


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda all_lines: [*all_lines[:-3], "no literal here"], "line 264: 'no literal here'"),
        (lambda all_lines: [*all_lines, "300 'ab' 3"], "id 300 of 2 bytes"),
        (lambda all_lines: [*all_lines, "1 'ab' 2"], "id 1 of 2 bytes"),
        (lambda all_lines: all_lines[:200], "without 56 of the 256 single bytes"),
        (lambda all_lines: [*all_lines, "300 print(1) 2"], "line 267"),
    ],
)
def test_files_that_are_no_vocabulary(vocabulary: Path, damage, text: str) -> None:
    vocabulary.write_text("\n".join(damage(lines())) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"an RWKV World vocabulary.*{text}"):
        RWKVWorldTokenizer(vocabulary)


@pytest.mark.skipif(not SHARED.is_file(), reason="the RWKV vocabulary is not beside the repository")
def test_the_published_vocabulary() -> None:
    tokenizer = load_tokenizer(SHARED)
    assert isinstance(tokenizer, RWKVWorldTokenizer)
    assert tokenizer.vocab_size == 65530
    entries, random_ = entries_of(tokenizer), random.Random(0)
    for text in (*HARD_TEXTS, "Hello world!", *("".join(random_.choices("ab \n=é汉👩", k=40)) for _ in range(50))):
        ids = tokenizer.encode(text)
        assert ids.tolist() == longest_match(text, entries)
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("Hello world!").tolist() == [33155, 40213, 34]
