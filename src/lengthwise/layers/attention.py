"""Softmax attention as a mixer: full or sliding window, grouped heads, rotary positions, optional short convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from lengthwise.layers.base import Mixer, Place
from lengthwise.layers.configs import AttentionConfig
from lengthwise.layers.mlp import init_linear
from lengthwise.ops.attention import Past, attention, rotate
from lengthwise.ops.conv import causal_conv
from lengthwise.shapes import Float, Int, Tensor
from lengthwise.state import MixerState, tensor_field


@dataclass(frozen=True)
class AttentionState(MixerState):
    """State of one attention layer without convolution."""

    keys: Tensor = tensor_field("attention")
    """[B, S, G, K]: keys of past tokens after rotation, the newest last; G heads of keys and values."""
    values: Tensor = tensor_field("attention")
    """[B, S, G, K]."""
    position: Tensor = tensor_field("position")
    """[B]: tokens read so far, or since the slots were dropped."""


@dataclass(frozen=True)
class ConvAttentionState(AttentionState):
    """State of one attention layer with a short convolution."""

    conv: Tensor = tensor_field("short")
    """[B, W-1, C]: the last inputs of the convolution, as they came from the projection, in the order q, k, v."""


class Attention(Mixer):
    """``out_proj(attention(rotate(q), rotate(k), v))``, where q, k, v are projected and, if so set, convolved.

    Two readings of a sliding window of w tokens are published. In Griffin's own code a query sees itself and the w
    tokens before it, ``reach = w + 1`` (`window_reaches` True); in transformers' RecurrentGemma it sees w tokens,
    itself included, ``reach = w``. One key more or less changes every output beyond the window, so the choice belongs
    to the checkpoint. The state keeps ``reach - 1`` tokens.

    Args:
        d_model: width D of input and output.
        config: sizes and options.
        norm_eps: not used.
    """

    budget: int | None = None
    """At most so many past tokens are kept, and seen by a query besides itself; None for as many as the window allows.
    With a budget the memory of a stream is constant whatever its length, and the model is one with a window; how the
    stream is cut into pieces still changes nothing."""

    def __init__(self, d_model: int, config: AttentionConfig, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.width(d_model)
        self.heads = (config.num_heads, config.kv_heads(), config.kv_heads())
        self.rotary_dim = config.rotated(d_model)
        channels = sum(self.heads) * self.head_dim
        self.in_proj = nn.Linear(d_model, channels, bias=config.qkv_bias)
        if config.d_conv > 0:
            self.conv1d = nn.Conv1d(channels, channels, config.d_conv, groups=channels, bias=config.conv_bias)
        self.out_proj = nn.Linear(config.num_heads * self.head_dim, d_model, bias=config.out_bias)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, place: Place) -> None:
        """Uniform by the number of inputs, biases zero; `out_proj` is divided by the root of the residual branches."""
        init_linear(self.in_proj, generator)
        init_linear(self.out_proj, generator)
        self.out_proj.weight /= math.sqrt(place.num_residuals)
        if self.config.d_conv > 0:
            bound = 1 / math.sqrt(self.config.d_conv)
            self.conv1d.weight.uniform_(-bound, bound, generator=generator)
            if self.conv1d.bias is not None:
                self.conv1d.bias.zero_()

    def reach(self) -> int | None:
        """How many keys a query sees, its own included, by window and budget; None for all."""
        limits = (self.config.reach(), None if self.budget is None else self.budget + 1)
        return min((limit for limit in limits if limit is not None), default=None)

    def init_state(self, batch: int) -> AttentionState:
        """The state of `batch` rows that have read nothing: no slots yet."""
        weight = self.in_proj.weight
        empty = weight.new_zeros(batch, 0, self.heads[1], self.head_dim)
        position = weight.new_zeros(batch, dtype=torch.int64)
        if self.config.d_conv == 0:
            return AttentionState(keys=empty, values=empty, position=position)
        conv = weight.new_zeros(batch, self.config.d_conv - 1, len(weight))
        return ConvAttentionState(keys=empty, values=empty, position=position, conv=conv)

    def forward(
        self,
        u: Float[Tensor, "B T D"],
        state: AttentionState | None = None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], AttentionState]:
        """Mix over time.

        Args:
            u: inputs.
            state: state before the first token; None for none read.
            lengths: number of real tokens of each row, padding on the right; None for all T.

        Returns:
            Outputs, and the state after the last real token of each row.
        """
        qkv, conv = self.in_proj(u), None
        if self.config.d_conv > 0:
            qkv, conv = causal_conv(
                qkv,
                self.conv1d.weight.squeeze(1),
                self.conv1d.bias,
                state.conv if isinstance(state, ConvAttentionState) else None,
                lengths=lengths,
                backend=self.backend,
            )
        past = None if state is None else Past(state.keys, state.values, state.position)
        if past is not None and past.keys.shape[1] == 0 and self.reach() != 1:
            # Nothing was read, or an intervention dropped all of it. Positions then begin at 0 again: only distances
            # count, and rows with and without a past can lie side by side, whatever was read before.
            past = None
        heads = qkv.view(*qkv.shape[:2], sum(self.heads), self.head_dim)
        turned, v = heads.split([self.heads[0] + self.heads[1], self.heads[2]], dim=2)
        position = None if past is None else past.position
        turned = rotate(turned, position, rotary_dim=self.rotary_dim, base=self.config.rotary_base)
        q, k = turned.split(self.heads[:2], dim=2)
        y, new = attention(q, k, v, past, reach=self.reach(), lengths=lengths)
        out = self.out_proj(y.flatten(2))
        if conv is None:
            return out, AttentionState(**new._asdict())
        return out, ConvAttentionState(**new._asdict(), conv=conv)
