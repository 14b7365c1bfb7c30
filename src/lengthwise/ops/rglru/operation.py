"""The RG-LRU in its fast forms: a scan in two levels by torch, and a kernel in C (`native.py`).

Both are one node of the graph. Its gradient is written by hand (derivation in the README): of the forward pass only the
inputs and the states are kept, and the gates are worked out again.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from lengthwise.errors import InputError
from lengthwise.native import Backend, usable
from lengthwise.ops.checks import check_shapes
from lengthwise.ops.padding import Padding, check_lengths, emptied, real_tokens, swap_side
from lengthwise.ops.rglru import native
from lengthwise.shapes import Bool, Float, Int, Tensor

# Below this multiplier the slope of the square root counts as 1000; see `rglru`.
LEAST_MULTIPLIER = 1 / 2000


def rglru(
    x: Float[Tensor, "B T D"],
    input_gate: Float[Tensor, "B T D"],
    recurrence_gate: Float[Tensor, "B T D"],
    Lambda: Float[Tensor, " D"],
    initial_state: Float[Tensor, "B D"] | None = None,
    *,
    reset: Bool[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
    """Griffin's recurrence (equations 1 to 4 of the paper, c = 8), channel by channel:

        i[t] = sigmoid(input_gate[t])           r[t] = sigmoid(recurrence_gate[t])
        log a[t] = -8 r[t] softplus(Lambda)
        h[t] = a[t] h[t-1] + sqrt(1 - a[t]^2) i[t] x[t]         y[t] = h[t]

    The paper writes ``a = sigmoid(Lambda)^(8 r)``; its Lambda is minus the stored one, which is used here.

    ``1 - a^2`` is ``-expm1(2 log a)``, exact also where a is close to one. The slope of the square root,
    ``1 / (2 sqrt(1 - a^2))``, counts as 1000 where it is more, as in the published code; outputs are not changed by
    that. At a reset a is 0 and the multiplier of the input is 1: the state before is forgotten, and the gates of the
    recurrence get no gradient from that token.

    Args:
        x: inputs.
        input_gate, recurrence_gate: the gates before their sigmoid.
        Lambda: one parameter a channel.
        initial_state: the state before the first token, float32 (float64 for float64 inputs); None for zeros.
        reset: True at tokens that forget what came before; None for nowhere.
        lengths: number of real tokens of each row, None for all T.
        padding: the side on which the padding stands.
        backend: "native" for the kernel in C, "torch" for the other form.

    All arithmetic is in float32 or wider, whatever the dtype of the inputs, under autocast as well. The gradient cannot
    be differentiated again.

    Returns:
        ``y`` in the dtype of `x`, and the final state in float32 or wider. Gradients flow into every input,
        `initial_state` included, and out of both results. Outputs at padding have no meaning.

    Raises:
        InputError: where a shape or a length does not fit, or the backend cannot run.
    """
    batch, time, width = x.shape
    _check(x, input_gate, recurrence_gate, Lambda, initial_state, reset)
    exact = torch.promote_types(x.dtype, torch.float32)
    function = _Native if usable(backend, x.device, exact, native.library) else _Torch
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        x, input_gate, recurrence_gate = emptied(lengths, padding, x, input_gate, recurrence_gate)
        if padding == "left":
            x, input_gate, recurrence_gate = (swap_side(t, lengths, "left") for t in (x, input_gate, recurrence_gate))
            reset = None if reset is None else swap_side(reset, lengths, "left")
    if batch == 0 or time == 0:
        return x, x.new_zeros(batch, width, dtype=exact) if initial_state is None else initial_state.to(exact)
    rate = -8 * F.softplus(Lambda.to(exact))
    state = None if initial_state is None else initial_state.to(exact)
    y, final_state = function.apply(x, input_gate, recurrence_gate, rate, state, reset, lengths)  # type: ignore[no-untyped-call]
    if lengths is not None and padding == "left":
        y = swap_side(y, lengths, "right")
    return y, final_state


class _Native(torch.autograd.Function):
    """The kernel in C."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        input_gate: Tensor,
        recurrence_gate: Tensor,
        rate: Tensor,
        initial_state: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        inputs = native.Inputs.of(x, input_gate, recurrence_gate, rate, initial_state, reset, lengths)
        h, final_state = native.forward(inputs)
        y = h.to(x.dtype)
        ctx.save_for_backward(x, input_gate, recurrence_gate, rate, initial_state, reset, lengths, h)
        ctx.set_materialize_grads(False)
        return y, final_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        *arguments, h = ctx.saved_tensors
        inputs = native.Inputs.of(*arguments)
        dx, d_input_gate, d_recurrence_gate, d_rate, d_state = native.backward(inputs, h, dy, d_final)
        return (
            dx.to(arguments[0].dtype),
            d_input_gate.to(arguments[1].dtype),
            d_recurrence_gate.to(arguments[2].dtype),
            d_rate,
            None if arguments[4] is None else d_state,
            None,
            None,
        )


class _Torch(torch.autograd.Function):
    """The same by operations of torch, any device and dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        input_gate: Tensor,
        recurrence_gate: Tensor,
        rate: Tensor,
        initial_state: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        parts = _parts(input_gate, recurrence_gate, rate, reset, lengths)
        added = parts.multiplier * parts.i * x.to(rate.dtype)
        h = scan(parts.a, added, initial_state)
        ctx.save_for_backward(x, input_gate, recurrence_gate, rate, initial_state, reset, lengths, h)
        ctx.set_materialize_grads(False)
        return h.to(x.dtype), h[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        x, input_gate, recurrence_gate, rate, initial_state, reset, lengths, h = ctx.saved_tensors
        i, r, log_a, a, multiplier = _parts(input_gate, recurrence_gate, rate, reset, lengths)
        x_ = x.to(rate.dtype)
        # dh[t] = dy[t] + a[t+1] dh[t+1]: the same scan from behind, started with the gradient of the final state.
        dy = torch.zeros_like(h) if dy is None else dy.to(rate.dtype)
        later = torch.cat([a[:, 1:], torch.ones_like(a[:, :1])], dim=1)
        dh = scan(later.flip(1), dy.flip(1), d_final).flip(1)
        start = torch.zeros_like(h[:, 0]) if initial_state is None else initial_state
        before = torch.cat([start[:, None], h[:, :-1]], dim=1)
        d_gated = dh * multiplier
        d_log_a = a * dh * before - _slope(a, multiplier) * dh * i * x_
        if lengths is not None:
            d_log_a = d_log_a * real_tokens(lengths, x.shape[1])[..., None]
        return (
            (d_gated * i).to(x.dtype),
            (d_gated * x_ * i * (1 - i)).to(input_gate.dtype),
            (d_log_a * log_a * (1 - r)).to(recurrence_gate.dtype),
            (d_log_a * r).sum(dim=(0, 1)),
            None if initial_state is None else a[:, 0] * dh[:, 0],
            None,
            None,
        )


class _Parts(NamedTuple):
    """What the gates amount to, [B, T, D] each; at padding a is 1 and the multiplier 0."""

    i: Tensor
    r: Tensor
    log_a: Tensor
    a: Tensor
    multiplier: Tensor


def _parts(
    input_gate: Tensor, recurrence_gate: Tensor, rate: Tensor, reset: Tensor | None, lengths: Tensor | None
) -> _Parts:
    i, r = torch.sigmoid(input_gate.to(rate.dtype)), torch.sigmoid(recurrence_gate.to(rate.dtype))
    log_a = r * rate
    a, multiplier = torch.exp(log_a), torch.expm1(2 * log_a).neg_().sqrt_()
    if reset is not None:
        a, multiplier = a.masked_fill(reset[..., None], 0), multiplier.masked_fill(reset[..., None], 1)
    if lengths is not None:
        real = real_tokens(lengths, a.shape[1])[..., None]
        a, multiplier = a.masked_fill(~real, 1), multiplier.masked_fill(~real, 0)
    return _Parts(i, r, log_a, a, multiplier)


def _slope(a: Tensor, multiplier: Tensor) -> Tensor:
    """Minus the derivative of the multiplier by log a: a^2 / multiplier, cut where the square root is too steep."""
    return a.square() / multiplier.clamp(min=LEAST_MULTIPLIER)


def scan(a: Tensor, b: Tensor, initial_state: Tensor | None) -> Tensor:
    """``h[t] = a[t] h[t-1] + b[t]`` over dimension 1 of [B, T, D] in about 2 sqrt(T) steps; no gradient.

    The tokens are cut into sqrt(T) spans that are read side by side, each from a zero state. Then the state is carried
    from span to span, and what it still contributes is added: only products of decays occur, never a quotient.
    """
    batch, time, width = a.shape
    span = math.isqrt(time - 1) + 1
    missing = -time % span
    a = F.pad(a, (0, 0, 0, missing), value=1.0).view(batch, -1, span, width)
    h = F.pad(b, (0, 0, 0, missing)).view(batch, -1, span, width)
    h = h.clone() if missing == 0 else h
    decay = a.clone()
    for t in range(1, span):
        h[:, :, t].addcmul_(a[:, :, t], h[:, :, t - 1])
        decay[:, :, t].mul_(decay[:, :, t - 1])
    before = torch.empty_like(h[:, :, 0])
    before[:, 0] = 0 if initial_state is None else initial_state
    for k in range(1, before.shape[1]):
        torch.addcmul(h[:, k - 1, -1], decay[:, k - 1, -1], before[:, k - 1], out=before[:, k])
    h.addcmul_(decay, before[:, :, None])
    return h.view(batch, -1, width)[:, :time]


def _check(
    x: Tensor,
    input_gate: Tensor,
    recurrence_gate: Tensor,
    Lambda: Tensor,
    initial_state: Tensor | None,
    reset: Tensor | None,
) -> None:
    batch, time, width = x.shape
    wanted = {
        "input_gate": (input_gate, (batch, time, width)),
        "recurrence_gate": (recurrence_gate, (batch, time, width)),
        "Lambda": (Lambda, (width,)),
        "initial_state": (initial_state, (batch, width)),
        "reset": (reset, (batch, time)),
    }
    check_shapes("rglru", wanted, x=x)
    if reset is not None and reset.dtype != torch.bool:
        raise InputError(
            expected="a boolean mask [B, T]",
            got=f"dtype {reset.dtype}",
            where="rglru reset",
            fix="pass reset.bool()",
        )
