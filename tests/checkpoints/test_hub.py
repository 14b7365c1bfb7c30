"""Repositories on the hub, played by folders: what is fetched, and what is said when it cannot be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from tests.checkpoints.published import LAYOUTS, write_folder

from lengthwise import hub
from lengthwise.checkpoints import describe, load_checkpoint, locate, recognise
from lengthwise.data import load_tokenizer, tokenizers
from lengthwise.errors import InputError, RunFailure
from lengthwise.hub import HubName, hub_name

LAYOUT = LAYOUTS["transformers mamba-2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state-spaces/mamba2-130m", HubName("state-spaces/mamba2-130m")),
        ("org/name@v1.0", HubName("org/name", "v1.0")),
        ("org/name@refs/pr/3", HubName("org/name", "refs/pr/3")),
        ("BlinkDL/rwkv-6-world/RWKV-x060.pth", HubName("BlinkDL/rwkv-6-world", None, "RWKV-x060.pth")),
        ("org/name/sub/x.safetensors@main", HubName("org/name", "main", "sub/x.safetensors")),
        ("mamba2-130m", None),
        ("runs/a/checkpoint", None),
        ("./org/name", None),
        ("/org/name", None),
        ("org/name/", None),
        ("data/tokenizer.json", None),
        ("org/../name", None),
    ],
)
def test_names(text: str, expected: HubName | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_name(text) == expected


def test_a_path_below_a_folder_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_name("runs/mine") is not None
    (tmp_path / "runs").mkdir()
    assert hub_name("runs/mine") is None


@dataclass
class Repository:
    """A folder that plays org/name, with more in it than a model needs."""

    there: Path
    cache: Path
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def cached(self) -> set[str]:
        """Names of the files that were fetched."""
        return {path.name for path in self.cache.iterdir()}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    played = Repository(tmp_path / "there", tmp_path / "cache")
    write_folder(played.there, LAYOUT, LAYOUT.tensors(dtype=torch.float16))
    write_folder(played.there, LAYOUT, LAYOUT.tensors(), pickled=True)
    for name in ("README.md", "tokenizer.json", "training_args.bin", "flax_model.msgpack", "modeling.py"):
        (played.there / name).write_text("{}")

    def listed(self: object, name: str, revision: str | None = None) -> list[str]:
        played.asked.append((name, revision))
        return sorted(path.name for path in played.there.iterdir())

    def fetched(
        name: str, revision: str | None = None, allow_patterns: Any = None, local_files_only: bool = False
    ) -> str:
        if local_files_only:
            if not played.cache.exists():
                raise errors.LocalEntryNotFoundError("nothing")
            return str(played.cache)
        played.cache.mkdir(exist_ok=True)
        for file in allow_patterns:
            shutil.copy(played.there / file, played.cache / file)
        return str(played.cache)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listed)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    return played


def test_only_what_a_model_needs_is_fetched(repository: Repository) -> None:
    loaded = load_checkpoint("org/name@v2")
    assert repository.cached() == {"config.json", "model.safetensors", "tokenizer.json"}
    assert repository.asked == [("org/name", "v2")]
    assert (loaded.format, loaded.tokenizer_spec) == ("transformers/mamba2", "tokenizer.json")
    assert loaded.source == str(repository.cache)


def test_pickles_are_fetched_where_there_is_nothing_else(repository: Repository) -> None:
    (repository.there / "model.safetensors").unlink()
    load_checkpoint("org/name")
    assert repository.cached() == {"config.json", "pytorch_model.bin", "tokenizer.json"}


def test_describing_fetches_no_weights(repository: Repository) -> None:
    found = describe("org/name")
    assert (found.format, found.config.num_layers, found.container) == ("transformers/mamba2", 3, None)
    assert repository.cached() == {"config.json", "tokenizer.json"}
    assert recognise("org/name") == "transformers/mamba2"
    (repository.there / "config.json").unlink()
    with pytest.raises(InputError, match=r"a repository with a config.json; got none among its 7 files"):
        describe("org/name")


def test_all_files_of_an_index() -> None:
    files = ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    files += ["model-00002-of-00002.safetensors", "consolidated.safetensors", "README.md"]
    assert locate.needed(files, HubName("org/name")) == files[:4]


def test_one_file_of_several() -> None:
    files = ["a.pth", "b.pth", "README.md"]
    with pytest.raises(InputError, match=r"got 2 of the last kind among 3 files: a.pth, b.pth.*org/name/file\.pth"):
        locate.needed(files, HubName("org/name"))
    assert locate.needed(files, HubName("org/name", file="b.pth")) == ["b.pth"]
    with pytest.raises(InputError, match=r"a file of the repository; got 'c.pth'.*did you mean"):
        locate.needed(files, HubName("org/name", file="c.pth"))
    with pytest.raises(InputError, match=r"got 0 of the last kind among 1 files.*a repository with weights for torch"):
        locate.needed(["README.md"], HubName("org/name"))


def raising(kind: type[Exception], *arguments: Any, **options: Any) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise kind(*arguments, **options)

    return call


RESPONSE = SimpleNamespace(headers={}, request=None, status_code=404)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (errors.RepositoryNotFoundError, "no folder here, and no repository there.*hf auth login"),
        (errors.GatedRepoError, r"whose owner asks for consent.*accept the terms at https://huggingface\.co/org/name"),
        (errors.RevisionNotFoundError, "a branch, tag or commit of the repository; got 'v2'"),
    ],
)
def test_what_the_hub_refuses(
    repository: Repository, kind: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", raising(kind, "no", response=RESPONSE))
    with pytest.raises(InputError, match=text):
        load_checkpoint("org/name@v2")


def test_a_connection_that_fails(repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", raising(ConnectionError, "no route"))
    with pytest.raises(RunFailure) as caught:
        load_checkpoint("org/name")
    assert caught.value.got == "ConnectionError: no route"
    assert caught.value.fix == "check the network and give the same command again; what came is kept"
    # What the cache holds is used, and that is said.
    write_folder(repository.cache, LAYOUT, LAYOUT.tensors())
    load_checkpoint("org/name")
    assert (
        "org/name: the hub does not answer (ConnectionError: no route); taken from the cache" in capsys.readouterr().err
    )


def test_a_transport_error_of_the_client(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library under the client has errors of its own, which are no OSError."""
    transport = errors.HfHubHTTPError.__bases__[0]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", raising(transport, "timed out"))
    with pytest.raises(RunFailure, match="timed out"):
        load_checkpoint("org/name")


def test_an_interrupted_download(repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint("org/name")
    assert "the download of org/name was interrupted; what came is kept" in capsys.readouterr().err


def test_offline(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="org/name in the cache, because HF_HUB_OFFLINE is set; got nothing of it in"):
        load_checkpoint("org/name")
    cache = write_folder(repository.cache, LAYOUT, LAYOUT.tensors())
    assert load_checkpoint("org/name").source == str(cache)
    assert repository.asked == []
    (cache / "model.safetensors").unlink()  # as after a download that was broken off
    with pytest.raises(InputError, match="weights beside the config"):
        load_checkpoint("org/name")


def test_offline_with_the_real_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of the client's cache, without anything played."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "hub" / "models--org--name"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    write_folder(home / "snapshots" / commit, LAYOUT, LAYOUT.tensors())
    assert load_checkpoint("org/name").config.num_layers == 3
    assert load_checkpoint(f"org/name@{commit}").config.num_layers == 3
    with pytest.raises(InputError, match="in the cache, because HF_HUB_OFFLINE is set"):
        load_checkpoint("org/other")


def test_what_is_published_about_a_repository_is_known(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The releases come without a tokenizer and do not say what they were trained on."""
    (repository.there / "tokenizer.json").unlink()
    loaded = load_checkpoint("state-spaces/mamba2-130m")
    assert (loaded.context_length, loaded.tokenizer_spec) == (2048, "EleutherAI/gpt-neox-20b")
    assert load_checkpoint("org/name").context_length is None


def test_tokenizers_from_the_hub(repository: Repository, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    file = repository.there / "tokenizer.json"
    file.write_text(Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).to_str())
    expected = load_tokenizer(file).fingerprint
    assert load_tokenizer("org/name").fingerprint == expected
    assert load_tokenizer("org/name", base=tmp_path / "elsewhere").fingerprint == expected
    assert repository.cached() == {"tokenizer.json"}
    file.unlink()
    with pytest.raises(InputError, match=r"a repository with one of tokenizer.json, tokenizer.model"):
        load_tokenizer("org/name")


def test_the_two_lists_of_tokenizer_files_are_one() -> None:
    assert tokenizers.FILES == locate.TOKENIZER_FILES


def test_importing_costs_no_client() -> None:
    code = "import sys, lengthwise.checkpoints, lengthwise.data; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert hub.HubName("org/name").address == "https://huggingface.co/org/name"
