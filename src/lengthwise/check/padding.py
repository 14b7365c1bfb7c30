"""Rows of different lengths: padded on either side, and written on by generate()."""

from __future__ import annotations

import torch

from lengthwise.check.case import Case, Check, has_cache, judged, told, worst_of
from lengthwise.check.findings import Finding
from lengthwise.engines.hf import HFModel
from lengthwise.engines.probe import compare, logits_of, read
from lengthwise.ops.padding import Padding
from lengthwise.shapes import Int, Tensor

FOLLOWING = 4
"""Tokens read after a padded text, and written by generate()."""


def padding(side: Padding) -> Check:
    """Real tokens of padded rows against the rows alone, then a few tokens more from the state."""

    def check(case: Case) -> list[Finding]:
        names = (f"{side}-padding", f"after-{side}-padding")
        if isinstance(case.model, HFModel) and not case.model.takes_mask:
            return [Finding(name=name, status="not supported", note="the model takes no mask") for name in names]
        lengths = _lengths(case)
        time = case.length - FOLLOWING
        padded, follow = _padded(case, lengths, time, side), case.tokens[:, time:]
        try:
            output = case.model(padded, lengths=lengths, padding=side)
        except Exception as error:
            return [Finding(name=name, status="error", note=told(error)) for name in names]
        logits = logits_of(case.model, output.logits)
        # A row alone: its real tokens, then what follows, in the same calls.
        alone, within = [], []
        for row, n in enumerate(lengths.tolist()):
            first, state = read(case.model, case.tokens[row : row + 1, :n])
            alone.append((first, state))
            place = slice(0, n) if side == "right" else slice(time - n, time)
            within.append(compare(logits[row : row + 1, place], first, case.yardstick))
        worst = worst_of(within)
        note = "" if worst.passes else _seen_padding(case, padded, lengths, side, logits)
        found = [judged(names[0], worst, case, note)]
        if not has_cache(case.model):
            return [*found, Finding(name=names[1], status="not supported", note="the model takes no cache")]
        try:
            steps = read(case.model, follow, [1] * FOLLOWING, output.state)[0]
            then = [
                compare(
                    steps[row : row + 1],
                    read(case.model, follow[row : row + 1], [1] * FOLLOWING, alone[row][1])[0],
                    case.yardstick,
                    offset=n,
                )
                for row, n in enumerate(lengths.tolist())
            ]
        except Exception as error:
            return [*found, Finding(name=names[1], status="error", note=told(error))]
        worst = worst_of(then)
        note = "" if worst.passes else _carried_padding(case, padded, lengths, side, follow, steps)
        return [*found, judged(names[1], worst, case, note)]

    return check


def _lengths(case: Case) -> Int[Tensor, " B"]:
    """Real tokens of each row: all, two thirds, one third."""
    time, rows = case.length - FOLLOWING, len(case.tokens)
    return torch.tensor([max(2, time - time * row // rows) for row in range(rows)], device=case.tokens.device)


def _padded(case: Case, lengths: Tensor, time: int, side: Padding) -> Int[Tensor, "B T"]:
    """The first tokens of each row among padding, which is ordinary text: behind a mask it must not count."""
    padded = case.tokens[:, -time:].flip(1).clone()
    for row, n in enumerate(lengths.tolist()):
        padded[row, slice(0, n) if side == "right" else slice(time - n, time)] = case.tokens[row, :n]
    return padded


def _other_padding(padded: Tensor, lengths: Tensor, side: Padding) -> Int[Tensor, "B T"]:
    """The same rows with other tokens in the padding."""
    time = padded.shape[1]
    places = torch.arange(time, device=padded.device)[None]
    real = places < lengths[:, None] if side == "right" else places >= time - lengths[:, None]
    return torch.where(real, padded, padded.roll(1, dims=1))


def _seen_padding(case: Case, padded: Tensor, lengths: Tensor, side: Padding, logits: Tensor) -> str:
    """Whether it is what stands in the padding that shows, or only that something stands there."""
    other = _other_padding(padded, lengths, side)
    again = logits_of(case.model, case.model(other, lengths=lengths, padding=side).logits)
    time = padded.shape[1]
    moved = [
        not compare(again[row : row + 1, place], logits[row : row + 1, place], case.yardstick).passes
        for row, n in enumerate(lengths.tolist())
        for place in [slice(0, n) if side == "right" else slice(time - n, time)]
    ]
    if any(moved):
        return "other tokens in the padding change the logits of real tokens: not every layer heeds the mask"
    return "other tokens in the padding change nothing, only their number does"


def _carried_padding(case: Case, padded: Tensor, lengths: Tensor, side: Padding, follow: Tensor, steps: Tensor) -> str:
    """The same for what is carried."""
    other = _other_padding(padded, lengths, side)
    state = case.model(other, lengths=lengths, padding=side).state
    again = read(case.model, follow, [1] * FOLLOWING, state)[0]
    if not compare(again, steps, case.yardstick).passes:
        return "other tokens in the padding change what follows: padding is read into the state"
    return "other tokens in the padding change nothing, only their number does: the state moves on with every one"


def generate(case: Case) -> list[Finding]:
    if not isinstance(case.model, HFModel):
        return []
    if not _can_generate(case.model):
        return [Finding(name="generate", status="not supported", note="the model has no generate()")]
    prompt = case.length - FOLLOWING
    found = generated(case.model, case.tokens, prompt, None)
    # The first logits come after the whole prompt; those after the last token are not asked for.
    expected = case.whole[:, prompt - 1 : -1]
    return [judged("generate", compare(found, expected, case.yardstick, offset=prompt - 1), case)]


def _can_generate(model: HFModel) -> bool:
    can = getattr(model.model, "can_generate", None)
    return bool(can is not None and can())


def generated(model: HFModel, tokens: Int[Tensor, "B T"], prompt: int, mask: Int[Tensor, "B prompt"] | None) -> Tensor:
    """Logits at each step of the library's own generation loop, which is made to write the tokens of the text.

    Args:
        model: any that has `generate`.
        tokens: the text; its first `prompt` tokens are the prompt.
        prompt: length of the prompt.
        mask: 1 at real tokens of the prompt; None where all are.

    Returns:
        [B, T - prompt, vocab], before anything is done to them.
    """
    from transformers import LogitsProcessor, LogitsProcessorList

    class Dictate(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            forced = torch.full_like(scores, float("-inf"))
            forced.scatter_(1, tokens[:, input_ids.shape[1]][:, None], 0.0)
            return forced

    number = tokens.shape[1] - prompt
    output = model.model.generate(
        tokens[:, :prompt],
        attention_mask=torch.ones_like(tokens[:, :prompt]) if mask is None else mask,
        max_new_tokens=number,
        min_new_tokens=number,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=0,
        eos_token_id=None,
        logits_processor=LogitsProcessorList([Dictate()]),
    )
    return torch.stack(output.logits, dim=1)


def generate_left_padded(case: Case) -> list[Finding]:
    name = "generate-left-padded"
    if not isinstance(case.model, HFModel):
        return []
    if not _can_generate(case.model) or not case.model.takes_mask:
        return [Finding(name=name, status="not supported", note="the model takes no mask, or does not generate")]
    lengths, time = _lengths(case), case.length - FOLLOWING
    follow = case.tokens[:, time:]
    padded = torch.cat([_padded(case, lengths, time, "left"), follow], dim=1)
    places = torch.arange(time, device=lengths.device)[None]
    together = generated(case.model, padded, time, (places >= time - lengths[:, None]).long())
    found = []
    for row, n in enumerate(lengths.tolist()):
        alone = torch.cat([case.tokens[row : row + 1, :n], follow[row : row + 1]], dim=1)
        one = generated(case.model, alone, n, None)
        found.append(compare(together[row : row + 1], one, case.yardstick, offset=n - 1))
    return [judged(name, worst_of(found), case)]
