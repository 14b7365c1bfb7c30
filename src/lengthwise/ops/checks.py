"""Checks of arguments that ops share."""

from collections.abc import Mapping

from lengthwise.errors import InputError
from lengthwise.shapes import Tensor


def check_shapes(op: str, wanted: Mapping[str, tuple[Tensor | None, tuple[int, ...]]], **given: Tensor) -> None:
    """Refuse a tensor that has not the shape it should have.

    Args:
        op: the op, for the message.
        wanted: the tensors by their names, None where left out, each with its shape.
        given: the tensors that the shapes were taken from, for the message.
    """
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            match = " and ".join(f"{source} of shape {tuple(each.shape)}" for source, each in given.items())
            raise InputError(
                expected=f"{name} of shape {shape}",
                got=f"shape {tuple(tensor.shape)}",
                where=op,
                fix=f"match it to {match}",
            )


def check_chunk_size(op: str, chunk_size: int, default: int) -> None:
    """Refuse a chunk without tokens. default: what the message proposes."""
    if chunk_size < 1:
        raise InputError(
            expected="a chunk size of at least 1",
            got=str(chunk_size),
            where=f"{op} chunk_size",
            fix=f"use {default}",
        )
