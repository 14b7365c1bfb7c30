"""sentencepiece models read without sentencepiece: against a plain form of its algorithm, and against itself."""

from __future__ import annotations

import random
import struct
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.data.test_tokenizers import HARD_TEXTS

from lengthwise.data import SentencePieceTokenizer, load_tokenizer
from lengthwise.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "llama2_tokenizer.model"
SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def model(
    words: list[str], *, users: tuple[str, ...] = (), kind: int = 2, fallback: bool = True, **normalizer: Any
) -> bytes:
    """A model file: unknown, start, end, 256 bytes, user's symbols, then the words, earlier ones with better scores."""
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)] if fallback else []
    pieces += [(user, 0.0, USER) for user in users]
    pieces += [(word, -float(rank), NORMAL) for rank, word in enumerate(words)]
    body = b"".join(
        field(1, field(1, text.encode()) + field(2, score) + field(3, sort)) for text, score, sort in pieces
    )
    settings = {"name": b"identity", "table": b"", "space_first": 1, "strip": 0, "escape": 1, **normalizer}
    numbers = {"name": 1, "table": 2, "space_first": 3, "strip": 4, "escape": 5}
    trainer = field(3, kind) + field(35, int(fallback))
    return body + field(2, trainer) + field(3, b"".join(field(numbers[key], value) for key, value in settings.items()))


LETTERS = [*"abcxyz", SPACE]
WORDS = ["ab", f"{SPACE}a", "aa", "abc", "aaa", f"{SPACE}{SPACE}", "aaaa", "bc", "xyz", f"{SPACE}ab", "yz", *LETTERS]


def plain(tokenizer: SentencePieceTokenizer, text: str, *, space_first: bool = True) -> list[int]:
    """The algorithm: as long as there are any, join the neighbours that make the best scored piece, leftmost first."""
    vocab = tokenizer._vocab
    rank = {word: index for index, word in enumerate(WORDS)}
    symbols = list((SPACE if space_first and text else "") + text.replace(" ", SPACE))
    while True:
        pairs = [(rank[a + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in rank]
        if not pairs:
            break
        _, at = min(pairs)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    ids: list[int] = []
    for symbol in symbols:
        ids += [vocab[symbol]] if symbol in vocab else [vocab[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return ids


def written(path: Path, **options: Any) -> SentencePieceTokenizer:
    path.write_bytes(model(WORDS, **options))
    tokenizer = load_tokenizer(path)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


@pytest.mark.parametrize("space_first", [True, False])
def test_the_same_ids_as_the_plain_algorithm(tmp_path: Path, space_first: bool) -> None:
    tokenizer = written(tmp_path / "tokenizer.model", space_first=int(space_first))
    random_ = random.Random(0)
    texts = [
        "",
        "a",
        " ",
        "aaaaaaa",
        "abcabc  abc",
        *("".join(random_.choices("aab xyzq\n", k=30)) for _ in range(300)),
    ]
    for text in texts:
        ids = tokenizer.encode(text)
        assert ids.tolist() == plain(tokenizer, text, space_first=space_first), repr(text)
        assert tokenizer.decode(ids) == text
        extra = int(space_first and bool(text))
        assert int(tokenizer.token_bytes()[ids].sum()) == len(text.encode()) + extra


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_round_trip(tmp_path: Path, text: str) -> None:
    tokenizer = written(tmp_path / "tokenizer.model")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_batch(tokenizer.encode_batch([text])) == [text]


def test_marks_are_no_text_and_symbols_of_the_user_are_whole(tmp_path: Path) -> None:
    tokenizer = written(tmp_path / "tokenizer.model", users=("<turn>", "aab"))
    assert 1 not in tokenizer.encode("<s>")  # spelled out by the user, it is no start of a text
    assert tokenizer.decode([1]) == "<s>"
    assert tokenizer.encode("x<turn>aab").tolist()[-2:] == [259, 260]


def test_vocabulary_and_fingerprint(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a.model"), written(tmp_path / "b.model", space_first=0)
    assert one.vocab_size == 3 + 256 + len(WORDS)
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == written(tmp_path / "c.model").fingerprint
    (tmp_path / "folder").mkdir()
    written(tmp_path / "folder" / "tokenizer.model")
    assert load_tokenizer(tmp_path / "folder").fingerprint == one.fingerprint


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (model(WORDS, kind=1), "one of the kind unigram"),
        (model(WORDS, table=b"x", name=b"nmt_nfkc"), r"one that rewrites characters \(nmt_nfkc\)"),
        (model(WORDS, strip=1), "one that removes spaces"),
        (model(WORDS, escape=0), "treats spaces in another way"),
        (b"", "a file that is none: no pieces in it"),
        (b"not a model at all", "a file that is none"),
        (model(WORDS)[:-40], "a file that is none"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"a sentencepiece model.*{text}.*tokenizer.json of the same model"):
        load_tokenizer(path)


@pytest.mark.skipif(not SHARED.is_file(), reason="the LLaMA-2 tokenizer is not beside the repository")
def test_the_llama_tokenizer() -> None:
    tokenizer = load_tokenizer(SHARED)
    assert tokenizer.vocab_size == 32000
    assert tokenizer.encode("Hello world").tolist() == [15043, 3186]
    assert tokenizer.encode("  Hello").tolist() == [259, 15043]
    for text in HARD_TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.skipif(not SHARED.is_file(), reason="the LLaMA-2 tokenizer is not beside the repository")
@pytest.mark.skipif(find_spec("sentencepiece") is None, reason="sentencepiece is not installed")
def test_the_same_ids_as_sentencepiece_itself() -> None:
    from sentencepiece import SentencePieceProcessor

    theirs, ours = SentencePieceProcessor(model_file=str(SHARED)), load_tokenizer(SHARED)
    random_ = random.Random(0)
    pieces = ["a", "b", " ", "  ", "-", "=", "\n", "é", "汉", "👩", "0", "\u200d", "ing", " the", "<s>", SPACE]
    made = [
        "".join(random_.choice(chosen) * random_.randint(1, 7) for _ in range(12))
        for chosen in (random_.sample(pieces, 3) for _ in range(3000))
    ]
    for text in (*HARD_TEXTS, *made, *(letter * count for letter in "ab -=0\n" for count in range(1, 80))):
        assert ours.encode(text).tolist() == theirs.encode(text), repr(text)
