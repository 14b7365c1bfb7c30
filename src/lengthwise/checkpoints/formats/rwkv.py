"""RWKV-6 as its authors publish it: a bare `.pth` without a config, and the hub's form with remote code.

Both have the authors' own leaf names, which are ours. Sizes are read from the tensors, which is certain; the config of
the hub's form is checked against them. Two traps of that form: `num_attention_heads` holds the width of a head in
published files, and the remote code, run in half precision, divides the weights `output` and `value` of layer l by
2^(l // rescale_every) in place. Files hold them undivided, and so do we; a state dict taken from a running remote model
does not. Nothing in a file tells the one from the other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lengthwise.checkpoints.formats.base import COMMON, Format, Published, Rule, rename, renames
from lengthwise.models.config import ModelConfig, RWKV6ChannelMixConfig, RWKV6Config

_MIXES = [f"time_maa_{part}" for part in ("x", "w", "k", "v", "r", "g", "w1", "w2")]
_TIME_MIX = [
    *_MIXES,
    "time_decay",
    "time_decay_w1",
    "time_decay_w2",
    "time_faaaa",
    *(f"{part}.weight" for part in ("receptance", "key", "value", "gate", "output")),
    "ln_x.weight",
    "ln_x.bias",
]
_CHANNEL_MIX = ["time_maa_k", "time_maa_r", "key.weight", "receptance.weight", "value.weight"]
_WIDE = 4096  # from this width on, the published models have low-rank parts of twice the rank


class _RWKV(Format):
    """The two layouts, which differ in prefixes only."""

    head = "head.weight"
    prefix = ""
    """Of the embedding and the blocks."""
    attention, feed_forward, first_norm, table_name = "att", "ffn", "ln0", "emb"

    def rules(self, config: ModelConfig, values: Mapping[str, Any]) -> list[Rule]:
        prefix = self.prefix
        rules = [rename("backbone.embedding.weight", f"{prefix}{self.table_name}.weight")]
        rules.append(rename("lm_head.weight", self.head))
        rules += self._norm("backbone.norm_f", f"{prefix}ln_out")
        rules += self._norm("backbone.embedding_norm", f"{prefix}blocks.0.{self.first_norm}")
        for layer in range(config.num_layers):
            ours, theirs = f"backbone.layers.{layer}", f"{prefix}blocks.{layer}"
            rules += self._norm(f"{ours}.norm", f"{theirs}.ln1") + self._norm(f"{ours}.norm2", f"{theirs}.ln2")
            rules += renames(f"{ours}.mixer.", f"{theirs}.{self.attention}.", {name: name for name in _TIME_MIX})
            rules += renames(f"{ours}.mlp.", f"{theirs}.{self.feed_forward}.", {name: name for name in _CHANNEL_MIX})
        return rules

    @staticmethod
    def _norm(ours: str, theirs: str) -> list[Rule]:
        return [rename(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")]

    def _sizes(self, published: Published) -> dict[str, int] | None:
        """Sizes as the tensors have them; None where no tensors are at hand."""
        shapes = published.shapes
        if shapes is None:
            return None
        block = f"{self.prefix}blocks.0."
        names = {
            "table": f"{self.prefix}{self.table_name}.weight",
            "faaaa": f"{block}{self.attention}.time_faaaa",
            "w1": f"{block}{self.attention}.time_maa_w1",
            "decay": f"{block}{self.attention}.time_decay_w1",
            "key": f"{block}{self.feed_forward}.key.weight",
        }
        missing = [name for name in names.values() if len(shapes.get(name, ())) != 2]
        if missing:
            raise published.refuse(
                "the tensors of an RWKV-6 model, which tell its sizes",
                f"no matrix {missing[0]}; {len(shapes)} other tensors ({_shown(shapes)})",
                "give an RWKV-6 checkpoint: 5 and 7 are other architectures",
            )
        found = {part: shapes[name] for part, name in names.items()}
        layers = {int(match[1]) for match in _matches(rf"{re.escape(self.prefix)}blocks\.(\d+)\.", shapes)}
        return {
            "vocab_size": found["table"][0],
            "d_model": found["table"][1],
            "num_layers": max(layers) + 1,
            "head_size": found["faaaa"][1],
            "mix_rank": found["w1"][1] // 5,
            "decay_rank": found["decay"][1],
            "width": found["key"][0],
        }


def _matches(pattern: str, names: Collection[str]) -> Iterator[re.Match[str]]:
    compiled = re.compile(pattern)
    return (match for match in map(compiled.match, names) if match)


def _shown(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:3])


def rwkv6(
    *,
    d_model: int,
    num_layers: int,
    vocab_size: int = 65536,
    head_size: int = 64,
    mix_rank: int | None = None,
    decay_rank: int | None = None,
    width: int | None = None,
    norm_eps: float = 1e-5,
    head_size_divisor: int = 8,
) -> ModelConfig:
    """A model as the authors lay it out; what is None is as in their models of that width."""
    ranks = (64, 128) if d_model >= _WIDE else (32, 64)
    return ModelConfig(
        d_model=d_model,
        num_layers=num_layers,
        vocab_size=vocab_size,
        mixer=RWKV6Config(
            head_size=head_size,
            mix_rank=mix_rank or ranks[0],
            decay_rank=decay_rank or ranks[1],
            head_size_divisor=head_size_divisor,
        ),
        mlp=RWKV6ChannelMixConfig(width=width or int(d_model * 3.5) // 32 * 32),
        pad_vocab_size_multiple=1,
        tie_embeddings=False,
        norm="layer",
        norm_eps=norm_eps,
        embedding_norm=True,
    )


class RWKVFile(_RWKV):
    """The authors' `.pth`: tensors alone, from which the sizes are read."""

    name = "rwkv"
    table = "emb.weight"

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        return values.get("format") == self.name or (not values and "blocks.0.att.time_faaaa" in keys)

    def read(self, published: Published) -> ModelConfig:
        sizes = self._sizes(published)
        if sizes is None:
            raise published.refuse("the tensors, which alone tell the sizes", "a config only", "give the file itself")
        return rwkv6(**sizes)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        only = all(isinstance(mixer, RWKV6Config) for mixer in config.mixers)
        return {"format": self.name} if only and isinstance(config.mlp, RWKV6ChannelMixConfig) else None


class RWKVHub(_RWKV):
    """The hub's form: `rwkv.blocks...` and a config with the fields of the remote code."""

    name = "rwkv-hub"
    table = "rwkv.embeddings.weight"
    prefix = "rwkv."
    attention, feed_forward, first_norm, table_name = "attention", "feed_forward", "pre_ln", "embeddings"
    # The rescaling is what the remote code does to itself in half precision; the file is not changed by it.
    meaningless = COMMON | {"rescale_every", "model_version", "context_length", "max_context_length"}

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        marks = {"rescale_every", "head_size_divisor", "attention_hidden_size", "layer_norm_epsilon"}
        return values.get("model_type") == "rwkv6" and bool(marks & set(values))

    def read(self, published: Published) -> ModelConfig:
        fields = published.fields("an RWKV-6 hub config", self.meaningless)
        d_model = fields.whole("hidden_size", 768)
        sizes = self._sizes(published)
        head_size = fields.whole("head_size", None)
        # The field for the number of heads holds their width; where the tensors are at hand they decide.
        heads = fields.whole("num_attention_heads", 64)
        if sizes is not None:
            if head_size not in (None, sizes["head_size"]):
                raise published.refuse(
                    f"head_size {head_size} in the columns of time_faaaa",
                    f"{sizes['head_size']} columns",
                    "check that config.json belongs to these weights",
                )
            head_size = sizes["head_size"]
        head_size = head_size or heads
        fields.must_be("tie_word_embeddings", False, default=False)
        fields.must_equal("attention_hidden_size", d_model, "hidden_size: another width is not implemented")
        config = rwkv6(
            d_model=d_model,
            num_layers=fields.whole("num_hidden_layers", 24),
            vocab_size=fields.whole("vocab_size", 65536),
            head_size=head_size,
            mix_rank=None if sizes is None else sizes["mix_rank"],
            decay_rank=None if sizes is None else sizes["decay_rank"],
            width=fields.whole("intermediate_size", None),
            norm_eps=fields.number("layer_norm_epsilon", 1e-5),
            head_size_divisor=fields.whole("head_size_divisor", 8),
        )
        fields.finish()
        return config

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        mixer = config.mixers[0]
        if not isinstance(mixer, RWKV6Config) or not isinstance(config.mlp, RWKV6ChannelMixConfig):
            return None
        usual = rwkv6(d_model=config.d_model, num_layers=1, head_size=mixer.head_size).mixer
        assert isinstance(usual, RWKV6Config)
        # The remote code has no field for the ranks.
        if (mixer.mix_rank, mixer.decay_rank) != (usual.mix_rank, usual.decay_rank):
            return None
        return {
            "architectures": ["Rwkv6ForCausalLM"],
            "model_type": "rwkv6",
            "model_version": "6_0",
            "hidden_size": config.d_model,
            "attention_hidden_size": config.d_model,
            "intermediate_size": config.mlp.width,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": mixer.head_size,
            "head_size": mixer.head_size,
            "head_size_divisor": mixer.head_size_divisor,
            "layer_norm_epsilon": config.norm_eps,
            "rescale_every": 6,
            "tie_word_embeddings": False,
            "vocab_size": config.padded_vocab_size,
        }

    def context_length(self, values: Mapping[str, Any]) -> int | None:
        length = values.get("context_length")
        return length if isinstance(length, int) else None
