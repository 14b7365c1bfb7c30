"""What the task tests share: small tokenizers of every kind, benchmark files and a copy of RULER in our own words."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from lengthwise.data.tokenizers import ByteTokenizer, HFTokenizer, Tokenizer
from lengthwise.tasks.library import Library, TaskOptions

_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_SPLIT = _QWEN_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
ESSAYS = 60


def _training_text() -> list[str]:
    words = [
        "the",
        "river",
        "runs",
        "past",
        "old",
        "stones",
        "and",
        "new",
        "bridges",
        "while",
        "people",
        "walk",
        "along",
        "its",
        "banks",
        "every",
        "morning",
    ]
    lines = [" ".join(words[(i * 7 + j * 3) % len(words)] for j in range(12)) + f", {i * 7919}.\n" for i in range(300)]
    return [*lines, "LET ABC BE 12345.", "Question: which?\n\nAnswer: the 10 words", "a-b c-d 0123456789abcdef"] * 2


def _train(path: Path, normalizer: Any, pre_tokenizer: Any, decoder: Any, alphabet: list[str]) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, trainers

    backend = Backend(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoder
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_training_text(), trainer)
    path.write_text(backend.to_str())


def _train_like_sentencepiece(path: Path) -> None:
    """BPE without a pattern, bytes for what is not in the vocabulary, a space put before every text."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "<|end|>", *bytes_], show_progress=False)
    backend.train_from_iterator([text.replace("\n", " ") for text in _training_text()], trainer)
    description = json.loads(backend.to_str())
    space = {"String": " "}
    prepend = [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": space, "content": "\u2581"}]
    back = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    description["pre_tokenizer"] = None
    description["normalizer"] = {"type": "Sequence", "normalizers": prepend}
    description["decoder"] = {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]}
    description["added_tokens"] = [token for token in description["added_tokens"] if "0x" not in token["content"]]
    path.write_text(json.dumps(description))


class GreedyTokenizer:
    """Words with the space before them, and single characters for the rest: a vocabulary read from left to right."""

    name = "greedy"
    fingerprint = "1" * 64
    vocab_size = 1 << 20
    parts_at_spaces = True

    def __init__(self) -> None:
        self._entries: list[str] = []
        self._numbers: dict[str, int] = {}

    def encode(self, text: str) -> np.ndarray:
        pieces = re.findall(r" ?[a-z]+| ?[0-9]|.", text, re.DOTALL)
        for piece in pieces:
            if piece not in self._numbers:
                self._numbers[piece] = len(self._entries)
                self._entries.append(piece)
        return np.array([self._numbers[piece] for piece in pieces], dtype=np.uint32)

    def decode(self, ids: ArrayLike) -> str:
        return "".join(self._entries[index] for index in np.asarray(ids).tolist())

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode_batch(self, rows: Sequence[ArrayLike]) -> list[str]:
        return [self.decode(row) for row in rows]

    def token_bytes(self) -> np.ndarray:
        return np.array([len(entry.encode()) for entry in self._entries])


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """Bytes; two kinds of byte-level BPE and two of others whose counts add up; one whose tokens reach across words;
    one that adds a space and so does not give texts back."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    folder = tmp_path_factory.mktemp("tokenizers")
    level = pre_tokenizers.ByteLevel.alphabet()
    split = [pre_tokenizers.Split(Regex(_LLAMA_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    kinds = {
        "gpt2": (normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), level),
        "llama3": (None, pre_tokenizers.Sequence(split), decoders.ByteLevel(), level),
        "loose": (None, pre_tokenizers.ByteLevel(False, use_regex=False), decoders.ByteLevel(), level),
        "prefix": (None, pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel(), level),
    }
    made: dict[str, Tokenizer] = {"bytes": ByteTokenizer()}
    for name, (normalizer, pre_tokenizer, decoder, alphabet) in kinds.items():
        _train(folder / f"{name}.json", normalizer, pre_tokenizer, decoder, alphabet)
        made[name] = HFTokenizer(folder / f"{name}.json")
    _train_like_sentencepiece(folder / "pieces.json")
    made["sentencepiece"] = HFTokenizer(folder / "pieces.json")
    made["greedy"] = GreedyTokenizer()
    return made


def _sentence(number: int) -> str:
    subjects = ("A miller", "The old road", "Nobody here", "Every second house", "The smaller lake", "My neighbour")
    verbs = ("keeps", "forgets", "follows", "carries", "remembers", "measures")
    objects = ("the weather", "a list of birds", "what the mayor said", "seven chairs", "the way home")
    first, second, third = number % 6, number // 6 % 6, number // 36 % 5
    return f"{subjects[first]} {verbs[second]} {objects[third]}, as chapter {number} tells."


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with small files of the form of the benchmarks'."""
    folder = tmp_path_factory.mktemp("data")
    texts = {"squad": "dev-v2.0.json", "hotpotqa": "hotpot_dev_distractor_v1.json", "essays": "PaulGrahamEssays.json"}
    for name in texts:
        (folder / name).mkdir()
    articles = []
    for article in range(12):
        paragraphs = []
        for number in range(6):
            start = 40 * article + 6 * number
            context = " ".join(_sentence(start + i) for i in range(3 + (article + number) % 5))
            question = {
                "question": f"Which chapter tells of place {start}?",
                "answers": [{"text": f"chapter {start}"}, {"text": f"chapter {start}"}],
                "is_impossible": False,
            }
            hopeless = {"question": "What is unknown?", "answers": [], "is_impossible": True}
            paragraphs.append({"context": context, "qas": [question, hopeless]})
        articles.append({"title": f"Article {article}", "paragraphs": paragraphs})
    (folder / "squad" / texts["squad"]).write_text(json.dumps({"data": articles}))
    questions = []
    for number in range(15):
        context = [
            [f"Title {number}-{i}", [_sentence(900 + 30 * number + 3 * i), " " + _sentence(901 + 30 * number + 3 * i)]]
            for i in range(10)
        ]
        facts = [[f"Title {number}-{i}", 0] for i in (number % 10, (number + 4) % 10)]
        questions.append(
            {"question": f"Is place {number} old?", "answer": "yes", "context": context, "supporting_facts": facts}
        )
    (folder / "hotpotqa" / texts["hotpotqa"]).write_text(json.dumps(questions))
    essays = "\n\n".join(" ".join(_sentence(3000 + 20 * e + i) for i in range(20)) for e in range(ESSAYS))
    (folder / "essays" / texts["essays"]).write_text(json.dumps({"text": essays}))
    return folder


TEMPLATES = {
    "niah": (
        "Some strange {type_needle_v} lie below. Look for the {type_needle_v}.\n{context}\n"
        "What are all the strange {type_needle_v} of {query} above?",
        " The strange {type_needle_v} of {query} are",
        128,
    ),
    "variable_tracking": (
        "Watch what is set.\n\n{context}\nQuestion: Who has {query} above?",
        " Answer: {num_v} names have {query}: ",
        30,
    ),
    "common_words_extraction": (
        "A list of words.\n{context}\nQuestion: Which {num_cw} come up most?",
        " Answer: The {num_cw} are:",
        120,
    ),
    "freq_words_extraction": ("A code. {context}\nQuestion: Which three come up most?", " Answer: They are:", 50),
    "qa": ("Read this.\n\n{context}\n\nAnswer now.\n\nQuestion: {query}", " Answer:", 32),
}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like RULER's repository; the sentences in it are ours."""
    folder = tmp_path_factory.mktemp("ruler")
    synthetic = folder / "scripts/data/synthetic"
    synthetic.mkdir(parents=True)
    tasks = {
        name: {"tokens_to_generate": budget, "template": template, "answer_prefix": prefix}
        for name, (template, prefix, budget) in TEMPLATES.items()
    }
    (synthetic / "constants.py").write_text(f'"""Tasks."""\n\nTASKS = {tasks!r}\n')
    wrappers = {"base": "{task_template}", "chat": "You are a bot.\n\nUSER: {task_template} BOT:"}
    (folder / "scripts/data/template.py").write_text(f"Templates = {wrappers!r}\n")
    (synthetic / "niah.py").write_text(
        'import os\n\nneedle = "The strange {type_needle_v} of {key} include {value}."\n'
        "if kind == 'essay':\n    haystack = open('x').read()\n"
        'elif kind == "noise":\n    haystack = "Snow falls. Cats nap. So it is."\n'
        "else:\n    raise SystemExit('never run')\n"
    )
    (synthetic / "qa.py").write_text('DOCUMENT_PROMPT = "Paper {i}:\\n{document}"\n')
    return folder


@pytest.fixture(scope="session")
def library(data_dir: Path) -> Library:
    """Our wording, small benchmark files."""
    return Library(TaskOptions(data_dir=data_dir))


@pytest.fixture(scope="session")
def official_library(data_dir: Path, checkout: Path) -> Library:
    """The wording of the copy of RULER."""
    return Library(TaskOptions(data_dir=data_dir, ruler_source=checkout))
