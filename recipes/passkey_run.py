"""Passkeys and needles at T = 256 on a small Mamba-2 and a small Transformer, then up to 8,192 tokens.

The counterpart of Figure 7 of arXiv 2507.02782 at the size of two cores; docs/passkey-run.md shows what came out.

    python recipes/passkey_run.py train            every run of RUNS, in order; a finished one is left alone
    python recipes/passkey_run.py train mamba2     this one
    python recipes/passkey_run.py evaluate         every finished model at 128 to 8,192 tokens
    python recipes/passkey_run.py show             the table and the heat maps of docs/, from the evaluations

Everything is resumed where it was stopped. Run folders go to runs/passkey.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from lengthwise.interventions import InterventionConfig
from lengthwise.models import Mamba2Config, ModelConfig
from lengthwise.models.config import AttentionConfig, GatedMLPConfig
from lengthwise.train import TrainConfig

OUT = Path("runs/passkey")
TOKENIZER = "recipes/tasks-512.json"

# As in the shipped model, heads start with memories of 50 to 2,000 tokens, so that states at T = 256 are unfinished.
MAMBA2 = ModelConfig(
    d_model=128,
    num_layers=2,
    vocab_size=512,
    mixer=Mamba2Config(d_state=64, headdim=32, A_init_range=(0.05, 0.2), dt_min=1e-2, dt_max=0.1),
)
TRANSFORMER = ModelConfig(
    d_model=128, num_layers=2, vocab_size=512, mixer=AttentionConfig(num_heads=4), mlp=GatedMLPConfig(width=256)
)

# Retrieval is learned in short rows: at T = 256 the loss of the key stayed at chance for as long as was tried.
SHORT = TrainConfig(
    model=MAMBA2,
    tokenizer=TOKENIZER,
    tasks=(
        "passkey:wording=recipes/passkey_brief.json",
        "passkey:digits=7,wording=recipes/passkey_brief.json",
    ),
    context_length=40,
    batch_size=64,
    steps=150,
    peak_lr=4e-3,
    min_lr=4e-4,
    weight_decay=0.01,
    checkpoint_every=50,
    log_every=10,
)
TASKS = TrainConfig(
    init_from="runs/passkey/mamba2-short/train/checkpoint",
    tasks=("passkey", "niah_grid:haystack=line"),
    context_length=256,
    batch_size=32,
    steps=300,
    peak_lr=3e-3,
    min_lr=3e-5,
    checkpoint_every=25,
    log_every=10,
)


def _more(kind: str) -> TrainConfig:
    """Fine-tuning of the finished Mamba-2, with other rows than before."""
    return replace(
        TASKS,
        init_from="runs/passkey/mamba2/train/checkpoint",
        steps=150,
        peak_lr=1e-3,
        seed=1,
        intervention=InterventionConfig.from_dict({"kind": kind}),
    )


RUNS: dict[str, TrainConfig] = {
    "mamba2-short": SHORT,
    "mamba2": TASKS,
    "transformer-short": replace(SHORT, model=TRANSFORMER, peak_lr=2e-3, min_lr=2e-4),
    "transformer": replace(TASKS, init_from="runs/passkey/transformer-short/train/checkpoint", peak_lr=2e-3),
    "mamba2-control": _more("zero"),
    "mamba2-fitted-noise": _more("fitted-noise"),
    "mamba2-state-passing": _more("state-passing"),
}


def train_all(names: list[str]) -> None:
    """Train these runs, or go on with them."""
    from lengthwise.train import train

    for name in names or RUNS:
        train(RUNS[name], OUT / name / "train", resume=(OUT / name / "train/manifest.json").exists())


def main() -> None:
    """Do what the first argument says."""
    verb, names = sys.argv[1], sys.argv[2:]
    {"train": train_all}[verb](names)


if __name__ == "__main__":
    main()
