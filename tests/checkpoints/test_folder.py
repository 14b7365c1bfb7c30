"""Checkpoint folders: what is written is read back, and anything that does not fit is refused by name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lengthwise.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lengthwise.errors import InputError
from lengthwise.models.config import Mamba2Config, ModelConfig
from lengthwise.models.lm import LanguageModel

CONFIG = ModelConfig(d_model=16, num_layers=2, vocab_size=30, mixer=Mamba2Config(d_state=4, headdim=8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint = Checkpoint(
        model=LanguageModel(CONFIG, seed=1),
        config=CONFIG,
        tokenizer_spec="bytes",
        context_length=64,
        extra={"note": "for tests"},
    )
    save_checkpoint(tmp_path / "model", checkpoint)
    return tmp_path / "model"


def test_round_trip_is_bit_equal(folder: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(folder)
    assert (loaded.config, loaded.context_length, loaded.tokenizer_spec) == (CONFIG, 64, "bytes")
    assert loaded.extra == {"note": "for tests"}
    assert loaded.format == "state-spaces"
    expected = LanguageModel(CONFIG, seed=1).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())
    save_checkpoint(tmp_path / "again", loaded)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


def test_reads_a_published_config(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    del values["lengthwise"]
    values["ssm_cfg"] = {"layer": "Mamba2", "d_state": 4, "headdim": 8}
    (folder / "config.json").write_text(json.dumps(values))
    loaded = load_checkpoint(folder)
    assert loaded.context_length is None
    assert loaded.tokenizer_spec is None


def test_accepts_the_tied_copy(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["backbone.embedding.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    load_checkpoint(folder)


def damage(folder: Path, kind: str) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    if kind == "missing":
        del tensors["backbone.layers.1.mixer.A_log"]
    elif kind == "extra":
        tensors["backbone.layers.2.mixer.A_log"] = torch.zeros(4)
    elif kind == "shape":
        tensors["backbone.norm_f.weight"] = torch.ones(17)
    elif kind == "dtype":
        tensors["backbone.norm_f.weight"] = torch.ones(16, dtype=torch.int32)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing", "missing backbone.layers.1.mixer.A_log"),
        ("extra", "unused backbone.layers.2.mixer.A_log"),
        ("shape", r"backbone.norm_f.weight of shape \(17,\) instead of \(16,\)"),
        ("dtype", "backbone.norm_f.weight of dtype torch.int32"),
    ],
)
def test_refuses_wrong_tensors(folder: Path, kind: str, text: str) -> None:
    damage(folder, kind)
    with pytest.raises(InputError, match=text):
        load_checkpoint(folder)


def test_refuses_truncated_and_missing_files(folder: Path, tmp_path: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut short"):
        load_checkpoint(folder)
    file.unlink()
    with pytest.raises(InputError, match="the weights are missing"):
        load_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json"):
        load_checkpoint(folder)
    with pytest.raises(InputError, match="neither"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"d_modell": 1}, "'d_modell'.*d_model"),
        ({"attn_layer_idx": [1]}, "causal of attn_cfg"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "'Mamba1'"),
        ({"ssm_cfg": {"layer": "Mamba2", "d_sate": 4}}, "'d_sate'.*d_state"),
        ({"n_layer": None}, "n_layer"),
    ],
)
def test_refuses_wrong_configs(folder: Path, change: dict, text: str) -> None:
    values = {**json.loads((folder / "config.json").read_text()), **change}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=text):
        load_checkpoint(folder)
