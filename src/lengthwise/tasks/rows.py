"""Rows for finetuning on a task: prompts with their answers as token ids, and which predictions count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError

_BATCH = 64  # rows that are tokenized at once


def answer_rows(
    tokenizer: Tokenizer,
    texts: Iterable[tuple[str, str]],
    n: int,
    context_length: int,
    where: str,
    *,
    all_tokens: bool = False,
    fill_up: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of `context_length` + 1 tokens: inputs are all but the last, targets all but the first.

    Args:
        tokenizer: of the model.
        texts: prompt and ending of each row; an ending is the answer with the space before it.
        n: rows.
        context_length: tokens the model reads.
        where: names the task in messages.
        all_tokens: count the loss of all tokens instead of those of the answer.
        fill_up: a text that is too short is followed by a line break and the beginning of its prompt once more, which
            never count. For tasks that cannot fill a length to the token.
    Returns:
        ids and mask, both [n, context_length + 1]; the mask is True where the prediction of that token counts, so it is
        False in the first column.
    Raises:
        InputError: a text has another number of tokens; with `fill_up`, too many.
    """
    texts = iter(texts)
    tokens = np.zeros((n, context_length + 1), dtype=np.int64)
    mask = np.zeros((n, context_length + 1), dtype=bool)
    for first in range(0, n, _BATCH):
        batch = list(islice(texts, min(_BATCH, n - first)))
        for row, ids in enumerate(tokenizer.encode_batch([prompt + ending for prompt, ending in batch]), start=first):
            prompt, ending = batch[row - first]
            num = len(ids)
            if fill_up and num <= context_length:
                ids = np.concatenate([ids, tokenizer.encode("\n" + prompt)[: context_length + 1 - num]])
            if len(ids) != context_length + 1:
                raise InputError(
                    expected=f"text of exactly {context_length + 1} tokens",
                    got=f"{len(ids)} with the tokenizer {tokenizer.name}",
                    where=f"row {row} of {where}",
                    fix="change the context length by a few tokens; this tokenizer cannot fill it",
                )
            tokens[row] = ids
            begin = 1 if all_tokens else num - _num_at_end(tokenizer, tokens[row, :num], prompt, ending)
            mask[row, begin:num] = True
    return tokens, mask


def numbers_of(rows: int | Sequence[int]) -> Sequence[int]:
    """The numbers of the rows asked for: so many from 0 on, or these."""
    return range(rows) if isinstance(rows, int) else rows


def _num_at_end(tokenizer: Tokenizer, ids: Sequence[int] | NDArray[np.int64], prompt: str, ending: str) -> int:
    """How many of the last ids are not those of the prompt alone."""
    alone = tokenizer.encode(ending)
    if np.array_equal(alone, ids[len(ids) - len(alone) :]):
        return len(alone)
    before = np.asarray(tokenizer.encode(prompt), dtype=np.int64)[: len(ids)]
    same = before == ids[: len(before)]
    return len(ids) - (len(before) if same.all() else int(same.argmin()))
