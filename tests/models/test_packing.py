"""Rows cut into documents and put together again."""

import pytest
import torch

from lengthwise.errors import InputError
from lengthwise.models.packing import cut_at


def test_cutting_into_parts_covers_each_token_once() -> None:
    resets = torch.tensor([[False, True, False, True], [True, False, False, False]])
    parts = cut_at(resets, torch.tensor([4, 2]))
    assert list(zip(parts.row.tolist(), parts.start.tolist(), parts.length.tolist(), strict=True)) == [
        (0, 0, 1),
        (0, 1, 2),
        (0, 3, 1),
        (1, 0, 2),
    ]
    assert parts.continues.tolist() == [True, False, False, False]
    assert parts.last.tolist() == [2, 3]
    x = torch.arange(8.0).view(2, 4)
    assert parts.scatter(parts.gather(x), x).tolist() == [[0, 1, 2, 3], [4, 5, 0, 0]]


def test_a_mask_of_numbers_is_refused(unchecked: None) -> None:
    with pytest.raises(InputError, match=r"boolean mask.*got dtype torch\.int64"):
        cut_at(torch.tensor([[0, 1]]))
