"""Every published layout: recognised, read, and written back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.checkpoints.published import LAYOUTS, Layout, write_folder
from tests.models.families import FAMILIES
from torch import Tensor

from lengthwise.checkpoints import Checkpoint, describe, load_checkpoint, recognise, save_checkpoint
from lengthwise.checkpoints.express import express, natural, same_model
from lengthwise.checkpoints.formats import FORMATS
from lengthwise.models.config import AttentionConfig, GatedMLPConfig, GLAConfig, Mamba1Config, ModelConfig
from lengthwise.models.lm import LanguageModel

ALL = list(LAYOUTS)


def tensors_of(layout: Layout, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random tensors in which the copy of a tied table is one."""
    tensors = layout.tensors(seed, dtype)
    if layout.config is not None and layout.config.get("tie_embeddings", "d_model" in layout.config):
        if "lm_head.weight" in tensors and "model_type" not in layout.config:
            tensors["lm_head.weight"] = tensors["backbone.embedding.weight"].clone()
    return tensors


def read_back(folder: Path) -> dict[str, Tensor]:
    for name in ("pytorch_model.bin", "weights.pth"):
        if (folder / name).exists():
            return torch.load(folder / name, weights_only=True)
    return load_file(folder / "model.safetensors")


def text(config: ModelConfig, time: int = 13) -> Tensor:
    return torch.randint(0, config.vocab_size, (2, time), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_round_trip_is_bit_equal(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    tensors = tensors_of(layout, dtype=dtype)
    write_folder(tmp_path / "in", layout, tensors)
    assert recognise(tmp_path / "in") == layout.format
    loaded = load_checkpoint(tmp_path / "in")
    assert loaded.format == layout.format
    assert all(parameter.dtype == torch.float32 for parameter in loaded.model.parameters())
    save_checkpoint(tmp_path / "out", loaded)
    back = read_back(tmp_path / "out")
    assert back.keys() == tensors.keys()
    assert all(back[key].dtype == dtype and torch.equal(back[key], tensors[key]) for key in tensors)
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    del values["lengthwise"]
    assert values == (layout.config or {})
    again = load_checkpoint(tmp_path / "out")
    assert (again.config, again.format) == (loaded.config, loaded.format)


@pytest.mark.parametrize("name", ALL)
def test_the_model_runs_and_every_tensor_counts(name: str, tmp_path: Path) -> None:
    """Changing any stored tensor changes the loaded model: none is dropped on the way, and none is read twice."""
    layout = LAYOUTS[name]
    tensors = tensors_of(layout)
    loaded = load_checkpoint(write_folder(tmp_path / "in", layout, tensors))
    assert torch.isfinite(loaded.model(text(loaded.config)).logits[..., : loaded.config.vocab_size]).all()
    stored = sum(tensor.numel() for key, tensor in tensors.items() if not (key == "lm_head.weight" and tied(loaded)))
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == stored
    sums = sum(
        float(tensor.double().sum()) for key, tensor in tensors.items() if key != "lm_head.weight" or not tied(loaded)
    )
    mine = sum(float(parameter.detach().double().sum()) for parameter in loaded.model.parameters())
    assert mine == pytest.approx(sums, rel=1e-12)


def tied(checkpoint: Checkpoint) -> bool:
    return checkpoint.config.tie_embeddings


@pytest.mark.parametrize("name", ALL)
def test_described_without_weights(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    folder = write_folder(tmp_path, layout, tensors_of(layout, dtype=torch.float16))
    found = describe(folder)
    assert (found.format, found.dtypes, found.source) == (layout.format, ("float16",), str(folder))
    assert found.config == load_checkpoint(folder).config
    if layout.config is not None:
        (folder / "model.safetensors").unlink()
        assert same_model(describe(folder).config, found.config)


def test_the_two_layouts_of_recurrentgemma_are_one_model(tmp_path: Path) -> None:
    """The authors' tensors, renamed and turned by hand into transformers', give the same model."""
    theirs, hub = LAYOUTS["deepmind recurrentgemma"], LAYOUTS["transformers recurrentgemma"]
    tensors = tensors_of(theirs)
    made: dict[str, Tensor] = {
        "model.embed_tokens.weight": tensors["embedder.input_embedding"],
        "model.final_norm.weight": tensors["final_norm.scale"],
    }
    for layer in range(4):
        a, b = f"blocks.{layer}", f"model.layers.{layer}"
        for norm in ("temporal_pre_norm", "channel_pre_norm"):
            made[f"{b}.{norm}.weight"] = tensors[f"{a}.{norm}.scale"]
        up, bias = tensors[f"{a}.mlp_block.ffw_up.w"], tensors[f"{a}.mlp_block.ffw_up.b"]
        for index, part in enumerate(("gate_proj", "up_proj")):
            made[f"{b}.mlp_block.{part}.weight"] = up[index].T.contiguous()
            made[f"{b}.mlp_block.{part}.bias"] = bias[index, 0, 0].clone()
        for kind in ("weight", "bias"):
            made[f"{b}.mlp_block.down_proj.{kind}"] = tensors[f"{a}.mlp_block.ffw_down.{kind}"]
        t = f"{b}.temporal_block"
        if layer % 3 == 2:
            for mine, other in {"q": "proj_q", "k": "proj_k", "v": "proj_v", "o": "proj_final"}.items():
                made[f"{t}.{mine}_proj.weight"] = tensors[f"{a}.attention_block.{other}.weight"]
            made[f"{t}.o_proj.bias"] = tensors[f"{a}.attention_block.proj_final.bias"]
            continue
        r = f"{a}.recurrent_block"
        for part in ("linear_x", "linear_y", "linear_out"):
            for kind in ("weight", "bias"):
                made[f"{t}.{part}.{kind}"] = tensors[f"{r}.{part}.{kind}"]
        made[f"{t}.conv_1d.weight"] = tensors[f"{r}.conv_1d.w"].T.reshape(24, 1, 4).contiguous()
        made[f"{t}.conv_1d.bias"] = tensors[f"{r}.conv_1d.b"]
        made[f"{t}.rg_lru.recurrent_param"] = tensors[f"{r}.rg_lru.a_param"]
        for mine, other in {"input": "input_gate", "recurrent": "a_gate"}.items():
            made[f"{t}.rg_lru.{mine}_gate_weight"] = tensors[f"{r}.rg_lru.{other}.w"]
            made[f"{t}.rg_lru.{mine}_gate_bias"] = tensors[f"{r}.rg_lru.{other}.b"]
    one = load_checkpoint(write_folder(tmp_path / "one", theirs, tensors))
    other = load_checkpoint(write_folder(tmp_path / "other", hub, made))
    state = other.model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in one.model.state_dict().items())
    # A bare file does not tell its window: that of both published models is assumed.
    windows = {mixer.window for mixer in one.config.mixers if isinstance(mixer, AttentionConfig)}
    assert windows == {2048}


def rwkv_by_hand(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors of a whole model as flash-linear-attention stores them."""
    made: dict[str, Tensor] = {
        "model.embeddings.weight": tensors["emb.weight"],
        "lm_head.weight": tensors["head.weight"],
    }
    for kind in ("weight", "bias"):
        made[f"model.norm.{kind}"] = tensors[f"ln_out.{kind}"]
        made[f"model.layers.0.pre_norm.{kind}"] = tensors[f"blocks.0.ln0.{kind}"]
    for layer in range(2):
        a, b = f"blocks.{layer}.att", f"model.layers.{layer}.attn"
        for kind in ("weight", "bias"):
            made[f"model.layers.{layer}.attn_norm.{kind}"] = tensors[f"blocks.{layer}.ln1.{kind}"]
            made[f"model.layers.{layer}.ffn_norm.{kind}"] = tensors[f"blocks.{layer}.ln2.{kind}"]
            made[f"{b}.g_norm.{kind}"] = tensors[f"{a}.ln_x.{kind}"]
        for mine, other in {"r": "receptance", "k": "key", "v": "value", "g": "gate"}.items():
            made[f"{b}.{mine}_proj.linear.weight"] = tensors[f"{a}.{other}.weight"]
        made[f"{b}.o_proj.weight"] = tensors[f"{a}.output.weight"]
        made[f"{b}.bonus"] = tensors[f"{a}.time_faaaa"]
        made[f"{b}.x_proj.0.mu"] = tensors[f"{a}.time_maa_x"].flatten()
        first = {part: tensors[f"{a}.time_maa_w1"][:, 32 * i : 32 * i + 32] for i, part in enumerate("wkvrg")}
        second = {part: tensors[f"{a}.time_maa_w2"][i] for i, part in enumerate("wkvrg")}
        made[f"{b}.x_proj.0.linear.weight"] = torch.cat([first[part].T for part in "rwkvg"])
        made[f"{b}.x_proj.2.weight"] = torch.cat([second[part].T for part in "rwkvg"], dim=1)
        made[f"{b}.x_bias"] = torch.stack([tensors[f"{a}.time_maa_{part}"].flatten() for part in "rwkvg"])
        made[f"{b}.w_proj.linear.lora.0.weight"] = tensors[f"{a}.time_decay_w1"].T.contiguous()
        made[f"{b}.w_proj.linear.lora.2.weight"] = tensors[f"{a}.time_decay_w2"].T.contiguous()
        made[f"{b}.w_proj.linear.lora.2.bias"] = tensors[f"{a}.time_decay"].flatten()
        a, b = f"blocks.{layer}.ffn", f"model.layers.{layer}.ffn"
        for part in ("key", "receptance"):
            made[f"{b}.{part}.mu"] = tensors[f"{a}.time_maa_{part[0]}"].flatten()
            made[f"{b}.{part}.linear.weight"] = tensors[f"{a}.{part}.weight"]
        made[f"{b}.value.weight"] = tensors[f"{a}.value.weight"]
    return made


def test_the_three_layouts_of_rwkv6_are_one_model(tmp_path: Path) -> None:
    bare, hub, fla = LAYOUTS["rwkv-6 file"], LAYOUTS["rwkv-6 hub"], LAYOUTS["fla rwkv-6"]
    tensors = tensors_of(bare)
    longer = {"blocks.": "rwkv.blocks.", "emb.": "rwkv.embeddings.", "ln_out.": "rwkv.ln_out."}
    renamed = {}
    for key, tensor in tensors.items():
        for before, after in longer.items():
            key = after + key[len(before) :] if key.startswith(before) else key
        key = key.replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.").replace(".ln0.", ".pre_ln.")
        renamed[key] = tensor
    assert fla.config is not None
    fla = replace(fla, config={**fla.config, "intermediate_size": 64})
    found = [
        load_checkpoint(write_folder(tmp_path / "bare", bare, tensors)),
        load_checkpoint(write_folder(tmp_path / "hub", hub, renamed)),
        load_checkpoint(write_folder(tmp_path / "fla", fla, rwkv_by_hand(tensors))),
    ]
    states = [checkpoint.model.state_dict() for checkpoint in found]
    assert all(torch.equal(states[0][key], state[key]) for state in states[1:] for key in states[0])
    # They differ in the eps of the norm of the heads alone, for which fla has no field of its own.
    assert same_model(found[0].config, found[1].config)
    mixers = [checkpoint.config.mixer for checkpoint in found]
    assert [mixer.head_size_divisor for mixer in mixers] == [8, 8, 1]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_new_model_goes_into_the_format_of_its_family(name: str, tmp_path: Path) -> None:
    expected = {
        "mamba1": "state-spaces",
        "mamba2": "state-spaces",
        "mamba2-attention": "state-spaces",
        "gla": "fla/gla",
        "gla-conv": "lengthwise",
        "rwkv6": "lengthwise",
        "griffin": "lengthwise",
        "transformer": "transformers/llama",
        "everything": "lengthwise",
    }
    config = FAMILIES[name]
    assert natural(config).form.name == expected.get(name, "lengthwise")
    model = LanguageModel(config, seed=1)
    save_checkpoint(tmp_path, Checkpoint(model=model, config=config, context_length=32, tokenizer_spec="bytes"))
    loaded = load_checkpoint(tmp_path)
    assert same_model(loaded.config, config)
    assert (loaded.context_length, loaded.tokenizer_spec) == (32, "bytes")
    state = loaded.model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    batch = text(config)
    assert torch.equal(loaded.model(batch).logits, model(batch).logits)


def test_what_a_format_has_no_field_for_is_kept_as_a_detail() -> None:
    """The padding of the vocabulary, and how the model was initialised."""
    config = ModelConfig(
        d_model=24,
        num_layers=2,
        vocab_size=45,
        mixer=GLAConfig(num_heads=2, norm_eps=1e-5, chunk_size=16),
        mlp=GatedMLPConfig(width=40),
        tie_embeddings=False,
    )
    found = natural(config)
    assert found.form.name == "fla/gla"
    assert found.values["vocab_size"] == 48
    model = {"vocab_size": 45, "pad_vocab_size_multiple": 16}
    assert found.details == {"model": model, "gla": {"chunk_size": 16}}
    slow = ModelConfig(d_model=24, num_layers=2, vocab_size=45, mixer=Mamba1Config(A_init_scale=0.1))
    assert natural(slow).details == {"mamba1": {"A_init_scale": 0.1}}


def test_what_changes_the_function_is_no_detail() -> None:
    """A window that reaches one key further has no field in fla: such a model is not stored there."""
    local = AttentionConfig(num_heads=2, window=5)
    config = FAMILIES["transformer"]
    assert express(FORMATS["transformers/llama"], config) is not None
    assert express(FORMATS["transformers/llama"], replace(config, mixer=local)) is None
    hybrid = replace(FAMILIES["gla"], num_layers=3, other_mixers=((1, local),))
    assert express(FORMATS["fla/gla"], hybrid) is not None
    reaching = replace(hybrid, other_mixers=((1, replace(local, window_reaches=True)),))
    assert express(FORMATS["fla/gla"], reaching) is None
    assert natural(reaching).form.name == "lengthwise"
