"""Containers and dtypes: pickles, several files, half floats, what stays mapped, and what a change does to all that."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tests.checkpoints.published import LAYOUTS, write_folder
from torch import Tensor

from lengthwise.checkpoints import Checkpoint, load_checkpoint, replace_checkpoint, save_checkpoint, weights
from lengthwise.errors import InputError, RunFailure
from lengthwise.models.config import Mamba2Config, ModelConfig
from lengthwise.models.lm import LanguageModel

LAYOUT = LAYOUTS["transformers mamba-2"]


def shard(folder: Path, tensors: dict[str, Tensor], *, pickled: bool, count: int = 3) -> Path:
    """A checkpoint in several files, cut without regard to layers."""
    write_folder(folder, LAYOUT, {}, pickled=pickled)
    name, ending = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    (folder / f"{name}.{ending}").unlink()
    where: dict[str, str] = {}
    for index in range(count):
        part = {key: tensors[key] for key in sorted(tensors)[index::count]}
        file = f"{name}-{index + 1:05d}-of-{count:05d}.{ending}"
        where.update(dict.fromkeys(part, file))
        torch.save(part, folder / file) if pickled else save_file(part, folder / file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index_file = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / f"{name}.{ending}.index.json").write_text(json.dumps(index_file))
    return folder


def contents(folder: Path) -> dict[str, dict[str, Tensor]]:
    found = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    return found | {path.name: torch.load(path, weights_only=True) for path in folder.glob("*.bin")}


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_files_come_back_as_they_were(pickled: bool, sharded: bool, tmp_path: Path) -> None:
    tensors = LAYOUT.tensors(dtype=torch.bfloat16)
    if sharded:
        shard(tmp_path / "in", tensors, pickled=pickled)
    else:
        write_folder(tmp_path / "in", LAYOUT, tensors, pickled=pickled)
    save_checkpoint(tmp_path / "out", load_checkpoint(tmp_path / "in"))
    before, after = contents(tmp_path / "in"), contents(tmp_path / "out")
    assert {file: part.keys() for file, part in before.items()} == {file: part.keys() for file, part in after.items()}
    assert all(torch.equal(part[key], after[file][key]) for file, part in before.items() for key in part)
    assert all(after[file][key].dtype == torch.bfloat16 for file, part in after.items() for key in part)
    if sharded:
        index = next((tmp_path / "in").glob("*.index.json")).name
        assert json.loads((tmp_path / "in" / index).read_text()) == json.loads((tmp_path / "out" / index).read_text())


@pytest.mark.parametrize("pickled", [False, True])
def test_an_incomplete_download(pickled: bool, tmp_path: Path) -> None:
    folder = shard(tmp_path, LAYOUT.tensors(), pickled=pickled)
    missing = sorted(path for path in folder.iterdir() if "00002" in path.name)[0]
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(InputError, match=rf"all 3 files that the index names; got 2; not there: {missing.name}"):
        load_checkpoint(folder)
    missing.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cut short"):
        load_checkpoint(folder)


def test_an_index_that_belongs_to_other_files(tmp_path: Path) -> None:
    folder = shard(tmp_path, LAYOUT.tensors(), pickled=False)
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    del index["weight_map"]["lm_head.weight"]
    file.write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"1 that are not: lm_head.weight"):
        load_checkpoint(folder)
    file.write_text("{}")
    with pytest.raises(InputError, match="an index with a weight_map"):
        load_checkpoint(folder)


def test_old_pickles_without_a_map(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, LAYOUT, {}, pickled=True)
    tensors = LAYOUT.tensors()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    state = load_checkpoint(folder).model.state_dict()
    assert torch.equal(state["backbone.norm_f.weight"], tensors["backbone.norm_f.weight"])


def test_weights_stay_in_the_map_of_the_file(tmp_path: Path) -> None:
    """In the dtype of the file no tensor is copied; in another one each is."""
    folder = write_folder(tmp_path, LAYOUT, LAYOUT.tensors())
    opened = weights.open_weights(folder / "model.safetensors")
    loaded = load_checkpoint(folder)
    for name, parameter in loaded.model.named_parameters():
        stored = name.replace("embedding.weight", "embeddings.weight")
        assert parameter.data_ptr() % 4 == 0
        assert torch.equal(parameter, opened.mapped(stored))
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert str(folder / "model.safetensors") in mapped.read_text()
        del loaded, opened, parameter
        assert str(folder / "model.safetensors") not in mapped.read_text()
        held = load_checkpoint(folder, dtype=torch.bfloat16)
        assert str(folder / "model.safetensors") not in mapped.read_text()
        assert {parameter.dtype for parameter in held.model.parameters()} == {torch.bfloat16}


def trained(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint after a step that half floats cannot hold."""
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter.data = parameter.data.clone()
            parameter.add_(1e-5)
    return checkpoint


def test_a_model_trained_on_is_stored_as_it_is_in_memory(tmp_path: Path) -> None:
    layout = replace(LAYOUT, config={**(LAYOUT.config or {}), "torch_dtype": "float16"})
    write_folder(tmp_path / "in", layout, layout.tensors(dtype=torch.float16))
    loaded = trained(load_checkpoint(tmp_path / "in"))
    save_checkpoint(tmp_path / "out", loaded)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"
    again = load_checkpoint(tmp_path / "out").model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in loaded.model.state_dict().items())
    save_checkpoint(tmp_path / "half", loaded, dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}


def test_tensors_of_several_dtypes(tmp_path: Path) -> None:
    tensors = {
        name: tensor.float() if name.endswith("A_log") else tensor
        for name, tensor in LAYOUT.tensors(dtype=torch.bfloat16).items()
    }
    write_folder(tmp_path / "in", LAYOUT, tensors)
    save_checkpoint(tmp_path / "out", load_checkpoint(tmp_path / "in"))
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert all(
        stored[name].dtype == tensor.dtype and torch.equal(stored[name], tensor) for name, tensor in tensors.items()
    )


def test_a_single_file_beside_its_config(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, LAYOUT, LAYOUT.tensors())
    one, other = load_checkpoint(folder), load_checkpoint(folder / "model.safetensors")
    assert (one.config, one.format, one.source) == (other.config, other.format, other.source)
    save_file(LAYOUT.tensors(seed=1), folder / "other.safetensors")
    third = load_checkpoint(folder / "other.safetensors")
    assert not torch.equal(third.model.backbone.norm_f.weight, one.model.backbone.norm_f.weight)


def test_saving_over_another_layout_leaves_one_checkpoint(tmp_path: Path) -> None:
    """Files of the older layout would be found before the new ones."""
    shard(tmp_path, LAYOUT.tensors(seed=1), pickled=False)
    config = ModelConfig(d_model=32, num_layers=2, vocab_size=30, mixer=Mamba2Config(d_state=4, headdim=8))
    save_checkpoint(tmp_path, Checkpoint(model=LanguageModel(config), config=config))
    assert load_checkpoint(tmp_path).config == config
    write_folder(tmp_path / "in", LAYOUT, LAYOUT.tensors(), pickled=True)
    save_checkpoint(tmp_path, load_checkpoint(tmp_path / "in"))
    assert load_checkpoint(tmp_path).config == load_checkpoint(tmp_path / "in").config


def test_a_loaded_model_is_saved_over_its_own_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, LAYOUT, LAYOUT.tensors())
    loaded = load_checkpoint(folder)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    save_checkpoint(folder, loaded)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())
    again = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.items())


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path, LAYOUT, LAYOUT.tensors())
    loaded = trained(load_checkpoint(folder))
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())

    def full(tensors: object, path: str, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(RunFailure, match="no space left on the device"):
        save_checkpoint(folder, loaded)
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before


@pytest.mark.parametrize("pickled", [False, True])
def test_weights_are_as_readable_as_any_other_file(pickled: bool, tmp_path: Path) -> None:
    write_folder(tmp_path / "in", LAYOUT, LAYOUT.tensors(), pickled=pickled)
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "out", load_checkpoint(tmp_path / "in"))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes["pytorch_model.bin" if pickled else "model.safetensors"] == 0o640
    assert set(modes.values()) == {0o640}


def test_weights_do_not_take_the_place_of_a_pipe(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", LAYOUT, LAYOUT.tensors())
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "model.safetensors")
    with pytest.raises(InputError, match=r"got a device, pipe or socket of that name; in .*model\.safetensors"):
        save_checkpoint(tmp_path / "out", load_checkpoint(tmp_path / "in"))
    assert (tmp_path / "out" / "model.safetensors").is_fifo()


def test_another_format_can_be_asked_for(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", LAYOUT, LAYOUT.tensors())
    loaded = load_checkpoint(folder)
    text = torch.arange(9)[None]
    for name in ("state-spaces", "fla/mamba2", "lengthwise"):
        save_checkpoint(tmp_path / name, loaded, format=name)
        other = load_checkpoint(tmp_path / name)
        assert other.format == name
        assert torch.equal(other.model(text).logits, loaded.model(text).logits)
    with pytest.raises(InputError, match=r"a model that the format fla/gla can hold.*goes into state-spaces"):
        save_checkpoint(tmp_path / "gla", loaded, format="fla/gla")
    with pytest.raises(InputError, match="did you mean 'state-spaces'"):
        save_checkpoint(tmp_path / "x", loaded, format="statespaces")


def test_files_of_the_tokenizer_are_copied_along(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", LAYOUT, LAYOUT.tensors())
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "modeling.py").write_text("")
    loaded = load_checkpoint(folder)
    assert loaded.tokenizer_spec == "tokenizer.json"
    save_checkpoint(tmp_path / "out", loaded)
    expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    assert load_checkpoint(tmp_path / "out").tokenizer_spec == "tokenizer.json"


def test_presets_are_fresh_and_say_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from lengthwise.models import presets

    config = ModelConfig(d_model=32, num_layers=2, vocab_size=30)
    tiny = presets.Preset(config=config, note="tiny", context_length=64, tokenizer="some/where")
    monkeypatch.setitem(presets.PRESETS, "tiny-1k", tiny)
    loaded = load_checkpoint("tiny-1k")
    assert (
        "tiny-1k: a preset: the weights are freshly initialised (seed 0), nothing was learnt" in capsys.readouterr().err
    )
    assert (loaded.config, loaded.context_length, loaded.tokenizer_spec) == (config, 64, "some/where")
    expected = LanguageModel(config, seed=0).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())


def test_a_shipped_model_is_known_by_name() -> None:
    loaded = load_checkpoint("mamba2-bytes-t64")
    assert (loaded.format, loaded.context_length, loaded.tokenizer_spec) == ("state-spaces", 64, "bytes")
    assert loaded.extra["pre_training"]["steps"] == 1200


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "in", LAYOUT, LAYOUT.tensors())
    loaded, out = load_checkpoint(folder), tmp_path / "out" / "model"
    replace_checkpoint(out, loaded)
    (out / "stale.txt").write_text("of the older one")
    replace_checkpoint(out, trained(loaded))
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert not (out / "stale.txt").exists()
    before = sorted((path.name, path.read_bytes()) for path in out.iterdir())

    def full(*_: object, **__: object) -> None:
        # What the library says on a full file system.
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(RunFailure, match="no space left on the device"):
        replace_checkpoint(out, loaded)
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert sorted((path.name, path.read_bytes()) for path in out.iterdir()) == before
