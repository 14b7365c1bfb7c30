"""What a measurement is given: the model, and sequences of text it was not trained on."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from lengthwise.checkpoints import Checkpoint
from lengthwise.data import Tokenizer, TokenStore, prepare_corpus, sample_sequences
from lengthwise.data.tokenizers import spells_bytes
from lengthwise.engines import OpenedModel, from_checkpoint
from lengthwise.engines.opening import tokenizer_of
from lengthwise.errors import InputError
from lengthwise.measure.config import LEAST_SEQUENCES, NUM_SEQUENCES, MeasureConfig
from lengthwise.shapes import Int

_TOLERANCE = 1e-3
"""Share of the bytes that the sizes of tokens may miss: rare characters that are normalised (NFC) or unknown."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Sequences:
    """Text to measure on.

    Args:
        tokens: T inputs and one target each, in the narrowest unsigned type that holds the ids.
        documents: document of each sequence.
        token_bytes: bytes per token id; None where the tokenizer is not known or its tokens do not spell the text.
        corpus: fingerprint of the token store; None for sequences given directly.
        num_undecodable_files: files of the corpus that were left out, as they are not UTF-8.
        no_bytes: why the bytes of a token are not known although the tokenizer is.
        wanted: how many there should have been, where the corpus has fewer; None otherwise.
    """

    tokens: Integer[np.ndarray, "n T1"]
    documents: Int[np.ndarray, " n"]
    token_bytes: Int[np.ndarray, " vocab"] | None
    corpus: str | None
    num_undecodable_files: int | None = None
    no_bytes: str | None = None
    wanted: int | None = None

    def hashes(self) -> dict[str, str]:
        """What identifies the text: of the sequences themselves, and of the corpus they come from."""
        digest = hashlib.sha256(str(self.tokens.shape).encode())
        for row in self.tokens:
            digest.update(row.astype("<i8").tobytes())
        digest.update(self.documents.astype("<i8").tobytes())
        found = {"sequences": digest.hexdigest()}
        return found if self.corpus is None else {**found, "validation": self.corpus}


def sample(config: MeasureConfig, model: Checkpoint | OpenedModel, *, progress: bool) -> Sequences:
    """Sequences from the validation side of the corpus.

    Where the config names no number and the corpus has fewer than `NUM_SEQUENCES`, they are as many as it has.

    Args:
        config: resolved.
        model: names the tokenizer where the config does not.
        progress: show the tokenizing of a new corpus, and say on stderr where there are fewer sequences.

    Raises:
        InputError: where no tokenizer is named or it does not fit the vocabulary, or where the corpus has too few
            documents of that length.
    """
    assert config.length is not None, "resolved"
    tokenizer = tokenizer_of(_opened(model), config.tokenizer)
    _, validation = prepare_corpus(config.data, tokenizer, progress=progress)
    tokens, documents = sample_sequences(
        validation,
        config.length,
        config.num_sequences or NUM_SEQUENCES,
        config.seed,
        windows_per_document=config.windows_per_document,
        at_least=LEAST_SEQUENCES if config.num_sequences is None else None,
    )
    wanted = None if config.num_sequences is not None or len(tokens) == NUM_SEQUENCES else NUM_SEQUENCES
    if wanted is not None and progress:
        print(
            f"! the corpus has {len(tokens)} sequences of {config.length:,} tokens instead of {wanted}: measuring on "
            f"these (for more, give a shorter --length or a higher --windows-per-document)",
            file=sys.stderr,
            flush=True,
        )
    sizes = tokenizer.token_bytes()
    no_bytes = _no_bytes(tokenizer, sizes, validation, documents)
    return Sequences(
        narrow(tokens),
        documents,
        sizes if no_bytes is None else None,
        validation.fingerprint,
        validation.num_undecodable_files,
        no_bytes,
        wanted,
    )


def _no_bytes(
    tokenizer: Tokenizer, sizes: Int[np.ndarray, " vocab"], store: TokenStore, documents: Int[np.ndarray, " n"]
) -> str | None:
    """Why the sizes of tokens say nothing about these documents; None where they add up to the bytes of their text.

    The store knows how many bytes each text has. A window is a part of its document, so these counts cannot stand in
    for the sizes; they tell whether the sizes can be trusted.
    """
    chosen = np.unique(documents).tolist()
    actual = np.array([store.document_bytes(index) for index in chosen])
    counted = np.zeros_like(actual)
    for row, index in enumerate(chosen):
        ids = store.document(index)
        for first in range(0, len(ids), _BLOCK):  # the sizes of a long document at once would take eight bytes a token
            counted[row] += sizes[ids[first : first + _BLOCK]].sum()
    # One byte a document is the space that sentencepiece puts before it. Too many here and too few there do not cancel.
    if int(abs(counted - actual).sum()) <= _TOLERANCE * int(actual.sum()) + len(chosen):
        return None
    return (
        f"the tokens of {tokenizer.name} do not spell the text; by their spelling the documents read have "
        f"{int(counted.sum()):,} bytes, in truth {int(actual.sum()):,}"
    )


def given(
    config: MeasureConfig, model: Checkpoint | OpenedModel, tokens: np.ndarray, documents: np.ndarray
) -> Sequences:
    """Sequences that the caller has chosen; bits per byte are known where a tokenizer is named.

    Raises:
        InputError: where tokens and document ids do not belong together.
    """
    if len(tokens) != len(documents):
        raise InputError(
            expected=f"a document id for each of {len(tokens)} sequences",
            got=f"{len(documents)} ids",
            where="sequences",
            fix="pass the ids that came with the sequences",
        )
    opened = _opened(model)
    named = config.tokenizer is not None or opened.tokenizer_spec is not None
    if not named:
        return Sequences(narrow(tokens), documents, None, None)
    tokenizer = tokenizer_of(opened, config.tokenizer)
    if not spells_bytes(tokenizer):
        no_bytes = f"the tokens of {tokenizer.name} do not spell the text, and the text itself is not known"
        return Sequences(narrow(tokens), documents, None, None, no_bytes=no_bytes)
    return Sequences(narrow(tokens), documents, tokenizer.token_bytes(), None)


def narrow(tokens: Integer[np.ndarray, "n T1"]) -> Integer[np.ndarray, "n T1"]:
    """The same ids in one, two or four bytes each instead of eight; long texts are held for the whole run."""
    if tokens.size == 0 or int(tokens.min()) < 0:
        return tokens
    return tokens.astype(np.min_scalar_type(int(tokens.max())), copy=False)


def _opened(model: Checkpoint | OpenedModel) -> OpenedModel:
    return model if isinstance(model, OpenedModel) else from_checkpoint(model)
