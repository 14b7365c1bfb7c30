"""What defines a measurement, as data. Imports neither torch nor numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from lengthwise.errors import InputError, check_settings
from lengthwise.settings import check_types

Metric = Literal["perplexity", "restart", "remembrance", "states"]
EngineName = Literal["auto", "lengthwise", "transformers"]
METRICS: tuple[Metric, ...] = ("perplexity", "restart", "remembrance", "states")
NUM_SEQUENCES = 64
"""The number of sequences where none is given and the corpus has as many."""
LEAST_SEQUENCES = 8
"""Where none is given and the corpus has fewer: the fewest that are measured without being asked for. Intervals are
resampled over documents, and with fewer than these they say little."""
LENGTH_FACTOR = 64
"""The length measured where none is given, in training contexts."""
ONE_PASS_FACTOR = 4
"""The same for models whose texts have to be read in one pass, because their state cannot be carried."""
REMEMBRANCE_LIMIT = 8192
"""Effective Remembrance is taken up to this length, or the whole one where that is shorter, unless told otherwise."""

_COUNTS = (
    "windows_per_document",
    "chunk",
    "batch_size",
    "bins_per_octave",
    "bootstrap",
    "state_sequences",
    "remembrance_documents",
    "remembrance_starts",
    "remembrance_ends",
)
_OPTIONAL_COUNTS = (
    "num_sequences",
    "context_length",
    "length",
    "restart_stride",
    "remembrance_length",
    "attention_budget",
    "memory_limit",
)


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """One measurement of one model.

    Raises InputError for values out of range and unknown metrics.
    """

    model: str
    """A folder or the name of a shipped model, or of a model that transformers can load."""
    engine: EngineName = "auto"
    """Whose code runs the model. auto: ours where it knows the format, else transformers."""
    label: str | None = None
    """How reports call this run; None: the model."""
    data: str = "python"
    """Corpus source; its validation side is read. `python`: the running installation's own sources."""
    tokenizer: str | None = None
    """Tokenizer: `bytes` or the path of a tokenizer.json. None: the checkpoint's own."""
    context_length: int | None = None
    """Training context T in tokens. None: the checkpoint's own."""
    length: int | None = None
    """Tokens L of each sequence. None: 64 training contexts."""
    num_sequences: int | None = None
    """Sequences, each from a document of its own. None: 64, or as many as the corpus has, if these are at least 8."""
    windows_per_document: int = 1
    """At most this many sequences of one document; they then count as one unit in every interval."""
    metrics: tuple[Metric, ...] = METRICS
    """What to measure: perplexity (with the definition verdict), restart (its verdict), remembrance, states."""
    chunk: int = 256
    """Tokens of a row per forward pass. Changes speed and memory, not the result."""
    batch_size: int = 16
    """Rows per forward pass."""
    bins_per_octave: int = 2
    """Position bins per doubling of the position."""
    bootstrap: int = 2000
    """Resamples over documents behind every interval."""
    tolerance: float = 0.05
    """Excess over the best perplexity inside the context that still passes the definition verdict."""
    control_text: bool = True
    """Whether the restarted losses take the difficulty of each bin's text out of the definition verdict. Right for
    sequences at random offsets, which is how they are drawn; needs the restart metric."""
    restart_tolerance: float = 0.01
    """Excess perplexity over the restarted model that still passes the restart verdict."""
    restart_stride: int | None = None
    """Tokens between restarts. None: half the training context."""
    state_sequences: int = 16
    """Sequences whose states are looked at."""
    remembrance_documents: int = 4
    """Sequences over which Effective Remembrance is averaged."""
    remembrance_length: int | None = None
    """Last end of Effective Remembrance, in tokens. None: the length, at most 8192."""
    remembrance_starts: int = 32
    """Starts of the surface."""
    remembrance_ends: int = 16
    """Ends of the surface."""
    attention_budget: int | None = None
    """Tokens before each one that attention layers keep and see. None: all. With a budget the predictions are those of
    a model with such a window."""
    memory_limit: int | None = None
    """Most bytes that the keys and values of attention layers may take. None: half of the machine's memory."""
    seed: int = 0
    """Root of the choice of documents, of offsets in them, and of the resamples."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in (*_COUNTS, *(name for name in _OPTIONAL_COUNTS if getattr(self, name) is not None)):
            value = getattr(self, name)
            if value < 1:
                raise _wrong(name, value, "a whole number of at least 1")
        for name in ("tolerance", "restart_tolerance"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise _wrong(name, getattr(self, name), "a finite number of at least 0")
        if not self.metrics:
            raise _wrong("metrics", (), f"at least one of {', '.join(METRICS)}")

    def resolved(self, context_length: int | None, *, factor: int = LENGTH_FACTOR) -> MeasureConfig:
        """The same measurement with every length filled in.

        Args:
            context_length: that of the checkpoint; None where it does not say.
            factor: the length where none is given, in training contexts.

        Raises:
            InputError: where no context is known, the length does not exceed it, or Effective Remembrance asks for
                more than the length.
        """
        context = self.context_length if self.context_length is not None else context_length
        if context is None:
            raise InputError(
                expected="a training context length",
                got="none, neither in the checkpoint nor in the options",
                where=self.model,
                fix="give --context-length, the number of tokens that the model was trained on at a time",
            )
        length = self.length if self.length is not None else factor * context
        if length <= context:
            raise InputError(
                expected=f"a length above the training context {context}",
                got=str(length),
                where="MeasureConfig.length",
                fix=f"give a longer one, for instance {factor * context}",
            )
        end = self.remembrance_length if self.remembrance_length is not None else min(length, REMEMBRANCE_LIMIT)
        if end > length:
            raise InputError(
                expected=f"an end of Effective Remembrance within the length {length}",
                got=str(end),
                where="MeasureConfig.remembrance_length",
                fix="lower it, or raise --length",
            )
        if self.restart_stride is not None and self.restart_stride > context:
            raise _wrong("restart_stride", self.restart_stride, f"at most the training context {context}")
        return replace(self, context_length=context, length=length, remembrance_length=end)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"metrics": list(self.metrics)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MeasureConfig:
        """The inverse of `to_dict`. Raises InputError for a key that is unknown, with near matches, or missing."""
        check_settings(data, cls, expected="a known setting of a measurement")
        values = dict(data)
        if "metrics" in values:
            values["metrics"] = tuple(values["metrics"])
        return cls(**values)


def _wrong(name: str, value: Any, expected: str) -> InputError:
    return InputError(expected=expected, got=repr(value), where=f"MeasureConfig.{name}", fix=f"change {name}")
