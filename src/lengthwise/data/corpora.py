"""From a corpus to two token stores, train and validation.

The default corpus, "python", is text every installation already holds: the sources and text files of the running
Python's standard library. Other corpora are files and folders. A tokenized corpus is kept in a cache folder under the
hash of its contents, so the second call only opens it.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lengthwise.data.documents import (
    Document,
    ReadCounts,
    SourceFile,
    hash_files,
    list_files,
    read_documents,
    walk_folder,
)
from lengthwise.data.encoding import encode_documents
from lengthwise.data.store import FORMAT_VERSION, HEADER_FILE, StoreWriter, TokenStore, new_folder
from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError, near_matches
from lengthwise.paths import default_cache_dir

PYTHON_CORPUS = "python"
PYTHON_EXTENSIONS = (".py", ".txt", ".rst", ".md")
SIDES = ("train", "validation")
_NAMES_KEPT = 20
_BUILD_VERSION = 1  # rises when the same files would give other stores


def prepare_corpus(
    source: str | Path | Sequence[str | Path],
    tokenizer: Tokenizer,
    *,
    cache_dir: str | Path | None = None,
    out: str | Path | None = None,
    val_frac: float = 0.1,
    validation_source: str | Path | Sequence[str | Path] | None = None,
    extensions: Sequence[str] | None = None,
    progress: bool = False,
) -> tuple[TokenStore, TokenStore]:
    """Tokenize a corpus, or open it where that was done before.

    Args:
        source: "python"; files (text, JSONL, compressed or not) and folders; or a folder made by this function.
        tokenizer: what turns text into ids.
        cache_dir: where tokenized corpora are kept; `lengthwise.paths.default_cache_dir()` when None.
        out: write to this new folder instead of the cache.
        val_frac: 0-1, expected share of documents on the validation side; 0 and 1 leave one side empty. A document's
            side is a function of its name alone, so it stays there in other versions of the corpus.
        validation_source: text of the validation side; then `source` is not split and `val_frac` has no effect.
        extensions: endings taken from folders, instead of the usual source and text files.
        progress: show a progress bar on stderr while tokenizing.
    Returns:
        train and validation store. Texts that occur twice are kept once: a copy must not sit on both sides.
    Raises:
        InputError: nothing there, empty, unreadable, or (0 < val_frac < 1) one side without documents; a store of
            another tokenizer.
        RunFailure: no space left on the device.
    """
    if not 0.0 <= val_frac <= 1.0:
        raise InputError(
            expected="a share between 0 and 1", got=str(val_frac), where="val_frac", fix="give, for example, 0.1"
        )
    prepared = _open_prepared(source, tokenizer)
    if prepared is not None:
        return prepared
    files = _corpus_files(source, extensions)
    validation_files = None if validation_source is None else _corpus_files(validation_source, extensions)
    description: dict[str, Any] = {
        "corpus": PYTHON_CORPUS if source == PYTHON_CORPUS else "files",
        "hash": hash_files(files),
        "num_files": len(files),
        "val_frac": float(val_frac) if validation_files is None else None,
        "validation_hash": None if validation_files is None else hash_files(validation_files),
    }
    if out is not None:
        folder, cached = Path(out), False
    else:
        key = json.dumps([_BUILD_VERSION, FORMAT_VERSION, tokenizer.fingerprint, description], sort_keys=True)
        label = description["corpus"]
        root = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        folder, cached = root / "corpora" / f"{label}-{hashlib.sha256(key.encode()).hexdigest()[:20]}", True
    if not (cached and folder.is_dir()):
        with new_folder(folder, keep_existing=cached) as partial:
            _build(partial, files, validation_files, tokenizer, val_frac, description, progress)
    return _open_sides(folder, tokenizer)


def split_of(name: str, val_frac: float) -> str:
    """Side of a document, "train" or "validation": a hash of its name compared with `val_frac` (0-1)."""
    digest = hashlib.sha256(b"lengthwise split\0" + name.encode("utf-8", "surrogateescape")).digest()
    return "validation" if int.from_bytes(digest[:8], "big") < val_frac * 2**64 else "train"


def python_files(root: Path | None = None) -> list[SourceFile]:
    """Files of the default corpus, named by their path below the standard library and sorted by it.

    Left out: installed packages, and files written for this one machine (build configuration), so that two
    installations of one version hold the same corpus. Parts that an installation lacks, such as the package `test`,
    are simply absent.

    Args:
        root: folder of the standard library; that of the running Python when None.
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    files = walk_folder(root, PYTHON_EXTENSIONS, skip=_machine_specific) if root.is_dir() else []
    if not files:
        raise InputError(
            expected="a standard library with source files",
            got="none (some Python distributions ship it compiled or in a zip file)",
            where=str(root),
            fix="give text of your own as the corpus",
        )
    return files


def _machine_specific(relative: str) -> bool:
    first = relative.split("/", 1)[0]
    return first.startswith(("config-", "_sysconfigdata", "sitecustomize", "usercustomize", "_distutils_system"))


def _corpus_files(source: str | Path | Sequence[str | Path], extensions: Sequence[str] | None) -> list[SourceFile]:
    if source == PYTHON_CORPUS:
        return python_files()
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(p) for p in source]
    if len(paths) == 1 and not paths[0].exists() and paths[0].name == str(source):
        raise InputError(
            expected=f"a corpus: '{PYTHON_CORPUS}', or an existing file or folder",
            got=f"'{source}', which is neither ({near_matches(str(source), [PYTHON_CORPUS])})",
            where="the name of the corpus",
            fix="check the spelling of the path",
        )
    files = list_files(paths, extensions)
    if not files:
        raise InputError(
            expected="at least one text or JSONL file",
            got="no file with a known ending",
            where=", ".join(map(str, paths)) or "an empty list of paths",
            fix="name the files one by one, or give their ending (lengthwise data tokenize --extensions .xyz)",
        )
    return files


def _open_prepared(
    source: str | Path | Sequence[str | Path], tokenizer: Tokenizer
) -> tuple[TokenStore, TokenStore] | None:
    """The two stores of a folder that `prepare_corpus` made, None when `source` is something else."""
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    if (path / HEADER_FILE).is_file():
        raise InputError(
            expected="a tokenized corpus, a folder with train/ and validation/",
            got="one side of it",
            where=str(path),
            fix=f"give the folder above: {path.parent}",
        )
    if not any((path / side / HEADER_FILE).is_file() for side in SIDES):
        return None
    return _open_sides(path, tokenizer)


def _open_sides(folder: Path, tokenizer: Tokenizer) -> tuple[TokenStore, TokenStore]:
    return TokenStore.open(folder / SIDES[0], tokenizer), TokenStore.open(folder / SIDES[1], tokenizer)


def _build(
    folder: Path,
    files: list[SourceFile],
    validation_files: list[SourceFile] | None,
    tokenizer: Tokenizer,
    val_frac: float,
    description: dict[str, Any],
    progress: bool,
) -> None:
    """Write both stores below `folder`, reading the text once."""
    counts = _Counts()
    passes: list[tuple[list[SourceFile], str | None]] = [(files, None if validation_files is None else SIDES[0])]
    if validation_files is not None:
        # Validation comes first: of a text on both sides, the validation copy is the one to keep.
        passes.insert(0, (validation_files, SIDES[1]))
    total = sum(file.path.stat().st_size for group, _ in passes for file in group)
    with ExitStack() as stack:
        writers = {side: stack.enter_context(StoreWriter(folder / side, tokenizer)) for side in SIDES}
        show = stack.enter_context(_progress_bar(total)) if progress else None
        seen: set[bytes] = set()
        for group, fixed_side in passes:
            for document in encode_documents(
                _unique(read_documents(group, counts, counts.on_bytes), seen, counts), tokenizer
            ):
                side = fixed_side or split_of(document.name, val_frac)
                writers[side].add(document.name, document.ids, document.num_bytes)
                counts.inexact += not document.exact
                reached = counts.read_until.popleft()
                if show is not None:
                    show(reached)
        _check_sides(writers, files, counts, val_frac, split=validation_files is None)
        description = {
            **description,
            "num_undecodable_files": counts.undecodable,
            "undecodable_files": counts.undecodable_names[:_NAMES_KEPT],
            "num_empty_documents": counts.empty,
            "num_duplicate_documents": counts.duplicates,
            "num_inexact_documents": counts.inexact,
        }
        for side, writer in writers.items():
            writer.finish({**description, "side": side})


@dataclass
class _Counts(ReadCounts):
    duplicates: int = 0
    inexact: int = 0
    stored_bytes: int = 0
    read_until: deque[int] = field(default_factory=deque)
    """Stored bytes read so far, for each document that is read and not yet written: reading runs ahead of encoding, and
    progress is what was written."""

    def on_bytes(self, count: int) -> None:
        self.stored_bytes += count


def _unique(documents: Iterable[Document], seen: set[bytes], counts: _Counts) -> Iterator[Document]:
    """Documents whose text was not seen before."""
    for document in documents:
        digest = hashlib.sha256(document.text.encode("utf-8")).digest()
        if digest in seen:
            counts.duplicates += 1
        else:
            seen.add(digest)
            counts.read_until.append(counts.stored_bytes)
            yield document


def _check_sides(
    writers: dict[str, StoreWriter], files: list[SourceFile], counts: _Counts, val_frac: float, *, split: bool
) -> None:
    have = {side: writer.num_documents for side, writer in writers.items()}
    where = str(files[0].path) if len(files) == 1 else f"{len(files)} files from {files[0].path} on"
    if not sum(have.values()):
        raise InputError(
            expected="a corpus with text",
            got=f"no text at all ({counts.empty} empty and {counts.undecodable} undecodable documents)",
            where=where,
            fix="give files that hold UTF-8 text",
        )
    # With a share of 0 or 1 an empty side is what was asked for.
    if min(have.values()) == 0 and (not split or 0 < val_frac < 1):
        raise InputError(
            expected="documents for training and for validation",
            got=", ".join(f"{count} for {side}" for side, count in have.items()),
            where=where,
            fix="add documents, or tokenize first with an own validation text or one side only: "
            "lengthwise data tokenize SOURCE --validation TEXT, --val-frac 0 or --val-frac 1",
        )


@contextmanager
def _progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar over the stored bytes of the corpus, on stderr; yields a function that sets how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("tokenizing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("tokenizing", total=total)
        yield lambda reached: bar.update(task, completed=reached)
