"""Run folders: everything a run leaves behind, written so that a kill at any moment loses nothing finished.

| file | content | how written |
|---|---|---|
| `manifest.json` | kind, config, status, versions, git commit, hardware, data hashes, start, end | replaced |
| `metrics.jsonl`, `samples.jsonl` | one record a line | appended, flushed |
| `arrays.safetensors` | named arrays | replaced |
| other JSON files | results of a kind of run | replaced |

"Replaced" means: temporary file in the same folder, fsync, rename.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise.errors import InputError, LengthwiseError, RunFailure

if TYPE_CHECKING:
    import numpy as np

FORMAT_VERSION = 1
_MANIFEST = {"kind": str, "status": str, "config": dict, "data_hashes": dict}
"""What every manifest holds, and readers rely on."""
KINDS = ("train", "measure", "extend", "demo", "eval")
_FIRST_WRITE = ".manifest.json.[0-9]*.tmp"
"""What a kill while the manifest is written for the first time leaves behind: nothing of worth, and ours."""
FREE_AND_RESUME = "free some space, then give the same command with --resume; what was finished is kept"
CHECK_AND_RESUME = "check the folder and its permissions, then resume"
_PACKAGES = ("lengthwise", "torch", "numpy", "safetensors", "tokenizers", "transformers")


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader or a crash sees the old or the new content, never a mixture.

    Raises:
        InputError: where `path` is something else than a file, which a rename would remove.
        RunFailure: where the device is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_failure(error, path, len(data)) from error


def check_new_folder(path: Path) -> None:
    """Refuse to write a run where something is already.

    Raises:
        InputError: where there is a file, or a folder with files in it.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(
            expected="an empty or new folder",
            got="a file" if path.is_file() else "a folder with other files in it",
            where=str(path),
            fix="choose another --out",
        )


def flush_files(folder: Path) -> None:
    """Force every file of a folder, and the folder itself, to the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, after one of them was changed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_replaceable(path: Path) -> None:
    """Refuse to put a file where a folder, a device or a pipe is: a rename would take its place without a word.

    Raises:
        InputError: where `path` is there and is no regular file.
    """
    if path.exists() and not path.is_file():
        raise InputError(
            expected="the name of a file, new or to be replaced",
            got="a folder" if path.is_dir() else "a device, pipe or socket of that name",
            where=str(path),
            fix="give the name of a file",
        )


@contextmanager
def usual_mode(path: Path) -> Iterator[None]:
    """Give a file that the block writes the permissions of any new file here, which the user's umask decides.

    safetensors writes beside the file and renames, and what it leaves is readable by its owner alone.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    yield
    path.chmod(mode)


def write_failure(error: OSError, path: Path, num_bytes: int | None = None) -> RunFailure:
    """The four-part form of a failed write."""
    size = "room" if num_bytes is None else f"{num_bytes:,} bytes of room"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        got = f"no space left on the device ({shutil.disk_usage(parent).free:,} bytes free)"
        fix = FREE_AND_RESUME
    else:
        got, fix = f"{type(error).__name__}: {error.strerror}", CHECK_AND_RESUME
    return RunFailure(expected=f"{size} to write", got=got, where=str(path), fix=fix)


def atomic_write_json(path: Path, value: Any) -> None:
    """Replace `path` by the JSON text of `value`. NaN and infinity are refused: missing is None."""
    atomic_write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def _versions() -> dict[str, str]:
    from importlib import metadata  # slow to import, and command help passes through this file

    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, Any] | None:
    """Commit and dirty flag of the source checkout that this code runs from; None for an installed package."""
    source = Path(__file__).resolve().parent
    try:
        where = ["git", "-C", str(source)]
        tracked = subprocess.run([*where, "ls-files", "--error-unmatch", "runs.py"], capture_output=True, timeout=10)
        if tracked.returncode != 0:
            return None
        commit = subprocess.run([*where, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run([*where, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


def _hardware() -> dict[str, Any]:
    record: dict[str, Any] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        record["threads"] = torch.get_num_threads()
        record["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _canonical(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


class RunFolder:
    """One run on disk. Use `create` to start or resume a run, `open` to read one."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        # The manifest's bytes before this process took the run up again; None for a run that it began.
        self._found: bytes | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        kind: str,
        config: dict[str, Any],
        *,
        resume: bool = False,
        data_hashes: dict[str, str] | None = None,
    ) -> RunFolder:
        """Start a run in an empty or new folder, or take up an unfinished one again.

        Raises:
            InputError: where the folder holds another run, the same run without `resume`, or foreign files.
        """
        path = Path(path)
        config = _canonical(config)
        if (path / "manifest.json").exists():
            found = cls.open(path)
            if found.manifest["kind"] != kind or found.manifest["config"] != config:
                raise InputError(
                    expected=f"an empty folder, or a '{kind}' run with these parameters",
                    got=f"a '{found.manifest['kind']}' run that differs in {_difference(found.manifest, kind, config)}",
                    where=str(path),
                    fix="choose another --out, or repeat the parameters of that run",
                )
            if not resume:
                raise InputError(
                    expected="an empty folder",
                    got=f"the same run, {found.manifest['status']}",
                    where=str(path),
                    fix="add --resume to go on with it, or choose another --out",
                )
            found._found = (path / "manifest.json").read_bytes()
            found.update_manifest(status="running", resumed=[*found.manifest.get("resumed", []), _now()])
            return found
        if path.is_dir():
            for left in path.glob(_FIRST_WRITE):
                left.unlink(missing_ok=True)
        check_new_folder(path)
        run = cls(path, {})
        run.update_manifest(
            format_version=FORMAT_VERSION,
            kind=kind,
            config=config,
            status="running",
            command=sys.argv,
            versions=_versions(),
            git=_git(),
            hardware=_hardware(),
            data_hashes=data_hashes or {},
            started=_now(),
            finished=None,
        )
        return run

    @classmethod
    def complete(cls, path: str | Path, kind: str, config: dict[str, Any]) -> RunFolder | None:
        """The run of this kind and config at `path` where it is complete, None otherwise. Changes nothing."""
        path = Path(path)
        if not (path / "manifest.json").exists():
            return None
        found = cls.open(path)
        asked = (kind, _canonical(config), "complete")
        return found if tuple(found.manifest.get(key) for key in ("kind", "config", "status")) == asked else None

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Read a run folder.

        Raises:
            InputError: where there is no manifest, or one that this version cannot read.
        """
        path = Path(path)
        file = path / "manifest.json"
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            version = manifest["format_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                expected="a run folder with a readable manifest.json",
                got=f"{type(error).__name__}: {error}",
                where=str(path),
                fix="give the folder that a measure, extend, train, demo or eval run wrote",
            ) from error
        if version != FORMAT_VERSION:
            raise InputError(
                expected=f"run folder format {FORMAT_VERSION}",
                got=f"format {version}",
                where=str(file),
                fix="use the version of lengthwise that wrote it, or repeat the run",
            )
        for name, kind in _MANIFEST.items():
            if not isinstance(manifest.get(name), kind):
                raise InputError(
                    expected=f"a manifest with {name}, {'an object' if kind is dict else 'a word'}",
                    got=f"{name} {manifest[name]!r}"[:200] if name in manifest else f"no {name}",
                    where=str(file),
                    fix="restore the file, or repeat the run",
                )
        return cls(path, manifest)

    def update_manifest(self, **entries: Any) -> None:
        """Change entries of the manifest, on disk at once."""
        self.manifest = {**self.manifest, **entries}
        atomic_write_json(self.path / "manifest.json", self.manifest)

    def finish(self, status: str = "complete") -> None:
        """Record the end of the run."""
        self.update_manifest(status=status, finished=_now())

    @contextmanager
    def noting_failure(self, *, writes: bool = True) -> Iterator[None]:
        """Record the run as failed where the block fails; the failure goes on to the caller.

        A run that was taken up again and is refused (InputError) did not fail: its manifest is put back as it was.

        Args:
            writes: whether it is this process that writes the manifest.
        """
        try:
            yield
        except LengthwiseError as error:
            if writes:
                # The disk may be what failed; the failure in hand says more than a second one about the manifest.
                with suppress(RunFailure):
                    if isinstance(error, InputError) and self._found is not None:
                        atomic_write_bytes(self.path / "manifest.json", self._found)
                        self.manifest = json.loads(self._found)
                    else:
                        self.finish("failed")
            raise

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        self._append("metrics.jsonl", record)

    def append_sample(self, record: dict[str, Any], name: str = "samples.jsonl") -> None:
        """Append a line to `samples.jsonl`, or to the file of one of several processes."""
        self._append(name, record)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole records of `metrics.jsonl`; a torn or damaged line is left out, also where others follow it."""
        return self._read_lines("metrics.jsonl")

    def read_samples(self, name: str = "samples.jsonl") -> list[dict[str, Any]]:
        """The same of `samples.jsonl`, or of the file of one of several processes."""
        return self._read_lines(name)

    def replace_samples(self, records: list[dict[str, Any]]) -> None:
        """Replace `samples.jsonl` as a whole."""
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        atomic_write_bytes(self.path / "samples.jsonl", text.encode())

    def truncate_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the records for which `keep` is false, e.g. those after the checkpoint that a run resumes from."""
        kept = [record for record in self.read_metrics() if keep(record)]
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept)
        atomic_write_bytes(self.path / "metrics.jsonl", text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file of the run."""
        atomic_write_json(self.path / name, value)

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run; None where it does not exist."""
        file = self.path / name
        if not file.exists():
            return None
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(
                expected="valid JSON", got=str(error), where=str(file), fix="repeat the run, or restore the file"
            ) from error

    def write_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Replace `arrays.safetensors`."""
        import numpy as np
        from safetensors.numpy import save

        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        atomic_write_bytes(self.path / "arrays.safetensors", data)

    def read_arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the run; empty where none was written."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        file = self.path / "arrays.safetensors"
        if not file.exists():
            return {}
        try:
            return load(file.read_bytes())
        except SafetensorError as error:
            raise InputError(
                expected="a whole safetensors file", got=str(error), where=str(file), fix="repeat the run"
            ) from error

    def _append(self, name: str, record: dict[str, Any]) -> None:
        file = self.path / name
        line = json.dumps(record, allow_nan=False) + "\n"
        try:
            if file.exists() and file.stat().st_size and not _ends_with_newline(file):
                line = "\n" + line
            with open(file, "a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise write_failure(error, file, len(line)) from error

    def _read_lines(self, name: str) -> list[dict[str, Any]]:
        file = self.path / name
        if not file.exists():
            return []
        records = []
        for line in file.read_bytes().split(b"\n"):
            try:
                record = json.loads(line.decode("utf-8"))
            except ValueError:
                # Torn by a kill in the middle of a write; what it recorded is repeated on resume.
                continue
            if isinstance(record, dict) and record:  # nothing else is ever written
                records.append(record)
        return records


def _ends_with_newline(file: Path) -> bool:
    with open(file, "rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def _difference(manifest: dict[str, Any], kind: str, config: dict[str, Any]) -> str:
    if manifest["kind"] != kind:
        return "kind"
    found = manifest["config"]
    names = sorted(key for key in {*found, *config} if found.get(key) != config.get(key))
    return ", ".join(f"{name} ({found.get(name)!r} there, {config.get(name)!r} here)" for name in names[:4])
