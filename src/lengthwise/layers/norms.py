"""Root-mean-square norms, computed in float32 or wider, each one node of the graph with its gradient written out.

With ``r = 1 / sqrt(mean(x^2) + eps)`` the norm is ``y = w r x``, and since ``dr/dx = -r^3 x / n`` for n elements,
``dx = r w dy - x r^3 sum(w dy x) / n`` and ``dw = sum over tokens of r x dy``: both sums are matrix-vector products of
the one product ``x dy``. `rms_norm` has a kernel in C beside it (`norms.c`), which passes over its tensors once.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from lengthwise.native import Backend, Team, load, team, usable
from lengthwise.shapes import Float, Tensor


def rms_norm(
    x: Float[Tensor, "... D"],
    weight: Float[Tensor, " D"],
    eps: float,
    groups: int = 1,
    *,
    backend: Backend = "auto",
) -> Float[Tensor, "... D"]:
    """``weight * x / sqrt(mean(x^2) + eps)``, the mean over each of `groups` equal parts of the last dimension.

    The result has the dtype of `x`. The gradient cannot be differentiated again.
    """
    if usable(backend, x.device, x.dtype, _library) and x.numel():
        exact = x if x.dtype in (torch.float32, torch.bfloat16) else x.float()
        out: Tensor = _NativeRMSNorm.apply(exact.contiguous(), weight, eps, groups)  # type: ignore[no-untyped-call]
        return out.to(x.dtype)
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
        self.backend: Backend = "auto"
        self.weight = nn.Parameter(torch.ones(width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The neutral weight."""
        self.weight.fill_(1.0)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return rms_norm(x, self.weight, self.eps, backend=self.backend)


class RMSNormPlusOne(nn.Module):
    """RMSNorm whose factor is one plus the stored weight, so that zero is the neutral weight (Griffin).

    Args:
        width: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The neutral weight."""
        self.weight.zero_()

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        return rms_norm(x, 1 + self.weight.to(exact), self.eps)


class LayerNorm(nn.LayerNorm):
    """LayerNorm with weight and bias, computed in float32 or wider whatever the dtype of the input.

    Args:
        width: size of the last dimension.
        eps: added to the variance.
    """

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        exact = torch.promote_types(x.dtype, torch.float32)
        normed = F.layer_norm(x.to(exact), self.normalized_shape, self.weight.to(exact), self.bias.to(exact), self.eps)
        return normed.to(x.dtype)


NORMS: dict[str, type[nn.Module]] = {"rms": RMSNorm, "rms-plus-one": RMSNormPlusOne, "layer": LayerNorm}
"""Norms of the residual stream by their name in `ModelConfig.norm`."""


class GatedRMSNorm(nn.Module):
    """``RMSNorm(y * silu(z))`` over groups (Mamba-2, norm_before_gate false)."""

    def __init__(self, width: int, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.groups = eps, groups
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, y: Float[Tensor, "... D"], z: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return gated_rms_norm(y, z, self.weight, self.eps, self.groups)


def norm_forward(x: Tensor, weight: Tensor, eps: float, groups: int, out: Tensor) -> Tensor:
    """Write the norm of `x` [..., D] to `out` and return r [..., groups, 1]."""
    parts = x.unflatten(-1, (groups, -1))
    r = torch.linalg.vector_norm(parts, dim=-1, keepdim=True).square_().div_(parts.shape[-1]).add_(eps).rsqrt_()
    torch.mul(parts, r, out=out.unflatten(-1, (groups, -1)))
    out.mul_(weight)
    return r


def norm_backward(dy: Tensor, x: Tensor, weight: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """dx, as a new tensor, and dw. `x` is contiguous."""
    groups, width = r.shape[-2], x.shape[-1] // r.shape[-2]
    product = torch.mul(dy, x, out=torch.empty_like(x))
    columns, flat_r = product.view(-1, groups, width), r.view(-1, groups)
    dw = torch.cat([torch.mv(columns[:, g].t(), flat_r[:, g]) for g in range(groups)])
    dots = torch.stack([torch.mv(columns[:, g], weight[g * width :][:width]) for g in range(groups)], dim=1)
    slope = dots.view(r.shape).mul_(r).mul_(r).div_(-width)
    dx = torch.mul(dy, weight, out=product)
    dx.unflatten(-1, (groups, -1)).addcmul_(x.unflatten(-1, (groups, -1)), slope).mul_(r)
    return dx, dw


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        out = torch.empty(x.shape, dtype=exact, device=x.device)
        r = norm_forward(x.to(exact), weight.to(exact), eps, groups, out)
        ctx.save_for_backward(x, weight, r)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, r = ctx.saved_tensors
        dx, dw = norm_backward(dy, x.to(r.dtype).contiguous(), weight.to(r.dtype), r)
        return dx.to(x.dtype), dw.to(weight.dtype), None, None


class _GatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
        exact = torch.promote_types(y.dtype, torch.float32)
        gated = F.silu(z.to(exact)).mul_(y)
        out = torch.empty(y.shape, dtype=exact, device=y.device)
        r = norm_forward(gated, weight.to(exact), eps, groups, out)
        ctx.save_for_backward(y, z, weight, r)
        return out.to(y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        y, z, weight, r = ctx.saved_tensors
        z_ = z.to(r.dtype)
        gate = F.silu(z_)
        d_gated, dw = norm_backward(dout, (gate * y).contiguous(), weight.to(r.dtype), r)
        dz = torch.ops.aten.silu_backward(d_gated * y, z_)
        return gate.mul_(d_gated).to(y.dtype), dz.to(z.dtype), dw.to(weight.dtype), None, None


class _Job(ctypes.Structure):
    """`norm_job` of `norms.c`."""

    _fields_ = (
        ("by", Team),
        *((name, ctypes.c_int64) for name in ("tokens", "groups", "width", "half", "blocks")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "y", "r", "dy", "dx", "d_weight", "scratch")),
    )


@cache
def _library() -> ctypes.CDLL | None:
    job = ctypes.POINTER(_Job)
    return load(
        Path(__file__).with_name("norms.c"),
        {
            "norm_sizes": [job, ctypes.POINTER(ctypes.c_int64)],
            "norm_forward": [job],
            "norm_backward": [job],
        },
    )


def _describe(x: Tensor, weight: Tensor, eps: float, groups: int) -> tuple[_Job, Tensor, int]:
    """A job without results, its scratch, and the numbers of the sums of a block."""
    width = x.shape[-1] // groups
    tokens = x.numel() // x.shape[-1]
    by = team()
    if x.numel() < 1 << 15:  # threads would cost more than they save
        by.threads = 1
    # At least 64 tokens a block, and at most 64 blocks, whatever the number of threads: sums go by block.
    blocks = max(1, min(64, tokens // 64))
    job = _Job(
        by=by,
        tokens=tokens,
        groups=groups,
        width=width,
        half=x.dtype == torch.bfloat16,
        blocks=blocks,
        eps=eps,
        x=x.data_ptr(),
        weight=weight.data_ptr(),
    )
    sizes = (ctypes.c_int64 * 2)()
    _compiled().norm_sizes(job, sizes)
    scratch = torch.empty(by.threads * sizes[0], dtype=torch.float32)
    job.scratch = scratch.data_ptr()
    return job, scratch, sizes[1]


def _compiled() -> ctypes.CDLL:
    library = _library()
    assert library is not None, "the caller checks for a compiler"
    return library


class _NativeRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
        exact = weight.float().contiguous()
        job, scratch, _ = _describe(x, exact, eps, groups)
        y = torch.empty_like(x)
        job.y = y.data_ptr()
        if any(ctx.needs_input_grad):
            r = torch.empty(job.tokens, groups, dtype=torch.float32)
            job.r = r.data_ptr()
            ctx.save_for_backward(x, weight, r)
            ctx.eps, ctx.groups = eps, groups
        _compiled().norm_forward(job)
        del scratch  # held until here
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, r = ctx.saved_tensors
        exact, dy = weight.float().contiguous(), dy.contiguous()
        job, scratch, sums = _describe(x, exact, ctx.eps, ctx.groups)
        dx = torch.empty_like(x)
        d_weight = torch.empty(job.blocks * sums, dtype=torch.float32)
        job.r, job.dy, job.dx, job.d_weight = r.data_ptr(), dy.data_ptr(), dx.data_ptr(), d_weight.data_ptr()
        _compiled().norm_backward(job)
        del scratch
        return dx, d_weight[: len(weight)].to(weight.dtype), None, None
