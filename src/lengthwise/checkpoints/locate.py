"""From a name to files: a shipped model, a folder, a file, a preset, or a repository on the hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.checkpoints.shipped import list_shipped, shipped_folder
from lengthwise.checkpoints.weights import BARE, INDEX, PICKLE, SAFETENSORS, find_weights
from lengthwise.errors import InputError, near_matches
from lengthwise.hub import HubName, fetch, hub_name
from lengthwise.models.presets import PRESETS, Preset, preset_of_repository
from lengthwise.settings import checked

CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "rwkv_vocab_v20230424.txt")
"""What `data.tokenizers` reads, the first that is there counts."""
# Small files that belong to the tokenizer: fetched with a model, and kept beside it when it is saved elsewhere.
SIDE_FILES = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
_NOTES = {"tokenizer": str | None, "context_length": int | None, "extra": dict | None, "details": dict | None}


@dataclass(frozen=True)
class Place:
    """Where a checkpoint lies.

    Args:
        name: as it was asked for.
        folder: that holds its config.
        weights: file of its weights, or index of several; None where there is none.
        preset: what is published about it elsewhere; None where it is not one of those.
    """

    name: str
    folder: Path
    weights: Path | None
    preset: Preset | None = None

    def config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Content of config.json without our own object, and that object; both empty where there is no file.

        Raises InputError where the file cannot be read, and where there is neither config nor weights.
        """
        file = self.folder / CONFIG
        if not file.is_file() and self.weights is not None and self.weights.suffix in (*BARE, ".safetensors"):
            return {}, {}
        values = read_config(file)
        notes = values.pop("lengthwise", None) or {}
        if not isinstance(notes, dict):
            raise InputError(
                expected="an object", got=type(notes).__name__, where=f"lengthwise in {file}", fix="restore the file"
            )
        _check_notes(notes, f"lengthwise in {file}")
        return values, notes


def _check_notes(notes: dict[str, Any], where: str) -> None:
    """Raise InputError for a note that is not of its type; notes we do not know are left alone."""
    for name, kind in _NOTES.items():
        checked(name, notes.get(name), kind, where)
    length = notes.get("context_length")
    if length is not None and length < 1:
        raise InputError(
            expected="context_length: a whole number of at least 1, or None",
            got=repr(length),
            where=where,
            fix="change context_length",
        )
    for kind, fields in (notes.get("details") or {}).items():
        checked(f"details.{kind}", fields, dict, where)
    extra = notes.get("extra") or {}
    if "post_training" in extra:
        checked("extra.post_training", extra["post_training"], list, where)
    if "pre_training" in extra:
        recipe = checked("extra.pre_training", extra["pre_training"], dict, where)
        for name, number in (("peak_lr", float), ("batch_size", int)):
            if name in recipe:
                checked(f"extra.pre_training.{name}", recipe[name], number, where)


def locate(name_or_path: str | Path) -> Place | str:
    """Where the checkpoint of that name lies, downloaded if need be; or the name of a preset, which lies nowhere.

    Raises:
        InputError: nothing of that name.
        RunFailure: the hub does not answer.
    """
    name = str(name_or_path)
    path = shipped_folder(name) or Path(name_or_path)
    if path.is_dir():
        return Place(name, path, find_weights(path))
    if path.is_file() and (path.suffix in (*BARE, ".safetensors", ".bin") or path.name.endswith(INDEX)):
        return Place(name, path.parent, path)
    if name in PRESETS:
        return name
    repository = hub_name(name) if isinstance(name_or_path, str) else None
    if repository is None:
        raise InputError(
            expected="a checkpoint folder or file, the name of a shipped model or preset, or a repository org/name",
            got=f"'{name}', which is neither",
            where="MODEL",
            fix=f"check the path, or name a model ({near_matches(name, [*list_shipped(), *PRESETS])})",
        )
    folder = fetch(repository, lambda files: needed(files, repository))
    weights = find_weights(folder) if repository.file is None else folder / repository.file
    return Place(name, folder, weights, preset_of_repository(repository.repository))


def locate_config(name_or_path: str | Path) -> Place | str:
    """The same without the weights of a repository: of those only the small files are fetched."""
    repository = hub_name(str(name_or_path)) if isinstance(name_or_path, str) else None
    exists = Path(name_or_path).exists() or str(name_or_path) in (*list_shipped(), *PRESETS)
    if repository is None or repository.file is not None or exists:
        return locate(name_or_path)
    folder = fetch(repository, lambda files: _small(files, repository))
    found = find_weights(folder)  # perhaps in the cache already
    return Place(str(name_or_path), folder, found, preset_of_repository(repository.repository))


def _small(files: Sequence[str], repository: HubName) -> list[str]:
    """The config and the files of the tokenizer. Raises InputError where there is no config."""
    if CONFIG not in files:
        raise InputError(
            expected=f"a repository with a {CONFIG}",
            got=f"none among its {len(files)} files",
            where=repository.address,
            fix="name a file of weights, whose tensors tell the sizes: org/name/file.pth",
        )
    return [file for file in files if file == CONFIG or file in SIDE_FILES]


def needed(files: Sequence[str], repository: HubName) -> list[str]:
    """Of the files of a repository, those that make a checkpoint: config, one kind of weights, tokenizer.

    Raises InputError where there are no weights, or several and none is named.
    """
    small = [file for file in files if file == CONFIG or file in SIDE_FILES]
    if repository.file is not None:
        if repository.file not in files:
            raise InputError(
                expected="a file of the repository",
                got=f"'{repository.file}', which is none",
                where=repository.address,
                fix=near_matches(repository.file, [file for file in files if file.endswith(BARE)]),
            )
        return [*small, repository.file]
    stem, _, suffix = SAFETENSORS.rpartition(".")
    for single, beginning, ending in (
        (SAFETENSORS, f"{stem}-", f".{suffix}"),
        (PICKLE, f"{PICKLE.rpartition('.')[0]}-", f".{PICKLE.rpartition('.')[2]}"),
    ):
        if single + INDEX in files:
            shards = [file for file in files if file.startswith(beginning) and file.endswith(ending)]
            return [*small, single + INDEX, *shards]
        if single in files:
            return [*small, single]
    bare = [file for file in files if file.endswith(BARE)]
    if len(bare) == 1:
        return [*small, bare[0]]
    raise InputError(
        expected=f"{SAFETENSORS}, {PICKLE} (also in several files with an index), or one {' or '.join(BARE)}",
        got=f"{len(bare)} of the last kind among {len(files)} files" + (f": {', '.join(bare[:5])}" if bare else ""),
        where=repository.address,
        fix="name the file: org/name/file.pth" if bare else "give a repository with weights for torch",
    )


def tokenizer_in(folder: Path) -> str | None:
    """Name of the tokenizer's file in a folder; None where there is none."""
    return next((name for name in TOKENIZER_FILES if (folder / name).is_file()), None)


def read_config(file: Path) -> dict[str, Any]:
    """A config.json. Raises InputError where it is missing or no JSON object."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            expected="a checkpoint's config.json",
            got=f"{type(error).__name__}: {error}",
            where=str(file),
            fix=f"give a folder with {CONFIG} and {SAFETENSORS}, or restore the file",
        ) from error
    if not isinstance(values, dict):
        raise InputError(expected="a JSON object", got=type(values).__name__, where=str(file), fix="restore the file")
    return values


def announce(text: str) -> None:
    """Tell the user something on stderr, which never holds results."""
    print(text, file=sys.stderr, flush=True)
