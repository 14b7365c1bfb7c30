"""From findings to words, severity and the fault to report first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lengthwise.check.config import CheckConfig
from lengthwise.check.findings import BY_NAME, NAMES, PROPERTIES, Finding, trust, worst
from lengthwise.errors import InputError


def finding(name: str, status: str = "pass", **values: object) -> Finding:
    return Finding(name=name, status=status, **values)  # type: ignore[arg-type]


def all_pass(**changes: Finding) -> list[Finding]:
    by_name = {name.replace("-", "_"): finding(name) for name in NAMES}
    return list({**by_name, **changes}.values())


def test_properties_are_named_once_and_explained() -> None:
    assert len(set(NAMES)) == len(PROPERTIES)
    assert all(len(each.broken) > 30 and each.broken.endswith(".") for each in PROPERTIES)
    assert all(len(each.fault) > 25 and each.fault[0].islower() and each.fault[-1] != "." for each in PROPERTIES)


def test_properties_are_described() -> None:
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("status", "severity", "bad"),
    [("pass", "none", False), ("fail", "silent", True), ("error", "loud", True), ("not supported", "limit", False)],
)
def test_severity(status: str, severity: str, bad: bool) -> None:
    found = finding("rows", status)
    assert (found.severity, found.bad) == (severity, bad)
    assert bool(found.meaning) == bad


def test_wrong_numbers_come_before_exceptions_and_the_state_before_padding() -> None:
    assert worst([finding("rows"), finding("packed", "not supported")]) is None
    faults = [finding("left-padding", "fail"), finding("two-pieces", "error"), finding("single-tokens", "fail")]
    assert worst(faults) is faults[2]
    assert worst(faults[:2]) is faults[0]
    own, given = (finding("two-pieces", "fail", positions=positions) for positions in ("own", "given"))
    assert worst([own, given]) is given


def test_a_record_is_json_with_no_infinity() -> None:
    record = finding("two-pieces", "fail", difference=float("inf"), error=float("nan"), tolerance=1e-5).to_dict()
    assert json.loads(json.dumps(record, allow_nan=False))["difference"] is None
    assert record["title"] == "whole text = two pieces"
    assert record["meaning"] == BY_NAME["two-pieces"].broken


def test_what_can_be_trusted() -> None:
    assert trust(all_pass()) == [
        "Long texts can be streamed in pieces with the state carried.",
        "generate() writes from the distribution that perplexity is measured on.",
        "Rows of different lengths can be padded on either side.",
        "Gradients flow through the carried state as through the whole text.",
    ]
    words = " ".join(trust(all_pass(causality=finding("causality", "fail"))))
    assert words.startswith("Do not measure this model")
    words = " ".join(trust(all_pass(two_pieces=finding("two-pieces", "fail"), generate=finding("generate", "fail"))))
    assert "Read texts in one piece" in words
    assert "generate() is not the model whose perplexity is measured" in words
    words = " ".join(trust(all_pass(two_pieces=finding("two-pieces", "not supported"))))
    assert "Read texts in one piece: the model carries nothing from call to call." in words
    words = " ".join(trust(all_pass(uneven_pieces=finding("uneven-pieces", "fail"))))
    assert "one-token calls give other numbers: read in one piece" in words
    words = " ".join(trust(all_pass(single_tokens=finding("single-tokens", "fail"))))
    assert "state carried, but not token by token." in words


def test_generation_and_what_is_left_behind_in_words() -> None:
    words = " ".join(trust(all_pass(generate_left_padded=finding("generate-left-padded", "fail"))))
    assert "perplexity is measured on, for prompts of one length; a padded batch gives other answers." in words
    assert "generate()" not in " ".join(trust(all_pass(generate=finding("generate", "not supported"))))
    words = " ".join(trust(all_pass(fresh_start=finding("fresh-start", "fail"))))
    assert "texts see what earlier ones left in its modules" in words


def test_position_ids_are_a_condition() -> None:
    findings = [
        *all_pass(two_pieces=finding("two-pieces", positions="given")),
        finding("two-pieces", "fail", positions="own"),
    ]
    assert trust(findings)[0].endswith("with the state carried as long as position ids are given on every call.")
    assert findings[-1].title == "whole text = two pieces (position ids left to the model)"


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (["after-right-padding"], "Pad rows of different lengths on the left; on the right only where nothing is read"),
        (["left-padding", "after-left-padding"], "Pad rows of different lengths on the right."),
        (["after-left-padding", "after-right-padding"], "Padding on either side is right for scoring, but not for"),
        (["left-padding", "right-padding"], "Read rows of one length together, or one row at a time"),
    ],
)
def test_padding_in_words(faults: list[str], words: str) -> None:
    found = all_pass(**{name.replace("-", "_"): finding(name, "fail") for name in faults})
    assert any(sentence.startswith(words) for sentence in trust(found)), trust(found)


def test_what_was_not_checked_is_not_called_impossible() -> None:
    unknown = finding("gradients", "not supported", note="not checked: the model is too large")
    assert trust(all_pass(gradients=unknown))[-1] == "Whether gradients flow through the carried state was not checked."


@pytest.mark.parametrize(
    ("status", "words"),
    [("fail", "Do not train through the carried state."), ("not supported", "The carried state cannot be trained")],
)
def test_gradients_in_words(status: str, words: str) -> None:
    assert trust(all_pass(gradients=finding("gradients", status)))[-1].startswith(words)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"length": 23}, "expected a probe of at least 24 tokens; got 23; in CheckConfig.length"),
        ({"engine": "jax"}, "expected engine: one of auto, lengthwise, transformers; got 'jax'"),
        ({"dtype": "int8"}, "expected dtype: one of float32, bfloat16, float16, float64; got 'int8'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_out_of_range(settings: dict, part: str) -> None:
    with pytest.raises(InputError) as caught:
        CheckConfig(model="x", **settings)
    assert part in str(caught.value)


def test_settings_travel_as_a_dictionary() -> None:
    config = CheckConfig(model="x", length=32, config_only=True)
    assert CheckConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(InputError, match="did you mean 'length'"):
        CheckConfig.from_dict({"model": "x", "lenght": 32})
