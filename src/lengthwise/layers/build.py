"""From a record of options to a layer. Only the file of the layer that is asked for is imported."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

from lengthwise.layers.base import Mixer
from lengthwise.layers.configs import MixerConfig, MLPConfig

# kind of the record: file and class. A class takes (d_model, record, norm_eps).
_HOMES = {
    "mamba1": ("mamba1", "Mamba1"),
    "mamba2": ("mamba2", "Mamba2"),
    "gla": ("gla", "GLA"),
    "rwkv6": ("rwkv6", "RWKV6TimeMix"),
    "rglru": ("rglru", "RecurrentBlock"),
    "attention": ("attention", "Attention"),
    "gated": ("mlp", "GatedMLP"),
    "rwkv6-channel-mix": ("rwkv6", "RWKV6ChannelMix"),
}


def build_mixer(d_model: int, config: MixerConfig, norm_eps: float) -> Mixer:
    """The mixer that `config` describes. norm_eps: eps of the model's norms."""
    mixer: Mixer = _class(config.kind)(d_model, config, norm_eps)
    return mixer


def build_mlp(d_model: int, config: MLPConfig, norm_eps: float) -> nn.Module:
    """The MLP that `config` describes: a `Mixer` where it carries a state, else a function of each token alone."""
    mlp: nn.Module = _class(config.kind)(d_model, config, norm_eps)
    return mlp


def _class(kind: str) -> Any:
    file, name = _HOMES[kind]
    return getattr(import_module(f"lengthwise.layers.{file}"), name)
