"""One file from the network to the disk: resumed where it broke off, checked by its hash, put in place whole.

A download is written to `NAME.part`; `NAME.part.json` holds the address it came from and what the server said to
recognise the same contents by (ETag, date). The next call asks for the rest only (HTTP Range). A server that cannot
serve parts, or whose file has changed, sends all of it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path

from lengthwise.errors import InputError, RunFailure
from lengthwise.runs import atomic_write_json, write_failure

_BLOCK = 1 << 18
_TIMEOUT_SECONDS = 30.0

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes there will be, None where the server does not say."""


@dataclass(frozen=True)
class Mirror:
    """One address of a file."""

    url: str
    sha256: str | None = None
    """Hash of what is served there; None where we have never seen it."""


def sha256_of(path: Path) -> str:
    """sha256 hex of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(mirrors: tuple[Mirror, ...], path: Path, on_progress: OnProgress | None = None) -> Mirror:
    """Download a file from the first address that serves it.

    Args:
        mirrors: addresses in the order to try.
        path: where the file goes; its folder is made. An unfinished download beside it is continued.
        on_progress: told about every block.
    Returns:
        the address that served it.
    Raises:
        RunFailure: no address served it (with every address's reason and what to do by hand), or the disk is full.
        InputError: what came has another hash than it should.
    """
    reasons: list[str] = []
    for mirror in mirrors:
        before = -1
        while True:
            try:
                _download(mirror, path, on_progress)
            except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
                have = _size(path.with_name(f"{path.name}.part"))
                if have > max(before, 0) and not isinstance(error, urllib.error.HTTPError):
                    before = have  # it broke off, but further on than the last time
                    continue
                reasons.append(f"{mirror.url}: {_reason(error)}")
                break
            except OSError as error:
                raise write_failure(error, path) from error
            return mirror
    raise RunFailure(
        expected=f"the file {path.name} from the network",
        got="; ".join(reasons),
        where=str(path.parent),
        fix=f"on a machine with a network, download {mirrors[0].url}, put it at {path}, and give the command again",
    )


def _download(mirror: Mirror, path: Path, on_progress: OnProgress | None) -> None:
    part, note = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    have, validator = _unfinished(mirror, part, note)
    request = urllib.request.Request(mirror.url, headers={"User-Agent": "lengthwise", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if validator is not None:
            request.add_header("If-Range", validator)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            begins, total = _place(answer.status, answer.headers, have)
            atomic_write_json(note, {"url": mirror.url, "validator": _validator(answer.headers)})
            with part.open("r+b" if begins else "wb") as stream:
                stream.seek(begins)
                stream.truncate()
                while block := answer.read(_BLOCK):
                    stream.write(block)
                    if on_progress is not None:
                        on_progress(stream.tell(), total)
                stream.flush()
                os.fsync(stream.fileno())
                size = stream.tell()
    except urllib.error.HTTPError as error:
        # 416: nothing is left to ask for. The hash decides whether what is there is the file.
        if error.code != 416 or not have:
            raise
        size, total = have, have
    if total is not None and size != total:
        raise ConnectionError(f"the connection broke off at {size:,} of {total:,} bytes")
    got = sha256_of(part)
    if mirror.sha256 is not None and got != mirror.sha256:
        part.unlink()
        note.unlink(missing_ok=True)
        raise wrong_hash(path, mirror.sha256, got, mirror.url)
    os.replace(part, path)
    note.unlink(missing_ok=True)


def wrong_hash(
    path: Path,
    expected: str,
    got: str,
    origin: str,
    fix: str = "it is damaged or another version and was not kept; try again, or put the right file there by hand",
) -> InputError:
    """The error for contents that are not the ones named."""
    return InputError(
        expected=f"a file with sha256 {expected}",
        got=f"one with sha256 {got} ({origin})",
        where=str(path),
        fix=fix,
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unfinished(mirror: Mirror, part: Path, note: Path) -> tuple[int, str | None]:
    """Bytes of an earlier try that go with this address, and the validator of what they are part of."""
    try:
        record = json.loads(note.read_text())
        if record["url"] != mirror.url or record["validator"] is None:
            return 0, None
        return part.stat().st_size, str(record["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None


def _validator(headers: Message) -> str | None:
    """A strong ETag, else the date: what `If-Range` accepts."""
    tag = headers.get("ETag")
    if tag and not str(tag).startswith("W/"):
        return str(tag)
    date = headers.get("Last-Modified")
    return str(date) if date else None


def _place(status: int | None, headers: Message, have: int) -> tuple[int, int | None]:
    """Where the body begins in the file, and the size of the whole file."""
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", str(headers.get("Content-Range", "")))
        if match is None or int(match[1]) != have:
            raise ConnectionError(f"the server sent another part than was asked for: {headers.get('Content-Range')}")
        return have, None if match[2] == "*" else int(match[2])
    length = headers.get("Content-Length")
    return 0, None if length is None else int(length)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection ({error.reason})"
    return f"{type(error).__name__}: {error}"
