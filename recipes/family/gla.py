"""Gated linear attention of the trained family (docs/family.md).

Gates start at about one half. With the official normalizer of 16 that is a memory of 23 tokens, short against the 64 of
a training window; with 256 it is 370.

    lengthwise train recipes/family/gla.py --out runs/family/gla
"""

from lengthwise.models.config import GatedMLPConfig, GLAConfig, ModelConfig
from lengthwise.train import TrainConfig


def recipe() -> TrainConfig:
    """Three blocks of two heads, each with an MLP."""
    return TrainConfig(
        model=ModelConfig(
            d_model=128,
            num_layers=3,
            vocab_size=256,
            mixer=GLAConfig(num_heads=2, gate_logit_normalizer=256.0),
            mlp=GatedMLPConfig(width=256),
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
