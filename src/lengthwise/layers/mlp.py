"""MLPs that work on each token by itself."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from lengthwise.layers.base import Place
from lengthwise.layers.configs import GatedMLPConfig
from lengthwise.shapes import Float, Tensor


class GatedMLP(nn.Module):
    """``down(activation(gate x) * up x)`` (Shazeer 2020, arXiv 2002.05202).

    Args:
        d_model: width D of input and output.
        config: inner width, activation, biases.
        norm_eps: not used.
    """

    def __init__(self, d_model: int, config: GatedMLPConfig, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config = config
        self.gate_proj = nn.Linear(d_model, config.width, bias=config.bias)
        self.up_proj = nn.Linear(d_model, config.width, bias=config.bias)
        self.down_proj = nn.Linear(config.width, d_model, bias=config.bias)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, place: Place) -> None:
        """Uniform by the width of the input; the projection back is divided by the root of the residual branches."""
        for linear in (self.gate_proj, self.up_proj, self.down_proj):
            init_linear(linear, generator)
        self.down_proj.weight /= math.sqrt(place.num_residuals)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """The MLP of each token."""
        gate = self.gate_proj(x)
        gate = F.silu(gate) if self.config.activation == "silu" else F.gelu(gate, approximate="tanh")
        return self.down_proj(gate * self.up_proj(x))


@torch.no_grad()
def init_linear(linear: nn.Linear, generator: torch.Generator) -> None:
    """torch's own default by an explicit generator: uniform within 1 / sqrt(inputs). Biases are zero."""
    bound = 1 / math.sqrt(linear.in_features)
    linear.weight.uniform_(-bound, bound, generator=generator)
    if linear.bias is not None:
        linear.bias.zero_()
