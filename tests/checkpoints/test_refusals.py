"""What is not accepted: every message says what, where, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.published import LAYOUTS, write_folder

from lengthwise.checkpoints import load_checkpoint, recognise
from lengthwise.errors import InputError

MAMBA2 = "state-spaces mamba-2"


def folder_of(name: str, tmp_path: Path) -> Path:
    layout = LAYOUTS[name]
    tensors = layout.tensors()
    if "state-spaces" in name and "lm_head.weight" in tensors:
        tensors["lm_head.weight"] = tensors["backbone.embedding.weight"].clone()
    return write_folder(tmp_path / "model", layout, tensors)


def with_config(folder: Path, change: dict[str, Any]) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


Change = dict[str, Any]
# Layout, change of its config, and what the message says.
CONFIGS: list[tuple[str, Change, str]] = [
    (MAMBA2, {"d_modell": 1}, r"'d_modell': 1.*did you mean 'd_model'"),
    (MAMBA2, {"n_layer": None}, "n_layer.*a value; got None"),
    (MAMBA2, {"n_layer": "3"}, "n_layer.*a whole number; got '3'"),
    (MAMBA2, {"rms_norm": 1}, "rms_norm.*true or false; got 1"),
    (MAMBA2, {"ssm_cfg": {"layer": "Mamba3"}}, "ssm_cfg.layer 'Mamba1'.*got 'Mamba3'"),
    (MAMBA2, {"ssm_cfg": {"layer": "Mamba2", "d_sate": 4}}, "'d_sate': 4.*d_state"),
    (
        MAMBA2,
        {"ssm_cfg": {"layer": "Mamba2", "norm_before_gate": True}},
        "norm_before_gate.*nothing else is implemented",
    ),
    (MAMBA2, {"ssm_cfg": {"layer": "Mamba2", "dt_limit": [0.0]}}, "a pair of numbers"),
    (MAMBA2, {"ssm_cfg": []}, "ssm_cfg: an object"),
    (MAMBA2, {"attn_layer_idx": ["1"]}, "a list of layers"),
    (MAMBA2, {"attn_layer_idx": [1], "attn_cfg": {"num_heads": 2}}, "causal of attn_cfg"),
    (MAMBA2, {"attn_layer_idx": [1], "attn_cfg": {"causal": True, "num_heads": 2, "mlp_dim": 8}}, "mlp_dim"),
    (MAMBA2, {"quantization_config": {"bits": 4}}, "weights as numbers; got quantized weights"),
    ("state-spaces transformer++", {"d_intermediate": 300}, "rounded up to 384.*got 256 rows"),
    ("transformers mamba", {"hidden_act": "gelu"}, "hidden_act.*'silu'.*got 'gelu'"),
    ("transformers mamba", {"n_layer": 3}, r"n_layer.*2 \(num_hidden_layers\); got 3"),
    ("transformers mamba", {"rms_norm": False}, "rms_norm"),
    ("transformers mamba-2", {"num_heads": None, "head_dim": None}, r"128 times 64 \(absent fields count"),
    ("transformers mamba-2", {"use_moe": True}, "'use_moe': True"),
    ("fla mamba-2", {"D_has_hdim": True}, "D_has_hdim"),
    (
        "transformers llama",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        "rope_type of rope_scaling.*'llama3'",
    ),
    ("transformers llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "type of rope_scaling.*'linear'"),
    ("transformers llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type of rope_parameters.*'yarn'"),
    ("transformers llama", {"hidden_act": "gelu"}, "hidden_act"),
    ("transformers llama", {"sliding_window": 128}, "'sliding_window': 128"),
    ("transformers recurrentgemma", {"block_types": ["recurrent", "ssm"]}, "block_types"),
    ("transformers recurrentgemma", {"hidden_activation": "relu"}, "hidden_activation"),
    ("fla gla", {"feature_map": "relu"}, "feature_map"),
    ("fla gla", {"hidden_act": "powlu"}, "hidden_act"),
    ("fla gla", {"attnres_block_size": 2}, "attnres_block_size"),
    ("fla gla", {"attn": {"layers": [1], "num_heads": 2, "qk_norm": True}}, "'qk_norm': True"),
    ("fla rwkv-6", {"expand_k": 0.5}, "expand_k.*1.0.*got 0.5"),
    ("fla rwkv-6", {"norm_eps": 2e-5}, "norm_eps: 1e-5 times a square"),
    ("rwkv-6 hub", {"head_size": 16}, "head_size 16 in the columns of time_faaaa; got 8 columns"),
    ("rwkv-6 hub", {"attention_hidden_size": 48}, "another width is not implemented"),
    ("rwkv-6 hub", {"tie_word_embeddings": True}, "tie_word_embeddings"),
]


@pytest.mark.parametrize(("name", "change", "text"), CONFIGS)
def test_configs(name: str, change: Change, text: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    form = recognise(folder)
    assert form is not None
    with_config(folder, change)
    with pytest.raises(InputError, match=text) as caught:
        load_checkpoint(folder)
    assert caught.value.where.startswith(str(folder))
    # transformers may know what we do not; nobody else knows the other formats.
    assert recognise(folder) == (None if form.startswith("transformers/") else form)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if LAYOUTS[name].config is not None])
def test_every_field_is_read(name: str, tmp_path: Path) -> None:
    """No config field is ignored unless it is on the list of those without meaning."""
    folder = folder_of(name, tmp_path)
    with_config(folder, {"new_option": 7})
    with pytest.raises(InputError, match="'new_option': 7"):
        load_checkpoint(folder)


def drop(tensors: dict[str, Any]) -> None:
    del tensors["backbone.layers.1.mixer.A_log"]


def add(tensors: dict[str, Any]) -> None:
    tensors["backbone.layers.7.mixer.A_log"] = torch.zeros(4)


def reshape(tensors: dict[str, Any]) -> None:
    tensors["backbone.norm_f.weight"] = torch.ones(17)


def whole_numbers(tensors: dict[str, Any]) -> None:
    tensors["backbone.norm_f.weight"] = torch.ones(24, dtype=torch.int32)


def untie(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1


def rename_all(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        if "mixer" in name:
            tensors[name.replace("mixer", "mamba")] = tensors.pop(name)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (drop, "missing backbone.layers.1.mixer.A_log"),
        (add, "unused backbone.layers.7.mixer.A_log"),
        (reshape, r"backbone.norm_f.weight of shape \(17,\) instead of \(24,\)"),
        (whole_numbers, "backbone.norm_f.weight of dtype torch.int32"),
        (untie, "lm_head.weight, which differs from backbone.embedding.weight although the config ties them"),
        (rename_all, "missing backbone.layers.0.mixer.*and 43 more"),
    ],
)
def test_tensors(damage: Callable[[dict[str, Any]], None], text: str, tmp_path: Path) -> None:
    folder = folder_of(MAMBA2, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=text):
        load_checkpoint(folder)


def test_a_config_that_contradicts_the_tensors(tmp_path: Path) -> None:
    folder = folder_of(MAMBA2, tmp_path)
    with_config(folder, {"n_layer": 4})
    with pytest.raises(InputError, match=r"missing backbone\.layers\.3\.norm\.weight.*config.json belongs to these"):
        load_checkpoint(folder)
    with_config(folder, {"n_layer": 3, "vocab_size": 60})
    with pytest.raises(InputError, match=r"backbone\.embedding\.weight of shape \(48, 24\) instead of \(64, 24\)"):
        load_checkpoint(folder)


def test_an_unknown_format(tmp_path: Path) -> None:
    folder = folder_of(MAMBA2, tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 24}))
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder)
    assert "one of the formats lengthwise, state-spaces, transformers/mamba" in caught.value.expected
    assert caught.value.got.startswith("model_type 'gpt2', and 30 tensors such as backbone.embedding.weight, ")
    assert recognise(folder) is None
    torch.save({"wte.weight": torch.ones(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"no config, and 1 tensors such as wte.weight"):
        load_checkpoint(tmp_path / "other.pth")


def test_another_generation_of_rwkv(tmp_path: Path) -> None:
    tensors = LAYOUTS["rwkv-6 file"].tensors()
    for name in list(tensors):
        if name.endswith("time_maa_w1"):
            tensors[name.replace("time_maa_w1", "x_w")] = tensors.pop(name)
    torch.save(tensors, tmp_path / "rwkv7.pth")
    with pytest.raises(InputError, match=r"no matrix blocks.0.att.time_maa_w1.*5 and 7 are other architectures"):
        load_checkpoint(tmp_path / "rwkv7.pth")


@pytest.mark.parametrize("pickled", [False, True])
def test_files_that_were_cut_short_or_are_missing(pickled: bool, tmp_path: Path) -> None:
    layout = LAYOUTS["transformers mamba-2"]
    folder = write_folder(tmp_path / "model", layout, layout.tensors(), pickled=pickled)
    file = folder / ("pytorch_model.bin" if pickled else "model.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"a whole file of tensors.*bytes\).*missing or was cut short") as caught:
        load_checkpoint(folder)
    assert caught.value.where == str(file)
    file.write_bytes(b"")
    with pytest.raises(InputError, match="cut short"):
        load_checkpoint(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"weights beside the config.*the folder holds config\.json"):
        load_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="a JSON object; got list"):
        load_checkpoint(folder)


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.trace, "")


def test_a_pickle_that_would_run_code(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", LAYOUTS[MAMBA2], {}, pickled=True)
    torch.save({"backbone.norm_f.weight": Malicious(tmp_path / "trace")}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="a pickle of plain tensors; got one that asks for more, and might run code"):
        load_checkpoint(folder)
    assert not (tmp_path / "trace").exists()
    torch.save({"model": {"a": torch.ones(1)}, "step": 3}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="names and tensors, nothing else; got dict with dict, int"):
        load_checkpoint(folder)


def test_nothing_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / "nowhere")
    assert caught.value.got == f"'{tmp_path / 'nowhere'}', which is neither"
    with pytest.raises(InputError, match="did you mean 'mamba2-130m'"):
        load_checkpoint("mamba2-130n")


def test_details_that_are_none(tmp_path: Path) -> None:
    folder = folder_of("transformers mamba-2", tmp_path)
    with_config(folder, {"lengthwise": {"details": {"mamba2": {"d_state": 5}}}})
    with pytest.raises(InputError, match=r"'mamba2\.d_state'"):
        load_checkpoint(folder)
    with_config(folder, {"lengthwise": {"details": {"model": {"vocab_size": 20}}}})
    with pytest.raises(InputError, match="a vocabulary that is padded to the 48 rows of the table; got 20"):
        load_checkpoint(folder)
    details = {"model": {"vocab_size": 45, "pad_vocab_size_multiple": 16}}
    with_config(folder, {"lengthwise": {"details": details}})
    loaded = load_checkpoint(folder)
    assert torch.isinf(loaded.model(torch.zeros(1, 2, dtype=torch.long)).logits[..., 45:]).all()


def test_stored_rotary_frequencies_are_compared(tmp_path: Path) -> None:
    """Old files hold them as a buffer of every layer: kept if they are those of the config, refused if not."""
    layout = LAYOUTS["transformers llama"]
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    right = 10_000.0 ** -(torch.arange(0, 6, 2).float() / 6)
    folder = write_folder(tmp_path / "right", layout, {**layout.tensors(), name: right.half()})
    loaded = load_checkpoint(folder)
    assert loaded.stored is not None
    assert list(loaded.stored.buffers) == [name]
    wrong = 500_000.0 ** -(torch.arange(0, 6, 2).float() / 6)
    folder = write_folder(tmp_path / "wrong", layout, {**layout.tensors(), name: wrong})
    with pytest.raises(InputError, match="inv_freq of another rotary base"):
        load_checkpoint(folder)


def test_newer_and_older_fields_mean_the_same(tmp_path: Path) -> None:
    layout = LAYOUTS["transformers llama"]
    assert layout.config is not None
    new = {k: v for k, v in layout.config.items() if k not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    one = load_checkpoint(write_folder(tmp_path / "old", layout, layout.tensors()))
    other = load_checkpoint(write_folder(tmp_path / "new", replace(layout, config=new), layout.tensors()))
    assert one.config == other.config
    assert one.context_length == 4096


NOTES: list[tuple[Change, str, str]] = [
    ({"tokenizer": 5}, "tokenizer: a text that is not empty or None", "5"),
    ({"tokenizer": ""}, "tokenizer: a text that is not empty or None", "''"),
    ({"extra": []}, "extra: an object or None", "[]"),
    ({"extra": {"post_training": 5}}, "extra.post_training: a list", "5"),
    ({"extra": {"pre_training": None}}, "extra.pre_training: an object", "None"),
    ({"extra": {"pre_training": {"peak_lr": "x"}}}, "extra.pre_training.peak_lr: a number", "'x'"),
    ({"context_length": "x"}, "context_length: a whole number or None", "'x'"),
    ({"context_length": 64.5}, "context_length: a whole number or None", "64.5"),
    ({"context_length": 0}, "context_length: a whole number of at least 1, or None", "0"),
    ({"details": 5}, "details: an object or None", "5"),
    ({"details": {"model": 5}}, "details.model: an object", "5"),
]


@pytest.mark.parametrize(("notes", "expected", "got"), NOTES, ids=lambda value: str(value)[:40])
def test_notes_of_another_type(tmp_path: Path, notes: Change, expected: str, got: str) -> None:
    folder = folder_of(MAMBA2, tmp_path)
    with_config(folder, {"lengthwise": notes})
    with pytest.raises(InputError) as raised:
        load_checkpoint(folder)
    error = raised.value
    assert (error.expected, error.got) == (expected, got)
    assert error.where == f"lengthwise in {folder / 'config.json'}"
    assert error.fix.startswith("change ")


def test_notes_without_content(tmp_path: Path) -> None:
    folder = folder_of(MAMBA2, tmp_path)
    with_config(folder, {"lengthwise": {"tokenizer": None, "extra": None, "context_length": None, "details": None}})
    assert load_checkpoint(folder).extra == {}
