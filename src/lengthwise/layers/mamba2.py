"""The Mamba-2 mixer (Dao & Gu 2024, arXiv 2405.21060), with its state as an argument and a result."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from lengthwise.layers._mamba2_inner import Parameters, Sizes, mamba2_inner
from lengthwise.layers._mamba2_native import library, mamba2_inner_native
from lengthwise.layers.base import Mixer, Place
from lengthwise.layers.configs import Mamba2Config
from lengthwise.layers.linear import Linear
from lengthwise.layers.norms import GatedRMSNorm
from lengthwise.native import usable
from lengthwise.ops.conv.depthwise import extend, last_inputs
from lengthwise.ops.padding import real_tokens
from lengthwise.shapes import Float, Int, Tensor
from lengthwise.state import MixerState, tensor_field


@dataclass(frozen=True)
class Mamba2State(MixerState):
    """State of one Mamba-2 layer."""

    ssm: Tensor = tensor_field("recurrent")
    """[B, H, P, N], float32 (float64 for a float64 model)."""
    conv: Tensor = tensor_field("short")
    """[B, W-1, C]: the last inputs of the convolution, C = H P + 2 G N channels, in the order x, B, C."""


class Mamba2(Mixer):
    """``out_proj(norm(ssd(silu(conv(x, B, C)), dt) * silu(z)))`` with x, B, C, z, dt projected from the input.

    Args:
        d_model: width D of input and output.
        config: sizes and initialisation.
        norm_eps: eps of the gated norm.
    """

    def __init__(self, d_model: int, config: Mamba2Config, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config = config
        self.d_inner = config.expand * d_model
        self.num_heads = self.d_inner // config.headdim
        self.conv_width = self.d_inner + 2 * config.ngroups * config.d_state
        self.in_proj = Linear(d_model, self.d_inner + self.conv_width + self.num_heads, bias=config.bias)
        self.conv1d = nn.Conv1d(
            self.conv_width, self.conv_width, config.d_conv, groups=self.conv_width, bias=config.conv_bias
        )
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.norm = GatedRMSNorm(self.d_inner, config.ngroups, norm_eps)
        self.out_proj = Linear(self.d_inner, d_model, bias=config.bias)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, place: Place) -> None:
        """The official initialisation: uniform projections, `out_proj` smaller by depth, A and dt by their ranges."""
        for linear in (self.in_proj, self.out_proj):
            bound = 1 / math.sqrt(linear.in_features)
            linear.weight.uniform_(-bound, bound, generator=generator)
            if linear.bias is not None:
                linear.bias.zero_()
        self.out_proj.weight /= math.sqrt(place.num_residuals)
        bound = 1 / math.sqrt(self.config.d_conv)
        self.conv1d.weight.uniform_(-bound, bound, generator=generator)
        if self.conv1d.bias is not None:
            self.conv1d.bias.uniform_(-bound, bound, generator=generator)
        self.A_log.uniform_(*self.config.A_init_range, generator=generator).log_()
        low, high = math.log(self.config.dt_min), math.log(self.config.dt_max)
        dt = torch.empty_like(self.dt_bias).uniform_(low, high, generator=generator).exp_()
        dt.clamp_(min=self.config.dt_init_floor)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        self.D.fill_(1.0)
        self.norm.weight.fill_(1.0)

    def init_state(self, batch: int) -> Mamba2State:
        """The zero state of `batch` rows."""
        weight = self.in_proj.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        config = self.config
        return Mamba2State(
            ssm=weight.new_zeros(batch, self.num_heads, config.headdim, config.d_state, dtype=exact),
            conv=weight.new_zeros(batch, config.d_conv - 1, self.conv_width),
        )

    def forward(
        self,
        u: Float[Tensor, "B T D"],
        state: Mamba2State | None = None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Mamba2State]:
        """Mix over time.

        Args:
            u: inputs.
            state: state before the first token; None for zeros (which also saves the work of carrying it in).
            lengths: number of real tokens of each row, padding on the right; None for all T.

        Returns:
            Outputs, and the state after the last real token of each row.
        """
        if state is not None:
            self.check_state(state, len(u))
        projected = self.in_proj(u)
        real = None if lengths is None else real_tokens(lengths, u.shape[1])
        parameters = self.inner_parameters(exact := torch.promote_types(projected.dtype, torch.float32))
        conv_state = None if state is None else state.conv.to(exact)
        ssm_state = None if state is None else state.ssm.to(exact)
        native = self.runs_native(projected.device, projected.dtype)
        inner = mamba2_inner_native if native else mamba2_inner
        y, new_ssm = inner(projected, parameters, conv_state, ssm_state, real, self.sizes)
        new_conv = self.next_buffer(projected, None if state is None else state.conv, lengths)
        return self.out_proj(y), Mamba2State(ssm=new_ssm, conv=new_conv)

    def runs_native(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether the kernels in C do the work between the projections."""
        return usable(self.backend, device, dtype, library)

    def inner_parameters(self, dtype: torch.dtype) -> Parameters:
        """What the work between the projections needs of the parameters, in the dtype of its arithmetic."""
        return Parameters(
            conv_weight=self.conv1d.weight.squeeze(1).to(dtype),
            conv_bias=None if self.conv1d.bias is None else self.conv1d.bias.to(dtype),
            dt_bias=self.dt_bias.to(dtype),
            A=-torch.exp(self.A_log.to(dtype)),
            D=self.D.to(dtype),
            norm_weight=self.norm.weight.to(dtype),
        )

    @property
    def sizes(self) -> Sizes:
        """The sizes that the shapes of the parameters do not tell."""
        config = self.config
        return Sizes(config.headdim, config.ngroups, config.chunk_size, config.dt_limit, self.norm.eps)

    def next_buffer(self, projected: Tensor, buffer: Tensor | None, lengths: Tensor | None) -> Tensor:
        """The last W-1 real inputs of the convolution."""
        xBC = projected[..., self.d_inner : self.d_inner + self.conv_width]
        count = self.config.d_conv - 1
        if lengths is None and xBC.shape[1] >= count:
            return last_inputs(xBC, count)
        return last_inputs(extend(xBC, buffer, count), count, lengths)
