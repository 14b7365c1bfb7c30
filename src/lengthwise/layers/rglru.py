"""The recurrent block of Griffin (De et al. 2024, arXiv 2402.19427), with its state as an argument and a result."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from lengthwise.layers.base import Mixer, Place
from lengthwise.layers.configs import RGLRUConfig
from lengthwise.native import usable
from lengthwise.ops.conv import causal_conv
from lengthwise.ops.rglru import rglru
from lengthwise.ops.rglru.native import library
from lengthwise.shapes import Float, Int, Tensor
from lengthwise.state import MixerState, tensor_field


@dataclass(frozen=True)
class RGLRUState(MixerState):
    """State of one recurrent block."""

    lru: Tensor = tensor_field("recurrent")
    """[B, E], E the width of the recurrence; float32 (float64 for a float64 model)."""
    conv: Tensor = tensor_field("short")
    """[B, W-1, E]: the last inputs of the convolution."""
    position: Tensor = tensor_field("position")
    """[B]: tokens read so far."""


class RGLRU(nn.Module):
    """The parameters of the recurrence: Lambda, and two gates that are block-diagonal over heads.

    Args:
        width: width E of the recurrence.
        num_heads: blocks H of the gates.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        block = width // num_heads
        self.recurrent_param = nn.Parameter(torch.empty(width))
        self.input_gate_weight = nn.Parameter(torch.empty(num_heads, block, block))
        self.input_gate_bias = nn.Parameter(torch.empty(num_heads, block))
        self.recurrent_gate_weight = nn.Parameter(torch.empty(num_heads, block, block))
        self.recurrent_gate_bias = nn.Parameter(torch.empty(num_heads, block))

    def gates(self, x: Float[Tensor, "B T E"]) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B T E"]]:
        """The input gate and the recurrence gate of each token, before their sigmoid."""
        heads, block, _ = self.input_gate_weight.shape
        by_head = x.view(-1, heads, block).transpose(0, 1)  # [H, B T, E/H]; the weights multiply from the right

        def gate(weight: Tensor, bias: Tensor) -> Tensor:
            return torch.baddbmm(bias[:, None], by_head, weight).transpose(0, 1).reshape(x.shape)

        return (
            gate(self.input_gate_weight, self.input_gate_bias),
            gate(self.recurrent_gate_weight, self.recurrent_gate_bias),
        )


class RecurrentBlock(Mixer):
    """``linear_out(rglru(conv(linear_x(u))) * gelu(linear_y(u)))``.

    Where `config.reset_at_start` holds, as in the published models, the token at position 0 forgets the recurrent state
    that comes with it. A state passed into a text must therefore bring a position above 0, or it has no effect.

    Args:
        d_model: width D of input and output.
        config: sizes and initialisation.
        norm_eps: not used.
    """

    def __init__(self, d_model: int, config: RGLRUConfig, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config = config
        self.width = width = config.width(d_model)
        self.linear_x = nn.Linear(d_model, width)
        self.linear_y = nn.Linear(d_model, width)
        self.conv_1d = nn.Conv1d(width, width, config.d_conv, groups=width)
        self.rg_lru = RGLRU(width, config.num_heads)
        self.linear_out = nn.Linear(width, d_model)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, place: Place) -> None:
        """The initialisation of Griffin's own code: normal weights, biases zero, and the decays on a ring.

        ``exp(-softplus(Lambda))`` is uniform by area on the ring from `min_rad` to `max_rad`. This is the decay of a
        step whose recurrence gate is 1/8; at the start gates are about 1/2, and decays the fourth power of it.
        """
        config, lru = self.config, self.rg_lru
        block = lru.input_gate_weight.shape[1]
        for weight, variance in (
            (self.linear_x.weight, 1 / self.linear_x.in_features),
            (self.linear_y.weight, 1 / self.linear_y.in_features),
            (self.linear_out.weight, 2 / (place.num_layers * self.width)),
            (self.conv_1d.weight, 0.01 / config.d_conv),
            (lru.input_gate_weight, 1 / block),
            (lru.recurrent_gate_weight, 1 / block),
        ):
            weight.normal_(0.0, math.sqrt(variance), generator=generator)
        for module in (self.linear_x, self.linear_y, self.linear_out, self.conv_1d):
            assert module.bias is not None
            module.bias.zero_()
        lru.input_gate_bias.zero_()
        lru.recurrent_gate_bias.zero_()
        # -log of the root of a number uniform between the squared radii, and the inverse of softplus.
        low, high = config.min_rad**2, config.max_rad**2
        area = torch.empty(self.width, dtype=torch.float64, device=lru.recurrent_param.device)
        rate = area.uniform_(low, high, generator=generator).log_().mul_(-0.5)
        lru.recurrent_param.copy_(torch.log(torch.expm1(rate)))

    def init_state(self, batch: int) -> RGLRUState:
        """The zero state of `batch` rows."""
        weight = self.linear_x.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        return RGLRUState(
            lru=weight.new_zeros(batch, self.width, dtype=exact),
            conv=weight.new_zeros(batch, self.config.d_conv - 1, self.width),
            position=weight.new_zeros(batch, dtype=torch.int64),
        )

    def runs_native(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether the kernel in C computes the recurrence."""
        return usable(self.backend, device, dtype, library)

    def forward(
        self,
        u: Float[Tensor, "B T D"],
        state: RGLRUState | None = None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], RGLRUState]:
        """Mix over time.

        Args:
            u: inputs.
            state: state before the first token; None for zeros.
            lengths: number of real tokens of each row, padding on the right; None for all T.

        Returns:
            Outputs, and the state after the last real token of each row.
        """
        batch, time, _ = u.shape
        gate = F.gelu(self.linear_y(u), approximate="tanh")
        x, conv = causal_conv(
            self.linear_x(u),
            self.conv_1d.weight.squeeze(1),
            self.conv_1d.bias,
            None if state is None else state.conv,
            lengths=lengths,
            backend=self.backend,
        )
        position = u.new_zeros(batch, dtype=torch.int64) if state is None else state.position
        reset = None
        if self.config.reset_at_start:
            reset = torch.zeros(batch, time, dtype=torch.bool, device=u.device)
            reset[:, :1] = (position == 0)[:, None]
        h, lru = rglru(
            x,
            *self.rg_lru.gates(x),
            self.rg_lru.recurrent_param,
            None if state is None else state.lru,
            reset=reset,
            lengths=lengths,
            backend=self.backend,
        )
        new = RGLRUState(lru=lru, conv=conv, position=position + (time if lengths is None else lengths))
        return self.linear_out(h * gate), new
