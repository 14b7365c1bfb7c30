"""GLA and RWKV-6: the fast forms against the recurrence as a loop over time in torch, forward and backward.

Both sides compute the same in float32, with an initial state and the gradients of every input. The other side is the
oracle of our tests: one token after the other, as few operations a step as the definition needs, and inputs taken apart
once, so that its backward pass is linear in time as well. The figure is the smallest ratio over the batch sizes. The
torch form, which those get who have no compiler, is measured beside the default one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks._common import THREADS, interleave, spread

TIME, HEADS, KEYS, VALUES = 2048, 4, 64, 64
BATCHES = (1, 2)
# The loop takes its turn in every one of these rounds too; a second or less.
ROUNDS = 5
BAR = 8.0


def run_gla() -> dict[str, Any]:
    """GLA."""
    from lengthwise.ops.gla import gla, gla_naive

    return _compare(gla, gla_naive, bonus=False)


def run_rwkv6() -> dict[str, Any]:
    """RWKV-6."""
    from lengthwise.ops.rwkv6 import rwkv6, rwkv6_naive

    return _compare(rwkv6, rwkv6_naive, bonus=True)


def _compare(fast: Callable[..., Any], naive: Callable[..., Any], *, bonus: bool) -> dict[str, Any]:
    import torch

    from lengthwise.native import resolve_backend

    torch.set_num_threads(THREADS)
    default = resolve_backend("auto", torch.device("cpu"))
    seconds: dict[str, Any] = {}
    ratios: dict[str, dict[str, float]] = {"default": {}, "torch form": {}}
    for batch in BATCHES:
        inputs = _inputs(batch, bonus)
        sides = {
            "default": _step(fast, inputs),
            "torch form": _step(fast, inputs, backend="torch"),
            "loop": _step(naive, inputs),
        }
        taken = interleave(sides, rounds=ROUNDS)
        seconds[f"batch {batch}"] = {name: spread(values) for name, values in taken.items()}
        for name, found in ratios.items():
            found[f"batch {batch}"] = min(taken["loop"]) / min(taken[name])
    least, least_torch = min(ratios["default"].values()), min(ratios["torch form"].values())
    return {
        "line": f"{least:.1f}x the loop over time, at least {BAR:.0f}x (backend {default}); the torch form "
        f"{least_torch:.1f}x",
        "ratio": least,
        "bar": BAR,
        "holds": least >= BAR,
        "ratio_torch_form": least_torch,
        "ratios": ratios,
        "backend": default,
        "seconds": seconds,
        "setting": {
            "sizes": f"{HEADS} heads, K {KEYS}, V {VALUES}, T {TIME}, batch {' and '.join(map(str, BATCHES))}",
            "step": "forward and backward, initial state and final state with gradients",
            "dtype": "float32",
            "statistic": f"least of {ROUNDS} interleaved steps, smaller ratio of the two batch sizes",
        },
    }


def _inputs(batch: int, bonus: bool) -> list[Any]:
    import torch

    random = torch.Generator().manual_seed(0)
    keys = [torch.randn(batch, TIME, HEADS, KEYS, generator=random) for _ in range(2)]
    values = torch.randn(batch, TIME, HEADS, VALUES, generator=random)
    log_decay = -torch.rand(batch, TIME, HEADS, KEYS, generator=random)
    u = [torch.randn(HEADS, KEYS, generator=random)] if bonus else []
    state = torch.randn(batch, HEADS, KEYS, VALUES, generator=random)
    return [*keys, values, log_decay, *u, state]


def _step(op: Callable[..., Any], inputs: list[Any], **options: Any) -> Callable[[], object]:
    import torch

    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    d_output, d_state = torch.randn_like(inputs[2]), torch.randn_like(inputs[-1])

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(op(*leaves, **options), (d_output, d_state))

    return step
