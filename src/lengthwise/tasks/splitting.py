"""Where the tokens of a tokenizer part, whatever the text: read out of its description.

Three kinds of tokenizers are known; any other is not known to part anywhere.

- `BYTES`: everywhere.
- `PIECES`: byte-level BPE whose text is first split by one of the well-known patterns (GPT-2's, which GPT-NeoX uses;
  those of cl100k, Llama 3 and Qwen 2).
- `SPACES`: no token holds a space behind another character, so that all part before a single space. That is BPE without
  a pattern (sentencepiece models), where the vocabulary shows it, and any tokenizer that says so with an attribute
  ``parts_at_spaces = True``: its tokens are entries of a vocabulary, found from left to right or by merges, and none of
  them holds a space behind another character.

docs/tasks/ruler.md has the argument why tokens part there.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

from lengthwise.data.tokenizers import ByteTokenizer, HFTokenizer, Tokenizer


class Kind(Enum):
    """What is known of a tokenizer."""

    BYTES = "bytes"
    PIECES = "pieces"
    SPACES = "spaces"
    UNKNOWN = "unknown"


SPACE = "\u2581"  # how sentencepiece writes a space
_CUT_INSIDE = re.compile(r"[\s0-9.,:\-]")  # what a cut inside a word can have on one of its sides
_SPACE_INSIDE = re.compile(f"[^{SPACE} ][{SPACE} ]")
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


def kind_of(tokenizer: Tokenizer) -> Kind:
    """What is known of a tokenizer."""
    if type(tokenizer) is ByteTokenizer:
        return Kind.BYTES
    if getattr(tokenizer, "parts_at_spaces", False):
        return Kind.SPACES
    if not isinstance(tokenizer, HFTokenizer):
        return Kind.UNKNOWN
    if type(tokenizer) is HFTokenizer and adds_up(tokenizer.description):
        return Kind.PIECES
    return Kind.SPACES if parts_at_spaces(tokenizer.description) else Kind.UNKNOWN


def digits_in_threes(tokenizer: HFTokenizer) -> bool:
    """Whether the pattern of a tokenizer of the kind PIECES splits runs of digits."""
    return _SPLITS[_pattern(tokenizer.description["pre_tokenizer"])]


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


def parts_at_spaces(description: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` describes BPE on text whose only change is how spaces are written, and whose
    vocabulary has no token with a space behind another character."""
    model = description.get("model") or {}
    if model.get("type") != "BPE" or model.get("dropout") or model.get("ignore_merges"):
        return False
    if description.get("pre_tokenizer") is not None or not _writes_spaces_only(description.get("normalizer")):
        return False
    if any(_SPACE_INSIDE.search(token) for token in model.get("vocab") or [" x "]):
        return False
    return all(_keeps_to_itself(token) for token in description.get("added_tokens") or [])


def _writes_spaces_only(normalizer: dict[str, Any] | None) -> bool:
    if normalizer is None:
        return True
    if normalizer.get("type") == "Sequence":
        return all(_writes_spaces_only(step) for step in normalizer.get("normalizers") or [{}])
    if normalizer.get("type") == "Prepend":
        return normalizer.get("prepend") == SPACE
    return (
        normalizer.get("type") == "Replace"
        and normalizer.get("pattern") == {"String": " "}
        and normalizer.get("content") == SPACE
    )


def _keeps_to_itself(token: dict[str, Any]) -> bool:
    """Whether an added token cannot lie across a cut of this module."""
    content = str(token.get("content", ""))
    if content.strip() == "":
        return len(content) > 1 and "\n" not in content  # runs of spaces: cuts are at single ones
    if token.get("special"):
        return not any(c.isspace() for c in content)
    return not (token.get("lstrip") or token.get("rstrip") or token.get("single_word") or _CUT_INSIDE.search(content))


def taking_space(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Special tokens that swallow white space beside them: no cut next to one."""
    if not isinstance(tokenizer, HFTokenizer):
        return ()
    added = tokenizer.description.get("added_tokens") or []
    return tuple(str(t["content"]) for t in added if t.get("lstrip") or t.get("rstrip") or t.get("single_word"))
