"""A Transformer as a language model: against transformers' Llama with grouped heads, on the same weights."""

import pytest
import torch
from tests.helpers import assert_close

from lengthwise.models.config import AttentionConfig, GatedMLPConfig, ModelConfig
from lengthwise.models.lm import LanguageModel

WIDTH, VOCAB = 48, 70


def pair(num_kv_heads: int, head_dim: int | None):
    """(ours, the peer) with the same weights."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=WIDTH,
            num_hidden_layers=3,
            vocab_size=VOCAB,
            intermediate_size=80,
            num_attention_heads=4,
            num_key_value_heads=num_kv_heads,
            head_dim=head_dim,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            max_position_embeddings=128,
        )
    ).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.3 * noise if parameter.ndim < 2 else noise / parameter.shape[-1] ** 0.5)
    ours = LanguageModel(
        ModelConfig(
            d_model=WIDTH,
            num_layers=3,
            vocab_size=VOCAB,
            mixer=AttentionConfig(num_heads=4, num_kv_heads=num_kv_heads, head_dim=head_dim),
            mlp=GatedMLPConfig(width=80),
            pad_vocab_size_multiple=1,
            tie_embeddings=False,
        )
    ).eval()
    weights = {}
    for name, value in peer.state_dict().items():
        name = name.replace("model.layers.", "backbone.layers.").replace("model.embed_tokens", "backbone.embedding")
        name = name.replace("model.norm", "backbone.norm_f").replace("input_layernorm", "norm")
        name = name.replace("post_attention_layernorm", "norm2").replace("self_attn.o_proj", "mixer.out_proj")
        weights[name.replace("self_attn", "mixer")] = value
    for name in [name for name in weights if name.endswith(".q_proj.weight")]:
        parts = [weights.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        weights[name.replace("q_proj", "in_proj")] = torch.cat(parts)
    ours.load_state_dict(weights)
    return ours, peer


@pytest.mark.parametrize(("num_kv_heads", "head_dim"), [(4, None), (2, None), (1, 20)])
def test_equals_transformers(num_kv_heads: int, head_dim: int | None) -> None:
    ours, peer = pair(num_kv_heads, head_dim)
    batch = torch.randint(0, VOCAB, (2, 101), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = peer(batch, use_cache=False).logits
        assert_close("logits", ours(batch).logits, expected, 1e-5)
        first = ours(batch[:, :57])
        assert_close("second piece", ours(batch[:, 57:], first.state).logits, expected[:, 57:], 1e-5)
