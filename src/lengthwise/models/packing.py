"""Several documents in one row: each is read from its own start, and nothing crosses from one into the next.

A row that holds n documents is the same as n rows of one document each, so that is how it is read: rows are cut where
documents begin, the parts become rows of their own, padded to the longest, and the results are put back where they came
from. No recurrence needs to know of it, and the equality with separate documents is exact for every mixer. The price is
the padding, as much as the documents differ in length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lengthwise.errors import InputError
from lengthwise.ops.padding import real_tokens
from lengthwise.shapes import Bool, Int, Tensor


@dataclass(frozen=True)
class Parts:
    """Where the documents of a batch lie.

    Args:
        row: row of each part.
        start: its first token.
        length: its number of tokens.
        continues: whether it goes on from the state that its row came with; the others start from zero.
        last: for each row, the part that ends it.
    """

    row: Int[Tensor, " parts"]
    start: Int[Tensor, " parts"]
    length: Int[Tensor, " parts"]
    continues: Bool[Tensor, " parts"]
    last: Int[Tensor, " B"]

    def places(self) -> Int[Tensor, "parts longest"]:
        """Column in its row of each token of each part; padding repeats the part's last token."""
        steps = torch.arange(int(self.length.max()), device=self.start.device)
        return self.start[:, None] + torch.minimum(steps[None, :], (self.length - 1).clamp(min=0)[:, None])

    def gather(self, x: Tensor) -> Tensor:
        """[B, T, ...] to [parts, longest, ...]."""
        return x[self.row[:, None], self.places()]

    def scatter(self, x: Tensor, like: Tensor) -> Tensor:
        """[parts, longest, ...] back to the shape [B, T] of `like`; places of no part are zero."""
        real = real_tokens(self.length, x.shape[1])
        rows = self.row[:, None].expand_as(real)[real]
        out = x.new_zeros(*like.shape[:2], *x.shape[2:])
        return out.index_put((rows, self.places()[real]), x[real])


def cut_at(resets: Bool[Tensor, "B T"], lengths: Int[Tensor, " B"] | None = None) -> Parts:
    """The parts of a batch whose documents begin where `resets` is True.

    Args:
        resets: True at the first token of every document; the state before that token counts as zero.
        lengths: real tokens of each row, padding on the right; None for all T. Marks beyond are ignored.

    Raises:
        InputError: where `resets` is not boolean.
    """
    if resets.dtype != torch.bool:
        raise InputError(
            expected="a boolean mask [B, T] of the tokens that begin a document",
            got=f"dtype {resets.dtype}",
            where="resets",
            fix="pass resets.bool()",
        )
    row, start, length, continues, last = [], [], [], [], []
    for index, marks in enumerate(resets.tolist()):
        end = len(marks) if lengths is None else int(lengths[index])
        starts = [0, *(place for place in range(1, end) if marks[place])]
        for begin, stop in zip(starts, [*starts[1:], end], strict=True):
            row.append(index)
            start.append(begin)
            length.append(stop - begin)
            continues.append(begin == 0 and not (marks and end and marks[0]))
        last.append(len(row) - 1)
    device = resets.device
    return Parts(
        row=torch.tensor(row, device=device),
        start=torch.tensor(start, device=device),
        length=torch.tensor(length, device=device),
        continues=torch.tensor(continues, dtype=torch.bool, device=device),
        last=torch.tensor(last, device=device),
    )
