"""How much of the machine's matrix-product rate does the float32 training step reach?

Operations of matrix products in one step, counted by torch's counter, over the step's seconds; against the rate of one
2048 x 2048 x 2048 product, the two taking turns. What is missing to 1 is everything that is not a matrix product.
"""

from __future__ import annotations

from typing import Any

from benchmarks import ssd_train
from benchmarks._common import THREADS, interleave, spread

SIZE, ROUNDS, BAR = 2048, 12, 0.60


def run() -> dict[str, Any]:
    """The share, from the least seconds of both sides."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(THREADS)
    step = ssd_train.our_step()
    with FlopCounterMode(display=False) as counter:
        step()
    operations = counter.get_total_flops()
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    seconds = interleave({"step": step, "product": lambda: a @ b}, rounds=ROUNDS, warmup=2)
    reached = operations / min(seconds["step"])
    machine_rate = 2 * SIZE**3 / min(seconds["product"])
    share = reached / machine_rate
    return {
        "share": share,
        "bar": BAR,
        "holds": share >= BAR,
        "line": f"{share:.0%} of the rate of a {SIZE} cubed product, at least {BAR:.0%}",
        "operations_per_step": operations,
        "step_gflops": reached / 1e9,
        "product_gflops": machine_rate / 1e9,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "setting": {
            "sizes": f"d {ssd_train.WIDTH}, {ssd_train.LAYERS} layers, N {ssd_train.STATE}, float32",
            "batch": f"{ssd_train.BATCH} x {ssd_train.TIME}",
            "statistic": f"least of {ROUNDS} interleaved",
        },
    }
