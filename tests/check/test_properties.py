"""Each property passes for our models and fails for the same models with one thing broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.families import FAMILIES, small_model

from lengthwise.check.case import make_case
from lengthwise.check.findings import NAMES, Finding
from lengthwise.check.properties import run_all
from lengthwise.engines.base import evaluating
from lengthwise.models.lm import LanguageModel, Output
from lengthwise.shapes import Tensor
from lengthwise.state import State

OURS = ("generate", "generate-left-padded", "fresh-start")
"""Properties of models that have a generate() and modules with a memory; ours have neither."""


LENGTH = 24


def findings(model: Any, *names: str) -> dict[str, Finding]:
    """Findings by name, of the properties that are named, or of all."""
    with evaluating(model), torch.no_grad():
        case = make_case(model, length=LENGTH, seed=0)
        wanted = {name.removeprefix("after-") for name in names}
        return {each.name: each for each in run_all(case, wanted or None)}


@pytest.mark.parametrize("family", FAMILIES)
def test_ours_pass_everything(family: str) -> None:
    found = findings(small_model(family, dtype=torch.float32))
    assert set(found) == set(NAMES) - set(OURS)
    assert {name: each for name, each in found.items() if each.status != "pass"} == {}


def test_a_past_that_shows_nowhere_is_no_fault() -> None:
    """With outputs of zero no mixer moves a logit, so nothing can be said about what is carried."""
    model = small_model("rwkv6", dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("mixer.output.weight") or ".mlp." in name:
                parameter.zero_()
    found = findings(model, "carried")["carried"]
    assert found.status == "not supported"
    assert "not even in one pass" in str(found.note)


class Broken(LanguageModel):
    """A model that does one thing wrong; `fault` says which."""

    fault = ""
    calls = 0

    def forward(self, tokens: Tensor, state: State | None = None, **options: Any) -> Output:  # type: ignore[override]
        self.calls += 1
        fault, time = self.fault, tokens.shape[1]
        if fault == "restarts":
            state = None
        elif fault == "forgets the recurrent state" and state is not None and time > 1:
            state = state.map("recurrent", torch.zeros_like)
        elif fault == "forgets the convolution" and state is not None and time > 1:
            state = state.map("short", torch.zeros_like)
        elif fault == "steps otherwise" and time == 1 and state is not None:
            state = state.map("recurrent", lambda tensor: 0.9 * tensor)
        elif fault == "cuts the graph" and state is not None:
            state = state.detach()
        elif fault == "wrong gradient" and state is not None:
            state = state.map("recurrent", lambda tensor: 0.5 * tensor + 0.5 * tensor.detach())
        elif fault == "ignores lengths":
            options.pop("lengths", None)
        elif fault == "ignores resets":
            options.pop("resets", None)
        elif fault == "raises in pieces" and state is not None:
            raise RuntimeError("cannot go on")
        output = super().forward(tokens, state, **options)
        logits = output.logits
        assert logits is not None
        if fault == "sees the future" and time > 1:
            logits = logits + 0.1 * logits.roll(-1, dims=1)
        elif fault == "depends on the length":
            logits = logits * (1 + 0.01 * time)
        elif fault == "mixes rows":
            logits = logits + 0.1 * logits.mean(dim=0, keepdim=True)
        elif fault == "drifts":
            logits = logits * (1 + 1e-2 * self.calls)
        elif fault == "trains otherwise" and self.training:
            logits = logits * 1.01
        return replace(output, logits=logits)


# The fault, and properties that must see it; others may see it as well.
FAULTS: dict[str, tuple[str, ...]] = {
    "restarts": ("two-pieces", "uneven-pieces", "piece-then-tokens", "single-tokens", "carried"),
    "forgets the recurrent state": ("two-pieces", "uneven-pieces", "gradients"),
    "forgets the convolution": ("two-pieces", "uneven-pieces", "gradients"),
    "steps otherwise": ("uneven-pieces", "piece-then-tokens", "single-tokens"),
    "wrong gradient": ("gradients",),
    "ignores lengths": ("left-padding", "after-left-padding", "after-right-padding"),
    "ignores resets": ("packed",),
    "sees the future": ("causality", "two-pieces"),
    "depends on the length": ("prefix", "two-pieces"),
    "mixes rows": ("rows",),
    "drifts": ("repeat", "rounding"),
    "trains otherwise": ("train-mode",),
    "raises in pieces": ("two-pieces", "uneven-pieces", "piece-then-tokens", "single-tokens", "carried"),
}
ALONE = {
    "forgets the recurrent state": {"piece-then-tokens", "single-tokens", "carried", "causality", "rows", "packed"},
    "steps otherwise": {"two-pieces", "carried", "gradients", "prefix"},
    "wrong gradient": {"two-pieces", "single-tokens"},
    "ignores lengths": {"two-pieces", "packed", "rows", "right-padding"},
    "ignores resets": {"two-pieces", "left-padding"},
    "trains otherwise": {"two-pieces", "repeat"},
}
"""Properties that the fault leaves alone."""


def broken(fault: str) -> Broken:
    sound = small_model("mamba2", dtype=torch.float32)
    model = Broken(FAMILIES["mamba2"]).eval()
    model.load_state_dict(sound.state_dict())
    model.fault = fault
    return model


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_model_is_found_out(fault: str) -> None:
    alone = ALONE.get(fault, set())
    found = findings(broken(fault), *FAULTS[fault], *sorted(alone))
    for name in FAULTS[fault]:
        assert found[name].bad, name
    for name in alone:
        assert found[name].status == "pass", name


def test_causes_are_told_apart() -> None:
    restarts = findings(broken("restarts"), "two-pieces", "carried")
    assert "it restarts at zero" in restarts["two-pieces"].note
    assert "another first text changes nothing" in restarts["carried"].note
    recurrent = findings(broken("forgets the recurrent state"), "two-pieces")["two-pieces"]
    assert "the recurrent state that is carried is not read by calls of several tokens:" in recurrent.note
    assert recurrent.first == LENGTH // 2
    short = findings(broken("forgets the convolution"), "two-pieces")["two-pieces"]
    assert "the state of the short convolution that is carried is not read" in short.note
    steps = findings(broken("steps otherwise"), "piece-then-tokens")["piece-then-tokens"]
    assert steps.note == "calls of several tokens continue rightly; calls of one token compute something else"
    padding = findings(broken("ignores lengths"), "left-padding", "right-padding")
    assert "other tokens in the padding change the logits of real tokens" in padding["left-padding"].note
    assert "padding is read into the state" in padding["after-right-padding"].note


def test_a_state_that_is_cut_off_is_not_a_wrong_gradient() -> None:
    found = findings(broken("cuts the graph"), "gradients", "two-pieces")
    assert found["gradients"].status == "not supported"
    assert "cut from the graph" in found["gradients"].note
    assert found["two-pieces"].status == "pass"


def test_exceptions_are_findings_with_their_message() -> None:
    found = findings(broken("raises in pieces"), "two-pieces")["two-pieces"]
    assert (found.status, found.severity, found.error) == ("error", "loud", None)
    assert found.note == "RuntimeError: cannot go on"


def test_dropout_is_not_a_fault() -> None:
    model = small_model("mamba2", dtype=torch.float32)
    model.noise = torch.nn.Dropout(0.1)
    found = findings(model, "train-mode")["train-mode"]
    assert found.status == "not supported"
    assert "dropout of 0.1 makes training random" in found.note


def test_large_models_keep_to_one_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    from lengthwise.engines import probe

    monkeypatch.setattr(probe, "EXACT_PARAMETERS", 100)
    found = findings(small_model("mamba2", dtype=torch.float32), "gradients", "two-pieces")
    assert found["gradients"].status == "not supported"
    assert "too large" in found["gradients"].note
    assert found["two-pieces"].status == "pass"
