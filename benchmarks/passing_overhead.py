"""What State Passing costs: a whole training step with it against the same step from zero states."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks._common import THREADS, interleave, spread

WIDTH, LAYERS, STATE, VOCAB, BATCH, TIME = 256, 4, 64, 256, 8, 512
ROUNDS, BAR = 12, 1.10


def run() -> dict[str, Any]:
    """Both sides with the project's own training step, optimizer included."""
    import torch

    from lengthwise.data.readers import Batch
    from lengthwise.interventions.build import build_intervention
    from lengthwise.interventions.config import InterventionConfig
    from lengthwise.models.config import Mamba2Config, ModelConfig
    from lengthwise.models.lm import LanguageModel
    from lengthwise.train.config import TrainConfig
    from lengthwise.train.optimizer import build_optimizer
    from lengthwise.train.step import train_step

    torch.set_num_threads(THREADS)
    sizes = ModelConfig(d_model=WIDTH, num_layers=LAYERS, vocab_size=VOCAB, mixer=Mamba2Config(d_state=STATE))

    class Windows:
        """Random tokens, made beforehand."""

        def __init__(self) -> None:
            random = torch.Generator().manual_seed(0)
            tokens = torch.randint(0, VOCAB, (BATCH, TIME + 1), generator=random)
            self.batch = Batch(tokens, torch.ones(BATCH, dtype=torch.bool))

        def next_batch(self) -> Batch:
            """The same batch every time."""
            return self.batch

    def side(kind: str) -> Any:
        intervention = InterventionConfig(kind=kind)  # type: ignore[arg-type]
        config = TrainConfig(
            model=sizes, context_length=TIME, batch_size=BATCH, steps=1000, peak_lr=1e-4, intervention=intervention
        )
        model = LanguageModel(sizes)
        parts = (model, build_optimizer(model, config), build_intervention(intervention, model, 0), Windows())
        count = iter(range(1000))
        return lambda: train_step(*parts, config, next(count))

    seconds = interleave({"passing": side("state-passing"), "zero": side("zero")}, rounds=ROUNDS, warmup=2)
    ratio = min(seconds["passing"]) / min(seconds["zero"])
    pairs = [p / z for p, z in zip(seconds["passing"], seconds["zero"], strict=True)]
    median = statistics.median(pairs)
    return {
        "ratio": ratio,
        "median_of_pairs": median,
        "bar": BAR,
        "holds": ratio <= BAR,
        "line": f"{ratio:.3f}x the time of a zero step (median of pairs {median:.3f}x), at most {BAR}x",
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "setting": {
            "sizes": f"d {WIDTH}, {LAYERS} layers, N {STATE}, float32",
            "batch": f"{BATCH} x {TIME}",
            "step": "reader, intervention, forward, backward, clipping, AdamW",
            "statistic": f"least of {ROUNDS} interleaved steps",
        },
    }
