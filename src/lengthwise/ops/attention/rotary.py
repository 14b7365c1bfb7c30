"""Rotary positions (Su et al. 2021, arXiv 2104.09864), in halves, exact at any position."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lengthwise.errors import InputError
from lengthwise.shapes import Float, Int, Tensor


def rotate(
    x: Float[Tensor, "B T H K"],
    position: Int[Tensor, " B"] | None = None,
    *,
    rotary_dim: int | None = None,
    base: float = 10_000.0,
) -> Float[Tensor, "B T H K"]:
    """Turn the pairs (x[m], x[m + R/2]), m < R/2, of every head by the angle ``p * base^(-2 m / R)`` at position p.

    Angles, sines and cosines are in float64, the rotation in float32 or wider: an angle in float32 is wrong by 0.03 at
    position 10^6.

    Args:
        x: queries or keys.
        position: absolute position of the first token of each row; None for 0.
        rotary_dim: the first R numbers of a head are turned, the others left as they are; None for all.
        base: of the frequencies.

    Returns:
        The turned heads in the dtype of `x`. The gradient cannot be differentiated again.

    Raises:
        InputError: where R is odd or larger than a head.
    """
    size = x.shape[3] if rotary_dim is None else rotary_dim
    if size % 2 or not 0 <= size <= x.shape[3]:
        raise InputError(
            expected=f"an even rotary_dim from 0 to the head width {x.shape[3]}",
            got=str(size),
            where="rotate",
            fix="change rotary_dim or the head width",
        )
    if size == 0:
        return x
    cosine, sine = angles(x.shape[1], position, size, base, x.device)
    exact = torch.promote_types(x.dtype, torch.float32)
    return _Rotate.apply(x, cosine.to(exact), sine.to(exact))  # type: ignore[no-untyped-call]


def angles(
    time: int, position: Tensor | None, size: int, base: float, device: torch.device
) -> tuple[Float[Tensor, "B T half"], Float[Tensor, "B T half"]]:
    """Cosine and sine, float64, of each token's angles; one row for all where no position is given.

    A row begins at its own position p, so its angles are (p + t) * frequency. The functions are evaluated for p and for
    t alone and joined by the addition theorems, which is cheaper and as exact.
    """
    frequency = base ** -(torch.arange(0, size, 2, dtype=torch.float64, device=device) / size)
    steps = torch.arange(time, dtype=torch.float64, device=device)[None, :, None] * frequency
    cosine, sine = steps.cos(), steps.sin()
    if position is None:
        return cosine, sine
    start = position.to(torch.float64)[:, None, None] * frequency
    start_cosine, start_sine = start.cos(), start.sin()
    return start_cosine * cosine - start_sine * sine, start_sine * cosine + start_cosine * sine


class _Rotate(torch.autograd.Function):
    """The rotation as one node; its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turn(x, cosine, sine)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        cosine, sine = ctx.saved_tensors
        return _turn(dy, cosine, -sine), None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = cosine.shape[-1]
    cosine, sine = cosine[:, :, None], sine[:, :, None]  # [B or 1, T, 1, R/2]
    exact = x.to(cosine.dtype)
    first, second = exact[..., :half], exact[..., half : 2 * half]
    out = torch.empty(x.shape, dtype=cosine.dtype, device=x.device)
    torch.mul(first, cosine, out=out[..., :half]).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=out[..., half : 2 * half]).addcmul_(first, sine)
    out[..., 2 * half :] = exact[..., 2 * half :]
    return out.to(x.dtype)
