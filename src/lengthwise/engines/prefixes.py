"""Prompts that begin alike, as a tree: what they share is read once.

The needle grids ask about the same haystack again and again, and few-shot tasks repeat their examples. Each node of the
tree is a stretch of tokens; its children begin where prompts part ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Node:
    """A stretch of tokens that some prompts have in common after all that their ancestors hold.

    Args:
        tokens: ids of the stretch, at least one.
        ends: numbers of the prompts that end with this node.
        children: what follows.
    """

    tokens: NDArray[Any]
    ends: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    def num_tokens(self) -> int:
        """Tokens in this node and all below it."""
        return len(self.tokens) + sum(child.num_tokens() for child in self.children)


def prefix_tree(prompts: Sequence[NDArray[Any]], *, least: int = 64, enabled: bool = True) -> list[Node]:
    """The roots of the tree of `prompts`.

    Args:
        prompts: ids, at least one each.
        least: prompts that share fewer tokens than this beyond their common ancestor are not joined: a state that has
            to be kept costs more than reading so little again.
        enabled: False for one root a prompt, but for equal prompts.
    """
    order = sorted(range(len(prompts)), key=lambda index: (_key(prompts[index]), index))
    grown: list[_Part] = []
    for index in order:
        prompt = prompts[index]
        if grown and len(prompt) == grown[-1].stop and _shared(grown[-1].prompt, prompt) == len(prompt):
            grown[-1].ends.append(index)  # the same prompt again
        else:
            grown.append(_Part(prompt, [index], len(prompt)))
    if not enabled:
        return [Node(part.prompt, part.ends) for part in grown]
    return _grow(grown, 0, least)


@dataclass
class _Part:
    prompt: NDArray[Any]
    ends: list[int]
    stop: int


def _grow(parts: list[_Part], depth: int, least: int) -> list[Node]:
    """Nodes for sorted, distinct prompts that agree in their first `depth` tokens."""
    nodes: list[Node] = []
    begin = 0
    while begin < len(parts):
        # As many neighbours as share enough; what they all share is the node.
        common, end = len(parts[begin].prompt), begin + 1
        while end < len(parts):
            shared = min(common, _shared(parts[begin].prompt, parts[end].prompt))
            if shared - depth < least:
                break
            common, end = shared, end + 1
        group = parts[begin:end]
        node = Node(group[0].prompt[depth:common])
        rest = group
        if len(group[0].prompt) == common:
            node.ends, rest = group[0].ends, group[1:]
        node.children = _grow(rest, common, least) if rest else []
        nodes.append(node)
        begin = end
    return nodes


def _key(prompt: NDArray[Any]) -> bytes:
    """Bytes that sort as the ids do."""
    return np.ascontiguousarray(prompt, dtype=">u4").tobytes()


def _shared(left: NDArray[Any], right: NDArray[Any]) -> int:
    """Number of leading tokens that two prompts have in common."""
    length = min(len(left), len(right))
    different = np.flatnonzero(left[:length] != right[:length])
    return int(different[0]) if len(different) else length
