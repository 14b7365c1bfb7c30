"""Oracles of attention and rotation: query by query and number by number, float64-capable."""

import math
from typing import NamedTuple

import torch

from lengthwise.ops.padding import Padding, check_lengths
from lengthwise.shapes import Float, Int, Tensor


class Past(NamedTuple):
    """Keys and values of tokens read before; see `lengthwise.state` for the meaning of slots."""

    keys: Tensor
    """[B, S, G, K], the newest token last."""
    values: Tensor
    """[B, S, G, K]."""
    position: Tensor
    """[B], whole numbers: tokens read so far. Slot s holds token ``position - S + s``, and is empty where that is
    negative."""


def attention_naive(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T G K"],
    v: Float[Tensor, "B T G K"],
    past: Past | None = None,
    *,
    reach: int | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
) -> tuple[Float[Tensor, "B T H K"], list[tuple[Tensor, Tensor]]]:
    """The definition of `attention`, row by row.

    Returns:
        Outputs, zero at padding, and for each row the keys and values [n, G, K] of all its tokens so far.
    """
    batch, time, heads, width = q.shape
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
    rows, ends = [], []
    for b in range(batch):
        count = time if lengths is None else int(lengths[b])
        begin = time - count if padding == "left" else 0
        queries, keys, values = (tensor[b, begin : begin + count] for tensor in (q, k, v))
        held = 0 if past is None else min(past.keys.shape[1], int(past.position[b]))
        if past is not None and held:
            keys = torch.cat([past.keys[b, -held:].to(k.dtype), keys])
            values = torch.cat([past.values[b, -held:].to(v.dtype), values])
        shared = heads // k.shape[2]
        outputs = [torch.zeros_like(q[b, :begin])]
        for t in range(count):
            seen = slice(0 if reach is None else max(0, held + t + 1 - reach), held + t + 1)
            for h in range(heads):
                scores = keys[seen, h // shared] @ queries[t, h] / math.sqrt(width)
                outputs.append((scores.softmax(dim=0) @ values[seen, h // shared]).view(1, 1, width))
        read = torch.cat([output.reshape(-1, width) for output in outputs]).view(begin + count, heads, width)
        rows.append(torch.cat([read, torch.zeros_like(q[b, begin + count :])]))
        ends.append((keys, values))
    return torch.stack(rows), ends


def rotate_naive(
    x: Float[Tensor, "B T H K"],
    position: Int[Tensor, " B"] | None = None,
    *,
    rotary_dim: int | None = None,
    base: float = 10_000.0,
) -> Float[Tensor, "B T H K"]:
    """The definition of `rotate`, with angles from Python's own floats."""
    batch, time, _, width = x.shape
    size = width if rotary_dim is None else rotary_dim
    columns = list(x.unbind(dim=-1))
    for m in range(size // 2):
        angle = [
            [(t + (0 if position is None else int(position[b]))) * base ** (-2 * m / size) for t in range(time)]
            for b in range(batch)
        ]
        cosine = x.new_tensor([[math.cos(a) for a in row] for row in angle])[..., None]
        sine = x.new_tensor([[math.sin(a) for a in row] for row in angle])[..., None]
        first, second = x[..., m], x[..., m + size // 2]
        columns[m] = first * cosine - second * sine
        columns[m + size // 2] = second * cosine + first * sine
    return torch.stack(columns, dim=-1)
