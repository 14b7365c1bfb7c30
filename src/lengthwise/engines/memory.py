"""What one pass over a whole text takes, and whether this machine has it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lengthwise.engines.opening import OpenedModel
from lengthwise.errors import InputError
from lengthwise.models.lm import MAX_LOGITS, LanguageModel
from lengthwise.units import FLOAT_BYTES, human_bytes

ACTIVATIONS = 128
"""Numbers per token and unit of width that the widest layer holds at once. Attention needs a dozen; the selective scan
of Mamba-1 without kernels makes five tensors of twice the width times 16 states."""


def one_pass_bytes(opened: OpenedModel, length: int) -> dict[str, int]:
    """An estimate of the memory for one pass over a text of a model that is not ours, by purpose.

    Args:
        opened: read through transformers.
        length: tokens of the text.
    """
    inner = opened.model.inner if hasattr(opened.model, "inner") else opened.model
    config = inner.config.get_text_config(decoder=True)
    width = int(inner.model.get_input_embeddings().weight.shape[1])
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    wide = _number(getattr(config, "intermediate_size", None)) or 4 * width
    heads = _number(getattr(config, "num_attention_heads", None)) or 0
    eager = getattr(config, "_attn_implementation", None) == "eager"
    return {
        "weights": FLOAT_BYTES * inner.num_parameters(),
        "activations": FLOAT_BYTES * length * (ACTIVATIONS * width + 4 * wide),
        "keys and values": FLOAT_BYTES * length * 2 * layers * width,
        "attention scores": FLOAT_BYTES * 2 * heads * length * length if eager else 0,
        "logits": FLOAT_BYTES * 3 * min(length * opened.vocab_size, MAX_LOGITS),
    }


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def machine_bytes() -> int | None:
    """Physical memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def check_memory(opened: OpenedModel, length: int) -> None:
    """Refuse texts that cannot be read in one pass on this machine.

    Raises:
        InputError: where the estimate is above the physical memory; names a length that fits.
    """
    have = machine_bytes()
    need = sum(one_pass_bytes(opened, length).values())
    if have is None or need <= have:
        return
    fits = length
    while fits > 1 and sum(one_pass_bytes(opened, fits).values()) > have:
        fits //= 2
    raise InputError(
        expected=f"texts that fit the memory in one pass ({human_bytes(have)}), as the model's state cannot be carried",
        got=f"{length:,} tokens, which take about {human_bytes(need)}",
        where="length",
        fix=f"give --length {fits} or less",
    )


def check_attention_memory(
    model: LanguageModel, texts: Sequence[tuple[int, int]], limit: int | None, *, fix: str
) -> int:
    """Refuse texts whose keys and values do not fit.

    Args:
        model: one of ours, its attention budget set.
        texts: what is read side by side: (rows, tokens of each) of every batch.
        limit: most bytes; None for half of the physical memory.
        fix: what the user can do.

    Returns:
        Bytes that the largest batch keeps at its end; 0 for a model without attention.

    Raises:
        InputError: where that is more than the limit.
    """
    need = max((rows * model.attention_state_bytes(tokens) for rows, tokens in texts), default=0)
    have = machine_bytes()
    allowed = limit if limit is not None else None if have is None else have // 2
    if allowed is None or need <= allowed:
        return need
    rows, tokens = max(texts, key=lambda text: text[0] * model.attention_state_bytes(text[1]))
    raise InputError(
        expected=f"keys and values of at most {human_bytes(allowed)} "
        f"({'the memory limit' if limit is not None else 'half of the memory of this machine'})",
        got=f"{rows:,} texts of {tokens:,} tokens, whose attention layers keep {human_bytes(need)}",
        where="length",
        fix=fix,
    )
