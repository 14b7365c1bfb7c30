"""Hybrid of the trained family (docs/family.md): the shipped Mamba-2 with full attention in its third layer.

Decay rates and step sizes start as in `recipes/mamba2_bytes.py`.

    lengthwise train recipes/family/hybrid.py --out runs/family/hybrid
"""

from lengthwise.models.config import AttentionConfig, Mamba2Config, ModelConfig
from lengthwise.train import TrainConfig


def recipe() -> TrainConfig:
    """Mamba-2, Mamba-2, attention with rotary positions, Mamba-2."""
    return TrainConfig(
        model=ModelConfig(
            d_model=128,
            num_layers=4,
            vocab_size=256,
            mixer=Mamba2Config(d_state=64, headdim=64, A_init_range=(0.05, 0.2), dt_min=1e-2, dt_max=0.1),
            other_mixers=((2, AttentionConfig(num_heads=4, rotary_dim=16, d_conv=4)),),
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
