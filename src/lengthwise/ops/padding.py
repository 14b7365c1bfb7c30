"""What `lengths` means, once for all operations: row b holds ``lengths[b]`` real tokens, the others are padding.

With ``padding="right"`` (the default) the real tokens come first, with ``"left"`` they come last. Padding changes
neither the outputs of real tokens nor the final state.
"""

from typing import Literal

import torch

from lengthwise.errors import InputError
from lengthwise.shapes import Bool, Int, Tensor

Padding = Literal["right", "left"]


def check_padding(padding: str) -> None:
    """Raise InputError unless `padding` is a side."""
    if padding not in ("right", "left"):
        raise InputError(
            expected='"right" or "left"', got=repr(padding), where="padding", fix="name the side that the padding is on"
        )


def check_lengths(lengths: Int[Tensor, " B"], batch: int, time: int, padding: str = "right") -> None:
    """Raise InputError unless `lengths` is an integer vector of `batch` values in 0..`time`, and `padding` a side."""
    check_padding(padding)
    wrong = (
        f"dtype {lengths.dtype}"
        if lengths.is_floating_point() or lengths.dtype == torch.bool
        else f"shape {tuple(lengths.shape)}"
        if tuple(lengths.shape) != (batch,)
        else f"values {int(lengths.min())}..{int(lengths.max())}"
        if batch and (int(lengths.min()) < 0 or int(lengths.max()) > time)
        else None
    )
    if wrong:
        raise InputError(
            expected=f"integer lengths of shape ({batch},) between 0 and {time}",
            got=wrong,
            where="lengths",
            fix="pass the number of real tokens of each row",
        )


def real_tokens(lengths: Int[Tensor, " B"], time: int, padding: Padding = "right") -> Bool[Tensor, "B T"]:
    """True at real tokens."""
    check_padding(padding)
    position = torch.arange(time, device=lengths.device)
    if padding == "left":
        position = time - 1 - position
    return position[None, :] < lengths[:, None]


def emptied(lengths: Int[Tensor, " B"], padding: Padding, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Inputs [B, T, ...] with zeros where the padding is: nothing times what stands there may be no number."""
    absent = ~real_tokens(lengths, inputs[0].shape[1], padding)
    return tuple(tensor.masked_fill(absent.view(*absent.shape, *[1] * (tensor.dim() - 2)), 0) for tensor in inputs)


def swap_side(x: Tensor, lengths: Int[Tensor, " B"], padding: Padding) -> Tensor:
    """Move the real tokens of each row [B, T, ...] from the `padding` layout to the other one.

    From "left" the real tokens move to the front; from "right" they move to the end. Padding wraps around, so the
    second call with the other side undoes the first.
    """
    check_padding(padding)
    time = x.shape[1]
    shift = time - lengths
    offset = shift if padding == "left" else -shift
    index = (torch.arange(time, device=x.device)[None, :] + offset[:, None]) % max(time, 1)
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index]
