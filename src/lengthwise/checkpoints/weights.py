"""Files of tensors: one or several safetensors files, or pickles of plain tensors that cannot run code.

Reading maps files into memory instead of copying them. Writing replaces each file as a whole.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lengthwise.checkpoints.formats.base import Shape
from lengthwise.errors import InputError
from lengthwise.runs import atomic_write_json, check_replaceable, usual_mode, write_failure

Container = Literal["safetensors", "pickle"]

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
BARE = (".pth", ".pt")
"""Suffixes of pickles that authors publish without a config."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_OPEN_PICKLES = 2  # shards kept open at once: a rule that joins tensors may need two


def find_weights(folder: Path) -> Path | None:
    """The file of weights of a checkpoint folder, or the index that names several; None where there is none.

    Safetensors come before pickles, and an index before a single file.
    """
    for name in (SAFETENSORS + INDEX, SAFETENSORS, PICKLE + INDEX, PICKLE):
        if (folder / name).is_file():
            return folder / name
    bare = sorted(path for suffix in BARE for path in folder.glob(f"*{suffix}"))
    if len(bare) > 1:
        raise InputError(
            expected="one file of weights in the folder",
            got=f"{len(bare)}: {', '.join(path.name for path in bare[:5])}",
            where=str(folder),
            fix="give the path of the file that is meant",
        )
    return bare[0] if bare else None


@dataclass(frozen=True)
class Weights:
    """Tensors on disk: what is known of them without reading them, and a way to read each.

    Args:
        path: the file or index that was opened.
        container: how they are stored.
        files: name of the file of each tensor.
        shapes, dtypes: of each tensor.
    """

    path: Path
    container: Container
    files: Mapping[str, str]
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, torch.dtype]
    _mapped: Callable[[str], Tensor]
    _passing: Callable[[str], Tensor]

    def mapped(self, name: str) -> Tensor:
        """The tensor as part of the file's memory map."""
        return self._mapped(name)

    def passing(self, name: str) -> Tensor:
        """The tensor for the moment: once it is forgotten, so is the memory of the file that it touched."""
        return self._passing(name)


def open_weights(path: Path) -> Weights:
    """Read names, shapes and dtypes of the tensors at `path`: a file, or an index of several.

    Raises:
        InputError: a file is missing, cut short, of no known kind, or a pickle that is more than tensors.
    """
    if path.name.endswith(INDEX):
        files = _indexed(path)
        pickled = not next(iter(files.values())).endswith(".safetensors")
    else:
        pickled, files = path.suffix != ".safetensors", {}
    if not pickled:
        return _open_safetensors(path, files)
    return _open_pickles(path, files)


def _indexed(path: Path) -> dict[str, str]:
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
            raise TypeError("weight_map names no files")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            expected="an index with a weight_map from tensors to files",
            got=f"{type(error).__name__}: {error}",
            where=str(path),
            fix="copy the checkpoint again",
        ) from error
    wanted = sorted(set(files.values()))
    missing = [name for name in wanted if "/" in name or not (path.parent / name).is_file()]
    if missing:
        raise InputError(
            expected=f"all {len(wanted)} files that the index names",
            got=f"{len(wanted) - len(missing)}; not there: {', '.join(missing[:5])}",
            where=str(path),
            fix="copy or download the checkpoint again: it is not complete",
        )
    return dict(files)


@contextmanager
def _whole_file(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        size = f" ({path.stat().st_size:,} bytes)" if path.exists() else ""
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error):
            raise InputError(
                expected="a pickle of plain tensors",
                got=f"one that asks for more, and might run code: {_culprit(error)}",
                where=str(path),
                fix="use a checkpoint in safetensors; a pickle that runs code is never loaded here",
            ) from error
        raise InputError(
            expected="a whole file of tensors",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{size}",
            where=str(path),
            fix="copy the checkpoint again: the file is missing or was cut short",
        ) from error


def _culprit(error: Exception) -> str:
    """The line of torch's long explanation that names what the pickle asked for."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return (lines[0] if lines else str(error).splitlines()[0])[:200]


def _open_safetensors(path: Path, files: Mapping[str, str]) -> Weights:
    names = sorted(set(files.values())) or [path.name]
    found: dict[str, str] = {}
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, torch.dtype] = {}
    handles: dict[str, Any] = {}
    for name in names:
        with _whole_file(path.parent / name):
            handles[name] = safe_open(str(path.parent / name), framework="pt")
            for key in handles[name].keys():  # noqa: SIM118 (not a mapping)
                part = handles[name].get_slice(key)
                if part.get_dtype() not in _DTYPES:
                    raise InputError(
                        expected=f"tensors of {', '.join(_DTYPES)}",
                        got=f"{key} of {part.get_dtype()}",
                        where=str(path.parent / name),
                        fix="give the checkpoint before it was quantized",
                    )
                found[key], shapes[key] = name, tuple(part.get_shape())
                dtypes[key] = _DTYPES[part.get_dtype()]
    _check_index(path, files, found)

    def mapped(key: str) -> Tensor:
        tensor: Tensor = handles[found[key]].get_tensor(key)
        return tensor

    def passing(key: str) -> Tensor:
        # A map of its own, gone with the tensor: pages of the long-lived one would stay in memory.
        with safe_open(str(path.parent / found[key]), framework="pt") as file:
            tensor: Tensor = file.get_tensor(key)
        return tensor

    return Weights(path, "safetensors", found, shapes, dtypes, mapped, passing)


def _open_pickles(path: Path, files: Mapping[str, str]) -> Weights:
    names = sorted(set(files.values())) or [path.name]
    opened: dict[str, dict[str, Tensor]] = {}

    def tensors_of(name: str) -> dict[str, Tensor]:
        if name not in opened:
            while len(opened) >= _OPEN_PICKLES:
                del opened[next(iter(opened))]
            opened[name] = _unpickle(path.parent / name)
        return opened[name]

    found: dict[str, str] = {}
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, torch.dtype] = {}
    for name in names:
        for key, tensor in tensors_of(name).items():
            found[key], shapes[key], dtypes[key] = name, tuple(tensor.shape), tensor.dtype
    _check_index(path, files, found)

    def mapped(key: str) -> Tensor:
        return tensors_of(found[key])[key]

    return Weights(path, "pickle", found, shapes, dtypes, mapped, mapped)


def _check_index(path: Path, files: Mapping[str, str], found: Mapping[str, str]) -> None:
    if files and dict(files) != dict(found):
        wrong = sorted(key for key in {*files, *found} if files.get(key) != found.get(key))
        raise InputError(
            expected="the tensors that the index names, in the files that it names",
            got=f"{len(wrong)} that are not: {', '.join(wrong[:5])}",
            where=str(path),
            fix="copy the checkpoint again: index and files do not belong together",
        )


def _unpickle(path: Path) -> dict[str, Tensor]:
    with _whole_file(path):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            loaded = torch.load(path, map_location="cpu", weights_only=True)  # the format before 2020, without a map
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        kinds = {type(value).__name__ for value in loaded.values()} if isinstance(loaded, dict) else {type(loaded)}
        raise InputError(
            expected="names and tensors, nothing else",
            got=f"{type(loaded).__name__} with {', '.join(sorted(map(str, kinds)))}",
            where=str(path),
            fix="save the state dict of the model alone, and give that file",
        )
    return {str(key): value for key, value in loaded.items()}


def write_weights(
    folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, str], container: Container, index: str | None
) -> None:
    """Write tensors into their files, each replaced as a whole, and the index where there are several.

    Args:
        folder: where to write; made if need be.
        tensors: what to write.
        files: name of the file of each tensor.
        container: how to store them.
        index: name of the index; None for a single file.

    Raises:
        InputError: where one of the files is there and is no regular file.
        RunFailure: where the device is full or cannot be written.
    """
    by_file: dict[str, list[str]] = {}
    for key in tensors:
        by_file.setdefault(files[key], []).append(key)
    for name, keys in by_file.items():
        _write_file(folder / name, {key: tensors[key] for key in keys}, container)
    if index is not None:
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        content = {"metadata": {"total_size": total}, "weight_map": {key: files[key] for key in sorted(tensors)}}
        atomic_write_json(folder / index, content)
    written = {*by_file, *([index] if index else [])}
    for stale in (SAFETENSORS + INDEX, SAFETENSORS, PICKLE + INDEX, PICKLE):
        # An older checkpoint's file of another layout would be found before the new one.
        if stale not in written:
            (folder / stale).unlink(missing_ok=True)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one safetensors file in place.

    Raises:
        OSError: whatever went wrong. The library reports a full disk in its own type, with the system's words inside.
    """
    try:
        with usual_mode(path):
            save_file(dict(tensors), str(path), metadata=dict(metadata))
    except SafetensorError as error:
        full = "No space left" in str(error) or "os error 28" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error


def _write_file(path: Path, tensors: Mapping[str, Tensor], container: Container) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    plain = {key: _plain(tensor, container) for key, tensor in tensors.items()}
    try:
        check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if container == "safetensors":
            write_safetensors(temporary, plain, {"format": "pt"})
        else:
            torch.save(plain, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        size = sum(tensor.numel() * tensor.element_size() for tensor in plain.values())
        raise write_failure(error, path, size) from error


def _plain(tensor: Tensor, container: Container) -> Tensor:
    """On the CPU, in order, and for a pickle alone in its memory: pickling a part of a map would write all of it."""
    tensor = tensor.detach().cpu().contiguous()
    alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if container == "safetensors" or alone else tensor.clone()
