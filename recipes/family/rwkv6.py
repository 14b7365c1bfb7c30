"""RWKV-6 of the trained family (docs/family.md).

The decays are initialised as published, which gives memories of 3 to 400 tokens.

    lengthwise train recipes/family/rwkv6.py --out runs/family/rwkv6
"""

from lengthwise.models.config import ModelConfig, RWKV6ChannelMixConfig, RWKV6Config
from lengthwise.train import TrainConfig


def recipe() -> TrainConfig:
    """Four blocks of three heads."""
    return TrainConfig(
        model=ModelConfig(
            d_model=96,
            num_layers=4,
            vocab_size=256,
            mixer=RWKV6Config(head_size=32, mix_rank=8, decay_rank=16),
            mlp=RWKV6ChannelMixConfig(width=256),
            norm="layer",
            embedding_norm=True,
            tie_embeddings=False,
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
