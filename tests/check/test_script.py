"""Scripts that show a fault with nothing but torch and transformers, and the reports that carry them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tests.engines.models import fresh, save_byte_model

from lengthwise.check import CheckConfig, check
from lengthwise.check.findings import Finding
from lengthwise.check.script import FAULT, Origin, make_script, shows
from lengthwise.engines.hf import HFModel
from lengthwise.engines.opening import load_config, quiet
from lengthwise.engines.tiny import tiny_model

known = pytest.mark.skipif(not transformers.__version__.startswith("5.23."), reason="faults of transformers 5.23")


def script(
    model_type: str, name: str, *, length: int = 48, positions: str | None = None, status: str = "fail"
) -> str | None:
    with quiet():
        small = tiny_model(load_config(model_type))
        model = HFModel(small.model)
        with torch.no_grad():
            model(torch.zeros(2, 3, dtype=torch.int64))  # tells who makes the cache
        finding = Finding(name=name, status=status, positions=positions, note='a "note"')  # type: ignore[arg-type]
        return make_script(finding, model, Origin(model_type, small), length=length, tolerance=1e-3)


@known
@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("mamba", "two-pieces"),
        ("jamba", "uneven-pieces"),
        ("nemotron_h", "piece-then-tokens"),
        ("zamba2", "single-tokens"),
        ("recurrent_gemma", "two-pieces"),
        ("recurrent_gemma", "fresh-start"),
        ("recurrent_gemma", "left-padding"),
        ("recurrent_gemma", "generate-left-padded"),
        ("recurrent_gemma", "after-left-padding"),
        ("mamba2", "after-right-padding"),
        ("mistral", "after-right-padding"),
        ("moshi", "generate"),
        ("doge", "prefix"),
        ("falcon_mamba", "gradients"),
    ],
)
def test_a_fault_is_shown(model_type: str, name: str) -> None:
    text = script(model_type, name)
    assert text is not None
    assert "lengthwise" not in text.replace("`lengthwise check`", "")
    assert max(map(len, text.splitlines())) <= 120
    assert "id2label" not in text, "settings that are the class's own are left out"


@known
def test_an_exception_is_shown_as_it_is() -> None:
    text = script("rwkv", "after-left-padding", status="error")
    assert text is not None


@known
def test_positions_left_to_the_model_are_left_out_of_the_script() -> None:
    own, given = script("bamba", "two-pieces", positions="own"), script("bamba", "two-pieces")
    assert own is not None
    assert "position_ids" not in own
    assert given is None, "with position ids Bamba is right, so there is nothing to show"


@pytest.mark.parametrize(
    "name", ["two-pieces", "generate", "left-padding", "causality", "rows", "repeat", "train-mode"]
)
def test_what_is_right_gives_no_script(name: str) -> None:
    assert script("llama", name) is None


def test_shows() -> None:
    assert shows(f"print('{FAULT}: x'); raise SystemExit(1)")
    assert shows("raise ValueError('of the model')", raises=True)
    assert not shows("raise ValueError('of the script')")
    with torch.no_grad():
        assert shows("import torch; print('FAULT' * torch.is_grad_enabled()); raise SystemExit(1)")
    assert not shows("print('no fault')")
    assert not shows("raise SystemExit(1)")


@known
def test_a_script_runs_in_a_fresh_interpreter(tmp_path: Path) -> None:
    result = check(CheckConfig(model="mamba", config_only=True, length=32))
    assert result.script is not None
    (tmp_path / "fault.py").write_text(result.script)
    done = subprocess.run([sys.executable, "fault.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[-1] == f"{FAULT}: the two should be equal"
    assert lines[-3] == f"transformers {transformers.__version__}, torch {torch.__version__}, MambaForCausalLM"
    shown = float(re.search(r"largest difference (\S+),", lines[-2])[1])  # type: ignore[index]
    fault = next(each for each in result.findings if each.name == "two-pieces")
    # Other tokens than those of the check, so of the same size and not the same.
    assert 0.2 < shown / fault.difference < 5


@known
def test_a_report_has_what_a_maintainer_needs() -> None:
    result = check(CheckConfig(model="mamba", config_only=True, length=32))
    report = result.report
    assert report is not None
    assert report.startswith(
        "### MambaForCausalLM: a text read in two pieces with its cache gives other logits than the whole text\n"
    )
    for part in (
        f"transformers {transformers.__version__}",
        "| first position with a difference | 16 of 32 |",
        "Found by trying: the recurrent state that is carried is not read by calls of several tokens",
        "```python\n" + result.script.rstrip() + "\n```",
        "| whole text = single tokens | pass |",
    ):
        assert part in report, part


@known
def test_a_loaded_model_gets_the_script_of_a_small_one(tmp_path: Path) -> None:
    folder = save_byte_model(tmp_path / "model", "mamba")
    result = check(CheckConfig(model=str(folder), engine="transformers", length=32))
    assert result.script is not None
    assert "from_config" in result.script
    assert str(folder) not in result.script
    assert result.record["weights"] == "as loaded"


@known
def test_a_fault_that_only_the_weights_show_is_shown_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lengthwise.check import run
    from lengthwise.errors import InputError

    def refuse(*words: object, **options: object) -> None:
        raise InputError(expected="", got="", where="", fix="")

    folder = save_byte_model(tmp_path / "model", "mamba")
    monkeypatch.setattr(run.tiny, "tiny_model", refuse)
    result = check(CheckConfig(model=str(folder), engine="transformers", length=32))
    assert result.script is not None
    assert f'from_pretrained("{folder}", dtype=torch.float32)' in result.script


def test_ours_have_no_script() -> None:
    result = check(CheckConfig(model="mamba2-130m", config_only=True, length=24))
    assert result.passed
    assert (result.script, result.report) == (None, None)


def test_a_model_of_ones_own_can_be_wrapped() -> None:
    assert HFModel(fresh("llama")).name == "LlamaForCausalLM"
