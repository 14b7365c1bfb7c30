"""A small Python script that shows one fault, with nothing but torch and transformers.

Where the fault is in the code and not in the weights, the script builds a small random model from a few settings. A
script is run before it is given: one that does not show its fault is not given.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lengthwise.check.findings import Finding
from lengthwise.check.padding import FOLLOWING
from lengthwise.engines import tiny
from lengthwise.engines.hf import HFModel
from lengthwise.engines.opening import quiet
from lengthwise.engines.probe import ROWS, several

FAULT = "FAULT"
"""First word of the last line that a script prints where it finds what it was written for."""


@dataclass(frozen=True)
class Origin:
    """How a script gets the model."""

    name: str
    """Folder, hub name or model type that the user gave."""
    small: tiny.Tiny | None
    """The small random model to build; None to load the weights."""
    trust_remote_code: bool = False
    dtype: str = "float32"


def make_script(finding: Finding, model: HFModel, origin: Origin, *, length: int, tolerance: float) -> str | None:
    """The script for a fault, or None where no form of it shows it.

    Args:
        finding: the fault.
        model: the adapter it was found with.
        origin: where the script takes the model from.
        length: tokens of the text.
        tolerance: largest difference of logits that rounding explains.
    """
    shown = model if origin.small is None else HFModel(origin.small.model)
    vocab = min(shown.vocab_size, 1000)
    body = _body(finding, model, length, vocab)
    if body is None:
        return None
    names = ["AutoConfig"] if origin.small is not None else []
    names += ["AutoModelForCausalLM", *(["DynamicCache"] if "DynamicCache" in body else [])]
    text = "\n".join(
        [
            _wrapped(f'"""{model.name} of transformers: {finding.fault}.'),
            *([_wrapped(_sentence(finding.note))] if finding.note else []),
            'Made by `lengthwise check`. Needs torch and transformers."""\n',
            "import torch",
            "import transformers",
            f"from transformers import {', '.join(names)}\n",
            _model(origin),
            "random = torch.Generator().manual_seed(1)",
            f"tokens = torch.randint({vocab}, ({ROWS}, {length}), generator=random)",
            "\n" * (2 if body.strip().startswith(("def", "@")) else 0) + body.strip(),
            _REPORT.replace("TOLERANCE", f"{tolerance:.1g}"),
        ]
    )
    return text if shows(text, raises=finding.status == "error") else None


def shows(text: str, *, raises: bool = False) -> bool:
    """Whether a script ends with its fault, or with an exception of the model where that is the fault."""
    printed = io.StringIO()
    try:
        with (
            quiet(),
            contextlib.redirect_stdout(printed),
            torch.random.fork_rng(devices=[]),
            torch.enable_grad(),
        ):
            exec(compile(text, "<the script>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        return FAULT in printed.getvalue()
    except Exception:  # whatever the model raises; in any other case the script is at fault itself
        return raises
    return False


_REPORT = f'''
print(f"transformers {{transformers.__version__}}, torch {{torch.__version__}}, {{type(model).__name__}}")
difference = (found - expected).abs().amax(dim=-1)
print(f"largest difference {{difference.max():.3g}}, where logits go up to {{expected.abs().max():.3g}}")
if not difference.max() <= TOLERANCE:  # what rounding explains
    print("{FAULT}: the two should be equal")
    raise SystemExit(1)
print("no fault")
'''


def _model(origin: Origin) -> str:
    small = origin.small
    if small is None:
        remote = ", trust_remote_code=True" if origin.trust_remote_code else ""
        arguments = f"{_shown(origin.name)}, dtype=torch.{origin.dtype}{remote}"
        return f"model = AutoModelForCausalLM.from_pretrained({arguments}).eval()"
    experts = "".join(f", {name}={_shown(value)}" for name, value in tiny.experts(small.config).items())
    return "\n".join(
        [
            f"torch.manual_seed({small.seed})",
            f"config = AutoConfig.for_model(\n    {_shown(small.config.model_type)},",
            *(f"    {name}={_shown(value, 4)}," for name, value in tiny.settings(small.config).items()),
            ")",
            f"model = AutoModelForCausalLM.from_config(config{experts}).eval()",
            "# As initialised for training, logits are too small for anything to show in them.",
            "with torch.no_grad():",
            "    for weight in model.parameters():",
            "        if weight.ndim > 1 and weight.mean().abs() <= weight.std():",
            "            weight.normal_(0.0, weight.shape[-1] ** -0.5)",
            "        else:",
            "            weight.add_(0.1 * torch.randn_like(weight))",
            f"    model.get_output_embeddings().weight.mul_({small.head_scale!r})",
        ]
    )


def _shown(value: Any, indent: int = 0) -> str:
    """Python that gives the value again, in double quotes; infinity has no literal."""
    if isinstance(value, Mapping):
        inner = " " * (indent + 4)
        lines = "".join(f"{inner}{_shown(key)}: {_shown(each, indent + 4)},\n" for key, each in value.items())
        return "{\n" + lines + " " * indent + "}" if value else "{}"
    if isinstance(value, list | tuple):
        start, end = "[]" if isinstance(value, list) else "()"
        parts = [_shown(each, indent + 4) for each in value]
        line = ", ".join(parts) + ("," if end == ")" and len(parts) == 1 else "")
        if len(line) <= 90:
            return start + line + end
        inner = " " * (indent + 4)
        return start + "\n" + "".join(f"{inner}{part},\n" for part in parts) + " " * indent + end
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _sentence(note: str) -> str:
    """A note as a sentence that can stand inside a docstring."""
    return re.sub(r'["\\]', "'", note[0].upper() + note[1:] + ".")


def _wrapped(paragraph: str) -> str:
    return "\n".join(textwrap.wrap(paragraph, width=110)) + "\n"


def _body(finding: Finding, model: HFModel, length: int, vocab: int) -> str | None:
    """Code that leaves `found` and `expected`, logits that should be equal, from `model` and `tokens`."""
    half = length // 2
    call = _Call(model, given=finding.positions != "own")
    name = finding.name
    if name in ("two-pieces", "uneven-pieces", "piece-then-tokens", "single-tokens"):
        pieces = {
            "two-pieces": f"[{half}, {length - half}]",
            "uneven-pieces": repr(several(length)),
            "piece-then-tokens": f"[{half}] + [1] * {length - half}",
            "single-tokens": f"[1] * {length}",
        }[name]
        return call.reader() + _lines(f"expected = read(tokens, [{length}])", f"found = read(tokens, {pieces})")
    if name == "fresh-start":
        return _lines(
            f"first, other = tokens[:, :1], tokens[:, 1:{half}]",
            "with torch.no_grad():",
            "    # A new cache for every text, as generate() makes one.",
            "    expected = model(first, past_key_values=DynamicCache(config=model.config), use_cache=True).logits",
            "    model(other, past_key_values=DynamicCache(config=model.config), use_cache=True)",
            "    found = model(first, past_key_values=DynamicCache(config=model.config), use_cache=True).logits",
        )
    if name in ("generate", "generate-left-padded"):
        return _generate(name, length)
    if name.endswith("-padding"):
        return _padding(name, call, length)
    if name == "gradients":
        return call.reader(grad=True) + _lines(
            "def gradient(pieces):",
            f"    loss = read(tokens, pieces)[:, {half}:].square().mean()",
            "    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)",
            "    return torch.cat([grad.flatten() for grad in grads if grad is not None])",
            "",
            f"expected, found = gradient([{length}]), gradient([{half}, {length - half}])",
            "expected, found = expected / expected.norm(), found / expected.norm()",
        )
    one_pass = {
        "causality": (
            "changed = tokens.clone()",
            f"changed[:, {half}] = (changed[:, {half}] + 1) % {vocab}",
            f"expected, found = logits(tokens)[:, :{half}], logits(changed)[:, :{half}]",
        ),
        "prefix": ("found, expected = logits(tokens[:, :N]), logits(tokens)[:, :N]".replace("N", str(half + 1)),),
        "rows": ("expected, found = logits(tokens), torch.cat([logits(row[None]) for row in tokens])",),
        "repeat": ("expected = logits(tokens)", "logits(tokens.flip(1))", "found = logits(tokens)"),
        "train-mode": ("expected = logits(tokens)", "model.train()", "found = logits(tokens)"),
    }
    if name in one_pass:
        return _LOGITS + _lines(*one_pass[name])
    return None


_LOGITS = """
def logits(text):
    with torch.no_grad():
        return model(text).logits


"""


class _Call:
    """How a script calls the model with its cache."""

    def __init__(self, model: HFModel, *, given: bool) -> None:
        self.positions = ", position_ids=places" if given and model.takes_positions else ""
        self.argument = model.cache_argument or "past_key_values"
        self.keeps = model.keeps_cache

    def reader(self, *, grad: bool = False) -> str:
        """A function that reads a text in pieces."""
        start = "DynamicCache(config=model.config)" if self.keeps else "None"
        lines = [
            "def read(text, pieces):",
            f"    cache, start, logits = {start}, 0, []",
            "    for length in pieces:",
        ]
        if self.positions:
            lines.append("        places = torch.arange(start, start + length).expand(len(text), -1)")
        lines += [
            f"        output = model(text[:, start : start + length], {self.argument}=cache, use_cache=True"
            f"{self.positions})",
            "        logits.append(output.logits)",
            "        start += length"
            if self.keeps
            else f"        cache, start = output.{self.argument}, start + length",
            "    return torch.cat(logits, dim=1)",
        ]
        text = "\n".join(lines) + "\n\n\n"
        return text if grad else "@torch.no_grad()\n" + text


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def _generate(name: str, length: int) -> str:
    prompt, wanted = length - FOLLOWING, FOLLOWING
    function = (
        "def generate(text, mask):\n"
        "    output = model.generate(\n"
        "        text,\n"
        "        attention_mask=mask,\n"
        f"        max_new_tokens={wanted},\n"
        f"        min_new_tokens={wanted},\n"
        "        do_sample=False,\n"
        "        eos_token_id=None,\n"
        "        pad_token_id=0,\n"
        "        return_dict_in_generate=True,\n"
        "        output_logits=True,\n"
        "    )\n"
        "    return output.sequences, torch.stack(output.logits, dim=1)\n\n\n"
    )
    if name == "generate":
        return function + _lines(
            f"prompt = tokens[:, :{prompt}]",
            "text, found = generate(prompt, torch.ones_like(prompt))",
            "with torch.no_grad():",
            f"    expected = model(text).logits[:, {prompt - 1} : -1]",
        )
    pads = prompt // 2
    return function + _lines(
        f"# The second row has {pads} tokens of padding in front.",
        f"prompt, mask = tokens[:2, :{prompt}], torch.ones(2, {prompt}, dtype=torch.long)",
        f"mask[1, :{pads}] = 0",
        "found = generate(prompt, mask)[1][1:, :1]",
        f"expected = generate(prompt[1:, {pads}:], mask[1:, {pads}:])[1][:, :1]",
    )


def _padding(name: str, call: _Call, length: int) -> str:
    time, side = length - FOLLOWING, "left" if "left" in name else "right"
    pads = time // 2
    real = f"slice({pads}, None)" if side == "left" else f"slice(None, {time - pads})"
    padding = f"slice(None, {pads})" if side == "left" else f"slice({time - pads}, None)"
    start = ", past_key_values=cache" if call.keeps else ""
    lines = [
        f"# The second of two rows has {pads} tokens of padding on the {side}, and the mask says so.",
        f"real, padding = {real}, {padding}",
        f"text, mask = tokens[:2, :{time}], torch.ones(2, {time}, dtype=torch.long)",
        "mask[1, padding] = 0",
        "with torch.no_grad():",
    ]
    if call.keeps:
        lines.append("    cache = DynamicCache(config=model.config)")
    positions = ""
    if call.positions:
        lines.append("    places = (mask.cumsum(dim=1) - 1) * mask")
        positions = ", position_ids=places"
    lines.append(f"    output = model(text, attention_mask=mask{positions}, use_cache=True{start})")
    if name.startswith("after"):
        cache = "cache" if call.keeps else f"output.{call.argument}"
        lines += [
            f"    follow = tokens[:2, {time} : {time + 1}]",
            *(
                ["    mask = torch.cat([mask, torch.ones_like(follow)], dim=1)"]
                if call.argument == "past_key_values"
                else ["    mask = torch.ones_like(follow)"]
            ),
        ]
        if call.positions:
            lines.append(f"    places = torch.tensor([[{time}], [{time - pads}]])")
        lines += [
            f"    found = model(follow, attention_mask=mask{positions}, {call.argument}={cache}).logits[1:]",
            "    alone = torch.cat([text[1:, real], follow[1:]], dim=1)",
            "    expected = model(alone).logits[:, -1:]",
        ]
    else:
        lines += ["    found = output.logits[1:, real]", "    expected = model(text[1:, real]).logits"]
    return _lines(*lines)
