"""Why pieces differ from the whole, as far as it can be shown by changing one thing and looking again."""

from __future__ import annotations

from typing import Any

import torch

from lengthwise.check.case import Case
from lengthwise.engines.hf import HFModel
from lengthwise.engines.probe import compare, logits_of, read
from lengthwise.engines.tiny import windows_of
from lengthwise.shapes import Int, Tensor


def cause(case: Case, model: Any, pieces: list[int], place: int | None) -> str:
    """What can be proven about why pieces differ from the whole, by changing one thing and looking again.

    Args:
        case: the probe.
        model: of the case, or the same with position ids left to it.
        pieces: how the text was cut.
        place: first position with a difference.
    """
    first = next((n for n in pieces if n > 1), case.length // 2)
    follow = case.tokens[:, first : first + max(2, min(8, case.length - first))]
    before = model(case.tokens[:, :first]).state
    after = logits_of(model, model(follow, before).logits)
    scratch = logits_of(model, model(follow).logits)
    if compare(after, scratch, case.yardstick).passes:
        return "the second call gives exactly what it gives without any past: it restarts at zero"
    if isinstance(model, HFModel) and model.positions == "own":
        restarted = HFModel(model.model, positions="restart")
        found, same = read(model, case.tokens, pieces)[0], read(restarted, case.tokens, pieces)[0]
        if compare(found, same, case.yardstick).passes:
            return "position ids that are not given begin at 0 again on every call, whatever the cache holds"
    notes = []
    for kind, calls in unread_kinds(model, before, follow).items():
        what = {"recurrent": "the recurrent state", "short": "the state of the short convolution"}.get(kind, kind)
        notes.append(f"{what} that is carried is not read by calls of {calls}: changing it changes nothing")
    if not notes and place is not None and set(pieces) == {1}:
        # Keys fall out of a window a little after it is full where the model chooses which.
        near = [f"{name} = {size}" for name, size in windows_of(model.config).items() if size <= place <= 1.25 * size]
        notes += [
            f"the first difference is where {window} is reached: the whole text and the cache hold to it in different "
            "ways"
            for window in near
        ]
    expected = case.whole[:, first : first + follow.shape[1]]
    if not notes and compare(after, expected, case.yardstick).passes:
        ones = read(model, follow, [1] * follow.shape[1], before)[0]
        if not compare(ones, expected, case.yardstick).passes:
            notes.append("calls of several tokens continue rightly; calls of one token compute something else")
            notes += _step_size(case, model, pieces)
    return "; ".join(notes)


def _step_size(case: Case, model: Any, pieces: list[int]) -> list[str]:
    """Whether the difference is a limit on the step size that one of the two paths leaves out: lift it and look."""
    module = model.model if isinstance(model, HFModel) else model
    limited: list[Any] = [
        part
        for part in (module.modules() if isinstance(module, torch.nn.Module) else ())
        if isinstance(limit := getattr(part, "time_step_limit", None), tuple)
        and len(limit) == 2
        and (limit[0] > 0 or limit[1] < float("inf"))
    ]
    if not limited:
        return []
    limits = [part.time_step_limit for part in limited]
    state, next_token = model(case.tokens[:, :2]).state, case.tokens[:, 2:3]
    step = logits_of(model, model(next_token, state).logits)
    try:
        for part in limited:
            part.time_step_limit = (0.0, float("inf"))
        lifted = compare(read(model, case.tokens, pieces)[0], read(model, case.tokens)[0], case.yardstick)
        again = logits_of(model, model(next_token, state).logits)
    finally:
        for part, limit in zip(limited, limits, strict=True):
            part.time_step_limit = limit
    if not lifted.passes:
        return []
    ignored = compare(again, step, case.yardstick).passes
    return [
        f"the two agree once time_step_limit = {limits[0]} of the mixers is lifted"
        + (": calls of one token do not hold the step size to it, the others do" if ignored else "")
    ]


def unread_kinds(model: Any, state: Any, follow: Int[Tensor, "B T"]) -> dict[str, str]:
    """Kinds of state that a following call does not look at, with the calls that do not."""
    found = {}
    for kind in ("recurrent", "short", "attention"):
        if not state.named_tensors(kind):
            continue
        # One added everywhere: any use of it would show.
        other = state.map(kind, lambda tensor: tensor + 1.0)
        blind = []
        for tokens, calls in ((follow, "several tokens"), (follow[:, :1], "one token")):
            before = logits_of(model, model(tokens, state).logits)
            if torch.equal(before, logits_of(model, model(tokens, other).logits)):
                blind.append(calls)
        if blind:
            found[kind] = " and of ".join(blind)
    return found
