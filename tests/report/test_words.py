"""The words say what the numbers say, for every combination of verdicts."""

from dataclasses import replace
from pathlib import Path

import pytest

from lengthwise.report import words
from lengthwise.report.load import load_groups
from lengthwise.report.records import Group, Measured


@pytest.fixture(scope="module")
def group(runs: Path) -> Group:
    return load_groups([runs / "extend"])[0]


def judged(model: Measured, verdict: str | None) -> Measured:
    """The model with both verdicts replaced."""
    assert model.definition is not None
    assert model.restart is not None
    return replace(
        model,
        definition=replace(model.definition, verdict=verdict),
        restart=replace(model.restart, verdict=verdict, uses_history=verdict == "pass"),
    )


def with_verdicts(group: Group, **verdicts: str | None) -> Group:
    """The group with other verdicts; roles not named are dropped."""
    kept = [model for model in group.models if model.role in verdicts]
    return replace(group, models=tuple(judged(model, verdicts[model.role]) for model in kept))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (
            {"before": "fail", "control": "fail", "after": "pass"},
            "Breaks past 256 tokens. Mended by 100 steps of State Passing",
        ),
        (
            {"before": "fail", "control": "pass", "after": "pass"},
            "Breaks past 256 tokens. Mended, but by more training as much as by State Passing",
        ),
        (
            {"before": "fail", "control": "fail", "after": "fail"},
            "Breaks past 256 tokens, and still does after 100 steps of State Passing",
        ),
        (
            {"before": "fail", "control": "fail", "after": "undecided"},
            "Breaks past 256 tokens. After 100 steps of State Passing: undecided",
        ),
        (
            {"before": "pass", "control": "pass", "after": "pass"},
            "Holds to 16,384 tokens, before and after State Passing",
        ),
        (
            {"before": "pass", "control": "pass", "after": "fail"},
            "Holds to 16,384 tokens. After 100 steps of State Passing: breaks past 256 tokens",
        ),
        (
            {"before": "undecided", "control": "fail", "after": "pass"},
            "Undecided up to 16,384 tokens. After 100 steps of State Passing: holds to 16,384 tokens",
        ),
        ({"before": "fail", "after": None}, "Breaks past 256 tokens"),
        ({"before": "fail"}, "Breaks past 256 tokens"),
        ({"before": None}, "Length generalization was not measured"),
    ],
)
def test_headline(group: Group, verdicts: dict[str, str | None], expected: str) -> None:
    assert words.headline(with_verdicts(group, **verdicts)) == expected


def test_headline_of_several_models(runs: Path) -> None:
    (group,) = load_groups([runs / "broken", runs / "partial"])
    assert words.headline(group) == "1 of 2 models hold past the training length, 1 breaks"
    unknown = replace(group, models=(judged(group.models[0], "undecided"), group.models[1]))
    assert words.headline(unknown).endswith("1 undecided or not measured")


def test_headline_of_a_training_run(runs: Path) -> None:
    (group,) = load_groups([runs / "train"])
    assert words.headline(group) == "A training run, not measured yet"
    assert words.story(group) == ()


def test_story_tells_breaks_why_mended_proof(group: Group) -> None:
    lines = words.story(group)
    assert [(line.tag, line.tone) for line in lines] == [
        ("Breaks", "fail"),
        ("Why", "plain"),
        ("Mended", "pass"),
        ("Proof", "pass"),
    ]
    before, after = group.model("before"), group.model("after")
    assert before is not None
    assert after is not None
    assert before.definition is not None
    assert f"{before.definition.worst_ratio:.2f} times its best" in lines[0].text
    assert "0.253 nats per token" in lines[0].text
    assert "its spread is ×2.19 that at 256; after: ×1.04" in lines[1].text
    assert lines[2].text.startswith("After 100 steps of State Passing: perplexity stays at or below 0.97 times")
    assert lines[3].text.endswith("the gain comes from the states, not from more training.")


def test_controlled_ratios_are_said_to_have_the_text_taken_out(group: Group) -> None:
    changed = []
    for model in group.models:
        assert model.definition is not None
        changed.append(replace(model, definition=replace(model.definition, controlled=True)))
    lines = words.story(replace(group, models=tuple(changed)))
    assert lines[0].text.startswith("Perplexity, the difficulty of the text taken out, climbs to 1.18 times its best")
    assert lines[2].text.startswith(
        "After 100 steps of State Passing: perplexity, the difficulty of the text taken out, stays at or below 0.97 "
    )
    assert not any("difficulty" in line.text for line in words.story(group))


def test_control_that_passes_is_no_proof(group: Group) -> None:
    line = words.story(with_verdicts(group, before="fail", control="pass", after="pass"))[-1]
    assert (line.tag, line.tone) == ("No proof", "undecided")
    assert "may come from more training alone, not from State Passing" in line.text


@pytest.mark.parametrize("after", ["fail", "undecided"])
def test_nothing_is_proved_where_nothing_is_mended(group: Group, after: str) -> None:
    lines = words.story(with_verdicts(group, before="fail", control="fail", after=after))
    assert [line.tag for line in lines][-1] == "Control"
    assert not any(line.tone == "pass" for line in lines)


def test_steady_state_is_not_called_a_drift(group: Group) -> None:
    after = group.model("after")
    assert after is not None
    alone = replace(group, models=(replace(after, role="before"),))
    assert "hardly changes past the training length" in words.why(alone)
    broken = with_verdicts(alone, before="fail")
    assert [line.tag for line in words.story(broken)] == ["Breaks", "Inside"]  # no reason is claimed
    assert "leaves the range" in words.why(group)


def test_section_titles_follow_the_numbers(group: Group) -> None:
    titles = {key: words.section_title(group, key) for key in ("perplexity", "restart", "remembrance", "states")}
    assert titles == {
        "perplexity": "Perplexity climbs past 256 tokens; after State Passing it holds",
        "restart": "More history makes it worse; after State Passing it helps",
        "remembrance": "Why: it clings to old text",
        "states": "Why: its state leaves the range it was trained on",
    }
    healthy = with_verdicts(group, before="pass", control="pass", after="pass")
    assert words.section_title(healthy, "remembrance") == "How much old text moves the prediction"
    assert words.section_title(healthy, "states") == "The state over time"
    assert words.section_title(healthy, "perplexity").startswith("Perplexity holds past 256 tokens")


def test_verdict_of_a_model_is_the_worse_of_two(group: Group) -> None:
    model = group.models[0]
    assert model.definition is not None
    assert model.restart is not None

    def both(definition: str | None, restart: str | None) -> str | None:
        assert model.definition is not None
        assert model.restart is not None
        d, r = replace(model.definition, verdict=definition), replace(model.restart, verdict=restart)
        return replace(model, definition=d, restart=r).verdict

    assert both("pass", "fail") == "fail"
    assert both("pass", "undecided") == "undecided"
    assert both("pass", None) == "pass"
    assert both(None, None) is None


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.factor(1.305), "×1.30"),
        (words.factor(1234.6), "×1,235"),
        (words.factor(None), "not measured"),
        (words.signed(-0.0121), "−0.0121"),
        (words.signed(0.253), "+0.253"),
        (words.signed(-0.000001), "0.00000"),
        (words.signed(0.5, 1), "+0.5"),
        (words.interval(None, 1.0), ""),
        (words.interval(1.0, 2.345), "1.00 to 2.35"),
        (words.interval(950.0, 1200.0), "950 to 1,200"),
        (words.interval(-0.01, 0.02, sign=True), "−0.0100 to +0.0200"),
        (words.share(0.314), "0.31"),
        (words.share(0.0314), "0.031"),
        (words.share(0.0), "0.000"),
        (words.share(0.0001), "<0.001"),
        (words.level(0.00412), "0.00412"),
        (words.level(3.4159), "3.42"),
        (words.level(251.14), "251.1"),
        (words.level(12345.6), "12,346"),
        (words.plural(1, "step"), "1 step"),
        (words.plural(1000, "step"), "1,000 steps"),
    ],
)
def test_forms_of_numbers(shown: str, expected: str) -> None:
    assert shown == expected
