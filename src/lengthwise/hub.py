"""Files from the Hugging Face hub, through its own client: its cache, its resumed downloads, its progress bars.

`HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE` and `HF_TOKEN` mean what they mean everywhere. This file decides which files
are fetched and says in four parts what went wrong; the client is imported when the first file is asked for.
"""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lengthwise.errors import InputError, LengthwiseError, RunFailure

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(
    rf"(?P<repository>{_PART}/{_PART})(?P<file>/[^@]+\.(?:pth|pt|bin|safetensors))?(?:@(?P<revision>\S+))?"
)

# A name of two parts that ends like this is a file that is not there.
_FILES = (".json", ".jsonl", ".txt", ".model", ".py", ".pth", ".pt", ".bin", ".safetensors", ".xz", ".gz", ".zst")


@dataclass(frozen=True)
class HubName:
    """A repository on the hub, as users write it: ``org/name``, ``org/name@revision`` or ``org/name/file.pth``."""

    repository: str
    """``org/name``."""
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""
    file: str | None = None
    """The one file of weights that is meant, where a repository holds several."""

    @property
    def address(self) -> str:
        """Where people can look at it."""
        return f"https://huggingface.co/{self.repository}"

    def __str__(self) -> str:
        file = "" if self.file is None else f"/{self.file}"
        return self.repository + file + ("" if self.revision is None else f"@{self.revision}")


def hub_name(text: str) -> HubName | None:
    """`text` as the name of a repository, or None where it cannot be one. Asks nobody.

    A name whose first part is a folder here is a path, not a repository: ``runs/mine`` beside a folder ``runs``.
    """
    found = _NAME.fullmatch(text)
    if found is None or found["repository"].endswith(_FILES) or Path(text.split("/")[0]).is_dir():
        return None
    file = found["file"]
    return HubName(found["repository"], found["revision"], None if file is None else file[1:])


def fetch(name: HubName, wanted: Callable[[Sequence[str]], Sequence[str]]) -> Path:
    """Download what is wanted of a repository, unless the cache has it, and return the folder that holds it.

    Args:
        name: the repository.
        wanted: from the names of all its files, those that are needed.

    Raises:
        InputError: no such repository, revision or file; no permission; offline, and nothing in the cache.
        RunFailure: the connection failed; what came is kept.
        KeyboardInterrupt: after Ctrl-C; what came is kept.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        cached = _cached(name)
        if cached is None:
            raise InputError(
                expected=f"{name} in the cache, because HF_HUB_OFFLINE is set",
                got=f"nothing of it in {constants.HF_HUB_CACHE}",
                where=str(name),
                fix="unset HF_HUB_OFFLINE once, to download it, or give a local folder",
            )
        return cached
    try:
        with _explained(name):
            files = HfApi().list_repo_files(name.repository, revision=name.revision)
            patterns = [glob.escape(file) for file in wanted(files)]
            return Path(snapshot_download(name.repository, revision=name.revision, allow_patterns=patterns))
    except RunFailure as failure:
        cached = _cached(name)
        if cached is None:
            raise
        print(f"{name}: the hub does not answer ({failure.got}); taken from the cache as it is", file=sys.stderr)
        return cached


def _cached(name: HubName) -> Path | None:
    """The folder of the repository in the cache, whole or not; None where there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    only = ["config.json"]  # the client then asks for no more than this to be there; the loader sees what is missing
    try:
        found = snapshot_download(name.repository, revision=name.revision, local_files_only=True, allow_patterns=only)
    except LocalEntryNotFoundError:
        return None
    return Path(found)


def _transport_errors() -> tuple[type[Exception], ...]:
    """What a failed connection raises: errors of the system, and those of the library under the client."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)))


@contextmanager
def _explained(name: HubName) -> Iterator[None]:
    """Turn what the client raises into messages with four parts."""
    from huggingface_hub import errors

    try:
        yield
    except LengthwiseError:
        raise
    except errors.GatedRepoError as error:
        raise InputError(
            expected="permission to read a repository whose owner asks for consent",
            got="none with the present token",
            where=str(name),
            fix=f"accept the terms at {name.address}, then `hf auth login`, or set HF_TOKEN",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            expected="a local folder, or a repository on the Hugging Face hub",
            got=f"'{name}': no folder here, and no repository there that the present token may see",
            where=name.address,
            fix="check the spelling; for a private repository, `hf auth login` or set HF_TOKEN",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            expected="a branch, tag or commit of the repository",
            got=f"'{name.revision}', which is none",
            where=str(name),
            fix=f"see {name.address}/commits, or leave the @revision out",
        ) from error
    except KeyboardInterrupt:
        print(
            f"\nthe download of {name} was interrupted; what came is kept, and the same command goes on with it",
            file=sys.stderr,
        )
        raise
    except _transport_errors() as error:
        raise RunFailure(
            expected="a connection to the Hugging Face hub",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            where=str(name),
            fix="check the network and give the same command again; what came is kept",
        ) from error
