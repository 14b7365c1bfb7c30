"""Whatever stands in the padding, NaN too, changes no output, state or gradient; no rows at all are fine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import need_form

from lengthwise.ops.attention import attention
from lengthwise.ops.conv import causal_conv
from lengthwise.ops.gla import gla
from lengthwise.ops.padding import real_tokens
from lengthwise.ops.rglru import rglru
from lengthwise.ops.rwkv6 import rwkv6
from lengthwise.ops.selective_scan import selective_scan
from lengthwise.ops.ssd import ssd

ROWS, TIME = 3, 11
LENGTHS = torch.tensor([11, 4, 0])


def over_time(*sizes: int, seed: int) -> torch.Tensor:
    return torch.randn(ROWS, TIME, *sizes, generator=torch.Generator().manual_seed(seed))


def vector(*sizes: int, seed: int) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


X, Q, K, V = (over_time(4, 6, seed=seed) for seed in range(4))
STEPS, DECAYS = F.softplus(over_time(4, seed=4)), F.logsigmoid(over_time(4, 6, seed=5))
WIDE, GATE_1, GATE_2 = (over_time(6, seed=seed) for seed in range(6, 9))


def flat(result: tuple[torch.Tensor, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    y, past = result
    return y, torch.cat([past.keys.flatten(), past.values.flatten()])


# The inputs over time, and the op given them; a loop over heads is not needed to see what leaks.
OPS: dict[str, tuple[tuple[torch.Tensor, ...], Callable[..., Any]]] = {
    "ssd": (
        (X, STEPS, over_time(2, 5, seed=9), over_time(2, 5, seed=10)),
        lambda x, dt, B, C, **rest: ssd(x, dt, -torch.ones(4), B, C, torch.ones(4), chunk_size=4, **rest),
    ),
    "selective_scan": (
        (WIDE, F.softplus(GATE_1), over_time(5, seed=11), over_time(5, seed=12), GATE_2),
        lambda x, dt, B, C, z, **rest: selective_scan(
            x, dt, -torch.ones(6, 5), B, C, torch.ones(6), z=z, chunk_size=4, **rest
        ),
    ),
    "gla": ((Q, K, V, DECAYS), lambda *inputs, **rest: gla(*inputs, chunk_size=4, **rest)),
    "rwkv6": (
        (Q, K, V, DECAYS),
        lambda *inputs, **rest: rwkv6(*inputs, vector(4, 6, seed=13), chunk_size=4, **rest),
    ),
    "rglru": (
        (WIDE, GATE_1.sigmoid(), GATE_2.sigmoid()),
        lambda x, one, two, **rest: rglru(x, one, two, vector(6, seed=14), **rest),
    ),
    "attention": ((Q, K, V), lambda q, k, v, backend, **rest: flat(attention(q, k, v, **rest))),
    "conv": ((WIDE,), lambda x, **rest: causal_conv(x, vector(6, 4, seed=15), activation="silu", **rest)),
}


@pytest.mark.parametrize("content", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", OPS)
def test_what_stands_in_the_padding(name: str, backend: str, padding: Any, content: float) -> None:
    need_form(backend)
    inputs, op = OPS[name]
    real = real_tokens(LENGTHS, TIME, padding)

    def run(filling: float) -> tuple[torch.Tensor, ...]:
        given = [
            tensor.masked_fill(~real.view(ROWS, TIME, *[1] * (tensor.dim() - 2)), filling).requires_grad_()
            for tensor in inputs
        ]
        y, state = op(*given, lengths=LENGTHS, padding=padding, backend=backend)
        at_real = y[real]
        gradients = torch.autograd.grad(at_real.square().sum() + state.square().sum(), given)
        return at_real.detach(), state.detach(), *(gradient[real] for gradient in gradients)

    for found, expected in zip(run(content), run(0.0), strict=True):
        assert torch.equal(found, expected)
        assert expected.isfinite().all()


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", OPS)
def test_no_rows(name: str, backend: str) -> None:
    need_form(backend)
    inputs, op = OPS[name]
    given = [tensor[:0].clone().requires_grad_() for tensor in inputs]
    y, state = op(*given, backend=backend)
    assert (y.shape[:2], len(state)) == ((0, TIME), 0)
    for gradient in torch.autograd.grad(y.sum(), given, allow_unused=True):
        assert gradient is None or len(gradient) == 0
