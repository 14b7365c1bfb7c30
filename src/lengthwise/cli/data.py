"""`lengthwise data ACTION`: turn text into token stores, look at them, and fetch benchmark files."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lengthwise.cli.common import Flag, OptionalPath, OptionalTexts, output_for, parse, print_table
from lengthwise.errors import InputError, near_matches
from lengthwise.units import human_bytes

if TYPE_CHECKING:
    from lengthwise.data import TokenStore
    from lengthwise.data.fetch import OnProgress

ACTIONS = {
    "tokenize": "text files, JSONL or folders of sources to a folder with train/ and validation/",
    "info": "what a folder of tokens holds",
    "get": "benchmark files that are not part of the package: fetch by name, or list what is there",
}


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions:
    """Turn text into token ids, split by document into train/ and validation/."""

    source: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE ...", help_behavior_hint="")]
    """Files (text, .jsonl with the key "text", both also as .xz, .gz, .zst) and folders; or the word python for the
    sources of the running Python installation."""
    out: Path
    """Folder to write; it must be new or empty."""
    tokenizer: str = "bytes"
    """The word bytes, or the path of a Hugging Face tokenizer.json."""
    val_frac: float = 0.1
    """Share of documents on the validation side, 0-1, decided by a hash of each document's name. 0 or 1 leaves one
    side empty."""
    validation: Annotated[OptionalTexts, tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")] = None
    """Files and folders of the validation side; then SOURCE is not split."""
    extensions: Annotated[OptionalTexts, tyro.conf.arg(metavar="ENDING ...", help_behavior_hint="")] = None
    """Endings to take from folders, such as .py .md, instead of the usual source and text files."""
    json: Flag = False
    """Print the result as JSON."""


@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """Show counts, tokenizer and document lengths of tokenized text."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """What `lengthwise data tokenize` wrote, or one side of it."""
    verify: Flag = False
    """Read every token and compare its hash with the header."""
    json: Flag = False
    """Print the result as JSON."""


@dataclass(frozen=True, kw_only=True)
class GetOptions:
    """Fetch benchmark files into the data folder, checked and resumable; without a name, list what is there."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")
    ] = ()
    """Data sets, such as squad or hotpotqa; none to list all."""
    data_dir: Annotated[
        OptionalPath, tyro.conf.arg(help_behavior_hint="(default: $LENGTHWISE_DATA, else ~/.local/share/lengthwise)")
    ] = None
    """The data folder; each data set has a folder of its name in it."""
    json: Flag = False
    """Print the result as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run one action and return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    action, *rest = arguments
    if action == "tokenize":
        return data_tokenize(parse(TokenizeOptions, rest, verb="data tokenize"))
    if action == "info":
        return data_info(parse(InfoOptions, rest, verb="data info"))
    if action == "get":
        return data_get(parse(GetOptions, rest, verb="data get"))
    raise InputError(
        expected="an action of `lengthwise data`",
        got=f"'{action}'",
        where="the command line",
        fix=f"{near_matches(action, ACTIONS)} (all: `lengthwise data --help`)",
    )


def data_tokenize(options: TokenizeOptions) -> int:
    """Tokenize a corpus into a new folder and print what came out."""
    if not options.source:
        raise InputError(
            expected="at least one file or folder, or the word python",
            got="none",
            where="the command line",
            fix="write: lengthwise data tokenize SOURCE --out FOLDER",
        )
    from lengthwise.data import load_tokenizer, prepare_corpus

    with output_for(options.json) as emit:
        train, validation = prepare_corpus(
            options.source[0] if len(options.source) == 1 else options.source,
            load_tokenizer(options.tokenizer),
            out=options.out,
            val_frac=options.val_frac,
            validation_source=options.validation,
            extensions=options.extensions,
            progress=sys.stderr.isatty(),
        )
        sides = {"train": train, "validation": validation}
        if options.json:
            emit({side: store.header for side, store in sides.items()})
        else:
            _show(str(options.out), sides)
    return 0


def data_info(options: InfoOptions) -> int:
    """Print what a store, or the two stores of a corpus, hold."""
    from lengthwise.data import TokenStore

    below = [options.folder / side for side in ("train", "validation") if (options.folder / side).is_dir()]
    sides = {folder.name: TokenStore.open(folder) for folder in below or [options.folder]}
    with output_for(options.json) as emit:
        if options.verify:
            for store in sides.values():
                store.verify()
        if options.json:
            emit({side: store.header for side, store in sides.items()})
        else:
            _show(str(options.folder), sides)
    return 0


def data_get(options: GetOptions) -> int:
    """Fetch the data sets named, or list all of them."""
    from lengthwise.data import benchmarks

    with output_for(options.json) as emit:
        if not options.names:
            rows = benchmarks.status(options.data_dir)
            if options.json:
                emit({name: {"about": about, "there": there, "folder": folder} for name, about, there, folder in rows})
            else:
                print_table("benchmark files", ("name", "what", "there", "folder"), rows)
            return 0
        for name in options.names:
            benchmarks.data_set(name)  # a misspelled name is found before anything is fetched
        records = {}
        for name in options.names:
            with _download_bars() as bar:
                records[name] = benchmarks.get(name, options.data_dir, bar)
        if options.json:
            emit(records)
        else:
            for name, record in records.items():
                _show_fetched(name, str(benchmarks.folder_of(name, options.data_dir)), record)
    return 0


@contextlib.contextmanager
def _download_bars() -> "Iterator[Callable[[str], OnProgress] | None]":
    """One bar a file on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:

        def begin(name: str) -> "OnProgress":
            task = bars.add_task(name, total=None)
            return lambda have, total: bars.update(task, completed=have, total=total)

        yield begin


def _show_fetched(name: str, folder: str, record: "dict[str, Any]") -> None:
    rows = [
        (
            file,
            human_bytes(entry["bytes"]),
            entry["sha256"][:16],
            "as known" if entry["checksum_known"] else "not known before, recorded",
        )
        for file, entry in record["files"].items()
    ]
    print_table(f"{name} in {folder}", ("file", "size", "sha256", "checksum"), rows)
    print(f"licence: {record['licence']}")


def _usage() -> str:
    width = max(map(len, ACTIONS))
    actions = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in ACTIONS.items())
    return (
        "usage: lengthwise data ACTION [options]\n\n"
        f"actions:\n{actions}\n\n"
        "`lengthwise data ACTION --help` explains one action"
    )


def _show(title: str, sides: "dict[str, TokenStore]") -> None:
    rows = []
    for side, store in sides.items():
        lengths = sorted(int(length) for length in store.lengths)
        rows.append(
            (
                side,
                store.num_documents,
                store.num_tokens,
                human_bytes(store.num_bytes),
                store.num_bytes / store.num_tokens if store.num_tokens else None,
                lengths[len(lengths) // 2] if lengths else None,
                lengths[-1] if lengths else None,
            )
        )
    columns = ("side", "documents", "tokens", "text", "bytes/token", "median", "longest")
    print_table(title, columns, rows)
    header = next(iter(sides.values())).header
    tokenizer, source = header["tokenizer"], header["source"]
    print(
        f"tokenizer {tokenizer['name']}, {tokenizer['vocab_size']:,} ids, fingerprint {tokenizer['fingerprint'][:12]}"
    )
    remarks = {
        "num_undecodable_files": "files left out: not UTF-8",
        "num_empty_documents": "documents left out: empty",
        "num_duplicate_documents": "documents left out: the same text occurs before",
        "num_inexact_documents": "documents that the tokenizer does not give back exactly (it normalises text)",
    }
    for key, words in remarks.items():
        if source.get(key):
            print(f"{source[key]:,} {words}")
