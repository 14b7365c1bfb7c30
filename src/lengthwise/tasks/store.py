"""Samples made by several processes and kept on disk, found again by what decides them.

    <cache>/tasks/samples/<key>/<first>-<stop>.npz     samples first..stop-1
    <cache>/tasks/texts/<sha256>.txt                   texts that many prompts share

The key is a hash of the task with its parameters and version, the length, the tokenizer and the seed. A file holds what
prompts are made of and not the prompts: slices of the shared texts, and whatever belongs to one prompt alone. A damaged
file is made again. The folder can be removed at any time.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.paths import default_cache_dir
from lengthwise.runs import write_failure
from lengthwise.tasks.base import Sample, Task
from lengthwise.tasks.passages import Built, Part, Shared, Slice
from lengthwise.tasks.tokens import key_of

_FORMAT = 1
_CHUNK_TOKENS = 1 << 19  # about so many tokens a file
_CHUNK_SAMPLES = 128
_ALONE_TOKENS = 1 << 22  # less than this is made in this process
_LITERAL = -1

OnProgress = Callable[[int, int], None]
"""Called with the tokens made so far and those to make in all."""


class SampleSet(Sequence[Sample]):
    """The samples 0..count-1 of a task at one length. Prompts are put together when a sample is looked at."""

    def __init__(self, task: str, length: int, count: int, folder: Path, texts: Texts) -> None:
        self.task = task
        self.length = length
        self._count = count
        self._folder = folder
        self._texts = texts
        self._open: tuple[range, list[Sample]] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        place = index + self._count if index < 0 else index
        if not 0 <= place < self._count:
            raise IndexError(index)
        if self._open is None or place not in self._open[0]:
            covered, file = next((r, f) for r, f in _chunks(self._folder) if place in r)
            self._open = covered, list(_samples(_load(file), self._texts, slice(None)))
        return self._open[1][place - self._open[0].start]

    def __iter__(self) -> Iterator[Sample]:
        """In order; while prompts of one file are looked at, the next file is read."""
        plan = []
        done = 0
        for covered, file in sorted(_chunks(self._folder), key=lambda chunk: (chunk[0].start, -chunk[0].stop)):
            if covered.start <= done < min(covered.stop, self._count):
                plan.append((slice(done - covered.start, self._count - covered.start), file))
                done = covered.stop
        with ThreadPoolExecutor(1) as reader:
            waiting = [reader.submit(_load, file) for _, file in plan[:1]]
            for place, (part, _) in enumerate(plan):
                loaded = waiting.pop().result()
                if place + 1 < len(plan):
                    waiting.append(reader.submit(_load, plan[place + 1][1]))
                yield from _samples(loaded, self._texts, part)


class Texts:
    """The shared texts of a cache folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Shared] = {}
        self._written: set[str] = set()

    def get(self, fingerprint: str) -> Shared:
        """The text of this hash."""
        if fingerprint not in self._read:
            self._read[fingerprint] = Shared(self._path(fingerprint).read_bytes().decode("utf-8", "surrogatepass"))
        return self._read[fingerprint]

    def keep(self, shared: Shared) -> str:
        """Write a text unless it is there, and return its hash."""
        fingerprint = shared.fingerprint
        if fingerprint not in self._written:
            if not self._path(fingerprint).is_file():
                _write(self._path(fingerprint), shared.text.encode("utf-8", "surrogatepass"))
            self._written.add(fingerprint)
        return fingerprint

    def _path(self, fingerprint: str) -> Path:
        return self.folder / f"{fingerprint}.txt"


@dataclass(frozen=True)
class _Job:
    """Samples to make."""

    task: int
    length: int
    first: int
    stop: int
    folder: Path

    @property
    def tokens(self) -> int:
        return self.length * (self.stop - self.first)


def prepare(
    tasks: Sequence[Task],
    lengths: Sequence[int],
    count: int,
    tokenizer: Tokenizer,
    seed: int,
    *,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Mapping[tuple[str, int], SampleSet]:
    """Make the samples 0..count-1 of every task at every length, or find those that were made before.

    Args:
        tasks: different names.
        lengths: in tokens.
        count: samples of each task at each length.
        tokenizer: what counts.
        seed: of the run.
        cache_dir: where they are kept; `lengthwise.paths.default_cache_dir()` when None.
        workers: processes; as many as there are cores when None. The samples are the same whatever the number.
        on_progress: told what was made.
    Returns:
        the samples by task name and length, in the order asked for.
    Raises:
        InputError: what the tasks raise.
        RunFailure: no space left on the device.
    """
    root = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / "tasks"
    texts = Texts(root / "texts")
    jobs: list[_Job] = []
    sets: dict[tuple[str, int], SampleSet] = {}
    for number, task in enumerate(tasks):
        decides = {
            "format": _FORMAT,
            "task": task.name,
            "version": task.version,
            "parameters": task.parameters(),
            "tokenizer": tokenizer.fingerprint,
            "seed": seed,
        }
        for length in lengths:
            key = hashlib.sha256(key_of({**decides, "length": length}).encode()).hexdigest()
            folder = root / "samples" / key[:40]
            jobs.extend(_Job(number, length, r.start, r.stop, folder) for r in _missing(folder, count, length))
            sets[task.name, length] = SampleSet(task.name, length, count, folder, texts)
    _make(jobs, tasks, tokenizer, seed, root / "texts", workers, on_progress)
    return sets


def _make(
    jobs: list[_Job],
    tasks: Sequence[Task],
    tokenizer: Tokenizer,
    seed: int,
    texts: Path,
    workers: int | None,
    on_progress: OnProgress | None,
) -> None:
    total = sum(job.tokens for job in jobs)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    done = 0
    # Short lengths first: what is impossible is found out at once.
    jobs = sorted(jobs, key=lambda job: (job.length, job.first, job.task))
    if workers < 2 or total < _ALONE_TOKENS or len(jobs) < 2:
        kept = Texts(texts)
        for job in jobs:
            _run(job, tasks[job.task], tokenizer, seed, kept)
            done += job.tokens
            if on_progress is not None:
                on_progress(done, total)
        return
    context = multiprocessing.get_context("spawn")
    setting = (list(tasks), tokenizer, seed, texts)
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_begin, initargs=setting)
    try:
        for future in as_completed([pool.submit(_run_here, job) for job in jobs]):
            done += future.result()
            if on_progress is not None:
                on_progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)


_HERE: dict[str, Any] = {}
"""What a worker process works on; filled once, when it starts, and empty in every other process."""


def _begin(tasks: list[Task], tokenizer: Tokenizer, seed: int, texts: Path) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core is enough
    _HERE.update(tasks=tasks, tokenizer=tokenizer, seed=seed, texts=Texts(texts))


def _run_here(job: _Job) -> int:
    _run(job, _HERE["tasks"][job.task], _HERE["tokenizer"], _HERE["seed"], _HERE["texts"])
    return job.tokens


def _run(job: _Job, task: Task, tokenizer: Tokenizer, seed: int, texts: Texts) -> None:
    """Make the samples of a job and write them."""
    indices = range(job.first, job.stop)
    parts: list[tuple[Part, ...]]
    if hasattr(task, "build") and hasattr(task, "max_new_tokens"):
        built: list[Built] = task.build(indices, job.length, tokenizer, seed)
        budget = task.max_new_tokens(tokenizer)
        parts = [made.parts for made in built]
        samples = [replace(made, parts=()).sample(task.name, job.length, budget) for made in built]
    else:
        whole = task.samples(indices, job.length, tokenizer, seed)
        parts = [(sample.prompt,) for sample in whole]
        samples = [replace(sample, prompt="") for sample in whole]
    _write(job.folder / f"{job.first:06d}-{job.stop:06d}.npz", _packed(parts, samples, texts))


def _packed(parts: list[tuple[Part, ...]], samples: list[Sample], texts: Texts) -> bytes:
    """A file's contents."""
    sources: dict[str, int] = {}
    numbers: dict[int, int] = {}  # by identity: hashing a text takes longer than finding it
    rows: list[tuple[int, int, int]] = []
    ends: list[int] = []
    literals: list[str] = []
    place = 0
    for prompt in parts:
        for part in prompt:
            if isinstance(part, Slice):
                known = numbers.get(id(part.source))
                if known is None:
                    known = sources.setdefault(texts.keep(part.source), len(sources))
                    numbers[id(part.source)] = known
                rows.append((known, part.start, part.stop))
                continue
            literals.append(part)
            if rows and rows[-1][0] == _LITERAL and len(rows) > (ends[-1] if ends else 0):
                rows[-1] = (_LITERAL, rows[-1][1], place + len(part))
            else:
                rows.append((_LITERAL, place, place + len(part)))
            place += len(part)
        ends.append(len(rows))
    described = [{key: value for key, value in sample.to_dict().items() if key != "prompt"} for sample in samples]
    header = {"texts": list(sources), "samples": described}
    raw = io.BytesIO()
    np.savez(
        raw,
        parts=np.array(rows, dtype=np.int64).reshape(-1, 3),
        ends=np.array(ends, dtype=np.int64),
        literals=_deflated("".join(literals).encode("utf-8", "surrogatepass")),
        header=_deflated(json.dumps(header, separators=(",", ":")).encode()),
    )
    return raw.getvalue()


@dataclass(frozen=True)
class _Loaded:
    """A file's contents, read."""

    parts: list[list[int]]
    ends: list[int]
    literals: str
    header: dict[str, Any]


def _load(file: Path) -> _Loaded:
    with np.load(file, allow_pickle=False) as arrays:
        literals = _inflated(arrays["literals"]).decode("utf-8", "surrogatepass")
        header = json.loads(_inflated(arrays["header"]))
        return _Loaded(arrays["parts"].tolist(), arrays["ends"].tolist(), literals, header)


def _samples(loaded: _Loaded, texts: Texts, part: slice) -> Iterator[Sample]:
    """The samples of a file, or a part of them, one after the other."""
    sources = [texts.get(fingerprint).text for fingerprint in loaded.header["texts"]]
    sources.append(loaded.literals)  # number -1
    begins = [0, *loaded.ends[:-1]]
    rows = zip(loaded.header["samples"][part], begins[part], loaded.ends[part], strict=True)
    for values, begin, end in rows:
        prompt = "".join([sources[source][start:stop] for source, start, stop in loaded.parts[begin:end]])
        yield Sample.from_dict({**values, "prompt": prompt})


def _chunks(folder: Path) -> list[tuple[range, Path]]:
    """The files of a folder and what they cover."""
    found = []
    if folder.is_dir():
        for file in sorted(folder.glob("*.npz")):
            first, _, stop = file.stem.partition("-")
            found.append((range(int(first), int(stop)), file))
    return found


def _missing(folder: Path, count: int, length: int) -> list[range]:
    """Numbers 0..count-1 that no sound file covers, in runs of one file's size."""
    chunk = max(1, min(_CHUNK_SAMPLES, _CHUNK_TOKENS // length))
    covered: set[int] = set()
    for numbers, file in _chunks(folder):
        if _sound(file):
            covered.update(numbers)
        else:
            file.unlink(missing_ok=True)
    runs: list[range] = []
    for number in range(count):
        if number in covered:
            continue
        if runs and runs[-1].stop == number and len(runs[-1]) < chunk:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs


def _sound(file: Path) -> bool:
    """Whether a file was written to its end: the directory of a zip file stands there."""
    try:
        with zipfile.ZipFile(file) as archive:
            return len(archive.namelist()) == 4
    except (OSError, zipfile.BadZipFile):
        return False


def _deflated(raw: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(raw, 1), dtype=np.uint8)


def _inflated(array: NDArray[np.uint8]) -> bytes:
    return zlib.decompress(array.tobytes())


def _write(path: Path, data: bytes) -> None:
    """Replace a file as a whole. Not flushed to the device: what is lost is made again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_failure(error, path, len(data)) from error
