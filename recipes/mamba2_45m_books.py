"""Mamba-2 45m of Table 2 (arXiv 2507.02782) on books, for one GPU: not yet run, not shipped.

The text and the tokenizer are the user's own: any collection of long English texts, and the GPT-NeoX-20B
`tokenizer.json`. Prepare them once, then train:

    lengthwise data tokenize BOOKS --tokenizer tokenizer.json --out data/books
    lengthwise train recipes/mamba2_45m_books.py --out runs/mamba2-45m

Half a million tokens a step as in the paper, but 0.9 billion in all (20 a parameter) instead of 22.5: enough for a good
model, short of the 7.5 times Chinchilla at which the paper's 85m began to fail. Raise `steps` for that.
"""

from lengthwise.models.presets import PRESETS
from lengthwise.train import TrainConfig


def recipe() -> TrainConfig:
    """46 million parameters, T = 1024, 0.5M tokens a step in bf16."""
    preset = PRESETS["table2-mamba2-45m"]
    assert preset.peak_lr is not None
    return TrainConfig(
        model=preset.config,
        data="data/books",
        tokenizer="tokenizer.json",
        context_length=1024,
        batch_size=512,
        grad_accum=8,
        steps=1750,
        peak_lr=preset.peak_lr,
        dtype="bfloat16",
        seed=0,
        checkpoint_every=100,
    )
