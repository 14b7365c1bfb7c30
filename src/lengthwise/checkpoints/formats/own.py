"""Our own format, for models that no published format can hold: the config as it is, tensors by our names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lengthwise.checkpoints.formats.base import Format, Published, Rule, rename
from lengthwise.models.config import ModelConfig


class Own(Format):
    """Any model."""

    name = "lengthwise"
    table = "backbone.embedding.weight"

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        return values.get("format") == self.name

    def read(self, published: Published) -> ModelConfig:
        fields = published.fields("a lengthwise config", {"format"})
        model = fields.take("model")
        fields.finish()
        if not isinstance(model, dict):
            raise published.refuse("model: an object", repr(model), "restore the file")
        return ModelConfig.from_dict(model)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        return {"format": self.name, "model": config.to_dict()}

    def rules(self, config: ModelConfig, values: Mapping[str, Any]) -> list[Rule]:
        # Imported here: the config alone does not need the layers.
        import torch

        from lengthwise.models.lm import LanguageModel

        with torch.device("meta"):
            names = LanguageModel(config).state_dict()
        return [rename(name, name) for name in names]
