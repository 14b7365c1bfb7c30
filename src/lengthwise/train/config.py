"""What defines a training run, as data. Imports neither torch nor numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from lengthwise.errors import InputError, check_settings
from lengthwise.interventions.config import InterventionConfig
from lengthwise.models.config import ModelConfig
from lengthwise.settings import check_types

_COUNTS = ("batch_size", "steps", "grad_accum", "checkpoint_every", "log_every")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run, from scratch (`model`) or from a checkpoint (`init_from`).

    Defaults follow the pre-training recipe of arXiv 2507.02782, appendix B.1, where it gives them. Everything but the
    model, the sizes and the peak learning rate has a default.

    Raises InputError for values of another type or out of range, for neither or both of `model` and `init_from`, and
    for a batch that micro-batches do not divide.
    """

    model: ModelConfig | None = None
    """Sizes of a model to train from scratch."""
    init_from: str | None = None
    """Checkpoint to go on from: a folder or the name of a shipped model."""
    data: str | None = None
    """Corpus source: `python` for the running installation's own sources, which is the default, or a path. None where
    there are `tasks`."""
    tasks: tuple[str, ...] = ()
    """Names of tasks and groups whose rows are read instead of a corpus, all equally often; e.g. passkey."""
    loss_on: Literal["answers", "all"] | None = None
    """answers: the loss of a row is that of its answer, the default with `tasks`; all: that of every token, as a corpus
    has it."""
    tokenizer: str | None = None
    """Tokenizer: `bytes` or the path of a tokenizer.json. None: the checkpoint's own, or bytes from scratch."""
    vary_length: bool = False
    """With `tasks`: every row has a text of another length, from the shortest possible to T, so that answers do not all
    stand at the same place."""
    context_length: int | None = None
    """Tokens T of a training window. None: the checkpoint's own."""
    batch_size: int
    """Sequences per optimizer step, over all ranks and micro-batches together."""
    steps: int
    """Optimizer steps of the whole run."""
    peak_lr: float
    """Learning rate at the end of the warm-up."""
    min_lr: float = 1e-5
    """Learning rate at the last step: the floor of the cosine."""
    warmup_frac: float = 0.1
    """Share of the steps with a linearly rising learning rate, 0 to 1."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's moving-average weights."""
    weight_decay: float = 0.01
    """Decoupled decay, multiplied by the learning rate of the step; matrices only, never A_log, D, dt_bias, norms."""
    grad_clip: float = 1.0
    """Largest gradient norm; a larger gradient is scaled down to it."""
    grad_accum: int = 1
    """Micro-batches per optimizer step: less memory, same batch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast of matrix products; weights, state and loss stay float32."""
    intervention: InterventionConfig = field(default_factory=InterventionConfig)
    """How states are initialised."""
    reader: Literal["auto", "windows", "lanes"] = "auto"
    """windows: independent shuffled windows. lanes: row i continues row i. auto: lanes for tbtt, else windows."""
    seed: int = 0
    """Root of every random draw: initial weights, order of the data, interventions."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    checkpoint_every: int = 200
    """Steps between checkpoints. The last step always has one."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl; a line holds the mean loss of those steps."""

    def __post_init__(self) -> None:
        check_types(self)
        if (self.model is None) == (self.init_from is None):
            raise InputError(
                expected="either a model config (from scratch) or init_from (from a checkpoint)",
                got="both" if self.model is not None else "neither",
                where="TrainConfig",
                fix="give exactly one of them",
            )
        if self.model is not None and self.context_length is None:
            raise _wrong("context_length", None, "a number of tokens for a model trained from scratch")
        for name in (*_COUNTS, *(["context_length"] if self.context_length is not None else [])):
            value = getattr(self, name)
            if value < 1:
                raise _wrong(name, value, "a whole number of at least 1")
        if self.batch_size % self.grad_accum:
            raise _wrong("grad_accum", self.grad_accum, f"a divisor of batch_size ({self.batch_size})")
        for name, low, high in (("peak_lr", 0.0, math.inf), ("grad_clip", 0.0, math.inf)):
            value = getattr(self, name)
            if not low < value < high:
                raise _wrong(name, value, "a positive finite number")
        for name in ("min_lr", "weight_decay"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise _wrong(name, getattr(self, name), "a finite number of at least 0")
        if self.min_lr > self.peak_lr:
            raise _wrong("min_lr", self.min_lr, f"a floor not above peak_lr ({self.peak_lr:g})")
        if not 0.0 <= self.warmup_frac <= 1.0:
            raise _wrong("warmup_frac", self.warmup_frac, "a share in [0, 1]")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise _wrong("betas", self.betas, "two numbers in [0, 1)")
        self._settle_data()
        if self.intervention.kind == "tbtt" and self.reader == "windows":
            raise _wrong("reader", self.reader, "lanes (or auto) for tbtt, whose rows continue one another")

    def _settle_data(self) -> None:
        """Fill in the defaults that depend on whether rows come from a corpus or from tasks; refuse a mixture."""
        if not self.tasks:
            if self.loss_on == "answers":
                raise _wrong("loss_on", "answers", "all (or None) for a corpus, which has no answers")
            if self.vary_length:
                raise _wrong("vary_length", True, "False for a corpus, which is cut into windows of T tokens")
            object.__setattr__(self, "data", self.data or "python")
            object.__setattr__(self, "loss_on", "all")
            return
        if self.data is not None:
            raise InputError(
                expected="either a corpus (data) or tasks",
                got=f"data {self.data!r} and tasks {', '.join(self.tasks)}",
                where="TrainConfig",
                fix="leave one of them out",
            )
        if self.uses_lanes:
            raise InputError(
                expected="a corpus where row i of a batch continues row i of the one before (tbtt, lanes)",
                got=f"tasks {', '.join(self.tasks)}, whose rows have nothing to do with one another",
                where="TrainConfig",
                fix="use state-passing, or leave the reader at auto",
            )
        object.__setattr__(self, "loss_on", self.loss_on or "answers")

    @property
    def source(self) -> str:
        """Where the rows come from, in words: the corpus, or the tasks."""
        return self.data if self.data is not None else f"tasks {', '.join(self.tasks)}"

    @property
    def uses_lanes(self) -> bool:
        """Whether row i of a batch continues row i of the one before."""
        return self.reader == "lanes" or (self.reader == "auto" and self.intervention.kind == "tbtt")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["model"] = None if self.model is None else self.model.to_dict()
        plain["intervention"] = self.intervention.to_dict()
        plain["betas"], plain["tasks"] = list(self.betas), list(self.tasks)
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`. Raises InputError for a key that is unknown, with near matches, or missing."""
        check_settings(data, cls, expected="a known setting of a training run")
        values = dict(data)
        if isinstance(values.get("model"), dict):
            values["model"] = ModelConfig.from_dict(values["model"])
        if isinstance(values.get("intervention"), dict):
            values["intervention"] = InterventionConfig.from_dict(values["intervention"])
        for name in ("betas", "tasks"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)


def _wrong(name: str, value: object, expected: str) -> InputError:
    return InputError(expected=f"{name}: {expected}", got=repr(value), where="TrainConfig", fix=f"change {name}")
