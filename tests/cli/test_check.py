"""`lengthwise check`: what it prints, its exit codes, and what is wrong with its input."""

import json
from pathlib import Path

import pytest
import transformers
from tests.engines.models import save_byte_model

from lengthwise.check.config import CheckConfig
from lengthwise.cli.check import SETTINGS, Options

known = pytest.mark.skipif(not transformers.__version__.startswith("5.23."), reason="faults of transformers 5.23")


THEIRS = ("--engine", "transformers")
"""Some of these formats are ours as well."""


@pytest.fixture
def mamba(tmp_path: Path) -> Path:
    return save_byte_model(tmp_path / "mamba", "mamba")


def test_our_model_passes(lengthwise, tiny_model: Path) -> None:
    done = lengthwise("check", tiny_model, "--length", 24)
    assert done.code == 0
    assert "LanguageModel run by lengthwise" in done.out
    assert "FAIL" not in done.out
    assert "* Long texts can be streamed in pieces with the state carried." in done.out
    assert "All properties that the model offers hold." in done.out


@known
def test_a_fault_gives_code_1_words_and_a_script(lengthwise, mamba: Path) -> None:
    done = lengthwise("check", mamba, *THEIRS, "--length", 32, "--script", "fault.py", "--bug-report", "bug.md")
    assert done.code == 1
    assert "MambaForCausalLM run by transformers" in done.out
    assert "* whole text = two pieces: FAIL. Long texts must be read in one piece" in done.out
    assert "Found by trying: the recurrent state that is carried is not read by calls of several tokens" in done.out
    assert "* Read texts in one piece: the state is not carried rightly from call to call." in done.out
    assert Path("fault.py").read_text() in Path("bug.md").read_text()
    assert "script: fault.py" in done.out


@known
def test_json_and_run_folder_hold_the_same(lengthwise, mamba: Path) -> None:
    done = lengthwise("check", mamba, *THEIRS, "--length", 32, "--out", "run", "--json")
    assert done.code == 1
    found = done.json
    assert found.pop("run") == "run"
    assert found.pop("script") == Path("run/fault.py").read_text()
    assert found.pop("bug_report") == Path("run/bug_report.md").read_text()
    assert found == json.loads(Path("run/results.json").read_text())
    assert (found["passed"], found["worst"], found["class"]) == (False, "two-pieces", "MambaForCausalLM")
    faults = {each["name"]: each for each in found["findings"] if each["severity"] == "silent"}
    assert faults["two-pieces"]["first"] == 16
    assert faults["two-pieces"]["error"] > faults["two-pieces"]["tolerance"]
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert (manifest["kind"], manifest["status"], manifest["config"]["length"]) == ("check", "complete", 32)
    again = lengthwise("check", "--config", "run", "--json").json
    assert again["findings"] == found["findings"]


def test_config_only_needs_no_weights(lengthwise, mamba: Path) -> None:
    (mamba / "model.safetensors").unlink()
    done = lengthwise("check", mamba, *THEIRS, "--config-only", "--length", 24, "--json")
    assert done.json["weights"] == "random, of a small model of the same class"
    assert lengthwise("check", "mamba2-1.3b", "--config-only", "--length", 24).code == 0
    assert lengthwise("check", "openai-gpt", "--config-only", "--length", 24).code == 0


@known
def test_script_on_stdout(lengthwise) -> None:
    done = lengthwise("check", "mamba", "--config-only", "--length", 24, "--script", "-")
    assert 'AutoConfig.for_model(\n    "mamba",' in done.out


def test_windows_that_the_probe_does_not_slide_are_named(lengthwise, tmp_path: Path) -> None:
    config = transformers.MistralConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=40,
    )  # fmt: skip
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path / "mistral")
    done = lengthwise("check", tmp_path / "mistral", *THEIRS, "--length", 30)
    assert "does not slide the model's window (sliding_window = 40)" in done.out
    assert "does not slide" not in lengthwise("check", tmp_path / "mistral", *THEIRS, "--length", 44).out


def test_every_setting_option_is_a_field_of_the_config() -> None:
    fields = set(CheckConfig.__dataclass_fields__)
    flags = {"config_only", "trust_remote_code"}
    assert set(SETTINGS) | flags == fields
    assert set(Options.__dataclass_fields__) - fields == {"config", "out", "script", "bug_report", "json"}


def test_no_model(lengthwise) -> None:
    done = lengthwise("check")
    assert done.code == 2
    assert done.part("expected") == "a model to check"


def test_model_not_there(lengthwise) -> None:
    done = lengthwise("check", "jambo", "--config-only")
    assert done.code == 2
    assert done.part("got") == "'jambo', which is none of these"
    assert "did you mean 'jamba'" in done.part("try")


def test_name_of_the_hub_offline(lengthwise) -> None:
    done = lengthwise("check", "owner/model")
    assert done.code == 2
    assert "HF_HUB_OFFLINE forbids to download it" in done.part("got")
    assert "unset HF_HUB_OFFLINE" in done.part("try")


def test_neither_ours_nor_loadable(lengthwise) -> None:
    Path("other").mkdir()
    Path("other/config.json").write_text('{"model_type": "vit"}')
    done = lengthwise("check", "other")
    assert done.code == 2
    assert done.part("expected") == "a model that transformers can load as a causal language model"


def test_ours_asked_for_and_not_ours(lengthwise) -> None:
    done = lengthwise("check", "jamba", "--config-only", "--engine", "lengthwise")
    assert done.code == 2
    assert done.part("expected") == "a preset, a shipped model or a folder in a format of ours"


def test_unknown_option(lengthwise) -> None:
    done = lengthwise("check", "jamba", "--confg-only")
    assert done.code == 2
    assert "did you mean '--config-only'" in done.part("try")


def test_length_too_short(lengthwise) -> None:
    done = lengthwise("check", "jamba", "--config-only", "--length", 8)
    assert done.code == 2
    assert done.part("expected") == "a probe of at least 24 tokens"


def test_json_and_a_script_on_one_stdout(lengthwise) -> None:
    done = lengthwise("check", "jamba", "--config-only", "--json", "--script", "-")
    assert done.code == 2
    assert done.part("expected") == "one document on stdout"


def test_a_file_in_no_folder(lengthwise) -> None:
    done = lengthwise("check", "jamba", "--config-only", "--script", "none/fault.py")
    assert done.code == 2
    assert done.part("expected") == "a file in a folder that exists"


def test_a_folder_in_use(lengthwise) -> None:
    Path("run").mkdir()
    Path("run/file").touch()
    done = lengthwise("check", "openai-gpt", "--config-only", "--out", "run")
    assert done.code == 2
    assert done.part("expected") == "an empty or new folder"


def test_a_model_that_raises_in_one_pass(lengthwise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*words: object, **options: object) -> None:
        raise ValueError("no pass today")

    save_byte_model(tmp_path / "llama", "llama")
    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", broken)
    done = lengthwise("check", tmp_path / "llama", *THEIRS, "--length", 24, "--out", "run")
    assert done.code == 1
    assert done.part("expected").startswith("logits of 24 tokens read at once")
    assert done.part("got") == "ValueError: no pass today"
    assert done.part("in") == "LlamaForCausalLM"
    assert not Path("run").exists()


def test_weights_that_are_not_finite(lengthwise, tmp_path: Path) -> None:
    import torch

    folder = save_byte_model(tmp_path / "llama", "llama")
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = float("nan")
    model.save_pretrained(folder)
    done = lengthwise("check", folder, *THEIRS, "--length", 24)
    assert done.code == 1
    assert done.part("expected") == "finite logits that differ from token to token"
