"""Make a model generalize: post-train it with an intervention, beside a control, and measure before and after.

The control takes the same number of steps from the same weights on the same windows with the same seed, but starts
every window from the zero state. What the intervention gains over the control comes from the states; what the control
gains over the start comes from the data.

A run folder of kind "extend":

    before/  control/  after/               measurements of the three models on the same sequences
    train-control/  train-intervention/     the two training runs
    checkpoint/                             the extended model, in the format it came in
    comparison.json                         verdicts side by side

Every part is a run of its own that resumes: a second call with `resume` repeats at most one checkpoint interval.
This file imports torch only inside functions, so that command lines can read `ExtendConfig` while printing help.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lengthwise.errors import InputError, check_settings
from lengthwise.interventions.config import InterventionConfig
from lengthwise.measure.config import MeasureConfig
from lengthwise.runs import RunFolder
from lengthwise.settings import check_types
from lengthwise.train.config import TrainConfig

if TYPE_CHECKING:
    from lengthwise.checkpoints import Checkpoint

COMPARISON_VERSION = 1
DEFAULT_PEAK_LR = 1e-4
"""Used where the checkpoint does not say with which learning rate it was pre-trained."""
_LR_SHARE = 0.1
_DEFAULT_BATCH_SIZE = 32
# Settings of a measurement that follow from the extension itself and cannot be set apart.
_SHARED = ("model", "engine", "label", "data", "tokenizer", "context_length", "seed", "device")


@dataclass(frozen=True, kw_only=True)
class ExtendConfig:
    """One extension: which model, with what, for how long, measured how.

    Raises InputError for values out of range, for the zero intervention (it is the control), and for measurement
    settings that are unknown or shared with the training.
    """

    model: str
    """Checkpoint: a folder or the name of a shipped model."""
    intervention: InterventionConfig = field(default_factory=lambda: InterventionConfig(kind="state-passing"))
    """What makes the model generalize; not zero, which is the control."""
    steps: int = 100
    """Optimizer steps, of the intervention and of the control."""
    data: str = "python"
    """Corpus source: trained on its training side, measured on its validation side."""
    tokenizer: str | None = None
    """`bytes` or the path of a tokenizer.json. None: the checkpoint's own."""
    context_length: int | None = None
    """Tokens of a training window. None: the checkpoint's own training context."""
    batch_size: int | None = None
    """Sequences per step. None: as in pre-training where the checkpoint says so, else 32."""
    peak_lr: float | None = None
    """None: a tenth of the pre-training peak where the checkpoint says so (arXiv 2507.02782, B.2), else 1e-4."""
    min_lr: float | None = None
    """Learning rate of the last step. None: 1e-5, or the peak where that is lower."""
    warmup_frac: float = 0.1
    """Share of the steps with a rising learning rate."""
    weight_decay: float = 0.01
    """Decoupled decay of matrices."""
    grad_accum: int = 1
    """Micro-batches per step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast while training."""
    seed: int = 0
    """Root of every random draw, of training and measuring."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    checkpoint_every: int = 50
    """Steps between training checkpoints."""
    log_every: int = 5
    """Steps between lines of the training runs' metrics.jsonl."""
    measure: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the three measurements by their names in MeasureConfig, e.g. {"length": 4096}."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.intervention.kind == "zero":
            raise InputError(
                expected="an intervention other than zero, which is the control of every extension",
                got="'zero'",
                where="ExtendConfig.intervention",
                fix="choose state-passing, tbtt, fitted-noise or random-noise",
            )
        for key in self.measure:
            if key in _SHARED:
                raise InputError(
                    expected="settings of the measurement alone",
                    got=f"'{key}'",
                    where="ExtendConfig.measure",
                    fix=f"set {key} for the whole extension" if key != "label" else "leave it out",
                )
        # Training and measuring check their own values; a batch of one row each stands for what only the checkpoint
        # tells.
        self._train_config("zero", batch_size=self.grad_accum if self.batch_size is None else self.batch_size)
        self.measure_config(self.model, None)

    def resolved(self, checkpoint: Checkpoint) -> ExtendConfig:
        """The same extension with everything filled in that the checkpoint decides.

        Raises InputError where neither the config nor the checkpoint tells the context length.
        """
        context_length = checkpoint.context_length if self.context_length is None else self.context_length
        if context_length is None:
            raise InputError(
                expected="a checkpoint that names its training context",
                got="none",
                where=self.model,
                fix="give --context-length, the number of tokens that the model was trained on at a time",
            )
        recipe = checkpoint.extra.get("pre_training", {})
        peak = self.peak_lr
        if peak is None:
            peak = _LR_SHARE * recipe["peak_lr"] if "peak_lr" in recipe else DEFAULT_PEAK_LR
        return replace(
            self,
            context_length=context_length,
            batch_size=self.batch_size or recipe.get("batch_size") or _DEFAULT_BATCH_SIZE,
            peak_lr=peak,
            min_lr=min(1e-5, peak) if self.min_lr is None else self.min_lr,
        )

    def train_configs(self) -> tuple[TrainConfig, TrainConfig]:
        """(control, intervention) of a resolved config: they differ in the intervention alone."""
        return self._train_config("zero"), self._train_config(self.intervention.kind)

    def _train_config(self, kind: str, **placeholders: Any) -> TrainConfig:
        peak = DEFAULT_PEAK_LR if self.peak_lr is None else self.peak_lr
        values: dict[str, Any] = {
            "init_from": self.model,
            "data": self.data,
            "tokenizer": self.tokenizer,
            "context_length": self.context_length,
            "batch_size": self.batch_size,
            "steps": self.steps,
            "peak_lr": peak,
            "min_lr": min(1e-5, peak) if self.min_lr is None else self.min_lr,
            "warmup_frac": self.warmup_frac,
            "weight_decay": self.weight_decay,
            "grad_accum": self.grad_accum,
            "dtype": self.dtype,
            "intervention": InterventionConfig() if kind == "zero" else self.intervention,
            # The control reads what the intervention reads, lanes too.
            "reader": "lanes" if self.intervention.kind == "tbtt" else "windows",
            "seed": self.seed,
            "device": self.device,
            "checkpoint_every": self.checkpoint_every,
            "log_every": self.log_every,
        }
        return TrainConfig(**{**values, **placeholders})

    def measure_config(self, model: str, label: str | None) -> MeasureConfig:
        """The measurement of one of the three models."""
        return MeasureConfig.from_dict(
            {
                **self.measure,
                "model": model,
                "label": label,
                "data": self.data,
                "tokenizer": self.tokenizer,
                "context_length": self.context_length,
                "seed": self.seed,
                "device": self.device,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        measure = {name: list(v) if isinstance(v, tuple) else v for name, v in sorted(self.measure.items())}
        return {**plain, "intervention": self.intervention.to_dict(), "measure": measure}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExtendConfig:
        """The inverse of `to_dict`. Raises InputError for a key that is unknown, with near matches, or missing."""
        check_settings(data, cls, expected="a known setting of an extension")
        values = dict(data)
        if isinstance(values.get("intervention"), dict):
            values["intervention"] = InterventionConfig.from_dict(values["intervention"])
        return cls(**values)


def extend(
    config: ExtendConfig,
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    kind: Literal["extend", "demo"] = "extend",
) -> dict[str, Any]:
    """Measure a model, post-train it with an intervention and with the control, measure both, and compare.

    Args:
        config: the extension. A folder of another one is refused.
        out: run folder; new or empty, or holding this run when `resume` is set.
        resume: go on where an interrupted run stopped; finished parts are reused. A complete run is returned as it is.
        progress: show what is being done on stderr.
        kind: what the manifest calls the run.

    Returns:
        The content of comparison.json: "before", "control" and "after" with their verdicts, and how it was trained.

    Raises:
        InputError: model, corpus, lengths or folder do not fit.
        RunFailure: a loss is not finite, or the device is full; what was finished is kept.
        KeyboardInterrupt: after Ctrl-C; the message says how to go on.
    """
    from lengthwise.checkpoints import load_checkpoint
    from lengthwise.devices import choose_device
    from lengthwise.native import resolve_backend

    out = Path(out)
    checkpoint = load_checkpoint(config.model)
    config = config.resolved(checkpoint)
    if resume and (comparison := _finished(config, out, kind)) is not None:
        if progress:
            print(f"{out} is complete already: nothing is trained or measured again", file=sys.stderr, flush=True)
        return comparison
    resolve_backend("auto", choose_device(config.device))  # refuses a wrong one before there is a folder
    run = RunFolder.create(out, kind, config.to_dict(), resume=resume)
    with run.noting_failure():
        comparison = _extend(config, run, checkpoint, progress)
    run.finish()
    return comparison


def _finished(config: ExtendConfig, out: Path, kind: str) -> dict[str, Any] | None:
    """The comparison of this very run where it is complete and all of its results are there, None otherwise."""
    run = RunFolder.complete(out, kind, config.to_dict())
    needed = ("checkpoint/config.json", *(f"{part}/summary.json" for part in ("before", "control", "after")))
    if run is None or not all((out / name).exists() for name in needed):
        return None
    comparison: dict[str, Any] | None = run.read_json("comparison.json")
    return comparison


def _name_inside(part: Path, model: str) -> str:
    """What the measurement in `part` calls a model of the run it belongs to: the absolute path.

    A measurement that has begun keeps the name it began with: the whole run may have been moved since.

    Args:
        part: folder of the measurement, in the run's.
        model: path of the model in the run's folder.
    """
    inside = Path(model).parts
    if (part / "manifest.json").exists():
        before = RunFolder.open(part).manifest["config"].get("model")
        if isinstance(before, str) and Path(before).parts[-len(inside) :] == inside:
            return before
    return str((part.parent / model).resolve())


def _extend(config: ExtendConfig, run: RunFolder, checkpoint: Checkpoint, progress: bool) -> dict[str, Any]:
    from lengthwise.checkpoints import load_checkpoint, replace_checkpoint
    from lengthwise.measure.inputs import sample
    from lengthwise.measure.run import measure
    from lengthwise.train.loop import train

    def say(number: int, what: str) -> None:
        if progress:
            print(f"[{number}/5] {what}", file=sys.stderr, flush=True)

    # One set of sequences for all three: a difference between them can only come from the weights.
    first = config.measure_config(config.model, "before")
    text = sample(first.resolved(config.context_length), checkpoint, progress=progress)
    run.update_manifest(num_undecodable_files=text.num_undecodable_files)

    def measured(name: str, model: str, loaded: Checkpoint) -> dict[str, Any]:
        settings = config.measure_config(model, name)
        return measure(settings, run.path / name, checkpoint=loaded, sequences=text, resume=True, progress=progress)

    control_config, intervention_config = config.train_configs()
    kind = config.intervention.kind
    say(1, f"measuring {config.model} as it is")
    summaries = {"before": measured("before", config.model, checkpoint)}
    done = "there already: the training"

    def is_done(part: str, settings: TrainConfig) -> bool:
        return RunFolder.complete(run.path / part, "train", settings.to_dict()) is not None

    there = is_done("train-intervention", intervention_config)
    say(2, f"{done if there else 'training'} with {kind}, {config.steps} steps")
    extended = train(intervention_config, run.path / "train-intervention", resume=True, progress=progress)
    replace_checkpoint(run.path / "checkpoint", load_checkpoint(extended.checkpoint_path))
    there = is_done("train-control", control_config)
    say(3, f"{done + ' of' if there else 'training'} the control: zero states, the same {config.steps} steps")
    control = train(control_config, run.path / "train-control", resume=True, progress=progress)
    for number, name, path in ((4, "control", control.checkpoint_path), (5, "after", run.path / "checkpoint")):
        say(number, f"measuring {'the control' if name == 'control' else 'the extended model'}")
        inside = str(path.relative_to(run.path))
        summaries[name] = measured(name, _name_inside(run.path / name, inside), load_checkpoint(path))
    comparison = {
        "format_version": COMPARISON_VERSION,
        "model": config.model,
        "intervention": kind,
        "steps": config.steps,
        "tokens": config.steps * intervention_config.batch_size * (config.context_length or 0),
        "peak_lr": config.peak_lr,
        "context_length": config.context_length,
        "length": summaries["before"]["length"],
        "num_sequences": summaries["before"]["num_sequences"],
        "checkpoint": "checkpoint",
        **{name: digest(summary) for name, summary in summaries.items()},
    }
    run.write_json("comparison.json", comparison)
    return comparison


def digest(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a comparison shows of one measurement: the verdicts without their tables, and the mean losses.

    Args:
        summary: content of a measurement's summary.json.
    """
    verdicts = summary["verdicts"]

    def without(table: str, verdict: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return None if verdict is None else {key: value for key, value in verdict.items() if key != table}

    perplexity, remembrance = summary["perplexity"], summary["remembrance"]
    return {
        "definition": without("ratios", verdicts["definition"]),
        "restart": without("bins", verdicts["restart"]),
        "words": verdicts["words"],
        "perplexity": None if perplexity is None else perplexity["overall"],
        "remembrance_out_of_window": None if remembrance is None else remembrance["out_of_window"],
    }
