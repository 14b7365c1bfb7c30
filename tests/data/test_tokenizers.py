"""Exact round trips, byte counts and fingerprints of the tokenizers."""

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.spelling import KINDS, write_tokenizer

from lengthwise.data import ByteTokenizer, CopyTokenizer, HFTokenizer, load_tokenizer
from lengthwise.data.tokenizers import spells_bytes
from lengthwise.errors import InputError

HARD_TEXTS = [
    "",
    "plain",
    "  leading spaces\tand tabs\r\n\n\nlines ",
    "def f(x):\n    return x  # naïve café",
    "汉字 日本語 עברית 👩‍👩‍👧 e\u0301 \u00e9",
    "a special <|end|> token spelled out",
    "\x00\x01\x7f",
]
SHARED_NEOX = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "20B_tokenizer.json.xz"


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_bytes_give_the_text_back(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.tolist() == list(text.encode("utf-8"))
    assert tokenizer.decode(ids) == text


def test_bytes_of_a_cut_character_do_not_fail() -> None:
    assert ByteTokenizer().decode([0xC3]) == "\ufffd"


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_tokenizer_file_gives_the_text_back(bpe_file: Path, text: str) -> None:
    tokenizer = HFTokenizer(bpe_file)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.token_bytes()[ids].sum()) == len(text.encode("utf-8"))


def test_batches_equal_single_texts(bpe_file: Path) -> None:
    tokenizer = HFTokenizer(bpe_file)
    rows = tokenizer.encode_batch(HARD_TEXTS)
    assert [row.tolist() for row in rows] == [tokenizer.encode(text).tolist() for text in HARD_TEXTS]
    assert tokenizer.decode_batch(rows) == HARD_TEXTS


def test_truncation_and_padding_of_the_file_are_off(bpe_file: Path) -> None:
    tokenizer = HFTokenizer(bpe_file)
    assert len(tokenizer.encode("the cat sat on the mat and the dog sat on the log")) > 4
    assert len(tokenizer.encode("a")) == 1


def test_start_tokens_are_not_added(bpe_file: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer.from_file(str(bpe_file))
    backend.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", backend.token_to_id("<|end|>"))]
    )
    path = tmp_path / "tokenizer.json"
    path.write_text(backend.to_str(), encoding="utf-8")
    tokenizer = HFTokenizer(path)
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    assert tokenizer.decode(tokenizer.encode_batch(["the cat"])[0]) == "the cat"


def test_vocabulary_counts_to_the_largest_id(bpe_file: Path, tmp_path: Path) -> None:
    description = json.loads(bpe_file.read_text())
    description["added_tokens"].append({**description["added_tokens"][0], "id": 1000, "content": "<|late|>"})
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description))
    with_hole = HFTokenizer(path)
    # The Rust library gives an appended token the next free id; whichever it is, it must lie below vocab_size.
    ids = with_hole.encode("x<|late|>")
    assert int(ids.max()) < with_hole.vocab_size
    assert with_hole.token_bytes().shape == (with_hole.vocab_size,)
    assert with_hole.token_bytes()[ids].tolist() == [1, 8]


def test_fingerprint_ignores_layout_but_not_contents(bpe_file: Path, tmp_path: Path) -> None:
    description = json.loads(bpe_file.read_text())
    relaid = tmp_path / "relaid.json"
    relaid.write_text(json.dumps({**description, "truncation": None, "padding": None}, indent=3, sort_keys=True))
    changed = tmp_path / "changed.json"
    description["added_tokens"][0]["lstrip"] = not description["added_tokens"][0]["lstrip"]
    changed.write_text(json.dumps(description))
    packed = tmp_path / "packed.json.xz"
    packed.write_bytes(lzma.compress(bpe_file.read_bytes()))
    original = HFTokenizer(bpe_file).fingerprint
    assert HFTokenizer(relaid).fingerprint == original
    assert HFTokenizer(packed).fingerprint == original
    assert HFTokenizer(changed).fingerprint != original
    assert original != ByteTokenizer.fingerprint


def test_byte_counts_of_a_sentencepiece_like_vocabulary(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {"<unk>": 0, "\u2581the": 1, "the": 2, "é": 3, "<0x0A>": 4, "\u2581": 5}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")])
    path = tmp_path / "tokenizer.json"
    path.write_text(backend.to_str(), encoding="utf-8")
    assert HFTokenizer(path).token_bytes().tolist() == [5, 4, 3, 2, 1, 1]


TEXT = "def read(self):\n    return self.buffer[0]  # the cat sat on the mat\n" * 3


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_do_not_spell_the_text_are_known_as_such(tmp_path: Path, kind: Any) -> None:
    tokenizer = HFTokenizer(write_tokenizer(tmp_path, kind, [TEXT]))
    assert int(tokenizer.token_bytes()[tokenizer.encode(TEXT)].sum()) != len(TEXT)  # why bits per byte were wrong
    assert not spells_bytes(tokenizer)


def test_tokens_that_spell_the_text(bpe_file: Path) -> None:
    assert spells_bytes(ByteTokenizer())
    assert spells_bytes(CopyTokenizer())
    assert spells_bytes(HFTokenizer(bpe_file))


def test_load_tokenizer_finds_files_folders_and_bytes(bpe_file: Path) -> None:
    assert load_tokenizer("bytes").fingerprint == ByteTokenizer.fingerprint
    expected = HFTokenizer(bpe_file).fingerprint
    assert load_tokenizer(str(bpe_file)).fingerprint == expected
    assert load_tokenizer(bpe_file.parent).fingerprint == expected
    assert load_tokenizer("tokenizer.json", base=bpe_file.parent).fingerprint == expected


def test_unknown_tokenizer_says_what_there_is() -> None:
    with pytest.raises(InputError) as caught:
        load_tokenizer("byte")
    assert caught.value.expected.startswith("a tokenizer: 'bytes', a file (tokenizer.json, tokenizer.model, rwkv_vocab")
    assert caught.value.got == "'byte', which is none (did you mean 'bytes'?)"
    assert "--tokenizer byte" in caught.value.where
    assert caught.value.exit_code == 2


def test_a_tokenizer_that_its_folder_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="that the checkpoint names, in its folder; got no 'tokenizer'"):
        load_tokenizer("tokenizer", tmp_path)


@pytest.mark.parametrize("content", ["not json", "{}", '{"model": 3}', "[1]"])
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"expected a Hugging Face tokenizer\.json; got a file that does not load"):
        HFTokenizer(path)


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece"])
def test_a_word_without_an_id_and_no_unknown_token(tmp_path: Path, kind: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(getattr(models, kind)(vocab={"a": 0, "b": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    path.write_text(backend.to_str(), encoding="utf-8")
    tokenizer = HFTokenizer(path)
    assert tokenizer.encode("b a").tolist() == [1, 0]
    for attempt in (lambda: tokenizer.encode("a c"), lambda: tokenizer.encode_batch(["a", "a c"])):
        with pytest.raises(InputError) as caught:
            attempt()
        assert caught.value.expected.startswith("a tokenizer with ids for all of the text")
        assert "[UNK]" in caught.value.got
        assert caught.value.where == str(path)
        assert caught.value.fix.startswith("add its unknown token")
        assert caught.value.exit_code == 2


def test_ids_outside_the_vocabulary(bpe_file: Path) -> None:
    with pytest.raises(InputError, match=r"expected byte values 0..255; got values 3..256"):
        ByteTokenizer().decode([3, 256])
    tokenizer = HFTokenizer(bpe_file)
    with pytest.raises(InputError, match=f"expected token ids 0..{tokenizer.vocab_size - 1}; got ids 1..{10**6}"):
        tokenizer.decode(np.array([1, 10**6]))


@pytest.mark.skipif(not SHARED_NEOX.is_file(), reason="the GPT-NeoX tokenizer file is not beside the repository")
def test_neox_round_trip_and_known_size() -> None:
    tokenizer = HFTokenizer(SHARED_NEOX)
    assert tokenizer.vocab_size == 50277
    # The file normalises to NFC, so a letter with a separate accent is left out here.
    text = "def f():\n\treturn 'naïve' # 汉字 👩‍👩‍👧 <|endoftext|>    x"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.token_bytes()[ids].sum()) == len(text.encode("utf-8"))


def test_copying_has_a_vocabulary_of_thirty() -> None:
    tokenizer = load_tokenizer("copy")
    assert isinstance(tokenizer, CopyTokenizer)
    text = "<abcxyz=abcxyz>_"
    ids = tokenizer.encode(text)
    assert ids.tolist() == [26, 0, 1, 2, 23, 24, 25, 27, 0, 1, 2, 23, 24, 25, 28, 29]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_batch([ids[:4], ids[4:]]) == ["<abc", "xyz=abcxyz>_"]
    assert [row.tolist() for row in tokenizer.encode_batch(["a", ""])] == [[0], []]
    assert tokenizer.token_bytes().tolist() == [1] * tokenizer.vocab_size == [1] * 30


@pytest.mark.parametrize("text", ["aB", "a b", "é", "\x7f", "\udcff".encode("utf-8", "surrogatepass").decode("latin1")])
def test_copying_knows_nothing_else(text: str) -> None:
    with pytest.raises(InputError, match="the vocabulary of the copying task"):
        load_tokenizer("copy").encode(text)


def test_copying_refuses_unknown_ids() -> None:
    with pytest.raises(InputError, match=r"expected token ids 0\.\.29; got ids 0\.\.30"):
        load_tokenizer("copy").decode([0, 30])
