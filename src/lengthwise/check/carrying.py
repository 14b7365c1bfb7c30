"""What is carried from call to call: pieces against the whole, new texts, gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from lengthwise.check.case import Case, Check, has_cache, judged, told, worst_of
from lengthwise.check.causes import cause
from lengthwise.check.findings import Finding
from lengthwise.engines import probe
from lengthwise.engines.hf import HFModel
from lengthwise.engines.probe import compare, logits_of, read
from lengthwise.seeds import generator
from lengthwise.shapes import Tensor

GRADIENT_FLOOR = 1e-4
"""Relative error of gradients that always passes: sums over the whole text in float32, in another order."""
VISIBLE = 10.0
"""A change counts as seen when it moves logits by this many times the tolerance."""


def in_pieces(name: str, cut: Callable[[int], list[int]]) -> Check:
    """The property that reading in these pieces changes nothing."""

    def check(case: Case) -> list[Finding]:
        pieces = cut(case.length)
        found = _in_pieces(name, case, case.model, pieces)
        if (plain := case.own_positions) is None:
            return [found]
        own = _in_pieces(name, case, plain, pieces)
        if own.status == found.status:
            return [found]
        return [replace(found, positions="given"), replace(own, positions="own")]

    return check


def _in_pieces(name: str, case: Case, model: Any, pieces: list[int]) -> Finding:
    try:
        found = compare(read(model, case.tokens, pieces)[0], case.whole, case.yardstick)
    except Exception as error:
        return Finding(
            name=name,
            status="error" if has_cache(case.model) else "not supported",
            note=_about_error(case, model, pieces, error),
        )
    note = "" if found.passes else cause(case, model, pieces, found.first)
    return judged(name, found, case, note)


def _about_error(case: Case, model: Any, pieces: list[int], error: Exception) -> str:
    """The exception, and whether it comes with more than one row only."""
    if not has_cache(case.model):
        return "the model takes no cache"
    try:
        alone = compare(read(model, case.tokens[:1], pieces)[0], case.whole[:1], case.yardstick)
    except Exception:
        return told(error)
    row = "it is right" if alone.passes else f"it runs, and is wrong by {alone.difference:.2g}"
    return f"{told(error)} (with one row {row})"


def carried(case: Case) -> list[Finding]:
    half = case.length // 2
    follow = case.tokens[:, half:]
    if not has_cache(case.model):
        return [Finding(name="carried", status="not supported", note="the model takes no cache")]
    other = case.tokens[:, :half].roll(1, dims=0)  # each row after the text of another row
    mine = logits_of(case.model, case.model(follow, case.model(case.tokens[:, :half]).state).logits)
    theirs = logits_of(case.model, case.model(follow, case.model(other).state).logits)
    apart = compare(mine, theirs, case.yardstick)
    seen = apart.error > VISIBLE * case.yardstick.tolerance
    if not seen:
        whole = logits_of(case.model, case.model(torch.cat([other, follow], dim=1)).logits)[:, half:]
        same = logits_of(case.model, case.model(case.tokens).logits)[:, half:]
        if compare(same, whole, case.yardstick).error <= VISIBLE * case.yardstick.tolerance:
            note = "with these weights the past hardly moves logits, not even in one pass: nothing can be seen"
            return [Finding(name="carried", status="not supported", tolerance=case.yardstick.tolerance, note=note)]
    return [
        Finding(
            name="carried",
            status="pass" if seen else "fail",
            tolerance=case.yardstick.tolerance,
            note=f"another first text moves logits by {apart.difference:.2g}"
            if seen
            else "another first text changes nothing: the model restarts at zero",
        )
    ]


def fresh_start(case: Case) -> list[Finding]:
    """With new caches and the model's attributes as an earlier text left them, as `generate` does it."""
    model = case.model
    if not isinstance(model, HFModel) or not model.held_names:
        return []
    from transformers import DynamicCache

    half = case.length // 2
    findings = []
    for follow in (case.tokens[:, half:], case.tokens[:, half : half + 1]):
        expected = read(model, follow)[0]
        model.model(case.tokens[:, :half], past_key_values=DynamicCache(config=model.config), use_cache=True)
        output = model.model(follow, past_key_values=DynamicCache(config=model.config), use_cache=True)
        findings.append(compare(output.logits, expected, case.yardstick))
    found = worst_of(findings)
    where = ", ".join(sorted({name.split(".")[-1] for name in model.held_names}))
    note = f"state is kept in attributes of modules ({where})"
    if not found.passes and findings[0].passes:
        note += "; a text that begins with a one-token call reads what the text before it left there"
    return [judged("fresh-start", found, case, note)]


def gradients(case: Case) -> list[Finding]:
    """Gradient of a weighted sum of the second half's logits with respect to every parameter."""

    def refused(note: str) -> list[Finding]:
        return [Finding(name="gradients", status="not supported", note=note)]

    parameters = [p for p in case.model.parameters() if p.requires_grad]
    if sum(p.numel() for p in parameters) > probe.EXACT_PARAMETERS:
        return refused("not checked: the model is too large for two copies of its gradient")
    if not has_cache(case.model):
        return refused("the model takes no cache")
    half = case.length // 2
    weight = torch.randn(case.whole[:, half:].shape, generator=generator(case.seed, "check-gradients"))
    weight = weight.to(case.whole.device)

    def gradient(model: Any, through: str) -> Tensor:
        with torch.enable_grad():
            if through == "whole":
                logits = _without_cache(model, case.tokens)[:, half:]
            else:
                state = model(case.tokens[:, :half]).state
                state = state.detach() if through == "detached" else state
                logits = logits_of(model, model(case.tokens[:, half:], state).logits)
            loss = (logits * weight.to(logits.dtype)).mean()
            wanted = [p for p in model.parameters() if p.requires_grad]
            found = torch.autograd.grad(loss, wanted, allow_unused=True)
        return torch.cat(
            [
                torch.zeros_like(p).flatten().double() if g is None else g.flatten().double()
                for p, g in zip(wanted, found, strict=True)
            ]
        )

    expected = gradient(case.model, "whole")
    try:
        actual = gradient(case.model, "state")
    except Exception as error:
        return refused(told(error))
    size = float(expected.norm())
    exact = probe.in_float64(case.model)
    rounding = 0.0
    if exact is not None:
        try:
            rounding = float((gradient(exact, "whole") - expected).norm()) / size
        except Exception:  # float64 is a yardstick, not a condition
            rounding = case.yardstick.rounding
    tolerance = max(GRADIENT_FLOOR, probe.ROUNDING_FACTOR * rounding)
    difference = float((actual - expected).norm())
    if torch.equal(actual, gradient(case.model, "detached")) and difference / size > tolerance:
        return refused("the state is cut from the graph: no gradient reaches the first call")
    passes = difference / size <= tolerance
    return [
        Finding(
            name="gradients",
            status="pass" if passes else "fail",
            difference=difference,
            error=difference / size,
            tolerance=tolerance,
        )
    ]


def _without_cache(model: Any, tokens: Tensor) -> Tensor:
    """Logits in a call that keeps no cache: what a user trains with."""
    return model.without_cache(tokens) if isinstance(model, HFModel) else logits_of(model, model(tokens).logits)
