"""What one pass over a text must hold, with no state between calls."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import torch

from lengthwise.check.case import Case, has_cache, judged, worst_of
from lengthwise.check.findings import Finding
from lengthwise.engines.hf import HFModel
from lengthwise.engines.probe import CEILINGS, compare, logits_of, read
from lengthwise.models.lm import LanguageModel

_RANDOM = re.compile(r"(dropout|pdrop|drop_rate|layerdrop|jitter)", re.IGNORECASE)


def packed(case: Case) -> list[Finding]:
    if not isinstance(case.model, LanguageModel):
        return [Finding(name="packed", status="not supported", note="no argument says where a document begins")]
    borders = [0, case.length // 3, case.length // 3 + 1, case.length // 2, case.length]
    resets = torch.zeros_like(case.tokens, dtype=torch.bool)
    resets[:, borders[1:-1]] = True
    together = logits_of(case.model, case.model(case.tokens, resets=resets).logits)
    apart = torch.cat([read(case.model, case.tokens[:, a:b])[0] for a, b in pairwise(borders)], dim=1)
    return [judged("packed", compare(together, apart, case.yardstick), case)]


def causality(case: Case) -> list[Finding]:
    place = case.length // 2
    changed = case.tokens.clone()
    changed[:, place] = changed[:, (place + 1) % case.length].where(
        changed[:, (place + 1) % case.length] != changed[:, place], changed[:, 0]
    )
    logits = read(case.model, changed)[0]
    found = compare(logits[:, :place], case.whole[:, :place], case.yardstick)
    return [judged("causality", found, case, f"the token at position {place} was changed")]


def prefix(case: Case) -> list[Finding]:
    found = []
    for length in (2, case.length // 3, case.length // 2 + 1):
        short = read(case.model, case.tokens[:, :length])[0]
        found.append(compare(short, case.whole[:, :length], case.yardstick))
    return [judged("prefix", worst_of(found), case)]


def rows(case: Case) -> list[Finding]:
    alone = torch.cat([read(case.model, case.tokens[row : row + 1])[0] for row in range(len(case.tokens))])
    return [judged("rows", compare(alone, case.whole, case.yardstick), case)]


def repeat(case: Case) -> list[Finding]:
    read(case.model, case.tokens.flip(1))  # another text in between
    again = read(case.model, case.tokens)[0]
    note = "" if torch.equal(again, case.whole) else "not to the bit"
    return [judged("repeat", compare(again, case.whole, case.yardstick), case, note)]


def train_mode(case: Case) -> list[Finding]:
    if chance := _chance(case.model):
        note = f"not checked: {chance} makes training random"
        return [Finding(name="train-mode", status="not supported", note=note)]
    pieces = [case.length // 2, case.length - case.length // 2]
    with_state = has_cache(case.model)
    before = read(case.model, case.tokens, pieces)[0] if with_state else None
    try:
        case.model.train(True)
        whole = compare(read(case.model, case.tokens)[0], case.whole, case.yardstick)
        found = [whole]
        if before is not None:
            found.append(compare(read(case.model, case.tokens, pieces)[0], before, case.yardstick))
    finally:
        case.model.train(False)
    return [judged("train-mode", worst_of(found), case)]


def _chance(model: Any) -> str | None:
    """What makes training random, by the model's settings; None where nothing does."""
    config = model.config.to_dict()
    for settings in (config, *(each for each in config.values() if isinstance(each, dict))):
        for name, value in settings.items():
            if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if _RANDOM.search(name) and value > 0:
                return f"{name}={value}"
    module = model.model if isinstance(model, HFModel) else model
    modules = module.modules() if isinstance(module, torch.nn.Module) else ()
    return next((f"dropout of {m.p}" for m in modules if isinstance(m, torch.nn.Dropout) and m.p > 0), None)


def rounding(case: Case) -> list[Finding]:
    """What rounding does to one pass, which is the yardstick of all others."""
    yardstick = case.yardstick
    large = yardstick.rounding > yardstick.tolerance
    note = "; that is more than rounding explains, so no property can be trusted" if large else ""
    return [
        Finding(
            name="rounding",
            status="fail" if large else "pass",
            difference=yardstick.rounding * yardstick.spread,
            error=yardstick.rounding,
            tolerance=CEILINGS.get(next(iter(case.model.parameters())).dtype, 0.02),
            note=yardstick.how + note,
        )
    ]
