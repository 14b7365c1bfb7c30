"""The golden list of options: a flag that comes or goes, or changes its name, is a decision and shows up here."""

import re

import pytest

from lengthwise.cli import check, data, demo, eval, extend, measure, models, report, train
from lengthwise.cli.common import option_names

GOLDEN = {
    "check": (
        check.Options,
        "config-only engine length dtype device seed trust-remote-code config out script bug-report json",
    ),
    "measure": (
        measure.Options,
        "engine data length num-sequences windows-per-document metrics context-length tokenizer chunk batch-size "
        "attention-budget memory-limit seed device label config out resume dry-run json",
    ),
    "eval": (
        eval.Options,
        "tasks lengths num-samples limit seed engine server-url server-api server-timeout server-retries "
        "context-length tokenizer scorer wording ruler-source babilong-source model-template books data-dir "
        "batch-size chunk no-prefix-reuse device dtype label config out resume list-tasks dry-run json",
    ),
    "extend": (
        extend.Options,
        "intervention steps batch-size peak-lr zero-prob carry-short sigma sigma-relative beta data context-length "
        "tokenizer length num-sequences windows-per-document metrics seed device config out resume dry-run json",
    ),
    "train": (train.Options, "out resume dry-run json"),
    "report": (report.Options, "out figures samples rescore sql json"),
    "demo": (demo.Options, "model steps out dry-run json"),
    "data tokenize": (data.TokenizeOptions, "out tokenizer val-frac validation extensions json"),
    "data info": (data.InfoOptions, "verify json"),
    "data get": (data.GetOptions, "data-dir json"),
    "models": (models.Options, "json"),
}


@pytest.mark.parametrize("verb", GOLDEN)
def test_options_are_these(verb: str) -> None:
    options, names = GOLDEN[verb]
    assert [name.removeprefix("--") for name in option_names(options)] == names.split()


@pytest.mark.parametrize("verb", GOLDEN)
def test_every_option_is_explained(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lengthwise.cli.main import main

    assert main([*verb.split(), "--help"]) == 0
    text = capsys.readouterr().out
    # A frame and colours may surround each line; what counts is what stands between two options.
    mark = r"\n\W*(?:\x1b\S*?m)*--(?=[a-z])"
    parts = {}
    for names, part in re.findall(rf"{mark}([^\n]*)(.*?)(?={mark}|\Z)", text, re.DOTALL):
        # An option with two names has both before its text: "--limit SIZE, --num-samples SIZE".
        both = re.match(r"([a-z-]+)(?: [A-Z]+)?(?:, (?:\x1b\S*?m)*--([a-z-]+))?", names)
        assert both is not None, names
        parts.update(dict.fromkeys(filter(None, both.groups()), names[both.end() :] + part))
    for name in GOLDEN[verb][1].split():
        assert len(re.findall("[a-z]", parts[name])) >= 15, f"{name}: {parts[name]}"
