"""Samples of several processes, kept on disk."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks import store
from lengthwise.tasks.base import Sample, Score, Task, sample_id
from lengthwise.tasks.library import TaskOptions
from lengthwise.tasks.registry import make_tasks
from lengthwise.tasks.store import prepare

NAMES = ["niah_single_1", "niah_single_2", "niah_multikey_3", "vt", "qa_1"]


class Echo:
    """A task that only knows the contract."""

    name = "echo"
    version = 1
    floor = None
    binary = True
    made = 0

    def parameters(self) -> dict[str, str]:
        return {}

    def min_length(self, tokenizer: Tokenizer) -> int:
        return 1

    def samples(self, indices: Sequence[int], length: int, tokenizer: Tokenizer, seed: int) -> list[Sample]:
        self.made += len(indices)
        return [
            Sample(
                id=sample_id("echo", length, i),
                task="echo",
                index=i,
                length=length,
                prompt=f"Écho {i}\ud800" if i == 3 else f"Écho {i}",
                answers=(str(i), "x"),
                num_tokens=i,
                max_new_tokens=4 + i,
                continuation=" yes" if i % 2 else None,
                meta={"i": i, "none": None},
            )
            for i in indices
        ]

    def scorers(self) -> tuple[str, ...]:
        return ("echo@1",)

    def score(self, sample: Sample, text: str, scorer: str | None = None) -> Score:
        return Score(value=1.0, scorer="echo@1")


@pytest.fixture
def tasks(data_dir: Path, checkout: Path) -> list[Task]:
    return make_tasks(NAMES, TaskOptions(data_dir=data_dir, ruler_source=checkout))


def test_what_is_kept_is_what_is_made(tasks: list[Task], tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizer = tokenizers["gpt2"]
    told: list[tuple[int, int]] = []
    sets = prepare(
        tasks, [1200, 1500], 4, tokenizer, 3, cache_dir=tmp_path, on_progress=lambda *seen: told.append(seen)
    )
    assert list(sets) == [(name, length) for name in NAMES for length in (1200, 1500)]
    assert told[-1] == (4 * 2700 * len(NAMES), 4 * 2700 * len(NAMES))
    for task in tasks:
        for length in (1200, 1500):
            kept = sets[task.name, length]
            assert len(kept) == 4
            assert list(kept) == task.samples(range(4), length, tokenizer, 3)
            assert kept[2] == kept[-2] == list(kept)[2]
            assert kept[1:3] == list(kept)[1:3]


def test_kept_samples_are_not_made_again(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    echo, tokenizer = Echo(), tokenizers["bytes"]
    first = prepare([echo], [10], 5, tokenizer, 0, cache_dir=tmp_path)["echo", 10]
    assert list(first) == Echo().samples(range(5), 10, tokenizer, 0)
    assert echo.made == 5
    more = prepare([echo], [10], 8, tokenizer, 0, cache_dir=tmp_path)["echo", 10]
    assert echo.made == 8
    assert list(more) == Echo().samples(range(8), 10, tokenizer, 0)
    fewer = prepare([echo], [10], 2, tokenizer, 0, cache_dir=tmp_path)["echo", 10]
    assert (len(fewer), echo.made) == (2, 8)
    assert [sample.index for sample in fewer] == [0, 1]
    with pytest.raises(IndexError):
        fewer[2]


def test_whatever_decides_samples_makes_new_ones(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    def folders() -> int:
        return len(list((tmp_path / "tasks/samples").iterdir()))

    echo = Echo()
    prepare([echo], [10], 1, tokenizers["bytes"], 0, cache_dir=tmp_path)
    prepare([echo], [11], 1, tokenizers["bytes"], 0, cache_dir=tmp_path)
    prepare([echo], [10], 1, tokenizers["bytes"], 1, cache_dir=tmp_path)
    prepare([echo], [10], 1, tokenizers["gpt2"], 0, cache_dir=tmp_path)
    echo.version = 2
    prepare([echo], [10], 1, tokenizers["bytes"], 0, cache_dir=tmp_path)
    assert folders() == echo.made == 5
    prepare([echo], [10, 11], 1, tokenizers["bytes"], 0, cache_dir=tmp_path)
    assert folders() == 6  # version 2 at length 11


def test_a_damaged_file_is_made_again(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    echo, tokenizer = Echo(), tokenizers["bytes"]
    prepare([echo], [10], 3, tokenizer, 0, cache_dir=tmp_path)
    (file,) = (tmp_path / "tasks/samples").rglob("*.npz")
    file.write_bytes(file.read_bytes()[:-40])
    assert list(prepare([echo], [10], 3, tokenizer, 0, cache_dir=tmp_path)["echo", 10]) == echo.samples(
        range(3), 10, tokenizer, 0
    )
    assert echo.made == 9


def test_processes_change_nothing(
    tasks: list[Task], tokenizers: dict[str, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_ALONE_TOKENS", 1)
    monkeypatch.setattr(store, "_CHUNK_SAMPLES", 2)
    some = [tasks[1], tasks[4]]
    apart = prepare(some, [1500], 4, tokenizers["gpt2"], 3, cache_dir=tmp_path / "a", workers=2)
    assert len(list((tmp_path / "a").rglob("*.npz"))) == 4
    alone = prepare(some, [1500], 4, tokenizers["gpt2"], 3, cache_dir=tmp_path / "b", workers=1)
    for key in alone:
        assert list(apart[key]) == list(alone[key])
    files = {path.name: path.read_bytes() for path in (tmp_path / "b").rglob("*.txt")}
    assert files
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").rglob("*.txt")} == files


def test_what_a_task_refuses_comes_through(
    tasks: list[Task], tokenizers: dict[str, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="a length of at least"):
        prepare(tasks, [64], 3, tokenizers["bytes"], 0, cache_dir=tmp_path, workers=1)
    monkeypatch.setattr(store, "_ALONE_TOKENS", 1)
    with pytest.raises(InputError, match="a length of at least"):
        prepare(tasks[:2], [64], 3, tokenizers["bytes"], 0, cache_dir=tmp_path, workers=2)


def test_prompts_share_their_haystack_on_disk(
    tasks: list[Task], tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    prose = [task for task in tasks if task.name == "niah_single_2"]
    kept = prepare(prose, [20_000], 20, tokenizers["bytes"], 0, cache_dir=tmp_path)["niah_single_2", 20_000]
    assert sum(len(sample.prompt) for sample in kept) > 390_000
    (file,) = tmp_path.rglob("*.npz")
    assert file.stat().st_size < 20_000
    (text,) = tmp_path.rglob("*.txt")
    assert text.stem == tasks[1].parameters()["prose"]["sha256"]
