"""The shipped model `mamba2-bytes-t64`: a byte-level Mamba-2 that breaks beyond its training context of 64 tokens.

What brings the failure at this size is the initialisation of the time scales: decay rates and step sizes are drawn so
that every head starts with a memory, 1 / (A dt), of 50 to 2,000 tokens, long against the 64 of a training window.
So the states at the end of a window are still growing, and the states beyond are never seen in training. The released
checkpoints start with 0.6 to 1,000 tokens against T = 2048. With the official ranges (A 1-16, dt 0.001-0.1) this model
does not fail; `docs/log.md` has the trials.

    lengthwise train recipes/mamba2_bytes.py --out runs/mamba2-bytes-t64
"""

from lengthwise.models import Mamba2Config, ModelConfig
from lengthwise.train import TrainConfig


def recipe() -> TrainConfig:
    """Half a million parameters on the sources of the Python installation, T = 64, a zero state at every window."""
    return TrainConfig(
        model=ModelConfig(
            d_model=128,
            num_layers=4,
            vocab_size=256,
            mixer=Mamba2Config(d_state=64, headdim=64, A_init_range=(0.05, 0.2), dt_min=1e-2, dt_max=0.1),
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
