"""Root-mean-square norms, computed in float32 or wider, each one node of the graph with its gradient written out.

With ``r = 1 / sqrt(mean(x^2) + eps)`` the norm is ``y = w r x``, and since ``dr/dx = -r^3 x / n`` for n elements,
``dx = r w dy - x r^3 sum(w dy x) / n`` and ``dw = sum over tokens of r x dy``: both sums are matrix-vector products of
the one product ``x dy``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from lengthwise.shapes import Float, Tensor


def rms_norm(
    x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], eps: float, groups: int = 1
) -> Float[Tensor, "... D"]:
    """``weight * x / sqrt(mean(x^2) + eps)``, the mean over each of `groups` equal parts of the last dimension.

    The result has the dtype of `x`. The gradient cannot be differentiated again.
    """
    return _RMSNorm.apply(x, weight, eps, groups)  # type: ignore[no-untyped-call]


def gated_rms_norm(
    y: Float[Tensor, "... D"], z: Float[Tensor, "... D"], weight: Float[Tensor, " D"], eps: float, groups: int = 1
) -> Float[Tensor, "... D"]:
    """``rms_norm(y * silu(z))``: the gate comes before the norm. Dtype and gradient as for `rms_norm`."""
    return _GatedRMSNorm.apply(y, z, weight, eps, groups)  # type: ignore[no-untyped-call]


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
    """``RMSNorm(y * silu(z))`` over groups (Mamba-2, norm_before_gate false)."""

    def __init__(self, width: int, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.groups = eps, groups
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, y: Float[Tensor, "... D"], z: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return gated_rms_norm(y, z, self.weight, self.eps, self.groups)


def _forward(x: Tensor, weight: Tensor, eps: float, groups: int, out: Tensor) -> Tensor:
    """Write the norm of `x` [n, D] to `out`, which may be `x`, and return r [n, groups]."""
    parts = x.unflatten(-1, (groups, -1))
    r = torch.linalg.vector_norm(parts, dim=-1).square_().div_(parts.shape[-1]).add_(eps).rsqrt_()
    torch.mul(parts, r[..., None], out=out.view(parts.shape))
    out.mul_(weight)
    return r


def _backward(dy: Tensor, x: Tensor, weight: Tensor, r: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """dx and dw; `product` [n, D] is scratch, and dx is written to it."""
    groups = r.shape[1]
    torch.mul(dy, x, out=product)
    parts, weights = product.unflatten(-1, (groups, -1)), weight.view(groups, -1)
    dw = torch.cat([torch.mv(parts[:, g].t(), r[:, g]) for g in range(groups)])
    dots = torch.stack([torch.mv(parts[:, g], weights[g]) for g in range(groups)], dim=1)  # sum(w dy x), [n, groups]
    slope = dots.mul_(r).mul_(r).div_(-parts.shape[-1])
    dx = torch.mul(dy, weight, out=product).view(parts.shape)
    dx.addcmul_(x.unflatten(-1, (groups, -1)), slope[..., None]).mul_(r[..., None])
    return product, dw


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        flat = x.reshape(-1, x.shape[-1]).to(exact)
        out = torch.empty_like(flat)
        r = _forward(flat, weight.to(exact), eps, groups, out)
        ctx.save_for_backward(x, weight, r)
        return out.view(x.shape).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, r = ctx.saved_tensors
        flat = x.reshape(-1, x.shape[-1]).to(r.dtype)
        dx, dw = _backward(dy.reshape(flat.shape), flat, weight.to(r.dtype), r, torch.empty_like(flat))
        return dx.view(x.shape).to(x.dtype), dw.to(weight.dtype), None, None


class _GatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
        exact = torch.promote_types(y.dtype, torch.float32)
        width = y.shape[-1]
        gated = F.silu(z.reshape(-1, width).to(exact)).mul_(y.reshape(-1, width))
        r = _forward(gated, weight.to(exact), eps, groups, gated)
        ctx.save_for_backward(y, z, weight, r)
        return gated.view(y.shape).to(y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        y, z, weight, r = ctx.saved_tensors
        width = y.shape[-1]
        flat_y, flat_z = (tensor.reshape(-1, width).to(r.dtype) for tensor in (y, z))
        gate = F.silu(flat_z)
        gated = flat_y * gate
        d_gated, dw = _backward(dout.reshape(gated.shape), gated, weight.to(r.dtype), r, torch.empty_like(gated))
        d_gate = torch.mul(d_gated, flat_y, out=gated)
        dz = torch.ops.aten.silu_backward(d_gate, flat_z)
        dy = gate.mul_(d_gated)
        return dy.view(y.shape).to(y.dtype), dz.view(z.shape).to(z.dtype), dw.to(weight.dtype), None, None
