"""The published formats, one a file, and which of them a config or a set of tensors is in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lengthwise.checkpoints.formats.base import Format, Published, Rule
from lengthwise.checkpoints.formats.deepmind_griffin import DeepMindGriffin
from lengthwise.checkpoints.formats.fla_gla import FlaGLA
from lengthwise.checkpoints.formats.fla_rwkv6 import FlaRWKV6
from lengthwise.checkpoints.formats.own import Own
from lengthwise.checkpoints.formats.rwkv import RWKVFile, RWKVHub
from lengthwise.checkpoints.formats.state_spaces import StateSpaces
from lengthwise.checkpoints.formats.transformers_griffin import TransformersGriffin
from lengthwise.checkpoints.formats.transformers_llama import TransformersLlama
from lengthwise.checkpoints.formats.transformers_mamba import FlaMamba2, TransformersMamba, TransformersMamba2

__all__ = ["FORMATS", "Format", "Published", "Rule", "find_format"]

# The first that recognises a checkpoint is the one. Of the two layouts called rwkv6, the hub's has more marks.
FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Own(),
        StateSpaces(),
        TransformersMamba(),
        TransformersMamba2(),
        FlaMamba2(),
        TransformersLlama(),
        TransformersGriffin(),
        FlaGLA(),
        RWKVHub(),
        FlaRWKV6(),
        RWKVFile(),
        DeepMindGriffin(),
    )
}


def find_format(values: Mapping[str, Any], keys: Collection[str]) -> Format | None:
    """The format of a checkpoint.

    Args:
        values: content of its config.json; empty where it has none.
        keys: names of its tensors; empty where they are not known.
    """
    return next((form for form in FORMATS.values() if form.matches(values, keys)), None)
