"""How much of the machine's matrix-product rate does the float32 training step reach?

Operations of matrix products in one step over the step's seconds, against the rate of one 2048 x 2048 x 2048 product
of torch, the two taking turns. What is missing to 1 is everything that is not a matrix product.

Operations are those of the formulas in `ops/ssd/README.md` with chunks of 64 tokens, each product once: of triangular
matrices the triangle alone, no padding, nothing that the backward pass computes a second time, nothing that multiplies
a state or a gradient that is known to be zero. (torch's counter would not do: it sees no kernels in C, and in the torch
form it counts whole squares and passes over products that add to a tensor.) Where our own kernel multiplies faster than
torch, the share of that rate is given too.
"""

from __future__ import annotations

from typing import Any

from benchmarks import ssd_train
from benchmarks._common import THREADS, interleave, spread

SIZE, ROUNDS, BAR = 2048, 12, 0.60


def step_operations(chunk: int = 64) -> int:
    """Multiplications and additions of one training step of `ssd_train`."""
    width, state, head = ssd_train.WIDTH, ssd_train.STATE, ssd_train.HEAD
    tokens, inner = ssd_train.BATCH * ssd_train.TIME, 2 * ssd_train.WIDTH
    heads, chunks = inner // head, ssd_train.TIME // chunk
    projections = width * (2 * inner + 2 * state + heads) + inner * width  # in_proj and out_proj
    # Sums over pairs of tokens, (chunk + 1) / 2 partners each. For a group: C B^T; backwards dC and dB. For a head:
    # M u; backwards dM and M^T dy.
    pairs = (chunk + 1) / 2 * (3 * state + heads * 3 * head)
    # Products with states. What goes into the state after a chunk is needed for every chunk. S C and backwards dS,
    # S^T dy need a state before the chunk; dS' B and dS'^T u need a gradient of the state after it.
    states = heads * head * state * (1 + 5 * (chunks - 1) / chunks)
    logits = width * ssd_train.VOCAB
    multiplications = tokens * (ssd_train.LAYERS * (3 * projections + pairs + states) + 3 * logits)
    return round(2 * multiplications)


def run() -> dict[str, Any]:
    """The share, from the least seconds of both sides."""
    import torch

    from lengthwise.layers.linear import linear

    torch.set_num_threads(THREADS)
    step = ssd_train.our_step()
    operations = step_operations()
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    seconds = interleave(
        {"step": step, "product": lambda: a @ b, "own product": lambda: linear(a, b)}, rounds=ROUNDS, warmup=2
    )
    reached = operations / min(seconds["step"])
    machine_rate = 2 * SIZE**3 / min(seconds["product"])
    own_rate = 2 * SIZE**3 / min(seconds["own product"])
    share = reached / machine_rate
    return {
        "share": share,
        "bar": BAR,
        "holds": share >= BAR,
        "line": f"{share:.0%} of the rate of a {SIZE} cubed product, at least {BAR:.0%}; "
        f"{reached / own_rate:.0%} of its rate in our kernel",
        "share_of_own_product": reached / own_rate,
        "operations_per_step": operations,
        "step_gflops": reached / 1e9,
        "product_gflops": machine_rate / 1e9,
        "own_product_gflops": own_rate / 1e9,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "setting": {
            "sizes": f"d {ssd_train.WIDTH}, {ssd_train.LAYERS} layers, N {ssd_train.STATE}, float32",
            "batch": f"{ssd_train.BATCH} x {ssd_train.TIME}",
            "statistic": f"least of {ROUNDS} interleaved",
        },
    }
