"""Reading without predicting: the state after a text, and at most the prediction at its end.

A measurement reads most of a text only to get past it. Then the uppermost layer needs no output before the last token,
and where many rows read the same text from different states the lowest layer does most of its work once for all of
them. In a model of four layers this is a third of the whole. The result is that of `LanguageModel.forward` up to
rounding.
"""

from __future__ import annotations

import torch

from lengthwise.errors import InputError
from lengthwise.layers.mamba2 import Mamba2, Mamba2State
from lengthwise.layers.mamba2_reading import read_block
from lengthwise.models.lm import LanguageModel
from lengthwise.shapes import Float, Int, Tensor
from lengthwise.state import MixerState, State


def advance(model: LanguageModel, tokens: Int[Tensor, "B T"], state: State | None = None) -> State:
    """The state after reading tokens. No gradients.

    Args:
        model: any `LanguageModel`.
        tokens: one row per row of the state; or a single row, which all rows of the state then read.
        state: before the first token; None for zeros.

    Raises:
        InputError: where the numbers of rows, a token id or the state does not fit, or there is no token.
    """
    return _read(model, tokens, state, predict=False)[1]


def advance_and_predict(
    model: LanguageModel, tokens: Int[Tensor, "B T"], state: State | None = None
) -> tuple[Float[Tensor, "R vocab"], State]:
    """The logits behind the last token, and the state after it. Arguments and errors as for `advance`."""
    logits, state = _read(model, tokens, state, predict=True)
    assert logits is not None
    return logits, state


@torch.no_grad()
def _read(
    model: LanguageModel, tokens: Int[Tensor, "B T"], state: State | None, *, predict: bool
) -> tuple[Float[Tensor, "R vocab"] | None, State]:
    rows = tokens.shape[0] if state is None else state.batch_size
    if tokens.dim() != 2 or tokens.shape[0] not in (1, rows) or tokens.shape[1] < 1:
        raise InputError(
            expected=f"tokens [B, T] with T of at least 1 and B of 1 or {rows}, the rows of the state",
            got=f"shape {tuple(tokens.shape)}",
            where="advance",
            fix="pass one row of tokens for all states, or one for each",
        )
    model.check_tokens(tokens)
    if state is not None:
        model.check_state(state, rows)
    residual = model.embed(tokens)
    weight_dtype = model.backbone.embedding.weight.dtype
    layers: list[MixerState] = []
    channels: list[MixerState | None] = []
    blocks = model.blocks()
    for index, block in enumerate(blocks):
        record = None if state is None else state.layers[index]
        channel = state.channels[index] if state is not None and state.channels else None
        last = index == len(blocks) - 1
        # A block is spared work where it is Mamba-2 alone: no MLP reads the output that is left out.
        spared = isinstance(block.mixer, Mamba2) and not block.has_mlp
        silent = residual.shape[1] - predict if last else 0
        if spared and (silent or not last):
            assert isinstance(block.mixer, Mamba2)
            assert record is None or isinstance(record, Mamba2State)
            read = residual[:, :silent] if last else residual
            stream, record = read_block(block.norm, block.mixer, read, record, silent=last)
            # The last token, where a prediction is wanted, is left to the block itself.
            residual = residual[:, silent:] if stream is None else stream
        if not spared or (last and predict):
            # Without a state of their own, rows that read the same tokens are one row.
            together = residual if record is None else residual.expand(rows, -1, -1)
            residual, record, channel = block(together, record, channel, None, weight_dtype)
        assert record is not None
        layers.append(record)
        channels.append(channel)
    new = State(tuple(layers), tuple(channels) if any(channels) else ())
    if not predict:
        return None, new
    hidden = model.backbone.norm_f(residual[:, -1:]).to(weight_dtype)
    return model.head(hidden)[:, 0], new
