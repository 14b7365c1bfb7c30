"""Gated linear attention (Yang et al. 2024, arXiv 2312.06635) as a mixer, its state an argument and a result."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from lengthwise.layers.base import Mixer, Place
from lengthwise.layers.configs import GLAConfig
from lengthwise.layers.norms import RMSNorm
from lengthwise.native import usable
from lengthwise.ops._vector_decay.native import library
from lengthwise.ops.conv import causal_conv
from lengthwise.ops.gla import gla
from lengthwise.shapes import Float, Int, Tensor
from lengthwise.state import MixerState, tensor_field

_INITIAL_STD = 0.02


@dataclass(frozen=True)
class GLAState(MixerState):
    """State of one GLA layer without convolution."""

    recurrent: Tensor = tensor_field("recurrent")
    """[B, H, K, V], float32 (float64 for a float64 model)."""


@dataclass(frozen=True)
class ConvGLAState(GLAState):
    """State of one GLA layer with a short convolution."""

    conv: Tensor = tensor_field("short")
    """[B, W-1, C]: the last inputs of the convolution, as they came from the projections, in the order q, k, v."""


class GLA(Mixer):
    """``o_proj(norm(gla(q, k, v, decay)) * silu(g))`` with q, k, v, g and the decay projected from the input.

    The log of the decay is ``logsigmoid(W2 W1 u + b) / gate_logit_normalizer``, then raised to `clamp_min`, if any.
    Queries, keys and values go through a short convolution with SiLU where the record says so; the decay and the output
    gate do not. The norm is over each head, with one weight for all. Fewer heads of keys and values than of queries
    share them, and the decays with them: heads h of a group of consecutive ones.

    Args:
        d_model: width D of input and output.
        config: sizes and options.
        norm_eps: not used; the record has an eps of its own.
    """

    def __init__(self, d_model: int, config: GLAConfig, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config = config
        keys, values = config.key_width(d_model), config.value_width(d_model)
        self.head_keys, self.head_values = keys // config.num_heads, values // config.num_heads
        self.shared_by = config.num_heads // config.kv_heads()
        # Widths of queries, keys and values as they are projected.
        self.widths = (keys, keys // self.shared_by, values // self.shared_by)
        self.q_proj = nn.Linear(d_model, self.widths[0], bias=False)
        self.k_proj = nn.Linear(d_model, self.widths[1], bias=False)
        self.v_proj = nn.Linear(d_model, self.widths[2], bias=False)
        if config.use_short_conv:
            self.q_conv1d, self.k_conv1d, self.v_conv1d = (
                nn.Conv1d(width, width, config.conv_size, groups=width, bias=config.conv_bias) for width in self.widths
            )
        self.gk_proj = nn.Sequential(
            nn.Linear(d_model, config.gate_low_rank_dim, bias=False),
            nn.Linear(config.gate_low_rank_dim, self.widths[1], bias=True),
        )
        if config.use_output_gate:
            self.g_proj = nn.Linear(d_model, values, bias=False)
            self.g_norm_swish_gate = RMSNorm(self.head_values, config.norm_eps)
        else:
            self.g_norm = RMSNorm(self.head_values, config.norm_eps)
        self.o_proj = nn.Linear(values, d_model, bias=False)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, place: Place) -> None:
        """The published initialisation: all weights N(0, 0.02) whatever the depth, biases zero, the norm neutral."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                module.weight.normal_(0.0, _INITIAL_STD, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, RMSNorm):
                module.reset_parameters()

    def init_state(self, batch: int) -> GLAState:
        """The zero state of `batch` rows."""
        weight, config = self.q_proj.weight, self.config
        exact = torch.promote_types(weight.dtype, torch.float32)
        recurrent = weight.new_zeros(batch, config.num_heads, self.head_keys, self.head_values, dtype=exact)
        if not config.use_short_conv:
            return GLAState(recurrent=recurrent)
        return ConvGLAState(recurrent=recurrent, conv=weight.new_zeros(batch, config.conv_size - 1, sum(self.widths)))

    def runs_native(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether the kernel in C computes the recurrence."""
        return usable(self.backend, device, dtype, library)

    def forward(
        self,
        u: Float[Tensor, "B T D"],
        state: GLAState | None = None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], GLAState]:
        """Mix over time.

        Args:
            u: inputs.
            state: state before the first token; None for zeros.
            lengths: number of real tokens of each row, padding on the right; None for all T.

        Returns:
            Outputs, and the state after the last real token of each row.
        """
        config = self.config
        q, k, v = self.q_proj(u), self.k_proj(u), self.v_proj(u)
        conv = None
        if config.use_short_conv:
            before = state.conv if isinstance(state, ConvGLAState) else None
            joined, conv = self._convolve(torch.cat([q, k, v], dim=-1), before, lengths)
            q, k, v = joined.split(list(self.widths), dim=-1)
        gate = self.gk_proj(u)
        exact = torch.promote_types(gate.dtype, torch.float32)
        log_decay = F.logsigmoid(gate.to(exact)) / config.gate_logit_normalizer
        if config.clamp_min is not None:
            log_decay = log_decay.clamp(min=config.clamp_min)
        o, recurrent = gla(
            rearrange(q, "b t (h k) -> b t h k", k=self.head_keys),
            self._shared(rearrange(k, "b t (h k) -> b t h k", k=self.head_keys)),
            self._shared(rearrange(v, "b t (h v) -> b t h v", v=self.head_values)),
            self._shared(rearrange(log_decay, "b t (h k) -> b t h k", k=self.head_keys)),
            None if state is None else state.recurrent,
            lengths=lengths,
            chunk_size=config.chunk_size,
            backend=self.backend,
        )
        if config.use_output_gate:
            normed = self.g_norm_swish_gate(o.to(exact))
            swish = F.silu(self.g_proj(u).to(exact))
            normed = normed * rearrange(swish, "b t (h v) -> b t h v", v=self.head_values)
        else:
            normed = self.g_norm(o.to(exact))
        y = self.o_proj(rearrange(normed, "b t h v -> b t (h v)").to(u.dtype))
        return y, GLAState(recurrent=recurrent) if conv is None else ConvGLAState(recurrent=recurrent, conv=conv)

    def _convolve(self, joined: Tensor, before: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries, keys and values side by side through their convolutions, which are one."""
        convs = (self.q_conv1d, self.k_conv1d, self.v_conv1d)
        weight = torch.cat([conv.weight for conv in convs]).squeeze(1)
        bias = torch.cat([conv.bias for conv in convs if conv.bias is not None]) if self.config.conv_bias else None
        return causal_conv(joined, weight, bias, before, activation="silu", lengths=lengths, backend=self.backend)

    def _shared(self, tensor: Tensor) -> Tensor:
        """[B, T, heads of keys and values, X] as [B, T, H, X]."""
        return tensor.repeat_interleave(self.shared_by, dim=2) if self.shared_by > 1 else tensor
