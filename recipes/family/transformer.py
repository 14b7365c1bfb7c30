"""Transformer++ of the trained family (docs/family.md): full attention with rotary positions, gated MLP.

lengthwise train recipes/family/transformer.py --out runs/family/transformer
"""

from lengthwise.models.config import AttentionConfig, GatedMLPConfig, ModelConfig
from lengthwise.train import TrainConfig


def recipe() -> TrainConfig:
    """Three blocks of four heads."""
    return TrainConfig(
        model=ModelConfig(
            d_model=128,
            num_layers=3,
            vocab_size=256,
            mixer=AttentionConfig(num_heads=4),
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
