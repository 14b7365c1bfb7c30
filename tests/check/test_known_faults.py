"""What transformers 5.23 is known to do, found by the properties; and what it does rightly, passed.

Each case runs the properties that tell it apart; the slow ones run everything. A fault that is mended upstream shows up
here: then the table in docs/check-transformers.md has to be made again.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
import transformers
from tests.engines.models import small

from lengthwise.check import CheckConfig, check
from lengthwise.check.case import Case, make_case
from lengthwise.check.findings import Finding
from lengthwise.check.properties import run_all
from lengthwise.engines.base import evaluating
from lengthwise.engines.opening import quiet

pytestmark = pytest.mark.skipif(
    not transformers.__version__.startswith("5.23."), reason="what is known is known of transformers 5.23"
)

PIECES = ("two-pieces", "uneven-pieces")
TOKENS = ("piece-then-tokens", "single-tokens")
LENGTH = 32


@cache
def case(model_type: str, length: int) -> Case:
    model = small(model_type)
    with quiet(), evaluating(model), torch.no_grad():
        return make_case(model, length=length, seed=0)


def found(model_type: str, *names: str, length: int = LENGTH) -> dict[str, Finding]:
    """Findings by name; those with position ids left to the model are named ``own <name>``."""
    subject = case(model_type, length)
    with quiet(), evaluating(subject.model), torch.no_grad():
        findings = list(run_all(subject, names))
    return {("own " if each.positions == "own" else "") + each.name: each for each in findings}


@pytest.mark.parametrize("model_type", ["mamba", "falcon_mamba", "jamba"])
def test_mamba1_ignores_its_recurrent_state_in_calls_of_several_tokens(model_type: str) -> None:
    results = found(model_type, *PIECES, "single-tokens")
    for name in PIECES:
        assert results[name].status == "fail"
        assert results[name].severity == "silent"
        assert results[name].error > 0.1
        assert "the recurrent state that is carried is not read by calls of several tokens:" in results[name].note
    assert results["two-pieces"].first == LENGTH // 2
    assert results["single-tokens"].status == "pass"


def test_recurrent_gemma_restarts_its_convolution_and_ignores_the_mask() -> None:
    results = found("recurrent_gemma", *PIECES, *TOKENS, "left-padding", "generate-left-padded", "fresh-start")
    assert results["two-pieces"].status == results["uneven-pieces"].status == "fail"
    assert "the state of the short convolution that is carried is not read" in results["two-pieces"].note
    assert results["piece-then-tokens"].status == results["single-tokens"].status == "pass"
    assert results["left-padding"].status == results["generate-left-padded"].status == "fail"
    assert results["left-padding"].error > 0.1
    assert "not every layer heeds the mask" in results["left-padding"].note
    # State kept in modules survives into the next text.
    assert results["fresh-start"].status == "fail"
    assert "one-token call reads what the text before it left there" in results["fresh-start"].note


def test_bamba_needs_position_ids() -> None:
    names = ("two-pieces", "piece-then-tokens")
    results = found("bamba", *names)
    for name in names:
        assert results[name].status == "pass"
        assert results[name].positions == "given"
        assert results[f"own {name}"].status == "fail"
        assert "begin at 0 again on every call" in results[f"own {name}"].note
        assert results[f"own {name}"].meaning.endswith("With position ids given on every call it holds.")


@pytest.mark.parametrize("model_type", ["zamba2", "nemotron_h"])
def test_zamba2_and_nemotron_clamp_the_step_size_in_one_path_only(model_type: str) -> None:
    results = found(model_type, "two-pieces", "single-tokens", "generate")
    assert results["two-pieces"].status == "pass"
    assert results["single-tokens"].status == results["generate"].status == "fail"
    assert 1e-3 < results["single-tokens"].error < 1
    assert "agree once time_step_limit = (0.001, inf) of the mixers is lifted" in results["single-tokens"].note
    assert "calls of one token do not hold the step size to it" in results["single-tokens"].note
    limits = {getattr(module, "time_step_limit", None) for module in small(model_type).model.modules()} - {None}
    assert limits == {(0.001, float("inf"))}, "the check must leave the model as it was"


def test_rwkv_mixes_rows_in_calls_of_one_token() -> None:
    results = found("rwkv", "two-pieces", "single-tokens", "generate", "gradients")
    assert results["two-pieces"].status == "pass"
    assert results["single-tokens"].status == "error"
    assert (
        "logits of shape (3, 3, 128) for 3 rows of 1 tokens (with one row it is right)" in results["single-tokens"].note
    )
    assert results["generate"].status == "fail"
    assert results["gradients"].status == "not supported"
    assert "inplace" in results["gradients"].note


@pytest.mark.parametrize("model_type", ["moshi", "doge"])
def test_windows_that_the_whole_and_the_cache_treat_differently(model_type: str) -> None:
    results = found(model_type, "single-tokens", "generate", length=48)
    assert results["single-tokens"].status == results["generate"].status == "fail"
    assert 20 <= results["single-tokens"].first < 25
    assert "window" in results["single-tokens"].note


def test_right_padding_is_read_into_recurrent_states() -> None:
    results = found("mamba2", "right-padding", "left-padding")
    assert results["right-padding"].status == "pass"
    assert results["after-right-padding"].status == "fail"
    assert "the state moves on with every one" in results["after-right-padding"].note
    assert results["left-padding"].status == results["after-left-padding"].status == "pass"


@pytest.mark.parametrize("model_type", ["mamba2", "falcon_h1", "lfm2", "llama", "mistral"])
def test_what_is_right_passes(model_type: str) -> None:
    names = (*PIECES, "piece-then-tokens", "carried", "generate", "gradients", "causality", "prefix", "left-padding")
    results = found(model_type, *names)
    assert {name: each.note for name, each in results.items() if each.status != "pass"} == {}
    assert all(each.error is None or each.error <= each.tolerance for each in results.values())
    assert results["gradients"].error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("model_type", "faults"),
    [
        ("llama", set()),
        ("gpt2", set()),
        ("gemma3_text", {"after-right-padding"}),
        ("mamba2", {"after-right-padding"}),
        ("falcon_h1", {"after-right-padding"}),
        ("lfm2", {"after-right-padding"}),
        ("granitemoehybrid", {"after-right-padding"}),
        ("qwen3_next", {"after-right-padding"}),
        ("kimi_linear", {"after-right-padding"}),
        ("mamba", {"two-pieces", "uneven-pieces", "gradients", "after-right-padding"}),
        ("falcon_mamba", {"two-pieces", "uneven-pieces", "gradients", "after-right-padding"}),
        ("jamba", {"two-pieces", "uneven-pieces", "gradients", "after-right-padding"}),
        ("zamba", {"two-pieces", "uneven-pieces", "gradients", "after-right-padding"}),
        (
            "zamba2",
            {"uneven-pieces", "piece-then-tokens", "single-tokens", "generate", "after-right-padding"},
        ),
    ],
)
def test_every_property_for_any_weights(model_type: str, faults: set[str], seed: int) -> None:
    result = check(CheckConfig(model=model_type, config_only=True, seed=seed), script=False)
    assert {each.name for each in result.findings if each.bad} == faults
