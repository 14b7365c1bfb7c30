"""Root-mean-square norms, computed in float32 or wider."""

import torch
from torch import nn

from lengthwise.shapes import Float, Tensor


def rms_norm(
    x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], eps: float, groups: int = 1
) -> Float[Tensor, "... D"]:
    """``weight * x / sqrt(mean(x^2) + eps)``, the mean over each of `groups` equal parts of the last dimension."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    if groups > 1:
        exact = exact.unflatten(-1, (groups, -1))
    scaled = exact * torch.rsqrt(exact.square().mean(dim=-1, keepdim=True) + eps)
    if groups > 1:
        scaled = scaled.flatten(-2)
    return (scaled * weight).to(x.dtype)


class RMSNorm(nn.Module):
    """RMSNorm with a learned weight (Zhang & Sennrich 2019).

    Args:
        width: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return rms_norm(x, self.weight, self.eps)


class GatedRMSNorm(nn.Module):
    """``RMSNorm(y * silu(z))`` over groups: the gate comes before the norm (Mamba-2, norm_before_gate false)."""

    def __init__(self, width: int, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.groups = eps, groups
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, y: Float[Tensor, "... D"], z: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        exact = torch.promote_types(y.dtype, torch.float32)
        gated = y.to(exact) * torch.nn.functional.silu(z.to(exact))
        return rms_norm(gated, self.weight, self.eps, self.groups).to(y.dtype)
