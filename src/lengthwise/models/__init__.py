"""One language-model skeleton, its configurations, and the published sizes as data."""

from lengthwise.models.config import Mamba2Config, ModelConfig

__all__ = ["Mamba2Config", "ModelConfig"]
