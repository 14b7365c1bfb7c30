"""Published sizes as data.

Two families: the released Mamba-2 checkpoints, and the Mamba-2 rows of Table 2 of arXiv 2507.02782. That table
prints heads as model width / head width (12 heads of 64 for 130m, 16 of 96 for 780m); the released checkpoints have
``expand = 2`` and head width 64, hence twice as many heads (24 for 130m, 48 of 64 for 780m), and only with
``expand = 2`` do the printed parameter counts come out. So the presets of the table use the released layout, and
each note says what the table prints.
"""

from __future__ import annotations

from dataclasses import dataclass

from lengthwise.errors import InputError, near_matches
from lengthwise.models.config import Mamba2Config, ModelConfig

NEOX_VOCAB_SIZE = 50277


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published size."""

    config: ModelConfig
    """The sizes."""
    note: str
    """Where it comes from and where it differs from what is printed."""
    peak_lr: float | None = None
    """Peak learning rate of pre-training (Table 2), if given."""


def _mamba2(d_model: int, num_layers: int) -> ModelConfig:
    return ModelConfig(d_model=d_model, num_layers=num_layers, vocab_size=NEOX_VOCAB_SIZE, mixer=Mamba2Config())


def _released(size: str, d_model: int, num_layers: int) -> tuple[str, Preset]:
    return f"mamba2-{size}", Preset(
        config=_mamba2(d_model, num_layers), note=f"released checkpoint state-spaces/mamba2-{size}"
    )


def _table2(size: str, d_model: int, num_layers: int, heads: str, peak_lr: float) -> tuple[str, Preset]:
    note = f"Table 2 of arXiv 2507.02782, which prints heads / width as {heads}; released layout (expand 2, width 64)"
    return f"table2-mamba2-{size}", Preset(config=_mamba2(d_model, num_layers), note=note, peak_lr=peak_lr)


PRESETS: dict[str, Preset] = dict(
    [
        _released("130m", 768, 24),
        _released("370m", 1024, 48),
        _released("780m", 1536, 48),
        _released("1.3b", 2048, 48),
        _released("2.7b", 2560, 64),
        _table2("45m", 512, 12, "8 / 64", 1e-3),
        _table2("85m", 768, 12, "12 / 64", 1e-3),
        _table2("130m", 768, 24, "12 / 64", 6e-4),
        _table2("350m", 1024, 48, "16 / 64", 3e-4),
        _table2("780m", 1536, 48, "16 / 96", 2.5e-4),
        _table2("1.3b", 2048, 48, "32 / 64", 2e-4),
    ]
)


def get_preset(name: str) -> ModelConfig:
    """The configuration of a preset.

    Raises:
        InputError: where there is no preset of that name; near matches are named.
    """
    if name not in PRESETS:
        raise InputError(
            expected="the name of a preset", got=f"'{name}'", where="presets", fix=near_matches(name, PRESETS)
        )
    return PRESETS[name].config
