"""Texts that a tokenizer reads as what they say: no special token in them, and given back as they were.

Every family of tasks asks this of what a user may give it (wordings, haystacks, books, needles, questions) before a
prompt is made of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from lengthwise.data.tokenizers import ByteTokenizer, HFTokenizer, Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.splitting import adds_up

_SHOWN = 24  # characters of a difference
_AROUND = 20  # characters on either side of a special token


def check_texts(texts: Sequence[str], tokenizer: Tokenizer, where: str) -> None:
    """Refuse texts that the model would not be given as they are.

    Raises:
        InputError: the tokenizer reads a special token in one of them, or does not give it back as it was.
    """
    check_special(texts, tokenizer, where)
    check_round_trip(texts, tokenizer, where)


def check_special(texts: Iterable[str], tokenizer: Tokenizer, where: str) -> None:
    """Refuse texts in which the tokenizer would read a special token, such as an end of text, that nobody meant."""
    specials = _special_texts(tokenizer)
    if not specials:
        return
    pattern = re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))))
    for text in texts:
        found = pattern.search(text)
        if found is not None:
            context = text[max(0, found.start() - _AROUND) : found.end() + _AROUND]
            raise InputError(
                expected="text without special tokens",
                got=f"{found[0]!r} in {context!r}",
                where=where,
                fix=f"take it out of the text, or use a tokenizer to which it is plain text (not {tokenizer.name})",
            )


def _special_texts(tokenizer: Tokenizer) -> list[str]:
    """Texts that the tokenizer reads as special tokens."""
    if not isinstance(tokenizer, HFTokenizer):
        return []
    tokens = tokenizer.description.get("added_tokens") or []
    return [str(token["content"]) for token in tokens if token.get("special") and token["content"]]


def check_round_trip(texts: Sequence[str], tokenizer: Tokenizer, where: str) -> None:
    """Refuse a tokenizer that does not give texts back as they are: the model would be asked about another text."""
    if isinstance(tokenizer, ByteTokenizer):
        return
    if isinstance(tokenizer, HFTokenizer) and adds_up(tokenizer.description):
        # Byte-level: only the normalizer can change a text.
        texts = [text for text in texts if not unicodedata.is_normalized("NFC", text)]
    backs = tokenizer.decode_batch(tokenizer.encode_batch(texts)) if texts else []
    for text, back in zip(texts, backs, strict=True):
        if text != back:
            both = zip(text, back, strict=False)
            at = next((i for i, (a, b) in enumerate(both) if a != b), min(len(text), len(back)))
            raise InputError(
                expected="a tokenizer that gives the text back as it was",
                got=f"{tokenizer.name}, which turns {text[at : at + _SHOWN]!r} into {back[at : at + _SHOWN]!r}",
                where=where,
                fix="use a tokenizer that keeps case, spaces and line breaks (byte-level ones do), or normalise the "
                "text to what this one writes (often NFC)",
            )
