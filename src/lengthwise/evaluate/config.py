"""What defines an evaluation, as data. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from lengthwise.errors import InputError, check_settings
from lengthwise.settings import check_types

EngineName = Literal["auto", "native", "transformers", "server"]
Wording = Literal["own", "official"]
ServerApi = Literal["completions", "chat"]
Dtype = Literal["float32", "bfloat16"]
LENGTHS = (1024, 2048, 4096)
"""Lengths evaluated where none is given, in tokens."""
BLOCK = 64
"""Samples that are answered together: what they share is read once, and a killed run answers such a block again as a
whole, so that batches, and with them the last bits of every number, are those of a run that was not killed."""


_LISTS = ("tasks", "lengths", "books")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """One evaluation of one model.

    Raises InputError for values out of range.
    """

    model: str
    """Checkpoint: a folder, a hub id or the name of a shipped model; for a server the name it knows the model by."""
    tasks: tuple[str, ...] = ("ruler",)
    """Names of tasks and of groups of tasks."""
    lengths: tuple[int, ...] = LENGTHS
    """Lengths in tokens: prompt and generation budget together."""
    num_samples: int = 100
    """Samples of each task at each length."""
    seed: int = 0
    """Root of every sample."""
    engine: EngineName = "auto"
    """native: our own models; transformers: any causal model it can load; server: an OpenAI-compatible one."""
    label: str | None = None
    """How reports call this run; None: the model."""
    tokenizer: str | None = None
    """Tokenizer that lengths are counted with: `bytes` or a path. None: the model's own."""
    scorer: str | None = None
    """Rule of scoring where a task knows several. None: each task's default."""
    wording: Wording = "own"
    """own: what ships with the package; official: the benchmark's own, from the user's copy of its sources."""
    ruler_source: str | None = None
    """Folder of a RULER checkout; for the official wording."""
    babilong_source: str | None = None
    """Folder of a BABILong checkout; for the official wording."""
    model_template: str = "base"
    """Template of RULER's that goes around prompts of the official wording; base: none."""
    books: tuple[str, ...] = ()
    """Files and folders with the text around BABILong's facts. Empty: text of the Python installation."""
    data_dir: str | None = None
    """Folder of essays, questions and stories. None: the package's data folder."""
    batch_size: int = 8
    """Prompts that are answered side by side. Speed and memory only."""
    chunk: int = 1024
    """Most tokens of a prompt per forward pass. Speed and memory only."""
    reuse_prefixes: bool = True
    """Read once what prompts have in common. Speed only."""
    server_url: str | None = None
    """Address of the server, for instance http://localhost:8000/v1."""
    server_api: ServerApi = "completions"
    """completions continues the prompt; chat sends it as a user's message through the server's template."""
    server_timeout: float = 600.0
    """Seconds that a request may take."""
    server_retries: int = 4
    """Times that a request which failed for a passing reason is sent again."""
    context_length: int | None = None
    """Most tokens the model takes, where it does not say or says wrong."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    dtype: Dtype = "float32"
    """Numbers the weights are held in."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_samples", "batch_size", "chunk"):
            value = getattr(self, name)
            if value < 1:
                raise _wrong(name, value, "a whole number of at least 1")
        if not self.tasks:
            raise _wrong("tasks", (), "at least one task")
        if not self.lengths or any(length < 1 for length in self.lengths):
            raise _wrong("lengths", self.lengths, "at least one length, each at least 1")
        if len(set(self.lengths)) != len(self.lengths):
            raise _wrong("lengths", self.lengths, "each length once")
        if self.context_length is not None and self.context_length < 1:
            raise _wrong("context_length", self.context_length, "at least 1 token")
        if not self.server_timeout > 0 or self.server_retries < 0:
            raise _wrong(
                "server_timeout, server_retries", (self.server_timeout, self.server_retries), "positive numbers"
            )
        official = {"ruler_source": self.ruler_source, "babilong_source": self.babilong_source}
        official |= {"model_template": None if self.model_template == "base" else self.model_template}
        for name, value in official.items():
            if value is not None and self.wording == "own":
                raise InputError(
                    expected=f"{name} together with the official wording",
                    got=f"{value!r} with our own",
                    where=f"EvalConfig.{name}",
                    fix="add --wording official, or leave it out",
                )
        if (self.engine == "server") != (self.server_url is not None):
            raise InputError(
                expected="an address together with the engine server, and with no other",
                got=f"engine {self.engine}, server_url {self.server_url!r}",
                where="EvalConfig",
                fix="give --engine server --server-url http://host:port/v1",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {name: list(plain[name]) for name in _LISTS}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EvalConfig:
        """The inverse of `to_dict`. Raises InputError for a key that is unknown, with near matches, or missing."""
        check_settings(data, cls, expected="a known setting of an evaluation")
        values = dict(data)
        for name in _LISTS:
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)


def _wrong(name: str, value: Any, expected: str) -> InputError:
    return InputError(expected=expected, got=repr(value), where=f"EvalConfig.{name}", fix=f"change {name}")
