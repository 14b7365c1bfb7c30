"""Long sequences for measuring: one random window of a fixed length from each of many documents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.store import TokenStore
from lengthwise.errors import InputError
from lengthwise.seeds import numpy_rng


def sample_sequences(
    store: TokenStore,
    length: int,
    num_sequences: int,
    seed: int,
    *,
    windows_per_document: int = 1,
    at_least: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Windows of `length` + 1 tokens at random offsets, from documents in random order.

    Documents are the unit of resampling, so each gives one window unless more are asked for; windows of the same
    document do not share targets. Sequence i depends only on (store, length, windows_per_document, seed, i): asking for
    more sequences leaves the first ones as they were, as long as there are documents not used yet.

    Args:
        store: the tokens.
        length: inputs a sequence, in tokens.
        num_sequences: how many, n.
        seed: decides documents and offsets.
        windows_per_document: at most this many windows of one document; further documents are used first.
        at_least: where the store has fewer than `num_sequences`, take all it has, if they are this many; None: refuse.
    Returns:
        tokens int64 [n, length + 1] and the index of the document of each, int64 [n].
    Raises:
        InputError: a number below 1, or fewer windows than asked for, or than `at_least`.
    """
    for name, value in (
        ("length", length),
        ("number of sequences", num_sequences),
        ("number of windows a document", windows_per_document),
    ):
        if value < 1:
            raise InputError(
                expected=f"a {name} of at least 1", got=str(value), where="sample_sequences", fix=f"raise the {name}"
            )
    available = np.minimum((store.lengths - 1) // length, windows_per_document)
    eligible = np.flatnonzero(available > 0)
    have = int(available[eligible].sum())
    if have < num_sequences:
        if at_least is None or have < at_least:
            raise _too_few(store, length, num_sequences, windows_per_document, eligible, at_least)
        num_sequences = have
    order = numpy_rng(seed, "sequences/documents").permutation(eligible)
    picks: list[tuple[int, int]] = []  # (document, start inside it), every document once before any comes twice
    starts: dict[int, NDArray[np.int64]] = {}
    for turn in range(windows_per_document):
        for document in order[available[order] > turn]:
            index = int(document)
            if index not in starts:
                starts[index] = _starts(int(store.lengths[index]), length, int(available[index]), seed, index)
            picks.append((index, int(starts[index][turn])))
            if len(picks) == num_sequences:
                break
        if len(picks) == num_sequences:
            break
    tokens = np.empty((num_sequences, length + 1), dtype=np.int64)
    for row, (document, start) in enumerate(picks):
        tokens[row] = store.document(document)[start : start + length + 1]
    return tokens, np.array([document for document, _ in picks], dtype=np.int64)


def _starts(document_len: int, length: int, count: int, seed: int, index: int) -> NDArray[np.int64]:
    """`count` starts whose windows share no target, uniformly placed, in random order; int64 [count]."""
    rng = numpy_rng(seed, "sequences/offsets", index)
    gaps = np.sort(rng.integers(0, document_len - 1 - count * length + 1, size=count))
    return rng.permutation(gaps + length * np.arange(count))


def _too_few(
    store: TokenStore, length: int, wanted: int, per_document: int, eligible: NDArray[np.int64], at_least: int | None
) -> InputError:
    longest = int(store.lengths.max()) if store.num_documents else 0
    windows_of = ((store.lengths - 1) // length)[eligible]
    have, most = int(np.minimum(windows_of, per_document).sum()), int(windows_of.sum())
    number = f"{wanted}" if at_least is None else f"{wanted}, or at least {at_least},"
    several = f", raise --windows-per-document ({most} windows in all)" if most > have else ""
    windows = "" if per_document == 1 else f" with {have} windows"
    return InputError(
        expected=f"{number} sequences of {length + 1} tokens (length {length} and a target)",
        got=f"{len(eligible)} of {store.num_documents} documents that long{windows}; the longest has {longest} tokens",
        where=str(store.path),
        fix=f"lower --length or --num-sequences{several}, or add longer documents",
    )
