"""Run folders: atomic, resumable, and never another run's."""

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from lengthwise.errors import InputError, RunFailure, near_matches
from lengthwise.runs import RunFolder, atomic_write_bytes, atomic_write_json, check_new_folder, usual_mode
from lengthwise.seeds import derive_seed
from tests.helpers import fill_disk


def test_create_open_and_finish(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "measure", {"length": 64, "metrics": ("a", "b")})
    run.append_metrics({"step": 1})
    run.write_arrays({"nll": np.arange(3.0)})
    run.write_json("summary.json", {"x": None})
    run.finish()
    found = RunFolder.open(tmp_path / "run")
    assert found.manifest["status"] == "complete"
    assert found.manifest["config"]["metrics"] == ["a", "b"]
    assert found.manifest["finished"] >= found.manifest["started"]
    assert "torch" in found.manifest["versions"]
    assert found.read_metrics() == [{"step": 1}]
    assert found.read_json("summary.json") == {"x": None}
    assert found.read_arrays()["nll"].tolist() == [0, 1, 2]
    assert found.read_json("absent.json") is None


def test_resume_takes_up_the_same_run(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "train", {"steps": 5, "betas": (0.9, 0.95)})
    with pytest.raises(InputError, match="--resume"):
        RunFolder.create(tmp_path, "train", {"steps": 5, "betas": (0.9, 0.95)})
    resumed = RunFolder.create(tmp_path, "train", {"steps": 5, "betas": (0.9, 0.95)}, resume=True)
    assert len(resumed.manifest["resumed"]) == 1


def test_another_run_is_refused(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", "train", {"steps": 5})
    with pytest.raises(InputError, match=r"steps \(5 there, 6 here\)"):
        RunFolder.create(tmp_path / "run", "train", {"steps": 6}, resume=True)
    with pytest.raises(InputError, match="differs in kind"):
        RunFolder.create(tmp_path / "run", "measure", {"steps": 5}, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="other files"):
        RunFolder.create(tmp_path / "other", "train", {})
    with pytest.raises(InputError, match="a file"):
        RunFolder.create(tmp_path / "other" / "thesis.txt", "train", {})


@pytest.mark.parametrize("resume", [False, True])
def test_a_kill_in_the_first_write_does_not_block_the_folder(tmp_path: Path, resume: bool) -> None:
    left = tmp_path / ".manifest.json.4711.tmp"
    left.write_text('{"format_ver')
    run = RunFolder.create(tmp_path, "train", {"steps": 5}, resume=resume)
    assert run.manifest["status"] == "running"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_what_only_looks_like_a_leftover_is_kept(tmp_path: Path) -> None:
    for name in (".manifest.json.tmp", ".manifest.json.mine.tmp", "manifest.json.4711.tmp", ".thesis.4711.tmp"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(InputError, match="other files"):
            RunFolder.create(tmp_path, "train", {"steps": 5})
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()


def test_torn_last_line_is_left_out_and_not_glued(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "train", {})
    run.append_metrics({"step": 1})
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 2, "lo')
    assert run.read_metrics() == [{"step": 1}]
    run.append_metrics({"step": 2})
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]
    run.truncate_metrics(lambda record: record["step"] < 2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_unreadable_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run folder"):
        RunFolder.open(tmp_path)
    run = RunFolder.create(tmp_path / "run", "train", {})
    (run.path / "arrays.safetensors").write_bytes(b"xx")
    with pytest.raises(InputError, match="safetensors"):
        run.read_arrays()
    run.update_manifest(format_version=99)
    with pytest.raises(InputError, match="format 99"):
        RunFolder.open(run.path)


@pytest.mark.parametrize("line", [b"null", b"{}", b"[]", b"3", b'"a"', b'{"step": "\xff"}', b"\xff\xfe", b"\0\0", b""])
def test_a_damaged_line_is_left_out(tmp_path: Path, line: bytes) -> None:
    run = RunFolder.create(tmp_path, "train", {})
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line)
    assert run.read_metrics() == [{"step": 1}]
    run.append_metrics({"step": 2})
    run.truncate_metrics(lambda record: record["step"] < 2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize(
    ("name", "value", "expected", "got"),
    [
        ("kind", None, "kind, a word", "kind None"),
        ("kind", 5, "kind, a word", "kind 5"),
        ("status", [], "status, a word", "status []"),
        ("config", "x", "config, an object", "config 'x'"),
        ("data_hashes", [], "data_hashes, an object", "data_hashes []"),
    ],
)
def test_a_damaged_manifest(tmp_path: Path, name: str, value: object, expected: str, got: str) -> None:
    run = RunFolder.create(tmp_path, "train", {})
    for entries in ({**run.manifest, name: value}, {key: run.manifest[key] for key in run.manifest if key != name}):
        atomic_write_json(tmp_path / "manifest.json", entries)
        with pytest.raises(InputError) as raised:
            RunFolder.open(tmp_path)
        error = raised.value
        assert error.expected == f"a manifest with {expected}"
        assert error.got == (got if name in entries else f"no {name}")
        assert (error.where, error.fix) == (str(tmp_path / "manifest.json"), "restore the file, or repeat the run")


@pytest.mark.parametrize("content", [b"null", b"[]", b"3", b"{}", b"\xff", b""])
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a run folder with a readable manifest\.json"):
        RunFolder.open(tmp_path)


def test_missing_numbers_are_none_never_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())


def test_full_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write_bytes(tmp_path / "file", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailure, match="no space left on the device"):
        atomic_write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_is_noted_and_handed_on(tmp_path: Path) -> None:
    failure = RunFailure(expected="a", got="b", where="c", fix="d")
    for name, writes, status in (("first", True, "failed"), ("other", False, "running")):
        run = RunFolder.create(tmp_path / name, "measure", {})
        with pytest.raises(RunFailure) as raised, run.noting_failure(writes=writes):
            raise failure
        assert raised.value is failure
        assert RunFolder.open(run.path).manifest["status"] == status
    with run.noting_failure():
        pass
    assert RunFolder.open(run.path).manifest["status"] == "running"


@pytest.mark.parametrize("status", ["complete", "running", "failed"])
def test_a_refused_resumption_leaves_the_manifest_as_it_was(tmp_path: Path, status: str) -> None:
    RunFolder.create(tmp_path, "measure", {"a": 1}).finish(status)
    before = (tmp_path / "manifest.json").read_bytes()
    run = RunFolder.create(tmp_path, "measure", {"a": 1}, resume=True)
    assert (tmp_path / "manifest.json").read_bytes() != before
    with pytest.raises(InputError, match="expected a"), run.noting_failure():
        raise InputError(expected="a", got="b", where="c", fix="d")
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert run.manifest == RunFolder.open(tmp_path).manifest
    run = RunFolder.create(tmp_path, "measure", {"a": 1}, resume=True)
    with pytest.raises(RunFailure, match="expected a"), run.noting_failure():
        raise RunFailure(expected="a", got="b", where="c", fix="d")
    assert RunFolder.open(tmp_path).manifest["status"] == "failed"


def test_a_new_run_that_meets_wrong_input_is_failed(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "measure", {})
    with pytest.raises(InputError, match="expected a"), run.noting_failure():
        raise InputError(expected="a", got="b", where="c", fix="d")
    assert RunFolder.open(tmp_path).manifest["status"] == "failed"


def test_complete_finds_this_very_run_and_no_other(tmp_path: Path) -> None:
    config = {"betas": (0.9, 0.95)}
    assert RunFolder.complete(tmp_path, "train", config) is None
    RunFolder.create(tmp_path, "train", config)
    assert RunFolder.complete(tmp_path, "train", config) is None
    RunFolder.open(tmp_path).finish()
    before = (tmp_path / "manifest.json").read_bytes()
    found = RunFolder.complete(tmp_path, "train", config)
    assert found is not None
    assert found.path == tmp_path
    assert RunFolder.complete(tmp_path, "measure", config) is None
    assert RunFolder.complete(tmp_path, "train", {"betas": (0.9, 0.99)}) is None
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_on_a_full_device_the_first_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "run", "measure", {})
    fill_disk(monkeypatch, 1)
    run.append_metrics({"step": 1})
    with pytest.raises(RunFailure) as raised, run.noting_failure():
        run.append_metrics({"step": 2})
    assert raised.value.where == str(run.path / "metrics.jsonl")
    assert RunFolder.open(run.path).manifest["status"] == "running"  # that, too, could not be written
    assert RunFolder.open(run.path).read_metrics() == [{"step": 1}]


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
    elif kind == "pipe":
        os.mkfifo(target)
    else:
        os.mkfifo(tmp_path / "pipe")
        target.symlink_to("pipe")
    before = sorted(tmp_path.iterdir()), target.lstat().st_ino
    with pytest.raises(InputError) as caught:
        atomic_write_bytes(target, b"new")
    assert caught.value.expected == "the name of a file, new or to be replaced"
    assert caught.value.got == ("a folder" if kind == "folder" else "a device, pipe or socket of that name")
    assert caught.value.where == str(target)
    assert caught.value.fix == "give the name of a file"
    assert (sorted(tmp_path.iterdir()), target.lstat().st_ino) == before


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_get_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        atomic_write_bytes(tmp_path / "file", b"")
        with usual_mode(tmp_path / "made"):
            (tmp_path / "made").unlink()
            os.close(os.open(tmp_path / "made", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "file": 0o666 & ~umask,
        "made": 0o666 & ~umask,
    }


def test_errors_have_four_parts_and_survive_pickling() -> None:
    error = InputError(expected="a", got="b", where="c", fix="d")
    assert str(error) == "expected a; got b; in c; d"
    assert error.exit_code == 2
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is InputError
    assert str(again) == str(error)
    assert RunFailure(expected="a", got="b", where="c", fix="d").exit_code == 1
    assert near_matches("measur", ["measure", "train"]) == "did you mean 'measure'?"
    assert near_matches("zzz", ["measure", "train"]) == "known: measure, train"


def test_seeds_do_not_depend_on_order_or_process() -> None:
    assert derive_seed(0, "noise", 3) == derive_seed(0, "noise", 3)
    assert len({derive_seed(0, "noise", i) for i in range(100)} | {derive_seed(1, "noise", 0)}) == 101
    assert derive_seed(7, "windows", 2) == json.loads(json.dumps(derive_seed(7, "windows", 2)))


def test_a_folder_in_use_is_refused_before_any_work(tmp_path: Path) -> None:
    check_new_folder(tmp_path / "new")
    check_new_folder(tmp_path)
    (tmp_path / "thesis.txt").write_text("precious")
    for path, got in ((tmp_path, "a folder with other files in it"), (tmp_path / "thesis.txt", "a file")):
        with pytest.raises(InputError) as raised:
            check_new_folder(path)
        error = raised.value
        assert (error.expected, error.got) == ("an empty or new folder", got)
        assert (error.where, error.fix) == (str(path), "choose another --out")
