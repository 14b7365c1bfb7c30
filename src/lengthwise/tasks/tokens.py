"""Exact numbers of tokens, by addition where a tokenizer allows it.

Counting a prompt by encoding it is exact and slow. For many tokenizers a text can be cut at certain places such that no
token and no rule of the tokenizer reaches across; then the tokens of the parts add up to those of the whole, and parts
that occur again need not be encoded again. `TokenCounter` knows such places for

- bytes: everywhere;
- byte-level BPE whose text is first split by one of the well-known patterns (GPT-2's, which GPT-NeoX uses; those of
  cl100k, Llama 3 and Qwen 2): see `_CUT` and `_PIECES`.

For any other tokenizer, and wherever a text has something unusual at such a place, the text is encoded as a whole.
docs/tasks/ruler.md has the argument why the cuts are safe.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import ByteTokenizer, HFTokenizer, Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.merges import LONGEST, Merges

# A single space between two characters that are not white space: every pattern below starts a new piece there.
_CUT = re.compile(r"(?<=\S) (?=\S)")
_IRREGULAR = re.compile(r"\s\s| $|[^\x20-\x7e\n]")
# Words of letters, digits and hyphens, such as adjective-noun pairs and UUIDs: letters, digits and "-letters" part.
# Where the pattern takes digits in threes, so do the pieces.
_COMPOUND = re.compile(r" ?[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*[.,:]?\n?")
_PIECES = re.compile(r"[ -]?[A-Za-z]+|[ -]?[0-9]+|[.,:\n]+")
_PIECES_OF_THREE = re.compile(r"[ -]?[A-Za-z]+|[ -]?[0-9]{1,3}|[.,:\n]+")
_COMPOUND_LEN = 12  # shorter words are kept whole: they come again
_KEPT = 300_000  # most pieces that are remembered
# What `Merges` can count: one piece of the pattern. Where digits come in threes, a space before them is another.
_ONE = re.compile(rf"(?=.{{1,{LONGEST}}}$) ?(?:[A-Za-z]+|[0-9]+)")
_ONE_OF_THREE = re.compile(rf"(?=.{{1,{LONGEST}}}$)(?: ?[A-Za-z]+|[0-9]{{1,3}})")
_MANY = 16  # pieces from which on it is quicker
_CUT_INSIDE = re.compile(r"[\s0-9.,:\-]")  # what a cut can have on one of its sides
_RARE = re.compile(r"\d{6}")  # too many to come again

_GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    # pattern: whether digits come in threes (or alone)
    _GPT2: False,
    # cl100k and Llama 3; Qwen 2.
    _WORDS + r"\p{N}{1,3}" + _REST: True,
    _WORDS + r"\p{N}" + _REST: True,
}
_PROBE = (
    "The first line ends here.\nA second one, with 1234567 and blue-house; it isn't long: 'quoted' (or so).\n"
    "VAR ABCDE = 12345\nUUID 5abca6e5-d0b1-43eb-809e-7a8086c5d1d6.\n1. word 2. well-worn 3. x ... ... abcdef ..."
)


class TokenCounter:
    """Tokens of texts by one tokenizer, without added special tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, int] = {}
        self._bytes = isinstance(tokenizer, ByteTokenizer)
        self._takes_space = _taking_space(tokenizer)
        self.additive = self._bytes or (isinstance(tokenizer, HFTokenizer) and adds_up(tokenizer.description))
        """Whether counts of parts add up at the cuts that `meet` allows."""
        self._pieces, self._one = _PIECES, _ONE
        self._merges: Merges | None = None
        if self.additive and isinstance(tokenizer, HFTokenizer):
            if _SPLITS[_pattern(tokenizer.description["pre_tokenizer"])]:
                self._pieces, self._one = _PIECES_OF_THREE, _ONE_OF_THREE
            self._merges = Merges.of(tokenizer.description["model"])
        if self.additive and self.counts([_PROBE])[0] != self.whole([_PROBE])[0]:
            self.additive = False

    def whole(self, texts: Sequence[str]) -> list[int]:
        """Counts by encoding each text as a whole."""
        return [len(ids) for ids in self.tokenizer.encode_batch(texts)]

    def count(self, text: str) -> int:
        """Tokens of one text."""
        return int(self.counts([text])[0])

    def counts(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text, [len(texts)]: exact, by addition where that is safe."""
        if self._bytes:
            return np.fromiter((len(t) if t.isascii() else len(t.encode()) for t in texts), np.int64, len(texts))
        if not self.additive:
            return np.array(self.whole(texts), dtype=np.int64)
        return self._summed(self._cut(texts))

    def counts_of_names(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each name behind a space, [len(names)]. Names are letters, digits and single hyphens inside."""
        if self._bytes or not self.additive:
            return self.counts([f" {name}" for name in names])
        # All at once: a piece that begins with a space begins a name.
        pieces = self._pieces.findall(f" {' '.join(names)}")
        known = self._known.get
        tokens = np.fromiter([known(piece, 0) for piece in pieces], np.int64, len(pieces))
        missing = np.flatnonzero(tokens == 0).tolist()
        if missing:
            new = self._learn({pieces[place] for place in missing})
            tokens[missing] = [new[pieces[place]] for place in missing]
            self._forget(new)
        begins = np.flatnonzero(np.fromiter([piece[0] == " " for piece in pieces], np.bool_, len(pieces)))
        return np.add.reduceat(tokens, begins)

    def _summed(self, cut: list[list[str]]) -> NDArray[np.int64]:
        """Tokens of texts that are cut in pieces."""
        missing = set().union(*cut).difference(self._known)
        new = self._learn(missing) if missing else {}
        find = self._known.__getitem__
        result = np.fromiter((sum(map(find, pieces)) for pieces in cut), np.int64, len(cut))
        self._forget(new)
        return result

    def _learn(self, pieces: set[str]) -> dict[str, int]:
        """Count pieces that are not known yet."""
        quick = [] if self._merges is None else list(filter(self._one.fullmatch, pieces))
        new: dict[str, int] = {}
        if self._merges is not None and len(quick) >= _MANY:
            new.update(zip(quick, self._merges.counts(quick).tolist(), strict=True))
        others = [piece for piece in pieces if piece not in new]
        if others:
            new.update(zip(others, self.whole(others), strict=True))
        self._known.update(new)
        return new

    def _forget(self, new: dict[str, int]) -> None:
        """Forget what will hardly come again."""
        if len(self._known) > _KEPT:
            self._known.clear()
        else:
            for piece in filter(_RARE.search, new):
                del self._known[piece]

    def meet(self, left: str, right: str) -> bool:
        """Whether the tokens of `left + right` are those of both, whatever stands before and after.

        Safe are a single space that begins `right`, and a single line break that ends `left`, between characters that
        are not white space.
        """
        if self._bytes:
            return True
        if not self.additive or not left or not right:
            return False
        if any(left.endswith(token) or right.lstrip().startswith(token) for token in self._takes_space):
            return False
        if right[0] == " ":
            return not left[-1].isspace() and len(right) > 1 and not right[1].isspace()
        return left[-1] == "\n" and len(left) > 1 and not left[-2].isspace() and not right[0].isspace()

    def total(self, pieces: Sequence[str], known: Sequence[int | None] | None = None) -> int:
        """Tokens of the joined pieces: parts that cannot be counted by themselves are counted with their neighbours.

        Args:
            pieces: not empty, in order.
            known: tokens of pieces that were counted before, None for the others.
        """
        if not self.additive:
            return self.whole(["".join(pieces)])[0]
        texts: list[str] = []
        summed = 0
        open_text, open_known = "", None
        for place, piece in enumerate(pieces):
            tokens = None if known is None else known[place]
            if open_text and self.meet(open_text, piece):
                if open_known is None:
                    texts.append(open_text)
                else:
                    summed += open_known
                open_text, open_known = piece, tokens
            else:
                open_text, open_known = open_text + piece, None if open_text else tokens
        if open_known is None:
            texts.append(open_text)
        else:
            summed += open_known
        return summed + int(self.counts(texts).sum())

    def estimate(self, pieces: Sequence[str]) -> int:
        """`total` where counts add up; elsewhere the sum of the pieces, which is near it and quickly found."""
        return self.total(pieces) if self.additive else int(self.counts(pieces).sum())

    def _cut(self, texts: Sequence[str]) -> list[list[str]]:
        """Of each text, pieces whose tokens add up."""
        known, takes_space = self._known, self._takes_space
        cut: list[list[str]] = []
        for text in texts:
            if takes_space and any(token in text for token in takes_space):
                cut.append([text])
                continue
            first, *others = text.split(" ") if _IRREGULAR.search(text) is None else _CUT.split(text)
            words = [first, *[f" {word}" for word in others]] if first else [f" {word}" for word in others]
            pieces: list[str] = []
            for word in words:
                if len(word) > _COMPOUND_LEN and word not in known and _COMPOUND.fullmatch(word):
                    pieces.extend(self._pieces.findall(word))
                else:
                    pieces.append(word)
            cut.append(pieces)
        return cut


def adds_up(description: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` describes a tokenizer whose counts add up at the cuts of this module."""
    model = description.get("model") or {}
    normalizer = description.get("normalizer")
    if model.get("type") != "BPE" or model.get("dropout"):
        return False
    # NFC joins a character only with combining ones after it; at the cuts the next character is ASCII.
    if normalizer is not None and normalizer != {"type": "NFC"}:
        return False
    if not _splits_at_cuts(description.get("pre_tokenizer")):
        return False
    return all(_keeps_to_itself(token) for token in description.get("added_tokens") or [])


def _splits_at_cuts(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether text is split by a known pattern, and by nothing else, before merges."""
    if pre_tokenizer is None:
        return False
    if pre_tokenizer.get("type") == "Sequence":
        steps = pre_tokenizer.get("pretokenizers") or []
        if len(steps) != 2 or steps[0].get("type") != "Split" or steps[1].get("type") != "ByteLevel":
            return False
        split, level = steps
        return (
            _pattern(pre_tokenizer) in _SPLITS
            and split.get("behavior") == "Isolated"
            and not split.get("invert")
            and not level.get("use_regex", True)
            and not level.get("add_prefix_space")
        )
    return (
        pre_tokenizer.get("type") == "ByteLevel"
        and not pre_tokenizer.get("add_prefix_space")
        and bool(pre_tokenizer.get("use_regex", True))
    )


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    """The pattern that splits text; the byte-level step has GPT-2's of its own."""
    if pre_tokenizer["type"] == "Sequence":
        return str(pre_tokenizer["pretokenizers"][0].get("pattern", {}).get("Regex"))
    return _GPT2


def _keeps_to_itself(token: dict[str, Any]) -> bool:
    """Whether an added token cannot lie across a cut of this module."""
    content = str(token.get("content", ""))
    if content.strip() == "":
        return len(content) > 1 and "\n" not in content  # runs of spaces: cuts are at single ones
    if token.get("special"):
        return not any(c.isspace() for c in content)
    return not (token.get("lstrip") or token.get("rstrip") or token.get("single_word") or _CUT_INSIDE.search(content))


def _taking_space(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Special tokens that swallow white space beside them: no cut next to one."""
    if not isinstance(tokenizer, HFTokenizer):
        return ()
    added = tokenizer.description.get("added_tokens") or []
    return tuple(str(t["content"]) for t in added if t.get("lstrip") or t.get("rstrip") or t.get("single_word"))


def special_texts(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Texts that the tokenizer reads as special tokens."""
    if not isinstance(tokenizer, HFTokenizer):
        return ()
    return tuple(
        str(token["content"]) for token in tokenizer.description.get("added_tokens") or [] if token.get("special")
    )


def check_special(texts: Iterable[str], tokenizer: Tokenizer, where: str) -> None:
    """Refuse texts in which the tokenizer would read a special token, such as an end of text, that nobody meant."""
    specials = [special for special in special_texts(tokenizer) if special]
    if not specials:
        return
    pattern = re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))))
    for text in texts:
        found = pattern.search(text)
        if found is not None:
            context = text[max(0, found.start() - 20) : found.end() + 20]
            raise InputError(
                expected="text without special tokens",
                got=f"{found[0]!r} in {context!r}",
                where=where,
                fix=f"take it out of the text, or use a tokenizer to which it is plain text (not {tokenizer.name})",
            )


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
            at = next(
                (i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back))
            )
            raise InputError(
                expected="a tokenizer that gives the text back as it was",
                got=f"{tokenizer.name}, which turns {text[at : at + 24]!r} into {back[at : at + 24]!r}",
                where=where,
                fix="normalise the text to what the tokenizer writes (often NFC), or use another tokenizer",
            )


def key_of(values: Any) -> str:
    """Canonical JSON: equal values give equal text."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
