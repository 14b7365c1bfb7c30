"""Causal attention over the past and the present, block of queries by block of queries.

`torch.nn.functional.scaled_dot_product_attention` does the arithmetic. What is done here is to show each block of
queries no more keys than it can reach, and to carry keys and values from piece to piece.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from lengthwise.errors import InputError
from lengthwise.ops.attention.naive import Past
from lengthwise.ops.checks import check_shapes
from lengthwise.ops.padding import Padding, check_lengths, emptied, swap_side
from lengthwise.shapes import Float, Int, Tensor

# Numbers of a mask that exist at once (16 MB in float32); with a long past, fewer queries make a block.
MASK_NUMBERS = 1 << 22
# Queries of a block under a sliding window: a quarter of the window, so that a query meets 1.25 times the keys it sees,
# within the sizes that were fastest on a CPU at windows of 128 to 2048.
LEAST_BLOCK, MOST_BLOCK = 64, 128


def attention(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T G K"],
    v: Float[Tensor, "B T G K"],
    past: Past | None = None,
    *,
    reach: int | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
) -> tuple[Float[Tensor, "B T H K"], Past]:
    """Softmax attention of every query over the keys up to its own, ``softmax(q k^T / sqrt(K)) v``.

    With S kept tokens a piece of T costs ``O(T (S + T))``, with a reach ``O(T reach)``, in time; in memory nothing
    larger than the past and a block's mask is made. How a text is cut into pieces changes no result.

    Args:
        q: queries of H heads.
        k, v: keys and values of G heads; H/G query heads share one. Rotated, if they are to be.
        past: what earlier pieces left; None for nothing.
        reach: how many keys a query sees, its own included; None for all. Of the past no more than ``reach - 1`` tokens
            are kept.
        lengths: number of real tokens of each row, None for all T.
        padding: the side on which the padding stands.

    Sums are in float32 or wider, whatever the dtype of the inputs; the results have that of the inputs, under autocast
    as well.

    Returns:
        The outputs, without meaning at padding, and the past of the next piece. Gradients flow into every input, the
        past included, and out of both results.

    Raises:
        InputError: where a shape, a length or the reach does not fit, or where rows of different lengths cannot lie
            side by side, because of a row that dropped tokens within its reach.
    """
    batch, time = q.shape[:2]
    _check(q, k, v, past, reach)
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        q, k, v = emptied(lengths, padding, q, k, v)
        if padding == "left":
            q, k, v = (swap_side(tensor, lengths, "left") for tensor in (q, k, v))
    keys, values, held, start = _behind_past(k, v, past, reach)
    with torch.autocast(q.device.type, enabled=False):
        y = _read(q, keys, values, held, start, reach) if time else torch.zeros_like(q)
    if lengths is not None and padding == "left":
        y = swap_side(y, lengths, "right")
    position = q.new_zeros(batch, dtype=torch.int64) if past is None else past.position
    return y, _next_past(keys, values, held, position, reach, lengths, time)


def _behind_past(
    k: Tensor, v: Tensor, past: Past | None, reach: int | None
) -> tuple[Tensor, Tensor, int, Tensor | None]:
    """Keys and values with the past before them, how many slots that are, and where each row's tokens begin.

    Slots that no query reaches, or that are empty in every row, are left out. The beginning is None where no slot of
    any row is empty; empty slots are zeroed, because what is in them must not even meet a factor of zero.
    """
    slots = 0 if past is None else past.keys.shape[1]
    held = slots if reach is None else min(slots, reach - 1)
    if past is None or held == 0:
        return k, v, 0, None
    least = held
    if past.position.device.type != "meta":
        held = min(held, int(past.position.max()))
        least = int(past.position.min())
    keys, values = (
        torch.cat([old[:, slots - held :].to(new.dtype), new], dim=1) for old, new in ((past.keys, k), (past.values, v))
    )
    if least >= held:
        return keys, values, held, None
    start = (held - past.position).clamp(min=0)
    empty = torch.arange(keys.shape[1], device=keys.device)[None, :] < start[:, None]
    keys, values = (tensor.masked_fill(empty[:, :, None, None], 0) for tensor in (keys, values))
    return keys, values, held, start


def _read(q: Tensor, keys: Tensor, values: Tensor, held: int, start: Tensor | None, reach: int | None) -> Tensor:
    """Outputs of the queries, the first of which stands at place `held` of the keys."""
    time, grouped = q.shape[1], keys.shape[2] != q.shape[2]
    if held == 0 and start is None and (reach is None or reach >= time):
        return _product(q, keys, values, grouped, causal=True)
    blocks = _blocks(time, held, reach, 1 if start is None else len(q))
    spans = [span for _, span in blocks]
    key_spans: tuple[Tensor, ...] = _Spans.apply(keys, spans)  # type: ignore[no-untyped-call]
    value_spans: tuple[Tensor, ...] = _Spans.apply(values, spans)  # type: ignore[no-untyped-call]
    outputs: list[Tensor] = []
    place, band = None, None
    for (queries, span), some_keys, some_values in zip(blocks, key_spans, value_spans, strict=True):
        count, width, offset = queries.stop - queries.start, span.stop - span.start, held + queries.start - span.start
        if place != (count, width, offset):  # most blocks under a window are alike
            place = (count, width, offset)
            band = None if count == 1 else _band(count, width, offset, reach, q)
        mask = band
        if start is not None and span.start < held:
            mask = _band(count, width, offset, reach, q) if mask is None else mask
            empty = torch.arange(span.start, span.stop, device=q.device)[None, :] < start[:, None]
            mask = mask.masked_fill(empty[:, None, None, :], float("-inf"))
        outputs.append(_product(q[:, queries], some_keys, some_values, grouped, mask=mask))
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]


def _blocks(time: int, held: int, reach: int | None, mask_rows: int) -> list[tuple[slice, slice]]:
    """Blocks of queries, each with the span of keys that it can see."""
    widest = held + time if reach is None else min(held + time, reach - 1 + MOST_BLOCK)
    count = max(1, MASK_NUMBERS // (mask_rows * widest))
    if reach is not None:
        count = min(count, max(LEAST_BLOCK, min(MOST_BLOCK, reach // 4)))
    blocks = []
    for begin in range(0, time, count):
        end = min(begin + count, time)
        first = 0 if reach is None else max(0, held + begin + 1 - reach)
        blocks.append((slice(begin, end), slice(first, held + end)))
    return blocks


def _band(count: int, width: int, offset: int, reach: int | None, like: Tensor) -> Tensor:
    """What is added to scores [count, width]: 0 where key j is visible to query i, which stands at key offset + i."""
    mask = torch.full((count, width), float("-inf"), dtype=like.dtype, device=like.device).triu_(offset + 1)
    if reach is not None and offset + count > reach:
        mask += torch.full_like(mask, float("-inf")).tril_(offset - reach)
    return mask


def _product(
    q: Tensor, keys: Tensor, values: Tensor, grouped: bool, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask,
        is_causal=causal,
        enable_gqa=grouped,
    )
    return y.transpose(1, 2)


def _next_past(
    keys: Tensor,
    values: Tensor,
    held: int,
    position: Tensor,
    reach: int | None,
    lengths: Tensor | None,
    time: int,
) -> Past:
    """The newest tokens of each row, on the right."""
    limit = held + time if reach is None else min(held + time, reach - 1)
    if lengths is None:
        first = held + time - limit
        return Past(_own(keys[:, first:]), _own(values[:, first:]), position + time)
    ends = held + lengths
    count = min(limit, int(ends.max())) if len(lengths) else limit
    short = (position > held) & (ends < count)
    if bool(short.any()):
        row = int(short.nonzero()[0, 0])
        raise InputError(
            expected=f"rows that hold all of their past within reach, or as many new tokens as the others ({count})",
            got=f"row {row} with {int(ends[row])} of its {int(position[row] + lengths[row])} tokens",
            where="attention lengths",
            fix="read rows that dropped part of their past without padding, or apart from the others",
        )
    index = ends[:, None] - count + torch.arange(count, device=keys.device)[None, :]
    rows = torch.arange(len(keys), device=keys.device)[:, None]
    empty = (index < 0)[:, :, None, None]
    keys, values = (tensor[rows, index.clamp(min=0)].masked_fill(empty, 0) for tensor in (keys, values))
    return Past(keys, values, position + lengths)


def _own(tensor: Tensor) -> Tensor:
    """The same, in memory of its own where it would keep a much larger tensor alive."""
    needed = tensor.numel() * tensor.element_size()
    return tensor.clone() if tensor.untyped_storage().nbytes() > 2 * needed else tensor


class _Spans(torch.autograd.Function):
    """Views of overlapping spans of time, whose gradients are added up in one tensor; slices would make one a span."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spans: list[slice]) -> tuple[Tensor, ...]:
        ctx.spans, ctx.shape, ctx.dtype = spans, x.shape, x.dtype
        ctx.set_materialize_grads(False)
        return tuple(x[:, span] for span in spans)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        given = [(span, gradient) for span, gradient in zip(ctx.spans, gradients, strict=True) if gradient is not None]
        if not given:
            return None, None
        exact = torch.promote_types(ctx.dtype, torch.float32)
        total = torch.zeros(ctx.shape, dtype=exact, device=given[0][1].device)
        for span, gradient in given:
            total[:, span] += gradient
        return total.to(ctx.dtype), None


def _check(q: Tensor, k: Tensor, v: Tensor, past: Past | None, reach: int | None) -> None:
    batch, time, heads, width = q.shape
    shared = k.shape[2]
    shape_of_keys = (batch, time, shared, width)
    wanted: dict[str, tuple[Tensor, tuple[int, ...]]] = {"k": (k, shape_of_keys), "v": (v, shape_of_keys)}
    if past is not None:
        slots = past.keys.shape[1]
        wanted["keys of the past"] = (past.keys, (batch, slots, shared, width))
        wanted["values of the past"] = (past.values, (batch, slots, shared, width))
        wanted["position of the past"] = (past.position, (batch,))
    check_shapes("attention", wanted, q=q)
    if shared == 0 or heads % shared:
        raise InputError(
            expected="a number of query heads that the heads of the keys divide",
            got=f"{heads} query heads and {shared} heads of keys",
            where="attention",
            fix="change one of them",
        )
    if reach is not None and reach < 1:
        raise InputError(
            expected="a reach of at least 1, the query's own key",
            got=str(reach),
            where="attention reach",
            fix="pass 1 or more, or None for no limit",
        )
