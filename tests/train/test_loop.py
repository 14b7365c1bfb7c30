import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from tests.helpers import fill_disk
from tests.train.runs import metrics_of
from tests.train.tiny import MODEL, tiny_config, tiny_store

from lengthwise.checkpoints import load_checkpoint
from lengthwise.errors import InputError, RunFailure
from lengthwise.runs import RunFolder
from lengthwise.train import train
from lengthwise.train.snapshots import list_snapshots


def test_a_run_leaves_manifest_metrics_two_checkpoints_and_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, store = tiny_config("state-passing", steps=11, checkpoint_every=3), tiny_store(tmp_path / "store")
    result = train(config, tmp_path / "run", store=store)
    manifest = RunFolder.open(tmp_path / "run").manifest
    assert (manifest["kind"], manifest["status"]) == ("train", "complete")
    assert manifest["config"] == config.to_dict()
    assert manifest["data_hashes"] == {"train": store.fingerprint}
    assert manifest["setting"] == {"threads": torch.get_num_threads(), "world_size": 1, "device": "cpu"}
    assert manifest["backend"] == load_checkpoint(result.checkpoint_path).model.backend_on(torch.device("cpu"))
    assert [path.name for path in list_snapshots(tmp_path / "run")] == ["step-00000009", "step-00000011"]
    records = metrics_of(tmp_path / "run")
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10, 11]
    assert records[-1]["tokens"] == 11 * 8 * 16
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["state_nonfinite_rows"] == 0
    model = load_checkpoint(result.checkpoint_path)
    assert (model.context_length, model.tokenizer_spec, model.config) == (16, "bytes", MODEL)
    assert model.extra["pre_training"]["intervention"]["kind"] == "state-passing"
    assert model.extra["pre_training"]["tokens"] == 11 * 8 * 16
    assert "train (state-passing) 11/11 loss" in capsys.readouterr().err


def test_files_of_a_run_get_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "store")
    before = os.umask(0o027)
    try:
        train(tiny_config("state-passing", steps=2), tmp_path / "run", store=store, progress=False)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"optimizer.safetensors", "rank-0000.safetensors", "model.safetensors"} <= {path.name for path in files}
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o640" for path in files}


def test_a_metrics_line_holds_the_mean_loss_of_its_steps(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "store")
    train(tiny_config(log_every=1), tmp_path / "each", store=store, progress=False)
    train(tiny_config(log_every=4), tmp_path / "four", store=store, progress=False)
    each = [record["loss"] for record in metrics_of(tmp_path / "each")]
    four = [record["loss"] for record in metrics_of(tmp_path / "four")]
    assert four == pytest.approx([sum(each[:4]) / 4, sum(each[4:]) / 4])


def test_post_training_goes_on_from_the_weights_and_keeps_the_context_length_and_the_notes(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "store")
    first = train(tiny_config(steps=4), tmp_path / "pre", store=store, progress=False).checkpoint_path
    before = (first / "model.safetensors").read_bytes()
    config = tiny_config(
        "state-passing", model=None, init_from=str(first), context_length=None, steps=2, peak_lr=1e-30, min_lr=0.0
    )
    second = train(config, tmp_path / "post", store=store, progress=False).checkpoint_path
    old, new = load_checkpoint(first), load_checkpoint(second)
    for (name, a), b in zip(old.model.named_parameters(), new.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert (new.context_length, new.tokenizer_spec) == (16, "bytes")
    assert new.extra["pre_training"] == old.extra["pre_training"]
    assert [entry["intervention"]["kind"] for entry in new.extra["post_training"]] == ["state-passing"]
    longer = tiny_config(model=None, init_from=str(second), context_length=32, steps=1, batch_size=2)
    third = load_checkpoint(train(longer, tmp_path / "longer", store=store, progress=False).checkpoint_path)
    assert third.context_length == 16
    assert [entry["context_length"] for entry in third.extra["post_training"]] == [16, 32]
    assert (first / "model.safetensors").read_bytes() == before


def test_a_folder_that_holds_another_run_is_refused(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "store")
    config = tiny_config(steps=1)
    train(config, tmp_path / "run", store=store, progress=False)
    with pytest.raises(InputError, match=r"differs in seed \(0 there, 1 here\)"):
        train(tiny_config(steps=1, seed=1), tmp_path / "run", store=store, resume=True, progress=False)
    with pytest.raises(InputError, match=r"the same run, complete.*add --resume"):
        train(config, tmp_path / "run", store=store, progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("dear")
    with pytest.raises(InputError, match="a folder with other files in it"):
        train(config, tmp_path / "other", store=store, progress=False)


def test_bad_input_leaves_no_folder_behind(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "store")
    for config, message in (
        (tiny_config(model=None, init_from=str(tmp_path / "nowhere")), "which is neither"),
        (tiny_config(context_length=4000), r"a document of 4001 tokens or more"),
        (tiny_config(device="gpu"), r"device auto, cpu or cuda; got 'gpu'"),
        (tiny_config(tokenizer="byte"), r"did you mean 'bytes'"),
    ):
        with pytest.raises(InputError, match=message):
            train(config, tmp_path / "run", store=store, progress=False)
        assert not (tmp_path / "run").exists()


def test_a_checkpoint_without_a_tokenizer_or_context_length_asks_for_them(tmp_path: Path) -> None:
    from dataclasses import replace

    from lengthwise.checkpoints import save_checkpoint

    store = tiny_store(tmp_path / "store")
    first = train(tiny_config(steps=1), tmp_path / "pre", store=store, progress=False).checkpoint_path
    save_checkpoint(tmp_path / "bare", replace(load_checkpoint(first), tokenizer_spec=None, context_length=None))
    bare = {"model": None, "init_from": str(tmp_path / "bare"), "steps": 1}
    with pytest.raises(InputError, match=r"names its tokenizer; got none.*--tokenizer"):
        train(tiny_config(**bare), tmp_path / "run", store=store)
    with pytest.raises(InputError, match=r"names its context_length; got none.*--context-length"):
        train(tiny_config(**bare, tokenizer="bytes", context_length=None), tmp_path / "run", store=store)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    store = tiny_store(tmp_path / "store")
    small = replace(MODEL, vocab_size=100)
    with pytest.raises(InputError, match=r"a tokenizer with at most 100 tokens.*got bytes with 256") as raised:
        train(tiny_config(model=small), tmp_path / "run", store=store, progress=False)
    assert raised.value.fix.endswith("a new model needs a vocab_size for it")


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lengthwise.models.lm import LanguageModel

    nll = LanguageModel.nll
    calls = []

    def breaks(self: LanguageModel, *arguments: object) -> object:
        values, state = nll(self, *arguments)  # type: ignore[arg-type]
        calls.append(1)
        return (values * float("nan") if len(calls) == 5 else values), state

    monkeypatch.setattr(LanguageModel, "nll", breaks)
    store = tiny_store(tmp_path / "store")
    with pytest.raises(RunFailure, match=r"training step 5, learning rate 0.0\d+; start .* a lower peak_lr"):
        train(tiny_config(), tmp_path / "run", store=store, progress=False)
    assert RunFolder.open(tmp_path / "run").manifest["status"] == "failed"
    (good,) = list_snapshots(tmp_path / "run")
    assert good.name == "step-00000003"
    assert all(bool(p.isfinite().all()) for p in load_checkpoint(good).model.parameters())


def test_a_full_disk_is_a_failure_with_the_old_checkpoints_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lengthwise.checkpoints import weights

    write = weights.save_file

    def full_later(tensors: dict[str, torch.Tensor], path: str, **options: Any) -> None:
        if "step-00000006" in path and Path(path).name.startswith("optimizer"):
            # What the library says on a full file system.
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        write(tensors, path, **options)

    monkeypatch.setattr(weights, "save_file", full_later)
    store = tiny_store(tmp_path / "store")
    with pytest.raises(RunFailure, match=r"no space left on the device.*step-00000006.*--resume"):
        train(tiny_config(), tmp_path / "run", store=store, progress=False)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000003"]
    monkeypatch.undo()
    train(tiny_config(), tmp_path / "run", store=store, resume=True, progress=False)
    assert RunFolder.open(tmp_path / "run").manifest["status"] == "complete"


def test_a_full_disk_is_told_by_what_met_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tiny_store(tmp_path / "store")
    fill_disk(monkeypatch, 1)
    with pytest.raises(RunFailure, match="no space left on the device") as raised:
        train(tiny_config(), tmp_path / "run", store=store, progress=False)
    assert raised.value.where == str(tmp_path / "run/metrics.jsonl")
