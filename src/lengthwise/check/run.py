"""A whole check: open the model, try every property, say what it means, and write down how to see the worst fault."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lengthwise import __version__
from lengthwise.check.bug_report import bug_report
from lengthwise.check.case import Case, make_case, told
from lengthwise.check.config import CheckConfig
from lengthwise.check.findings import Finding, trust, worst
from lengthwise.check.properties import run_all
from lengthwise.check.script import Origin, make_script
from lengthwise.devices import choose_device
from lengthwise.engines import opening, tiny
from lengthwise.engines.base import evaluating
from lengthwise.engines.hf import HFModel
from lengthwise.engines.probe import EXACT_PARAMETERS
from lengthwise.errors import InputError, RunFailure
from lengthwise.runs import RunFolder, atomic_write_bytes, check_new_folder

FORMAT_VERSION = 1
SCRIPT, REPORT = "fault.py", "bug_report.md"
"""Names in the run folder."""
Progress = Callable[[str], None]
"""Told the name of each property as it begins."""


@dataclass(frozen=True)
class Subject:
    """A model to check, and how it came about."""

    model: Any
    """`LanguageModel` or `HFModel`."""
    small: tiny.Tiny | None = None
    """The small random model of transformers, where it is one."""
    config: Any = None
    """The transformers configuration that was given."""

    @property
    def name(self) -> str:
        """Class of the model."""
        return self.model.name if isinstance(self.model, HFModel) else type(self.model).__name__


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    record: dict[str, Any]
    """Content of `results.json`: plain values."""
    findings: tuple[Finding, ...]
    script: str | None
    """Python that shows the worst fault; None where there is none, or where it cannot be shown outside."""
    report: str | None
    """Markdown for the maintainers of the model; None where nothing is wrong."""

    @property
    def passed(self) -> bool:
        """Whether no property fails."""
        return not any(finding.bad for finding in self.findings)


def check(
    config: CheckConfig, out: str | Path | None = None, *, progress: Progress | None = None, script: bool = True
) -> CheckResult:
    """Check whether a model carries its state rightly.

    Args:
        config: which model, and how.
        out: run folder to write, of kind "check"; None for none.
        progress: told of each property as it begins.
        script: make the script that shows the worst fault.

    Raises:
        InputError: where the model is not there or cannot be run at all, or the folder is in use.
    """
    if out is not None:
        check_new_folder(Path(out))
    result = _checked(config, progress, script)
    if out is not None:
        # Written when all is done, in one go: a check takes seconds and never goes on from half of it.
        run = RunFolder.create(out, "check", config.to_dict())
        run.write_json("results.json", result.record)
        for name, text in ((SCRIPT, result.script), (REPORT, result.report)):
            if text is not None:
                atomic_write_bytes(run.path / name, text.encode())
        run.finish()
    return result


def _checked(config: CheckConfig, progress: Progress | None, script: bool) -> CheckResult:
    subject = open_subject(config)
    foreign = isinstance(subject.model, HFModel)
    with opening.quiet() if foreign else nullcontext(), evaluating(subject.model), torch.no_grad():
        case = _case(subject, config)
        findings = []
        for finding in run_all(case):
            findings.append(finding)
            if progress is not None:
                progress(finding.name)
        fault = worst(findings)
        text = None
        if script and fault is not None and foreign:
            if progress is not None:
                progress("script")
            text = _script(fault, subject, case, config)
    record = _record(config, subject, case, findings)
    report = None if fault is None else bug_report(record, fault, text)
    return CheckResult(record, tuple(findings), text, report)


def open_subject(config: CheckConfig) -> Subject:
    """The model that a check is of.

    Raises:
        InputError: where it is not there, or no small model can be made of its configuration.
    """
    device, dtype = choose_device(config.device), getattr(torch, config.dtype)
    if config.config_only:
        ours = None if config.engine == "transformers" else opening.config_of_ours(config.model)
        if ours is not None:
            return Subject(tiny.tiny_ours(ours, seed=config.seed).to(device, dtype))
        if config.engine == "lengthwise":
            raise InputError(
                expected="a preset, a shipped model or a folder in a format of ours",
                got=f"'{config.model}', which is none of these",
                where="MODEL",
                fix="leave --engine out, or see `lengthwise models`",
            )
        given = opening.load_config(config.model, trust_remote_code=config.trust_remote_code)
        with opening.quiet():
            small = tiny.tiny_model(given, seed=config.seed)
            return Subject(HFModel(small.model.to(device, dtype)), small, given)
    model = opening.load(config.model, engine=config.engine, dtype=dtype, trust_remote_code=config.trust_remote_code)
    return Subject(model.to(device), None, model.config if isinstance(model, HFModel) else None)


def _case(subject: Subject, config: CheckConfig) -> Case:
    """The probe; a model that cannot read it at once cannot be checked."""
    try:
        case = make_case(subject.model, length=config.length, seed=config.seed)
    except Exception as error:  # of a model that is not ours; it may be anything
        raise RunFailure(
            expected=f"logits of {config.length} tokens read at once, to compare everything else with",
            got=told(error),
            where=subject.name,
            fix="report this to the maintainers of the model; with LENGTHWISE_DEBUG=1 the full trace is shown",
        ) from error
    if not torch.isfinite(case.whole).all() or case.yardstick.spread == 0.0:
        raise RunFailure(
            expected="finite logits that differ from token to token",
            got=f"logits with a spread of {case.yardstick.spread}",
            where=subject.name,
            fix="check the weights, or check a small random model of the class with --config-only",
        )
    return case


def _script(fault: Finding, subject: Subject, case: Case, config: CheckConfig) -> str | None:
    """The script for the worst fault: of a small random model where that shows it, else of the weights.

    A script is run before it is given, so weights that are too large to be held twice are left alone.
    """
    assert isinstance(subject.model, HFModel)
    tolerance = case.yardstick.tolerance if fault.name != "gradients" else (fault.tolerance or 0.0)
    scale = 1.0 if fault.name == "gradients" else case.yardstick.spread
    small = subject.small
    if small is None and subject.config is not None:
        try:
            small = tiny.tiny_model(subject.config, seed=config.seed)
        except InputError:  # then the weights are loaded
            small = None
    again = subject.small is None and sum(p.numel() for p in subject.model.parameters()) <= EXACT_PARAMETERS
    for chosen in (small, None) if again else (small,):
        if chosen is None and not again:
            continue
        origin = Origin(config.model, chosen, config.trust_remote_code, config.dtype)
        text = make_script(fault, subject.model, origin, length=config.length, tolerance=scale * tolerance)
        if text is not None:
            return text
    return None


def _record(config: CheckConfig, subject: Subject, case: Case, findings: list[Finding]) -> dict[str, Any]:
    fault = worst(findings)
    return {
        "format_version": FORMAT_VERSION,
        "model": config.model,
        "class": subject.name,
        "model_type": getattr(getattr(subject.model, "config", None), "model_type", None),
        "engine": "transformers" if isinstance(subject.model, HFModel) else "lengthwise",
        "weights": "random, of a small model of the same class" if config.config_only else "as loaded",
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "versions": versions(),
        "dtype": config.dtype,
        "length": config.length,
        "seed": config.seed,
        "spread": case.yardstick.spread,
        "rounding": case.yardstick.rounding,
        "rounding_from": case.yardstick.how,
        "tolerance": case.yardstick.tolerance,
        "passed": fault is None,
        "worst": None if fault is None else fault.name,
        "findings": [finding.to_dict() for finding in findings],
        "trust": trust(findings),
        "limits": [
            f"The probe of {config.length} tokens does not slide the model's window ({window}): give a larger "
            "--length, or --config-only, which cuts windows."
            for window in opening.windows_beyond(subject.model.config, config.length)
        ]
        if isinstance(subject.model, HFModel)
        else [],
    }


def versions() -> dict[str, str]:
    """Versions that a fault may depend on."""
    found = {"lengthwise": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in ("transformers", "flash-linear-attention", "mamba-ssm", "causal-conv1d"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
