"""Mamba-1 of the trained family (docs/family.md).

Initial decay rates are a twentieth of the official 1 to 16, and the smallest step size is ten times the official one: a
memory, 1 / (A dt), of 12 to 2,000 tokens where the official ranges give 0.6 to 1,000.

    lengthwise train recipes/family/mamba1.py --out runs/family/mamba1
"""

from lengthwise.models.config import Mamba1Config, ModelConfig
from lengthwise.train import TrainConfig


def recipe() -> TrainConfig:
    """Four layers, 16 states a channel."""
    return TrainConfig(
        model=ModelConfig(
            d_model=128,
            num_layers=4,
            vocab_size=256,
            mixer=Mamba1Config(d_state=16, A_init_scale=0.05, dt_min=1e-2, dt_max=0.1),
        ),
        data="python",
        tokenizer="bytes",
        context_length=64,
        batch_size=64,
        steps=1200,
        peak_lr=3e-3,
        min_lr=3e-5,
        warmup_frac=0.1,
        weight_decay=0.1,
        seed=0,
        checkpoint_every=250,
        log_every=50,
    )
