"""Small models of every family, for tests that hold for all of them."""

from __future__ import annotations

from dataclasses import replace

import torch

from lengthwise.models.config import (
    AttentionConfig,
    GatedMLPConfig,
    GLAConfig,
    Mamba1Config,
    Mamba2Config,
    ModelConfig,
    RGLRUConfig,
    RWKV6ChannelMixConfig,
    RWKV6Config,
)
from lengthwise.models.lm import LanguageModel

VOCAB = 50
_LOCAL = AttentionConfig(num_heads=3, num_kv_heads=1, rotary_dim=4, window=6, window_reaches=True, out_bias=True)
_MAMBA2 = Mamba2Config(d_state=12, headdim=8, ngroups=2, chunk_size=8)

FAMILIES: dict[str, ModelConfig] = {
    "mamba1": ModelConfig(d_model=16, num_layers=2, vocab_size=VOCAB, mixer=Mamba1Config(d_state=5)),
    "mamba2": ModelConfig(d_model=32, num_layers=3, vocab_size=VOCAB, mixer=_MAMBA2),
    "gla": ModelConfig(
        d_model=24,
        num_layers=2,
        vocab_size=VOCAB,
        mixer=GLAConfig(num_heads=2, chunk_size=8),
        mlp=GatedMLPConfig(width=40),
        tie_embeddings=False,
    ),
    "gla-conv": ModelConfig(
        d_model=24,
        num_layers=2,
        vocab_size=VOCAB,
        mixer=GLAConfig(num_heads=4, num_kv_heads=2, expand_k=1.0, use_short_conv=True, gate_logit_normalizer=1.0),
        mlp=GatedMLPConfig(width=40),
    ),
    "rwkv6": ModelConfig(
        d_model=24,
        num_layers=3,
        vocab_size=VOCAB,
        mixer=RWKV6Config(head_size=8, mix_rank=4, decay_rank=6, chunk_size=8),
        mlp=RWKV6ChannelMixConfig(width=40),
        norm="layer",
        embedding_norm=True,
        tie_embeddings=False,
    ),
    "griffin": ModelConfig(
        d_model=24,
        num_layers=3,
        vocab_size=VOCAB,
        mixer=RGLRUConfig(num_heads=3, lru_width=30),
        other_mixers=((2, _LOCAL),),
        mlp=GatedMLPConfig(width=36, activation="gelu_tanh", bias=True),
        norm="rms-plus-one",
        norm_eps=1e-6,
        embedding_scale=4.9,
        logit_softcap=30.0,
    ),
    "transformer": ModelConfig(
        d_model=24,
        num_layers=2,
        vocab_size=VOCAB,
        mixer=AttentionConfig(num_heads=4, num_kv_heads=2),
        mlp=GatedMLPConfig(width=40),
        tie_embeddings=False,
    ),
    "mamba2-attention": ModelConfig(
        d_model=32,
        num_layers=4,
        vocab_size=VOCAB,
        mixer=_MAMBA2,
        other_mixers=((1, AttentionConfig(num_heads=3, head_dim=8, rotary_dim=4, d_conv=4)),),
    ),
    "everything": ModelConfig(
        d_model=24,
        num_layers=5,
        vocab_size=VOCAB,
        mixer=Mamba1Config(d_state=4),
        other_mixers=(
            (1, GLAConfig(num_heads=2)),
            (2, AttentionConfig(num_heads=2, window=5)),
            (3, RWKV6Config(head_size=8, mix_rank=4, decay_rank=6)),
            (4, RGLRUConfig(num_heads=2)),
        ),
        mlp=RWKV6ChannelMixConfig(width=32),
    ),
}


def small_model(
    family: str, seed: int = 0, dtype: torch.dtype = torch.float64, vocab_size: int = VOCAB
) -> LanguageModel:
    """A model in which every parameter matters: nothing is zero, one, or too small to be seen."""
    model = LanguageModel(replace(FAMILIES[family], vocab_size=vocab_size), seed=seed).eval()
    random = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if name == "backbone.embedding.weight":
                parameter.copy_(0.5 * noise)
            elif parameter.ndim < 2 or not parameter.any():
                parameter.add_(0.2 * noise)
            else:
                parameter.add_(0.1 * noise)
    return model.to(dtype)


def tokens(batch: int, time: int, seed: int = 1) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(0, VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))
