"""The Mamba-1 mixer (Gu & Dao 2023, arXiv 2312.00752), with its state as an argument and a result."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from lengthwise.layers.base import Mixer, Place
from lengthwise.layers.configs import Mamba1Config
from lengthwise.native import usable
from lengthwise.ops.conv import causal_conv
from lengthwise.ops.selective_scan import selective_scan
from lengthwise.ops.selective_scan.native import library
from lengthwise.shapes import Float, Int, Tensor
from lengthwise.state import MixerState, tensor_field


@dataclass(frozen=True)
class Mamba1State(MixerState):
    """State of one Mamba-1 layer."""

    ssm: Tensor = tensor_field("recurrent")
    """[B, C, N], float32 (float64 for a float64 model); C is the inner width."""
    conv: Tensor = tensor_field("short")
    """[B, W-1, C]: the last inputs of the convolution."""


class Mamba1(Mixer):
    """``out_proj(scan(x, dt, B, C) * silu(z))`` with x = silu(conv(x')), x' and z from the input, and dt, B, C from x.

    Args:
        d_model: width D of input and output.
        config: sizes and initialisation.
        norm_eps: not used, the mixer has no norm.
    """

    def __init__(self, d_model: int, config: Mamba1Config, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config = config
        self.d_inner = config.expand * d_model
        self.dt_rank = config.rank(d_model)
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=config.bias)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, config.d_conv, groups=self.d_inner, bias=config.conv_bias)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * config.d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, config.d_state))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=config.bias)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, place: Place) -> None:
        """The official initialisation: uniform projections, `out_proj` smaller by depth, rates 1..N, dt by range."""
        config = self.config
        for linear in (self.in_proj, self.x_proj, self.out_proj):
            bound = 1 / math.sqrt(linear.in_features)
            linear.weight.uniform_(-bound, bound, generator=generator)
            if linear.bias is not None:
                linear.bias.zero_()
        self.out_proj.weight /= math.sqrt(place.num_residuals)
        bound = 1 / math.sqrt(config.d_conv)
        self.conv1d.weight.uniform_(-bound, bound, generator=generator)
        if self.conv1d.bias is not None:
            self.conv1d.bias.uniform_(-bound, bound, generator=generator)
        bound = config.dt_scale / math.sqrt(self.dt_rank)
        self.dt_proj.weight.uniform_(-bound, bound, generator=generator)
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        dt = torch.empty_like(self.dt_proj.bias).uniform_(low, high, generator=generator).exp_()
        dt.clamp_(min=config.dt_init_floor)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        rates = torch.arange(1, config.d_state + 1, dtype=torch.float64, device=self.A_log.device)
        self.A_log.copy_(torch.log(config.A_init_scale * rates))
        self.D.fill_(1.0)

    def init_state(self, batch: int) -> Mamba1State:
        """The zero state of `batch` rows."""
        weight, config = self.in_proj.weight, self.config
        exact = torch.promote_types(weight.dtype, torch.float32)
        return Mamba1State(
            ssm=weight.new_zeros(batch, self.d_inner, config.d_state, dtype=exact),
            conv=weight.new_zeros(batch, config.d_conv - 1, self.d_inner),
        )

    def runs_native(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether the kernel in C computes the recurrence."""
        return usable(self.backend, device, dtype, library)

    def forward(
        self,
        u: Float[Tensor, "B T D"],
        state: Mamba1State | None = None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Mamba1State]:
        """Mix over time.

        Args:
            u: inputs.
            state: state before the first token; None for zeros.
            lengths: number of real tokens of each row, padding on the right; None for all T.

        Returns:
            Outputs, and the state after the last real token of each row.
        """
        config = self.config
        x, z = self.in_proj(u).split(self.d_inner, dim=-1)
        x, conv = causal_conv(
            x,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            None if state is None else state.conv,
            activation="silu",
            lengths=lengths,
            backend=self.backend,
        )
        low_rank, B, C = self.x_proj(x).split([self.dt_rank, config.d_state, config.d_state], dim=-1)
        exact = torch.promote_types(x.dtype, torch.float32)
        y, ssm = selective_scan(
            x,
            F.linear(low_rank, self.dt_proj.weight),
            -torch.exp(self.A_log.to(exact)),
            B,
            C,
            self.D,
            None if state is None else state.ssm,
            dt_bias=self.dt_proj.bias,
            z=z,
            lengths=lengths,
            backend=self.backend,
        )
        return self.out_proj(y), Mamba1State(ssm=ssm, conv=conv)
