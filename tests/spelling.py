"""Small tokenizers whose tokens do not spell the bytes of a text: words that end in `</w>`, and WordPiece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

KINDS: tuple[Literal["end of word", "word piece"], ...] = ("end of word", "word piece")


def write_tokenizer(folder: Path, kind: Literal["end of word", "word piece"], texts: Sequence[str]) -> Path:
    """A tokenizer.json of at most 256 ids, trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if kind == "end of word":
        backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
        trainer = trainers.BpeTrainer(
            vocab_size=200, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
        )
    else:
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    path = folder / "tokenizer.json"
    path.write_text(backend.to_str(), encoding="utf-8")
    return path
