"""Small tokenizers of several kinds, bAbI files and books for the tests of tasks; and where shared files lie."""

import json
import os
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from lengthwise.data import ByteTokenizer, HFTokenizer, Tokenizer
from lengthwise.data.documents import read_bytes

SHARED = Path(__file__).parents[3] / "shared" / "data"
BABI = Path(os.environ.get("LENGTHWISE_BABI", SHARED / "babilong"))

PROSE = (
    "The harbour lay quiet in the early light, and nobody was about. Mr. Hale, who had slept badly, went down to the "
    "quay. “Is it you?” asked a voice behind him; it was the old fisherman, J. Brown. He had 12 boats once! Now\n"
    "there was only one left, and it leaked. They talked of the weather (which had been poor) and of nothing else.\n\n"
    'In the afternoon the wind rose... By evening it blew a gale, and the café\'s windows rattled. "Shut the door," '
    "said the landlord's wife. Nobody moved. At 7.30 the lamp went out; then came rain, in sheets, all night long.\n"
)


def books_text(paragraphs: int = 60) -> str:
    """A book: prose in which no two sentences are equal."""
    return "".join(PROSE.replace("the", f"the {number} times", 2) for number in range(paragraphs))


@cache
def tokenizer_of_kind(kind: str) -> Tokenizer:
    """A small tokenizer: bytes; bpe, byte-level; metaspace, which marks every beginning; lower, which forgets."""
    if kind == "bytes":
        return ByteTokenizer()
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    text = [books_text(3), "pass key 0 1 2 3 4 5 6 7 8 9 Question: Answer: <context> John went to the kitchen."]
    if kind == "bpe":
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    elif kind == "metaspace":
        backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>"))
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(content=" ", left=1, right=0),
            ]
        )
        characters = sorted({character for part in text for character in part} | set("▁"))
        trainer = trainers.BpeTrainer(
            vocab_size=700,
            initial_alphabet=characters,
            special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
        )
    else:
        assert kind == "lower"
        backend = Backend(models.BPE())
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    # Sentences one by one where no pre-tokenizer splits: then no token reaches over a space.
    parts = text if kind != "metaspace" else [word for part in text for word in part.split()]
    backend.train_from_iterator(parts, trainer)
    path = Path(mkdtemp()) / "tokenizer.json"
    path.write_text(backend.to_str(), encoding="utf-8")
    return HFTokenizer(path)


@cache
def shared_tokenizer(name: str) -> Tokenizer:
    """neox or gpt2, where the shared files are; skips otherwise."""
    folder = SHARED / "tokenizers"
    if name == "neox":
        path = folder / "20B_tokenizer.json.xz"
        if not path.is_file():
            pytest.skip(f"needs {path}")
        return HFTokenizer(path)
    assert name == "gpt2"
    vocabulary, merges = folder / "gpt2_encoder.json.xz", folder / "gpt2_vocab.bpe.xz"
    for path in (vocabulary, merges):
        if not path.is_file():
            pytest.skip(f"needs {path}")
    from tokenizers import ByteLevelBPETokenizer

    lines = read_bytes(merges).decode("utf-8").split("\n")[1:]
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines if line)]
    backend = ByteLevelBPETokenizer(json.loads(read_bytes(vocabulary)), pairs)
    path = Path(mkdtemp()) / "tokenizer.json"
    path.write_text(backend.to_str(), encoding="utf-8")
    return HFTokenizer(path)


QA1 = """\
1 Mary went to the bathroom.
2 John moved to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Sandra moved to the garden.
6 Where is Daniel? \thallway\t4
1 John travelled to the office.
2 Where is John? \toffice\t1
3 Mary journeyed to the kitchen.
4 John moved to the bedroom.
5 Where is John? \tbedroom\t1 4
"""
QA8 = """\
1 Mary got the milk there.
2 Mary took the apple there.
3 What is Mary carrying? \tmilk,apple\t1 2
1 John went to the office.
2 What is John carrying? \tnothing\t
"""


def write_babi(folder: Path) -> Path:
    """bAbI files of two tasks, as they are released."""
    inner = folder / "tasks_1-20_v1-2" / "en"
    inner.mkdir(parents=True)
    for split in ("test", "train"):
        (inner / f"qa1_single-supporting-fact_{split}.txt").write_text(QA1)
        (inner / f"qa8_lists-sets_{split}.txt").write_text(QA8)
    return folder
