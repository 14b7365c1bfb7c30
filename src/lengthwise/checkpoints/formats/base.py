"""What every published format says of itself: how to know it, what its config means, and where its tensors go.

A format is a pure description. It never opens a file: `load.py` and `save.py` read and write by it. Tensors are mapped
by rules, each of which turns a few stored tensors into a few of ours and back, without losing a bit either way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lengthwise.errors import InputError, near_matches
from lengthwise.models.config import AttentionConfig, ModelConfig

Shape = tuple[int, ...]
Convert = Callable[[Sequence[Tensor]], Sequence[Tensor]]

_COMMON = """
    _attn_implementation_autoset _commit_hash _name_or_path add_cross_attention architectures attention_dropout
    auto_map bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size
    eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id id2label
    initializer_range is_decoder is_encoder_decoder label2id length_penalty max_length min_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
    output_scores pad_token_id prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p
    use_bfloat16 use_cache
"""
COMMON = frozenset(_COMMON.split())
"""Fields that any transformers config may hold and that say nothing about what the model computes."""


def _same(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return tensors


@dataclass(frozen=True)
class Rule:
    """A few tensors of ours that hold the same numbers as a few stored ones.

    Args:
        ours: names in `LanguageModel.state_dict()`.
        theirs: names in the file.
        load: from theirs to ours.
        save: from ours to theirs; exactly the reverse.
        shares: whether `load` only gives views of what it is given.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    load: Convert = _same
    save: Convert = _same
    shares: bool = False


def rename(ours: str, theirs: str) -> Rule:
    """The same tensor by another name."""
    return Rule((ours,), (theirs,), shares=True)


def renames(ours: str, theirs: str, names: Mapping[str, str]) -> list[Rule]:
    """Rules for tensors below a prefix, by their names without it: ours to theirs."""
    return [rename(ours + mine, theirs + other) for mine, other in names.items()]


def joined(ours: str, theirs: Sequence[str], sizes: Sequence[int]) -> Rule:
    """Our tensor is theirs, one below the other; `sizes` are their numbers of rows."""
    return Rule(
        (ours,),
        tuple(theirs),
        load=lambda parts: [torch.cat(list(parts))],
        save=lambda whole: list(whole[0].split(list(sizes))),
    )


def halves(ours: Sequence[str], theirs: str) -> Rule:
    """Our tensors are equal parts of the rows of theirs."""
    return Rule(
        tuple(ours),
        (theirs,),
        load=lambda whole: list(whole[0].chunk(len(ours))),
        save=lambda parts: [torch.cat(list(parts))],
        shares=True,
    )


def reshaped(ours: str, theirs: str, load: Callable[[Tensor], Tensor], save: Callable[[Tensor], Tensor]) -> Rule:
    """The same numbers in another shape or order."""
    return Rule((ours,), (theirs,), load=lambda t: [load(t[0])], save=lambda t: [save(t[0])])


def transposed(ours: str, theirs: str) -> Rule:
    """A matrix that is stored the other way round."""
    return reshaped(ours, theirs, lambda t: t.t().contiguous(), lambda t: t.t().contiguous())


def attention_rules(
    ours: str, theirs: str, names: Mapping[str, str], sizes: Sequence[int], *, bias: bool
) -> list[Rule]:
    """Rules for attention whose projections are stored apart; ours joins queries, keys and values.

    Args:
        ours, theirs: prefixes.
        names: their names of the projections q, k, v and o.
        sizes: rows of q, k and v.
        bias: whether q, k and v have one.
    """
    kinds = ("weight", "bias") if bias else ("weight",)
    projections = [f"{theirs}{names[part]}" for part in ("q", "k", "v")]
    return [
        *(joined(f"{ours}in_proj.{kind}", [f"{name}.{kind}" for name in projections], sizes) for kind in kinds),
        rename(f"{ours}out_proj.weight", f"{theirs}{names['o']}.weight"),
    ]


@dataclass(frozen=True)
class Published:
    """What a format reads a config from.

    Args:
        values: content of `config.json` without our own object; empty for formats that have none.
        shapes: of the stored tensors by name; None where only the config is at hand.
        where: file named in messages.
    """

    values: Mapping[str, Any]
    shapes: Mapping[str, Shape] | None
    where: str

    def shape(self, name: str) -> Shape | None:
        """Shape of a tensor; None where it is not there or not known."""
        return None if self.shapes is None else self.shapes.get(name)

    def refuse(self, expected: str, got: str, fix: str) -> InputError:
        """The error for something that is not as it has to be."""
        return InputError(expected=expected, got=got, where=self.where, fix=fix)

    def fields(self, what: str, meaningless: Collection[str] = ()) -> Fields:
        """A reader of the values that leaves none unread; see `Fields`."""
        return Fields(self, what, frozenset(meaningless))


_REQUIRED = object()


class Fields:
    """Reads a published config field by field, and complains of every field that was neither read nor set aside.

    A field that nobody looks at is how a model is loaded wrongly without a word, so `finish` must be called.

    Args:
        published: the config.
        what: name of the format, for messages.
        meaningless: fields that do not change what the model computes.
    """

    def __init__(self, published: Published, what: str, meaningless: frozenset[str]) -> None:
        self._published, self._what = published, what
        self._values = published.values
        self._read: set[str] = set(meaningless)

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        """The value as it stands. A null counts as absent."""
        self._read.add(name)
        value = self._values.get(name)
        if value is None:
            if default is _REQUIRED:
                raise self._wrong(name, "a value", repr(value) if name in self._values else "none")
            return default
        return value

    def whole(self, name: str, default: Any = _REQUIRED) -> Any:
        """A whole number of at least 0."""
        value = self.take(name, default)
        if value is not default and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise self._wrong(name, "a whole number", repr(value))
        return value

    def number(self, name: str, default: Any = _REQUIRED) -> Any:
        """A finite number."""
        value = self.take(name, default)
        if value is not default:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise self._wrong(name, "a number", repr(value))
            value = float(value)
        return value

    def flag(self, name: str, default: Any = _REQUIRED) -> Any:
        """True or false."""
        value = self.take(name, default)
        if value is not default and not isinstance(value, bool):
            raise self._wrong(name, "true or false", repr(value))
        return value

    def must_be(self, name: str, *allowed: Any, default: Any = _REQUIRED) -> Any:
        """A value for which there is only what is implemented; `default` is what an absent field means."""
        value = self.take(name, default)
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[allowed.index(value)], bool):
            choices = " or ".join(repr(choice) for choice in allowed)
            raise self._wrong(name, f"{choices}: nothing else is implemented", repr(value))
        return value

    def must_equal(self, name: str, expected: Any, why: str) -> None:
        """A field that only repeats what others say: where it is there, it has to say the same."""
        value = self.take(name, expected)
        if value != expected:
            raise self._wrong(name, f"{expected} ({why})", repr(value))

    def finish(self) -> None:
        """Raise InputError for the first field that was not read."""
        for name in self._values:
            if name in self._read:
                continue
            if name == "quantization_config":
                raise self._wrong(name, "weights as numbers", "quantized weights", "give the checkpoint they came from")
            raise self._published.refuse(
                f"fields of {self._what} that lengthwise knows",
                f"'{name}': {str(self._values[name])[:80]}",
                f"{near_matches(name, self._read - COMMON)}; remove it where it does not change what is computed",
            )

    def _wrong(self, name: str, expected: str, got: str, fix: str = "") -> InputError:
        return self._published.refuse(
            f"{name} of {self._what}: {expected}", got, fix or "restore the file, or give another checkpoint"
        )


class Format:
    """One published format; the parent of all. Subclasses are stateless, so one object of each serves."""

    name: ClassVar[str]
    """Kept in messages and in `Checkpoint.format`."""
    head: ClassVar[str] = "lm_head.weight"
    """Name of the output head; where the model ties it to the embedding, a copy may lie in the file or not."""
    table: ClassVar[str]
    """Name of the embedding table."""
    buffers: ClassVar[re.Pattern[str]] = re.compile(r".*\.rotary(?:_emb)?\.inv_freq")
    """Tensors that may lie in the file and are no weights; see `check_buffer`."""
    meaningless: ClassVar[frozenset[str]] = COMMON

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        """Whether a config, and the names of the tensors where these are known, are of this format."""
        raise TypeError(f"{type(self).__name__} has no matches")

    def read(self, published: Published) -> ModelConfig:
        """Sizes of the model. Raises InputError for what is not implemented or contradicts itself."""
        raise TypeError(f"{type(self).__name__} has no read")

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        """The config of the format that comes nearest to `config`; None where the format is out of the question.

        It need not be exact: whether `read` gives the same model back decides if the format can hold it.
        """
        raise TypeError(f"{type(self).__name__} has no write")

    def rules(self, config: ModelConfig, values: Mapping[str, Any]) -> list[Rule]:
        """Where the tensors go. values: the config that is read or written, where names depend on it."""
        raise TypeError(f"{type(self).__name__} has no rules")

    def context_length(self, values: Mapping[str, Any]) -> int | None:
        """Training context, where a field of the config tells it."""
        return None


def check_buffer(buffer: Tensor, config: ModelConfig) -> bool:
    """Whether stored rotary frequencies are those that the config stands for, up to the rounding of half floats."""
    bases = {mixer.rotary_base for mixer in config.mixers if isinstance(mixer, AttentionConfig)}
    numbers = buffer.double()
    width = 2 * len(numbers)
    steps = torch.arange(0, width, 2, dtype=torch.float64) / width
    return any(torch.allclose(numbers, float(base) ** -steps, rtol=0.02, atol=1e-6) for base in bases)
