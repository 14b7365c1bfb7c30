"""AdamW with the decay groups of recurrent models, and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from lengthwise.train.config import TrainConfig


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, and never to what sets time scales, offsets or norms.

    A_log, D, dt_bias, norms and biases are vectors, so the number of axes decides; the names are a second guard for
    layers that hold them as matrices.
    """
    last = name.rsplit(".", 1)[-1]
    return parameter.ndim > 1 and last not in ("A_log", "D", "dt_bias", "bias")


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW (eps 1e-8) in two groups. A parameter shared by two modules (tied embeddings) appears once."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.peak_lr, betas=config.betas, eps=1e-8, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up to the peak, then cosine to the floor.

    The first step already moves (peak / warm-up steps), the last warm-up step has the peak, the last step the floor.
    """
    warmup = round(config.warmup_frac * config.steps)
    if step < warmup:
        return config.peak_lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - 1 - warmup)
    return config.min_lr + 0.5 * (config.peak_lr - config.min_lr) * (1.0 + math.cos(math.pi * min(progress, 1.0)))
