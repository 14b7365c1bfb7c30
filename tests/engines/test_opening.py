"""A name to a model that runs: which engine, how texts are read, and messages for names that lead nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tests.engines.models import save_byte_model, save_byte_tokenizer, tokens
from tests.measure.models import tiny_model

from lengthwise.checkpoints import Checkpoint, list_shipped, save_checkpoint
from lengthwise.engines import HFModel, OneShot, from_checkpoint, open_model, opening
from lengthwise.errors import InputError
from lengthwise.models.lm import LanguageModel


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    model = tiny_model(vocab_size=256)
    checkpoint = Checkpoint(model=model, config=model.config, tokenizer_spec="bytes", context_length=16)
    save_checkpoint(tmp_path / "ours", checkpoint)
    return tmp_path / "ours"


def test_our_formats_are_ours(ours: Path) -> None:
    opened = open_model(str(ours))
    assert isinstance(opened.model, LanguageModel)
    assert (opened.engine, opened.reading, opened.why, opened.facts) == ("lengthwise", "streamed", None, None)
    assert (opened.vocab_size, opened.context_length, opened.tokenizer_spec) == (256, 16, "bytes")
    assert opening.is_ours(list_shipped()[0])
    assert opening.config_of_ours("mamba2-130m") is not None
    assert opening.config_of_ours("jamba") is None
    assert opened.no_states() is None


def test_a_right_cache_is_streamed(tmp_path: Path) -> None:
    opened = open_model(str(save_byte_model(tmp_path, "mamba2")), engine="transformers")
    assert isinstance(opened.model, HFModel)
    assert (opened.engine, opened.reading) == ("transformers", "streamed")
    assert (opened.vocab_size, opened.context_length, opened.tokenizer_spec) == (256, None, None)
    assert "whole text and pieces agree" in str(opened.why)
    assert opened.no_states() is None
    facts = opened.facts
    assert facts is not None
    assert (facts["class"], facts["model_type"]) == ("Mamba2ForCausalLM", "mamba2")


def test_a_wrong_cache_is_not_used(tmp_path: Path) -> None:
    opened = open_model(str(save_byte_model(tmp_path, "mamba")), engine="transformers")
    assert isinstance(opened.model, OneShot)
    assert opened.reading == "one-shot"
    assert "changes logits by" in str(opened.why)
    assert "not carried" in str(opened.no_states())


def test_context_and_tokenizer_come_from_the_folder(tmp_path: Path) -> None:
    save_byte_model(tmp_path, "llama")
    save_byte_tokenizer(tmp_path)
    opened = open_model(str(tmp_path), engine="transformers")
    assert (opened.context_length, opened.context_source) == (64, "max_position_embeddings")
    assert (opened.tokenizer_spec, opened.tokenizer_base) == ("tokenizer.json", tmp_path)
    assert opened.no_states() == "the model has no recurrent state"


def test_windows_that_a_probe_does_not_slide_are_tried_in_a_small_model(tmp_path: Path) -> None:
    # Moshi's mask knows no window and its cache does: 64 tokens do not show it with a window of 3,000.
    config = transformers.MoshiConfig(
        vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, ffn_dim=64
    )
    with opening.quiet():
        adapter = HFModel(opening.library().MoshiForCausalLM(config).eval())
        assert opening.carries(adapter).right
        found = opening._reading(adapter)
    assert not found.right
    assert "with sliding_window = 3000 cut to what the probe slides" in found.why


def test_engine_can_be_chosen(ours: Path, tmp_path: Path) -> None:
    transformers.GPT2Config(n_embd=16, n_head=2, n_layer=1, vocab_size=50).save_pretrained(tmp_path)
    with pytest.raises(InputError):
        open_model(str(tmp_path), engine="lengthwise")
    with pytest.raises(InputError):
        open_model(str(ours), engine="transformers")


def test_a_checkpoint_in_memory_is_opened_as_it_is() -> None:
    model = tiny_model(vocab_size=256)
    opened = from_checkpoint(Checkpoint(model=model, config=model.config, tokenizer_spec="bytes", context_length=16))
    assert opened.model is model
    assert opened.tokenizer_base is None


def refused(name: str, **options: object) -> InputError:
    with pytest.raises(InputError) as caught:
        open_model(name, **options)  # type: ignore[arg-type]
    return caught.value


def test_a_name_that_is_nothing() -> None:
    error = refused("mambo2-bytes-t64")
    assert error.got == "'mambo2-bytes-t64', which is none of these"
    assert "did you mean 'mamba2-bytes-t64'" in error.fix


def test_a_name_of_the_hub_without_the_hub() -> None:
    error = refused("owner/model")
    assert error.expected == "a folder, the name of a shipped model, or owner/name on the model hub"
    assert "HF_HUB_OFFLINE forbids to download it" in error.got
    assert "unset HF_HUB_OFFLINE" in error.fix


def test_the_hub_out_of_reach_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*words: object) -> None:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(opening, "_offline", lambda: False)
    monkeypatch.setattr(opening.urllib.request, "getproxies", dict)
    monkeypatch.setattr(opening.socket, "getaddrinfo", unknown)
    assert "the hub cannot be reached" in refused("owner/model").got


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert refused(str(tmp_path)).got == "a folder without one"


def test_a_folder_without_weights(tmp_path: Path) -> None:
    save_byte_model(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    error = refused(str(tmp_path), engine="transformers")
    assert error.expected == "weights that transformers can load"
    assert "--config-only" in error.fix


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    transformers.ViTConfig().save_pretrained(tmp_path)
    error = refused(str(tmp_path))
    assert error.got == "model type 'vit'"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    assert "unheard-of" in refused(str(tmp_path)).got
    (tmp_path / "config.json").write_text("{")
    assert refused(str(tmp_path)).expected == "a configuration that transformers can read"


def test_code_that_comes_with_a_model_does_not_run_unasked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.Model"}})
    )
    (tmp_path / "code.py").write_text("raise SystemExit('ran')")
    error = refused(str(tmp_path))
    assert "contains custom code" in error.got
    assert "--trust-remote-code" in error.fix


def test_a_model_type_has_no_weights() -> None:
    error = refused("jamba")
    assert error.got == "'jamba', a model type"
    assert "--config-only" in error.fix


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "jamba"}))
    monkeypatch.setitem(sys.modules, "transformers", None)
    error = refused(str(tmp_path))
    assert "transformers" in error.expected
    assert error.fix == "install the extra: pip install 'lengthwise[hf]'"


def test_verbosity_is_as_before() -> None:
    before = transformers.logging.get_verbosity()
    with opening.quiet():
        assert transformers.logging.get_verbosity() == transformers.logging.ERROR
    assert transformers.logging.get_verbosity() == before


def test_a_model_in_bfloat16(tmp_path: Path) -> None:
    save_byte_model(tmp_path, "llama")
    opened = open_model(str(tmp_path), engine="transformers", dtype=torch.bfloat16)
    assert next(opened.model.parameters()).dtype == torch.bfloat16
    with torch.no_grad():
        assert opened.model.nll(tokens(1, 9))[0].dtype == torch.float32


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_name_on_the_hub_in_a_fresh_process(offline: str) -> None:
    # Nothing else has imported the hub's client here; whether there is a network or not, there is no such repository.
    program = "import sys; from lengthwise.cli.main import main; sys.exit(main(sys.argv[1:]))"
    name = "no-such-owner-of-any-model/no-such-model"
    done = subprocess.run(
        [sys.executable, "-c", program, "check", name],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": offline},
    )
    assert done.returncode == 2, done.stderr
    assert name in done.stderr
