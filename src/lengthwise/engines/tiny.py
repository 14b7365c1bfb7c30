"""A small random model of the same class as a large one, from its configuration alone.

Whether a cache is carried rightly is a property of the code, not of the weights. So a configuration of any size is
reduced: widths by one common factor, which keeps every ratio between widths, heads and head widths; layers to the
first few that hold every kind; windows, chunks and state sizes to what a short text crosses. The weights are random
and of a size at which every part of the model shows in the logits: as initialised for training, the logits are so
small that a state that is lost altogether may pass for rounding.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lengthwise.engines.hf import HFModel
from lengthwise.errors import InputError
from lengthwise.models.config import ModelConfig
from lengthwise.models.lm import LanguageModel

VOCAB = 128
"""Rows of the reduced vocabulary."""
WIDTH = 64
"""Model width aimed at; it may stay larger where heads and widths have no larger common factor."""
WINDOW = 20
"""Sliding windows are cut to this, so that a probe of 64 tokens slides them."""
CHUNK = 16
"""Chunks of the recurrences are cut to this, so that a probe has several, and pieces end inside one."""
STATE_SIZE = 16
EXPERTS, EXPERTS_PER_TOKEN = 4, 2
MAX_LAYERS = 8
MIN_HEAD_WIDTH = 8
MAX_PARAMETERS = 50_000_000
"""A reduction that leaves more is no small model."""
HEAD_SCALE = 3.0
"""Factor on the output head. Its rows then have a norm of 3 and the normed hidden state one of 1 per element, which
makes logits of a standard deviation of about 3, the largest near 10."""
SPREAD = (1.5, 6.0)
"""Where the standard deviation of the logits falls outside, the head is scaled again to bring it to `HEAD_SCALE`."""

# What a setting counts is told by its name; the patterns cover the configurations of transformers 5.23.
_HEADS = re.compile(r"^(?!index_)(\w+_)?(num|n)_(\w+_)?heads?$|attention_heads$|num_query_groups$|heads_per_layer$")
_HEAD_WIDTH = re.compile(
    r"^(?!index_)(\w+_)?head_?dim$|^d_head$|^dim_head$|^kv_channels$|^d_kv$|mamba_d_head$|^(attention_)?head_size$"
    r"|^rotary_dim$"
)
_WIDTH = re.compile(
    r"(hidden|intermediate|embedding|embd?|ffn|ff|feed_forward)_?(size|dim)(_\w+)?$|^d_model$|^n_embd$|^n_inner$"
    r"|^emb_dim$|^dff$|^dim_ff$|^d_ff$|lru_width$|mamba_d_ssm$|word_embed_proj_dim$|^d_inner$|_dim_model_base$"
)
_RANK = re.compile(r"_rank$")
_LAYERS = re.compile(r"^(num_hidden_layers|n_layers?|num_layers|decoder_layers|num_decoder_layers|num_blocks)$")
_EXPERTS = re.compile(r"(num|n)_(routed_|local_)?experts$")
_INDICES = re.compile(r"(layer_indices|layer_ids|_idxs|mlp_only_layers|moe_layers)$")
_DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
_WINDOWS = re.compile(
    r"sliding_window(_size)?$|attention_window_size$|^window_size$|^local_attention$|^index_topk$|keep_window_size$"
)
_LIMITS = (
    # An indexer with few heads scores most keys exactly zero, and which of equal keys it takes is then up to chance.
    (re.compile(r"index_n_heads$"), 32),
    (re.compile(r"state_size$|_d_state$|^d_state$"), STATE_SIZE),
    (_WINDOWS, WINDOW),
    (re.compile(r"chunk_size$|^block_size$|^index_block_size$"), CHUNK),
    (_EXPERTS, EXPERTS),
    (re.compile(r"experts_per_tok(en)?$|^moe_topk$|^moe_k$|^moe_top_k$|^top_k_experts$"), EXPERTS_PER_TOKEN),
    (re.compile(r"^topk_group$"), 1),
    (re.compile(r"n_?groups$|^n_group$|num_expert_group$|^o_groups$"), 2),
)
_NOT_CHUNKS = ("chunk_size_feed_forward", "chunk_size_lm_head", "max_inference_chunksize")


@dataclass(frozen=True)
class Tiny:
    """A small random model and all that a script needs to build it again."""

    model: Any
    config: Any
    seed: int
    head_scale: float
    """What the output head was multiplied by."""


def tiny_model(config: Any, *, seed: int = 0) -> Tiny:
    """A small random model of the class that a configuration belongs to.

    Args:
        config: configuration of a transformers model.
        seed: of the weights.

    Raises:
        InputError: where no reduction that is tried gives a model that runs; says what the class said.
    """
    refusals: list[str] = []
    for small in _reductions(config):
        try:
            return _built(small, seed)
        except Exception as refused:  # configurations and models of many authors refuse with anything
            refusals.append(f"{type(refused).__name__}: {' '.join(str(refused).split())[:200]}")
    raise InputError(
        expected="a configuration that can be reduced to a small model",
        got=refusals[-1] if refusals else "no reduction that its class accepts",
        where=f"{type(config).__name__} (model type {getattr(config, 'model_type', '?')})",
        fix="check the model with its weights, without --config-only, or give a folder with a small config.json",
    )


def build(config: Any, *, seed: int, head_scale: float) -> Any:
    """The model of a configuration with lively weights; the same calls stand in the scripts that repeat a fault."""
    from transformers import AutoModelForCausalLM

    from_config: Any = AutoModelForCausalLM.from_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = from_config(config, **experts(config)).eval()
        enliven(model, head_scale)
    return model


def experts(config: Any) -> dict[str, str]:
    """Experts one by one: the grouped products know neither float64 nor narrow matrices."""
    text = config.get_text_config(decoder=True)
    has = any(_EXPERTS.search(name) and _is_count(value) for name, value in text.to_dict().items())
    return {"experts_implementation": "eager"} if has else {}


def _built(config: Any, seed: int) -> Tiny:
    if (number := _parameters(config)) > MAX_PARAMETERS:
        raise ValueError(f"{number:,} parameters after the reduction")
    head_scale = HEAD_SCALE
    model = build(config, seed=seed, head_scale=head_scale)
    tokens = torch.randint(VOCAB // 2, (2, 24), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        # Through the adapter, which leaves nothing of this text in the model's modules.
        logits = HFModel(model)(tokens).logits
    assert logits is not None
    spread = float(logits.std())
    if not math.isfinite(spread) or spread == 0.0:
        raise ValueError(f"logits with a standard deviation of {spread}")
    if not SPREAD[0] <= spread <= SPREAD[1]:
        head_scale = float(f"{head_scale * HEAD_SCALE / spread:.2g}")
        model = build(config, seed=seed, head_scale=head_scale)
    return Tiny(model, config, seed, head_scale)


def _parameters(config: Any) -> int:
    """Parameters of the model, counted without memory for them; 0 where its class cannot be built that way."""
    from transformers import AutoModelForCausalLM

    from_config: Any = AutoModelForCausalLM.from_config
    try:
        with torch.device("meta"):
            return sum(weight.numel() for weight in from_config(config).parameters())
    except Exception:  # then it is built, and says itself what is wrong
        return 0


def _reductions(config: Any) -> Iterator[Any]:
    """Configurations of the same class, the smallest first."""
    values = config.to_dict()
    for width, heads in ((WIDTH, 2), (2 * WIDTH, 4), (4 * WIDTH, 8)):
        complete = []
        for num_layers in _layer_counts(config):
            try:
                small = type(config).from_dict(_reduced_values(values, num_layers, width, heads))
            except Exception:  # refused by its class; larger ones follow
                continue
            if _kinds(small) == _kinds(config) or num_layers == MAX_LAYERS:
                complete.append(small)
        # The fewest layers of all kinds; some classes want a kind to come again.
        yield from complete[:1] + complete[-1:]


def _kinds(config: Any) -> frozenset[str]:
    """The kinds of layers that a configuration names."""
    text = config.get_text_config(decoder=True)
    found: set[str] = set()
    for name in ("layer_types", "layers_block_type", "mlp_layer_types"):
        kinds = getattr(text, name, None)
        if isinstance(kinds, list | tuple):
            found.update(f"{name}: {kind}" for kind in kinds)
    return frozenset(found)


def _layer_counts(config: Any) -> range:
    text = config.get_text_config(decoder=True)
    counts = [v for k, v in text.to_dict().items() if _LAYERS.search(k) and _is_count(v)]
    most = min([*counts, MAX_LAYERS])
    return range(min(2, most), most + 1)


def _reduced_values(values: Mapping[str, Any], num_layers: int, width: int, heads: int) -> dict[str, Any]:
    """Every setting of a configuration, and of those inside it, made small."""
    factors = _factors(values, width, heads)
    layers = next((v for k, v in values.items() if _LAYERS.search(k) and _is_count(v)), None)
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and "model_type" in value:
            found[name] = _reduced_values(value, num_layers, width, heads)
        elif name == "per_layer_config" and isinstance(value, Mapping):
            found[name] = {
                layer: {key: _reduced_value(key, each, factors, num_layers) for key, each in settings.items()}
                for layer, settings in value.items()
                if int(layer) < num_layers
            }
        elif isinstance(value, list | tuple) and layers is not None and len(value) == layers and layers > 1:
            found[name] = [_reduced_value(name, each, factors, num_layers) for each in value[:num_layers]]
        elif _INDICES.search(name) and isinstance(value, list | tuple) and value and all(map(_is_count, value)):
            found[name] = [each for each in value if each < num_layers] or [num_layers - 1]
        else:
            found[name] = _reduced_value(name, value, factors, num_layers)
    return found


def _reduced_value(name: str, value: Any, factors: tuple[int, int], num_layers: int) -> Any:
    by_heads, by_width = factors
    if isinstance(value, list) and name.endswith("token_id"):
        return [_token(each) for each in value]
    if not _is_count(value):
        return copy.deepcopy(value)
    if name.endswith("token_id"):
        return _token(value)
    if name.endswith("vocab_size") or name == "vocab_size_per_layer_input":
        return min(value, VOCAB)
    if _LAYERS.search(name):
        return num_layers
    if name in _DENSE_FIRST:
        return min(value, 1)
    if _HEADS.search(name):
        return value // by_heads if value % by_heads == 0 else value
    if _HEAD_WIDTH.search(name):
        return max(1, value // by_width)
    limit = next((most for pattern, most in _LIMITS if pattern.search(name)), None)
    if limit is not None:
        return min(value, limit) if name not in _NOT_CHUNKS else value
    if _RANK.search(name):
        return max(2, value // (by_heads * by_width))
    if _WIDTH.search(name):
        return _divided(value, by_heads * by_width)
    return value


def _token(value: Any) -> Any:
    """A special token's id inside the reduced vocabulary."""
    return value % VOCAB if isinstance(value, int) and value >= VOCAB else value


def _divided(width: int, factor: int) -> int:
    """A width over the common factor, or near it: a multiple of 8."""
    if width % factor == 0:
        return width // factor
    return max(8, round(width / factor / 8) * 8)


def _factors(values: Mapping[str, Any], width: int, heads: int) -> tuple[int, int]:
    """By how much numbers of heads and widths of heads are divided; model widths are divided by the product.

    A number of heads of one or two stays: it is a group that all heads share.
    """
    counts = [v for k, v in _integers(values) if _HEADS.search(k) and v > 2]
    widths = [v for k, v in _integers(values) if _HEAD_WIDTH.search(k) and v > 1]
    hidden = next((values[k] for k in ("hidden_size", "d_model", "n_embd", "emb_dim") if _is_count(values.get(k))), 0)
    by_heads = _divisor(math.gcd(*counts), min(counts) // heads) if counts else 1
    if hidden and counts and hidden % max(counts) == 0:
        widths.append(hidden // max(counts))
    if not hidden:
        return by_heads, 1
    shared = math.gcd(*widths, hidden // by_heads) if widths and hidden % by_heads == 0 else hidden
    if not widths:
        return by_heads, _divisor(shared, max(1, hidden // width))
    largest = min(max(1, min(widths) // MIN_HEAD_WIDTH), max(1, hidden // by_heads // width))
    return by_heads, _divisor(shared, largest)


def _integers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if _is_count(value):
            yield name, value
        elif isinstance(value, list | tuple) and value and all(map(_is_count, value)):
            yield from ((name, each) for each in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`, at least 1."""
    return max(d for d in range(1, max(1, min(number, most)) + 1) if number % d == 0)


def windows_of(config: Any) -> dict[str, int]:
    """Settings that limit how many tokens are looked at, with their values; {} for a configuration of ours."""
    if not hasattr(config, "get_text_config"):
        return {}
    text = config.get_text_config(decoder=True)
    if getattr(text, "use_sliding_window", None) is False:
        return {}
    return {name: value for name, value in text.to_dict().items() if _is_count(value) and _WINDOWS.search(name)}


def settings(config: Any) -> dict[str, Any]:
    """What has to be given to `AutoConfig.for_model` beside the model type to get this configuration.

    The few settings that differ from the class's defaults where these are enough, else all.
    """
    from transformers import AutoConfig

    values = config.to_dict()
    dropped = ("transformers_version", "architectures", "dtype", "_name_or_path", "name_or_path", "model_type")
    every = {name: value for name, value in values.items() if name not in dropped and isinstance(name, str)}
    try:
        default = type(config)().to_dict()
        few = _beyond(every, default)
        for _ in range(2):
            again = AutoConfig.for_model(config.model_type, **copy.deepcopy(few)).to_dict()
            # A default that is derived from others, such as a scale from the number of layers, has to be given too.
            missing = {name: value for name, value in every.items() if again.get(name) != value}
            if not missing:
                return few
            few |= missing
    except Exception:  # a class without defaults, or one that refuses what it wrote
        pass
    return every


def _beyond(values: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from a default, and of configurations inside a configuration those of theirs."""
    found = {}
    for name, value in values.items():
        known = default.get(name)
        if name in default and known == value:
            continue
        if isinstance(value, Mapping) and isinstance(known, Mapping) and "model_type" in value:
            found[name] = {"model_type": value["model_type"], **_beyond(value, known)}
        else:
            found[name] = value
    return found


@torch.no_grad()
def enliven(model: Any, head_scale: float) -> None:
    """Draw weights at which every part of a model shows in its logits. Draws from torch's global generator.

    Matrices become N(0, 1 / inputs) unless their mean says that they are rates or the like; those, and vectors, keep
    what their class chose, with a tenth of noise, so that no bias is zero. The output head is multiplied by
    `head_scale`.
    """
    for weight in model.parameters():
        if weight.ndim > 1 and weight.mean().abs() <= weight.std():
            weight.normal_(0.0, weight.shape[-1] ** -0.5)
        else:
            weight.add_(0.1 * torch.randn_like(weight))
    if (head := model.get_output_embeddings()) is not None:
        head.weight.mul_(head_scale)


def tiny_ours(config: ModelConfig, *, seed: int = 0) -> LanguageModel:
    """A small random model of one of our families, with lively weights.

    Args:
        config: of any size.
        seed: of the weights.
    """
    values, small = config.to_dict(), config
    for width in (WIDTH, 2 * WIDTH, 4 * WIDTH):
        try:
            small = ModelConfig.from_dict(_reduced_ours(values, width))
            break
        except (InputError, ValueError, ZeroDivisionError):  # widths that do not fit one another
            continue
    model = LanguageModel(small, seed=seed).eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for weight in model.parameters():
            if weight.ndim > 1 and weight.mean().abs() <= weight.std():
                weight.normal_(0.0, weight.shape[-1] ** -0.5)
            else:
                weight.add_(0.1 * torch.randn_like(weight))
        head = model.backbone.embedding.weight if small.tie_embeddings else model.lm_head.weight
        head.mul_(HEAD_SCALE)
    return model


def _reduced_ours(values: Mapping[str, Any], width: int) -> dict[str, Any]:
    """One of our configurations made small: the first layers that hold every mixer, all widths by one factor."""
    layers = [values["mixer"]] * values["num_layers"]
    for layer, mixer in values["other_mixers"]:
        layers[layer] = mixer
    kinds = []
    for mixer in layers:
        if mixer not in kinds:
            kinds.append(mixer)
    chosen = [*kinds, kinds[0]][: max(2, len(kinds) + 1)]
    size = values["mixer"].get("head_size")  # RWKV's number of heads follows from their size
    heads = {} if size is None else {"num_heads": values["d_model"] // size}
    factors = _factors({"hidden_size": values["d_model"], **heads, **values["mixer"]}, width, 2)

    def small(settings: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in settings.items():
            if name in ("width", "lru_width") and _is_count(value):
                found[name] = _divided(value, factors[0] * factors[1])
            elif name == "window" and _is_count(value):
                found[name] = min(value, WINDOW)
            else:
                found[name] = _reduced_value(name, value, factors, len(chosen))
        return found

    return {
        **values,
        "d_model": values["d_model"] // (factors[0] * factors[1]),
        "num_layers": len(chosen),
        "vocab_size": min(values["vocab_size"], VOCAB),
        "mixer": small(chosen[0]),
        "other_mixers": [[i, small(mixer)] for i, mixer in enumerate(chosen) if mixer != chosen[0]],
        "mlp": None if values["mlp"] is None else small(values["mlp"]),
    }
