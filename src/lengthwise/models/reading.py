"""Reading without predicting: the state after a text, and nothing else.

A measurement reads most of a text only to get past it. Then the uppermost layer needs no output, and where many rows
read the same text from different states the lowest layer does most of its work once for all of them. In a model of four
layers this is a third of the whole. The result is that of `LanguageModel.forward` up to rounding.
"""

from __future__ import annotations

import torch

from lengthwise.errors import InputError
from lengthwise.layers.mamba2 import Mamba2, Mamba2State
from lengthwise.layers.mamba2_reading import read_block
from lengthwise.models.lm import LanguageModel
from lengthwise.shapes import Int, Tensor
from lengthwise.state import MixerState, State


@torch.no_grad()
def advance(model: LanguageModel, tokens: Int[Tensor, "B T"], state: State | None = None) -> State:
    """The state after reading tokens. No gradients.

    Args:
        model: any `LanguageModel`.
        tokens: one row per row of the state; or a single row, which all rows of the state then read.
        state: before the first token; None for zeros.

    Raises:
        InputError: where the numbers of rows do not fit, or there is no token.
    """
    rows = tokens.shape[0] if state is None else state.batch_size
    if tokens.dim() != 2 or tokens.shape[0] not in (1, rows) or tokens.shape[1] < 1:
        raise InputError(
            expected=f"tokens [B, T] with T of at least 1 and B of 1 or {rows}, the rows of the state",
            got=f"shape {tuple(tokens.shape)}",
            where="advance",
            fix="pass one row of tokens for all states, or one for each",
        )
    residual = model.embed(tokens)
    weight_dtype = model.backbone.embedding.weight.dtype
    layers: list[MixerState] = []
    channels: list[MixerState | None] = []
    blocks = model.blocks()
    for index, block in enumerate(blocks):
        record = None if state is None else state.layers[index]
        channel = state.channels[index] if state is not None and state.channels else None
        # A block is spared work where it is Mamba-2 alone: no MLP reads the output that is left out.
        if isinstance(block.mixer, Mamba2) and not block.has_mlp:
            assert record is None or isinstance(record, Mamba2State)
            last = index == len(blocks) - 1
            stream, new = read_block(block.norm, block.mixer, residual, record, silent=last)
            layers.append(new)
            channels.append(None)
            residual = residual if stream is None else stream
            continue
        # Without a state of their own, rows that read the same tokens are one row.
        together = residual if record is None else residual.expand(rows, -1, -1)
        residual, record, channel = block(together, record, channel, None, weight_dtype)
        layers.append(record)
        channels.append(channel)
    return State(tuple(layers), tuple(channels) if any(channels) else ())
