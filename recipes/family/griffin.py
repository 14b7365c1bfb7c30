"""Griffin of the trained family (docs/family.md): RG-LRU, RG-LRU, local attention, RG-LRU.

Attention sees 32 tokens, half a training window, so what lies further back comes through the RG-LRU alone. The decays
are initialised as published, which gives memories of 2 to 250 tokens.

    lengthwise train recipes/family/griffin.py --out runs/family/griffin
"""

from lengthwise.models.config import AttentionConfig, GatedMLPConfig, ModelConfig, RGLRUConfig
from lengthwise.train import TrainConfig


def recipe() -> TrainConfig:
    """Four blocks, each with an MLP."""
    return TrainConfig(
        model=ModelConfig(
            d_model=128,
            num_layers=4,
            vocab_size=256,
            mixer=RGLRUConfig(num_heads=4),
            other_mixers=(
                (
                    2,
                    AttentionConfig(
                        num_heads=4, num_kv_heads=1, rotary_dim=16, window=32, window_reaches=True, out_bias=True
                    ),
                ),
            ),
            mlp=GatedMLPConfig(width=192, activation="gelu_tanh", bias=True),
            norm="rms-plus-one",
            norm_eps=1e-6,
            embedding_scale=11.3125,
            logit_softcap=30.0,
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
