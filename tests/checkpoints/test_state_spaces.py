"""Attention and MLP of the state-spaces releases against a loop over tokens, which no library can run.

The reference's own class needs a GPU library, and its decoding is wrong for layers with a convolution: it keeps the
outputs of the convolution where it needs the inputs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tests.checkpoints.published import LAYOUTS, write_folder
from tests.helpers import assert_close
from torch import Tensor

from lengthwise.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lengthwise.models.config import AttentionConfig, ModelConfig
from lengthwise.models.lm import LanguageModel


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def rotate(x: Tensor, position: int, width: int) -> Tensor:
    """The first `width` numbers of each head, in two halves, base 10,000. x: [heads, head width]."""
    half = width // 2
    angles = position * 10_000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    first, second = x[:, :half], x[:, half:width]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, x[:, width:]], dim=1)


def attention(x: Tensor, tensors: dict[str, Tensor], at: str, heads: int, head_dim: int, rotary: int) -> Tensor:
    """One sequence [T, D], token by token."""
    rows = x @ tensors[f"{at}.in_proj.weight"].T
    if f"{at}.conv1d.weight" in tensors:  # over queries, keys and values, before the rotation, without an activation
        padded = F.pad(rows, (0, 0, 3, 0))
        filters = tensors[f"{at}.conv1d.weight"][:, 0]
        rows = sum(padded[k : k + len(rows)] * filters[:, k] for k in range(4)) + tensors[f"{at}.conv1d.bias"]
    q, k, v = (part.unflatten(1, (heads, head_dim)) for part in rows.chunk(3, dim=1))
    q = torch.stack([rotate(row, t, rotary) for t, row in enumerate(q)])
    k = torch.stack([rotate(row, t, rotary) for t, row in enumerate(k)])
    out = []
    for t in range(len(x)):
        scores = torch.einsum("hd,shd->hs", q[t], k[: t + 1]) / math.sqrt(head_dim)
        out.append(torch.einsum("hs,shd->hd", scores.softmax(-1), v[: t + 1]).flatten())
    return torch.stack(out) @ tensors[f"{at}.out_proj.weight"].T


def test_transformerpp_equals_a_loop(tmp_path: Path) -> None:
    layout = LAYOUTS["state-spaces transformer++"]
    loaded = load_checkpoint(write_folder(tmp_path, layout, layout.tensors()), dtype=torch.float64)
    tensors = {name: tensor.double() for name, tensor in layout.tensors().items()}
    tokens = torch.tensor([3, 1, 44, 7, 7, 20, 9])
    residual = tensors["backbone.embedding.weight"][tokens]
    for layer in range(2):
        at = f"backbone.layers.{layer}"
        residual = residual + attention(rms(residual, tensors[f"{at}.norm.weight"]), tensors, f"{at}.mixer", 2, 12, 12)
        hidden = rms(residual, tensors[f"{at}.norm2.weight"]) @ tensors[f"{at}.mlp.fc1.weight"].T
        up, gate = hidden.chunk(2, dim=1)  # what is gated comes first
        residual = residual + (up * F.silu(gate)) @ tensors[f"{at}.mlp.fc2.weight"].T
    expected = rms(residual, tensors["backbone.norm_f.weight"]) @ tensors["backbone.embedding.weight"].T
    got = loaded.model.eval()(tokens[None]).logits[0]
    assert_close("logits", got[:, :45], expected[:, :45], 1e-12)
    assert torch.isinf(got[:, 45:]).all()


def test_the_hybrid_equals_a_loop(tmp_path: Path) -> None:
    """Its Mamba-2 layers are ours, which have tests of their own; the attention between them is the loop."""
    layout = LAYOUTS["state-spaces hybrid"]
    loaded = load_checkpoint(write_folder(tmp_path, layout, layout.tensors()), dtype=torch.float64)
    tensors = {name: tensor.double() for name, tensor in layout.tensors().items()}
    tokens = torch.tensor([3, 1, 44, 7, 7, 20, 9])
    residual = tensors["backbone.embedding.weight"][tokens]
    for layer in range(3):
        normed = rms(residual, tensors[f"backbone.layers.{layer}.norm.weight"])
        if layer == 1:
            residual = residual + attention(normed, tensors, "backbone.layers.1.mixer", 3, 10, 6)
        else:
            residual = residual + loaded.model.blocks()[layer].mixer(normed[None])[0][0]
    expected = rms(residual, tensors["backbone.norm_f.weight"]) @ tensors["backbone.embedding.weight"].T
    got = loaded.model.eval()(tokens[None]).logits[0]
    assert_close("logits", got[:, :45], expected[:, :45], 1e-12)


def test_sizes_that_a_config_leaves_open_are_read_from_the_tensors(tmp_path: Path) -> None:
    layout = LAYOUTS["state-spaces hybrid"]
    assert layout.config is not None
    attention_values = {k: v for k, v in layout.config["attn_cfg"].items() if k not in ("head_dim", "d_conv")}
    values = {k: v for k, v in layout.config.items() if k != "pad_vocab_size_multiple"}
    values = {**values, "attn_cfg": attention_values}
    folder = write_folder(tmp_path, replace(layout, config=values), layout.tensors())
    config = load_checkpoint(folder).config
    mixer = dict(config.other_mixers)[1]
    assert isinstance(mixer, AttentionConfig)
    assert (mixer.head_dim, mixer.d_conv, config.padded_vocab_size) == (10, 4, 48)


def test_a_layer_norm_is_kept(tmp_path: Path) -> None:
    config = ModelConfig(d_model=32, num_layers=2, vocab_size=30, norm="layer")
    model = LanguageModel(config, seed=1)
    save_checkpoint(tmp_path, Checkpoint(model=model, config=config))
    loaded = load_checkpoint(tmp_path)
    assert (loaded.format, loaded.config.norm) == ("state-spaces", "layer")
