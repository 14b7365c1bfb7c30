"""Tiny checkpoints in every published layout, written key by key from the layouts' description and not by our saver.

Sizes are no powers of two where the layout allows, and differ from one another, so that a tensor in the wrong place has
the wrong shape. Weights are random and of a size at which every one of them shows in the output.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """A published layout.

    Args:
        config: content of config.json; None where the layout has none.
        shapes: of the tensors.
        format: what `Checkpoint.format` calls it.
        layers: files of our layers that it needs.
    """

    config: dict[str, Any] | None
    shapes: Shapes
    format: str
    layers: tuple[str, ...]

    def tensors(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Random tensors of the layout."""
        random = torch.Generator().manual_seed(seed)
        return {name: _random(name, shape, random).to(dtype) for name, shape in self.shapes.items()}


def _random(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=random)
    if name.endswith(("A_log",)):
        return noise.abs()
    if name.endswith(("dt_bias", "dt_proj.bias")):
        return noise - 3
    if "norm" in name.split(".")[-2] or name.endswith(("ln_x.weight", "ln1.weight", "ln2.weight", ".D")):
        return 0.2 * noise if "scale" in name or "temporal_pre" in name or "channel_pre" in name else 1 + 0.2 * noise
    if len(shape) < 2:
        return 0.2 * noise
    return noise / math.sqrt(shape[-1]) if "embed" not in name and "emb." not in name else 0.5 * noise


def write_folder(folder: Path, layout: Layout, tensors: Mapping[str, Tensor], *, pickled: bool = False) -> Path:
    """A checkpoint folder as its authors would publish it."""
    folder.mkdir(parents=True, exist_ok=True)
    if layout.config is None:
        torch.save(dict(tensors), folder / "weights.pth")
        return folder
    (folder / "config.json").write_text(json.dumps(layout.config))
    if pickled:
        torch.save(dict(tensors), folder / "pytorch_model.bin")
    else:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _repeat(count: int, shapes: Callable[[int], Shapes]) -> Shapes:
    return {name: shape for layer in range(count) for name, shape in shapes(layer).items()}


def _state_spaces_mamba1(d: int = 20, n: int = 5, rank: int = 2, layers: int = 2) -> Shapes:
    di = 2 * d

    def block(i: int) -> Shapes:
        at = f"backbone.layers.{i}"
        return {
            f"{at}.norm.weight": (d,),
            f"{at}.mixer.in_proj.weight": (2 * di, d),
            f"{at}.mixer.conv1d.weight": (di, 1, 4),
            f"{at}.mixer.conv1d.bias": (di,),
            f"{at}.mixer.x_proj.weight": (rank + 2 * n, di),
            f"{at}.mixer.dt_proj.weight": (di, rank),
            f"{at}.mixer.dt_proj.bias": (di,),
            f"{at}.mixer.A_log": (di, n),
            f"{at}.mixer.D": (di,),
            f"{at}.mixer.out_proj.weight": (d, di),
        }

    return _repeat(layers, block)


def _mamba2_block(i: int, d: int, n: int, p: int, groups: int = 1) -> Shapes:
    di, at = 2 * d, f"backbone.layers.{i}"
    heads, conv = di // p, di + 2 * groups * n
    return {
        f"{at}.norm.weight": (d,),
        f"{at}.mixer.in_proj.weight": (di + conv + heads, d),
        f"{at}.mixer.conv1d.weight": (conv, 1, 4),
        f"{at}.mixer.conv1d.bias": (conv,),
        f"{at}.mixer.dt_bias": (heads,),
        f"{at}.mixer.A_log": (heads,),
        f"{at}.mixer.D": (heads,),
        f"{at}.mixer.norm.weight": (di,),
        f"{at}.mixer.out_proj.weight": (d, di),
    }


def _around(
    shapes: Shapes, table: str, rows: int, d: int, norm: str, *, head: str | None, bias: bool = False
) -> Shapes:
    ends: Shapes = {table: (rows, d), f"{norm}.weight": (d,)}
    if bias:
        ends[f"{norm}.bias"] = (d,)
    return {**ends, **shapes, **({head: (rows, d)} if head else {})}


def _hybrid_block(i: int) -> Shapes:
    """Mamba-2 of width 24, but attention of 3 heads of 10, wider than the model, at layer 1."""
    at, qkv = f"backbone.layers.{i}", 3 * 3 * 10
    if i != 1:
        return _mamba2_block(i, 24, 6, 8)
    return {
        f"{at}.norm.weight": (24,),
        f"{at}.mixer.in_proj.weight": (qkv, 24),
        f"{at}.mixer.conv1d.weight": (qkv, 1, 4),
        f"{at}.mixer.conv1d.bias": (qkv,),
        f"{at}.mixer.out_proj.weight": (24, 30),
    }


def _transformerpp_block(i: int) -> Shapes:
    at = f"backbone.layers.{i}"
    return {
        f"{at}.norm.weight": (24,),
        f"{at}.norm2.weight": (24,),
        f"{at}.mixer.in_proj.weight": (3 * 24, 24),
        f"{at}.mixer.out_proj.weight": (24, 24),
        f"{at}.mlp.fc1.weight": (2 * 128, 24),
        f"{at}.mlp.fc2.weight": (24, 128),
    }


def _llama_block(i: int) -> Shapes:
    at = f"model.layers.{i}"
    return {
        f"{at}.input_layernorm.weight": (24,),
        f"{at}.post_attention_layernorm.weight": (24,),
        f"{at}.self_attn.q_proj.weight": (24, 24),
        f"{at}.self_attn.k_proj.weight": (12, 24),
        f"{at}.self_attn.v_proj.weight": (12, 24),
        f"{at}.self_attn.o_proj.weight": (24, 24),
        f"{at}.mlp.gate_proj.weight": (40, 24),
        f"{at}.mlp.up_proj.weight": (40, 24),
        f"{at}.mlp.down_proj.weight": (24, 40),
    }


def _griffin_mlp(at: str) -> Shapes:
    return {
        f"{at}.gate_proj.weight": (36, 24),
        f"{at}.gate_proj.bias": (36,),
        f"{at}.up_proj.weight": (36, 24),
        f"{at}.up_proj.bias": (36,),
        f"{at}.down_proj.weight": (24, 36),
        f"{at}.down_proj.bias": (24,),
    }


def _griffin_block(i: int) -> Shapes:
    at = f"model.layers.{i}"
    shapes: Shapes = {
        f"{at}.temporal_pre_norm.weight": (24,),
        f"{at}.channel_pre_norm.weight": (24,),
        **_griffin_mlp(f"{at}.mlp_block"),
    }
    at = f"{at}.temporal_block"
    if i % 3 == 2:
        shapes |= {f"{at}.{name}_proj.weight": (8 if name in "kv" else 24, 24) for name in "qkvo"}
        return {**shapes, f"{at}.o_proj.bias": (24,)}
    for name, out, into in (("linear_x", 24, 24), ("linear_y", 24, 24), ("linear_out", 24, 24)):
        shapes |= {f"{at}.{name}.weight": (out, into), f"{at}.{name}.bias": (out,)}
    return {
        **shapes,
        f"{at}.conv_1d.weight": (24, 1, 4),
        f"{at}.conv_1d.bias": (24,),
        f"{at}.rg_lru.recurrent_param": (24,),
        f"{at}.rg_lru.input_gate_weight": (3, 8, 8),
        f"{at}.rg_lru.input_gate_bias": (3, 8),
        f"{at}.rg_lru.recurrent_gate_weight": (3, 8, 8),
        f"{at}.rg_lru.recurrent_gate_bias": (3, 8),
    }


def _deepmind_block(i: int) -> Shapes:
    at = f"blocks.{i}"
    shapes: Shapes = {
        f"{at}.temporal_pre_norm.scale": (24,),
        f"{at}.channel_pre_norm.scale": (24,),
        f"{at}.mlp_block.ffw_up.w": (2, 24, 36),
        f"{at}.mlp_block.ffw_up.b": (2, 1, 1, 36),
        f"{at}.mlp_block.ffw_down.weight": (24, 36),
        f"{at}.mlp_block.ffw_down.bias": (24,),
    }
    if i % 3 == 2:
        at = f"{at}.attention_block"
        rows = {"proj_q": 24, "proj_k": 8, "proj_v": 8, "proj_final": 24}
        return {**shapes, **{f"{at}.{n}.weight": (r, 24) for n, r in rows.items()}, f"{at}.proj_final.bias": (24,)}
    at = f"{at}.recurrent_block"
    for name in ("linear_x", "linear_y", "linear_out"):
        shapes |= {f"{at}.{name}.weight": (24, 24), f"{at}.{name}.bias": (24,)}
    return {
        **shapes,
        f"{at}.conv_1d.w": (4, 24),
        f"{at}.conv_1d.b": (24,),
        f"{at}.rg_lru.a_param": (24,),
        f"{at}.rg_lru.input_gate.w": (3, 8, 8),
        f"{at}.rg_lru.input_gate.b": (3, 8),
        f"{at}.rg_lru.a_gate.w": (3, 8, 8),
        f"{at}.rg_lru.a_gate.b": (3, 8),
    }


def _gla_block(i: int) -> Shapes:
    at = f"model.layers.{i}"
    return {
        f"{at}.attn_norm.weight": (24,),
        f"{at}.mlp_norm.weight": (24,),
        f"{at}.attn.q_proj.weight": (12, 24),
        f"{at}.attn.k_proj.weight": (12, 24),
        f"{at}.attn.v_proj.weight": (24, 24),
        f"{at}.attn.g_proj.weight": (24, 24),
        f"{at}.attn.o_proj.weight": (24, 24),
        f"{at}.attn.gk_proj.0.weight": (16, 24),
        f"{at}.attn.gk_proj.1.weight": (12, 16),
        f"{at}.attn.gk_proj.1.bias": (12,),
        f"{at}.attn.g_norm_swish_gate.weight": (12,),
        f"{at}.mlp.gate_proj.weight": (256, 24),
        f"{at}.mlp.up_proj.weight": (256, 24),
        f"{at}.mlp.down_proj.weight": (24, 256),
    }


def _gla_conv_block(i: int) -> Shapes:
    """With short convolutions, and attention at layer 1."""
    at = f"model.layers.{i}"
    if i == 1:
        kept = {name: shape for name, shape in _gla_block(i).items() if ".attn." not in name}
        return {
            **kept,
            f"{at}.attn.q_proj.weight": (24, 24),
            f"{at}.attn.k_proj.weight": (12, 24),
            f"{at}.attn.v_proj.weight": (12, 24),
            f"{at}.attn.o_proj.weight": (24, 24),
        }
    widths = {"q": 12, "k": 12, "v": 24}
    return {**_gla_block(i), **{f"{at}.attn.{name}_conv1d.weight": (w, 1, 4) for name, w in widths.items()}}


def _rwkv_block(at: str, attention: str, feed_forward: str) -> Shapes:
    """Width 24, three heads of 8, ranks 32 and 64, inner width 84 rounded down to 64."""
    shapes: Shapes = {f"{at}.{n}.{kind}": (24,) for n in ("ln1", "ln2") for kind in ("weight", "bias")}
    att = f"{at}.{attention}"
    shapes |= {f"{att}.time_maa_{part}": (1, 1, 24) for part in ("x", "w", "k", "v", "r", "g")}
    shapes |= {
        f"{att}.time_maa_w1": (24, 160),
        f"{att}.time_maa_w2": (5, 32, 24),
        f"{att}.time_decay": (1, 1, 24),
        f"{att}.time_decay_w1": (24, 64),
        f"{att}.time_decay_w2": (64, 24),
        f"{att}.time_faaaa": (3, 8),
        f"{att}.ln_x.weight": (24,),
        f"{att}.ln_x.bias": (24,),
    }
    shapes |= {f"{att}.{name}.weight": (24, 24) for name in ("receptance", "key", "value", "gate", "output")}
    ffn = f"{at}.{feed_forward}"
    return {
        **shapes,
        f"{ffn}.time_maa_k": (1, 1, 24),
        f"{ffn}.time_maa_r": (1, 1, 24),
        f"{ffn}.key.weight": (64, 24),
        f"{ffn}.receptance.weight": (24, 24),
        f"{ffn}.value.weight": (24, 64),
    }


def _fla_rwkv_block(i: int) -> Shapes:
    at = f"model.layers.{i}"
    shapes: Shapes = {f"{at}.{n}.{kind}": (24,) for n in ("attn_norm", "ffn_norm") for kind in ("weight", "bias")}
    shapes |= {f"{at}.attn.{part}_proj.linear.weight": (24, 24) for part in "rkvg"}
    return {
        **shapes,
        f"{at}.attn.x_bias": (5, 24),
        f"{at}.attn.x_proj.0.mu": (24,),
        f"{at}.attn.x_proj.0.linear.weight": (160, 24),
        f"{at}.attn.x_proj.2.weight": (24, 160),
        f"{at}.attn.w_proj.linear.lora.0.weight": (64, 24),
        f"{at}.attn.w_proj.linear.lora.2.weight": (24, 64),
        f"{at}.attn.w_proj.linear.lora.2.bias": (24,),
        f"{at}.attn.bonus": (3, 8),
        f"{at}.attn.g_norm.weight": (24,),
        f"{at}.attn.g_norm.bias": (24,),
        f"{at}.attn.o_proj.weight": (24, 24),
        f"{at}.ffn.key.mu": (24,),
        f"{at}.ffn.key.linear.weight": (96, 24),
        f"{at}.ffn.receptance.mu": (24,),
        f"{at}.ffn.receptance.linear.weight": (24, 24),
        f"{at}.ffn.value.weight": (24, 96),
    }


_STATE_SPACES = {"rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True}
_HF = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": True, "transformers_version": "4.39.0"}

LAYOUTS: dict[str, Layout] = {
    "state-spaces mamba-1, old": Layout(
        # As the first releases: no d_intermediate, no attn_*, no tie_embeddings, no ssm_cfg.layer.
        {"d_model": 20, "n_layer": 2, "vocab_size": 45, "ssm_cfg": {"d_state": 5}, "pad_vocab_size_multiple": 8}
        | _STATE_SPACES,
        _around(_state_spaces_mamba1(), "backbone.embedding.weight", 48, 20, "backbone.norm_f", head="lm_head.weight"),
        "state-spaces",
        ("mamba1",),
    ),
    "state-spaces mamba-2": Layout(
        {
            "d_model": 24,
            "d_intermediate": 0,
            "n_layer": 3,
            "vocab_size": 45,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 6, "headdim": 8},
            "attn_layer_idx": [],
            "attn_cfg": {},
            "pad_vocab_size_multiple": 16,
            "tie_embeddings": True,
        }
        | _STATE_SPACES,
        _around(
            _repeat(3, lambda i: _mamba2_block(i, 24, 6, 8)),
            "backbone.embedding.weight", 48, 24, "backbone.norm_f", head="lm_head.weight",
        ),
        "state-spaces",
        ("mamba2",),
    ),
    "state-spaces hybrid": Layout(
        {
            "d_model": 24,
            "d_intermediate": 0,
            "n_layer": 3,
            "vocab_size": 45,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 6, "headdim": 8},
            "attn_layer_idx": [1],
            "attn_cfg": {
                "causal": True,
                "d_conv": 4,
                "head_dim": 10,
                "num_heads": 3,
                "out_proj_bias": False,
                "qkv_proj_bias": False,
                "rotary_emb_dim": 6,
            },
            "pad_vocab_size_multiple": 16,
            "tie_embeddings": True,
        }
        | _STATE_SPACES,
        _around(_repeat(3, _hybrid_block), "backbone.embedding.weight", 48, 24, "backbone.norm_f", head=None),
        "state-spaces",
        ("mamba2", "attention"),
    ),
    "state-spaces transformer++": Layout(
        {
            "d_model": 24,
            "d_intermediate": 100,
            "n_layer": 2,
            "vocab_size": 45,
            "ssm_cfg": {},
            "attn_layer_idx": [0, 1],
            "attn_cfg": {
                "causal": True,
                "d_conv": 0,
                "head_dim": 12,
                "num_heads": 2,
                "out_proj_bias": False,
                "qkv_proj_bias": False,
                "rotary_emb_dim": 12,
            },
            "pad_vocab_size_multiple": 16,
            "tie_embeddings": True,
        }
        | _STATE_SPACES,
        _around(_repeat(2, _transformerpp_block), "backbone.embedding.weight", 48, 24, "backbone.norm_f", head=None),
        "state-spaces",
        ("attention",),
    ),
    "transformers mamba": Layout(
        {
            "architectures": ["MambaForCausalLM"],
            "model_type": "mamba",
            "hidden_size": 20,
            "state_size": 5,
            "num_hidden_layers": 2,
            "conv_kernel": 4,
            "expand": 2,
            "intermediate_size": 40,
            "time_step_rank": 2,
            "use_bias": False,
            "use_conv_bias": True,
            "hidden_act": "silu",
            "vocab_size": 48,
            "layer_norm_epsilon": 1e-05,
            # What a converted release repeats.
            "d_model": 20,
            "n_layer": 2,
            "d_inner": 40,
            "ssm_cfg": {},
            "rms_norm": True,
            "fused_add_norm": True,
            "pad_vocab_size_multiple": 8,
            "residual_in_fp32": True,
            "torch_dtype": "float32",
        }
        | _HF,
        _around(_state_spaces_mamba1(), "backbone.embeddings.weight", 48, 20, "backbone.norm_f", head=None),
        "transformers/mamba",
        ("mamba1",),
    ),
    "transformers mamba-2": Layout(
        {
            "architectures": ["Mamba2ForCausalLM"],
            "model_type": "mamba2",
            "hidden_size": 24,
            "state_size": 6,
            "num_hidden_layers": 3,
            "num_heads": 6,
            "head_dim": 8,
            "n_groups": 2,
            "conv_kernel": 4,
            "expand": 2,
            "chunk_size": 256,
            "time_step_limit": [0.0, math.inf],
            "time_step_rank": 2,
            "hidden_act": "silu",
            "layer_norm_epsilon": 1e-05,
            "norm_before_gate": True,
            "rms_norm": True,
            "vocab_size": 48,
            "use_bias": False,
            "use_conv_bias": True,
            "tie_word_embeddings": False,
        }
        | _HF,
        _around(
            _repeat(3, lambda i: _mamba2_block(i, 24, 6, 8, groups=2)),
            "backbone.embeddings.weight", 48, 24, "backbone.norm_f", head="lm_head.weight",
        ),
        "transformers/mamba2",
        ("mamba2",),
    ),
    "fla mamba-2": Layout(
        {
            "architectures": ["Mamba2ForCausalLM"],
            "model_type": "mamba2",
            "hidden_size": 24,
            "state_size": 6,
            "num_hidden_layers": 3,
            "num_heads": 6,
            "head_dim": 8,
            "n_groups": 1,
            "A_init_range": [1, 16],
            "dt_limit": [0.0, {"__float__": "Infinity"}],
            "norm_eps": 1e-05,
            "rmsnorm": True,
            "fuse_norm": True,
            "norm_before_gate": False,
            "D_has_hdim": False,
            "conv_init": None,
            "vocab_size": 48,
            "tie_word_embeddings": False,
        }
        | _HF,
        _around(
            _repeat(3, lambda i: _mamba2_block(i, 24, 6, 8)),
            "backbone.embeddings.weight", 48, 24, "backbone.norm_f", head="lm_head.weight",
        ),
        "fla/mamba2",
        ("mamba2",),
    ),
    "transformers llama": Layout(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "pretraining_tp": 1,
            "tie_word_embeddings": False,
            "vocab_size": 50,
        }
        | _HF,
        _around(_repeat(2, _llama_block), "model.embed_tokens.weight", 50, 24, "model.norm", head="lm_head.weight"),
        "transformers/llama",
        ("attention",),
    ),
    "transformers recurrentgemma": Layout(
        {
            "architectures": ["RecurrentGemmaForCausalLM"],
            "model_type": "recurrent_gemma",
            "hidden_size": 24,
            "intermediate_size": 72,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "lru_width": 24,
            "attention_window_size": 6,
            "conv1d_width": 4,
            "_block_types": ["recurrent", "recurrent", "attention"],
            "block_types": ["recurrent", "recurrent", "attention"],
            "embeddings_scale_by_sqrt_dim": True,
            "logits_soft_cap": 30.0,
            "hidden_activation": "gelu_pytorch_tanh",
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-06,
            "head_dim": 8,
            "vocab_size": 50,
            "w_init_variance_scale": 0.01,
            "final_w_init_variance_scale": 0.07,
            "attention_bias": False,
        }
        | _HF,
        _around(_repeat(4, _griffin_block), "model.embed_tokens.weight", 50, 24, "model.final_norm", head=None),
        "transformers/recurrent_gemma",
        ("rglru", "attention"),
    ),
    "deepmind recurrentgemma": Layout(
        None,
        {
            **_repeat(4, _deepmind_block),
            "embedder.input_embedding": (50, 24),
            "final_norm.scale": (24,),
        },
        "recurrentgemma",
        ("rglru", "attention"),
    ),
    "fla gla": Layout(
        {
            "architectures": ["GLAForCausalLM"],
            "model_type": "gla",
            "attn": None,
            "attn_mode": "chunk",
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_heads": 2,
            "expand_k": 0.5,
            "expand_v": 1,
            "hidden_ratio": 4,
            "intermediate_size": None,
            "hidden_act": "swish",
            "norm_eps": 1e-06,
            "use_gk": True,
            "use_gv": False,
            "use_short_conv": False,
            "clamp_min": None,
            "fuse_norm": True,
            "tie_word_embeddings": False,
            "vocab_size": 50,
        }
        | _HF,
        _around(_repeat(2, _gla_block), "model.embeddings.weight", 50, 24, "model.norm", head="lm_head.weight"),
        "fla/gla",
        ("gla",),
    ),
    "fla gla with attention": Layout(
        {
            "model_type": "gla",
            "attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "window_size": 5, "rope_theta": 5000.0},
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_heads": 2,
            "use_short_conv": True,
            "conv_size": 4,
            "tie_word_embeddings": False,
            "vocab_size": 50,
        }
        | _HF,
        _around(_repeat(3, _gla_conv_block), "model.embeddings.weight", 50, 24, "model.norm", head="lm_head.weight"),
        "fla/gla",
        ("gla", "attention"),
    ),
    "fla rwkv-6": Layout(
        {
            "architectures": ["RWKV6ForCausalLM"],
            "model_type": "rwkv6",
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_heads": 3,
            "expand_k": 1.0,
            "expand_v": 1.0,
            "hidden_ratio": 3.5,
            "proj_low_rank_dim": 32,
            "gate_low_rank_dim": 64,
            "hidden_act": "sqrelu",
            "norm_first": True,
            "norm_bias": True,
            "norm_eps": 1e-05,
            "fuse_norm": True,
            "tie_word_embeddings": False,
            "vocab_size": 50,
        }
        | _HF,
        _around(
            {f"model.layers.0.pre_norm.{kind}": (24,) for kind in ("weight", "bias")} | _repeat(2, _fla_rwkv_block),
            "model.embeddings.weight", 50, 24, "model.norm", head="lm_head.weight", bias=True,
        ),
        "fla/rwkv6",
        ("rwkv6",),
    ),
    "rwkv-6 hub": Layout(
        {
            "architectures": ["Rwkv6ForCausalLM"],
            "auto_map": {"AutoConfig": "configuration_rwkv6.Rwkv6Config"},
            "model_type": "rwkv6",
            "model_version": "6_0",
            "hidden_size": 24,
            "attention_hidden_size": 24,
            "intermediate_size": None,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "head_size": 8,
            "head_size_divisor": 8,
            "layer_norm_epsilon": 1e-05,
            "rescale_every": 6,
            "tie_word_embeddings": False,
            "vocab_size": 50,
        }
        | _HF,
        _around(
            {f"rwkv.blocks.0.pre_ln.{kind}": (24,) for kind in ("weight", "bias")}
            | _repeat(2, lambda i: _rwkv_block(f"rwkv.blocks.{i}", "attention", "feed_forward")),
            "rwkv.embeddings.weight", 50, 24, "rwkv.ln_out", head="head.weight", bias=True,
        ),
        "rwkv-hub",
        ("rwkv6",),
    ),
    "rwkv-6 file": Layout(
        None,
        _around(
            {f"blocks.0.ln0.{kind}": (24,) for kind in ("weight", "bias")}
            | _repeat(2, lambda i: _rwkv_block(f"blocks.{i}", "att", "ffn")),
            "emb.weight", 50, 24, "ln_out", head="head.weight", bias=True,
        ),
        "rwkv",
        ("rwkv6",),
    ),
}  # fmt: skip
