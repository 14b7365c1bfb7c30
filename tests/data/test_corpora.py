"""From sources to two stores: the split, the cache, the default corpus and its messages."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lengthwise.data import (
    ByteTokenizer,
    HFTokenizer,
    TokenStore,
    corpora,
    encoding,
    prepare_corpus,
    split_of,
)
from lengthwise.data.corpora import python_files
from lengthwise.errors import InputError
from lengthwise.paths import default_cache_dir


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LENGTHWISE_CACHE", str(cache))
    return cache


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index in range(60):
        (folder / f"module{index:02}.py").write_text(f"value = {index}\n" * (index + 1))
    return folder


def texts(store: TokenStore) -> dict[str, str]:
    return {store.names(i): ByteTokenizer().decode(store.document(i)) for i in range(store.num_documents)}


def test_every_document_is_on_one_side_in_order(corpus: Path) -> None:
    sides = [texts(store) for store in prepare_corpus(corpus, ByteTokenizer(), val_frac=0.2)]
    expected = {path.name: path.read_text() for path in corpus.iterdir()}
    assert {**sides[0], **sides[1]} == expected
    assert len(sides[0]) + len(sides[1]) == 60
    for side, name in zip(sides, ("train", "validation"), strict=True):
        assert list(side) == sorted(side)
        assert all(split_of(document, 0.2) == name for document in side)


def test_a_side_depends_on_the_name_alone() -> None:
    # Values that must never change: shipped models were trained on one side and are measured on the other.
    names = ("abc.py", "argparse.py", "json/decoder.py", "test/test_os.py", "typing.py", "email/message.py")
    assert [split_of(name, 0.5)[0] for name in names] == list(SIDES_AT_HALF)
    share = sum(split_of(f"document {i}", 0.1) == "validation" for i in range(4000)) / 4000
    assert 0.08 < share < 0.12
    assert all(split_of(f"d{i}", 0.3) == "validation" for i in range(300) if split_of(f"d{i}", 0.1) == "validation")


SIDES_AT_HALF = "ttvvvv"


def test_a_second_call_opens_what_the_first_made(corpus: Path, own_cache: Path) -> None:
    first = prepare_corpus(corpus, ByteTokenizer())
    stamps = {path: path.stat().st_mtime_ns for path in own_cache.rglob("*") if path.is_file()}
    second = prepare_corpus(corpus, ByteTokenizer())
    assert [store.fingerprint for store in first] == [store.fingerprint for store in second]
    assert {path: path.stat().st_mtime_ns for path in own_cache.rglob("*") if path.is_file()} == stamps
    assert not list(own_cache.rglob("*.partial"))


def test_the_cache_tells_contents_tokenizers_and_splits_apart(corpus: Path, own_cache: Path, bpe_file: Path) -> None:
    prepare_corpus(corpus, ByteTokenizer())
    prepare_corpus(corpus, HFTokenizer(bpe_file))
    prepare_corpus(corpus, ByteTokenizer(), val_frac=0.3)
    (corpus / "module00.py").write_text("changed = True\n")
    train, validation = prepare_corpus(corpus, ByteTokenizer())
    assert len(list((own_cache / "corpora").iterdir())) == 4
    assert {**texts(train), **texts(validation)}["module00.py"] == "changed = True\n"


def test_a_moved_corpus_is_found_again(corpus: Path, own_cache: Path, tmp_path: Path) -> None:
    first = prepare_corpus(corpus, ByteTokenizer())[0].fingerprint
    corpus.rename(tmp_path / "elsewhere")
    assert prepare_corpus(tmp_path / "elsewhere", ByteTokenizer())[0].fingerprint == first
    assert len(list((own_cache / "corpora").iterdir())) == 1


def test_an_interrupted_build_leaves_nothing(corpus: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ByteTokenizer):
        def decode_batch(self, rows: object) -> list[str]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(corpus, Interrupted())
    assert list((own_cache / "corpora").iterdir()) == []
    assert prepare_corpus(corpus, ByteTokenizer())[0].num_documents > 0


def test_tokenized_folders_are_sources_too(corpus: Path, tmp_path: Path, bpe_file: Path) -> None:
    out = tmp_path / "tokens"
    made = prepare_corpus(corpus, ByteTokenizer(), out=out)
    opened = prepare_corpus(out, ByteTokenizer())
    assert [store.fingerprint for store in opened] == [store.fingerprint for store in made]
    with pytest.raises(InputError, match=r"expected tokens of the tokenizer 'tokenizer\.json'.* got tokens of 'bytes'"):
        prepare_corpus(out, HFTokenizer(bpe_file))
    with pytest.raises(InputError, match="got one side of it"):
        prepare_corpus(out / "train", ByteTokenizer())


def test_copies_are_kept_once(corpus: Path) -> None:
    (corpus / "zz_copy.py").write_text((corpus / "module07.py").read_text())
    sides = prepare_corpus(corpus, ByteTokenizer())
    names = {**texts(sides[0]), **texts(sides[1])}
    assert "zz_copy.py" not in names
    assert "module07.py" in names
    assert sides[0].header["source"]["num_duplicate_documents"] == 1


def test_own_validation_text_is_not_split_and_wins_copies(corpus: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held.jsonl.gz"
    lines = [json.dumps({"text": (corpus / "module05.py").read_text()}), json.dumps({"text": "new", "id": "n"})]
    held_out.write_bytes(gzip.compress("\n".join(lines).encode()))
    train, validation = prepare_corpus(corpus, ByteTokenizer(), validation_source=held_out)
    assert list(texts(validation)) == ["held.jsonl.gz#1", "n"]
    assert train.num_documents == 59
    assert "module05.py" not in texts(train)


def test_several_sources_and_endings(corpus: Path, tmp_path: Path) -> None:
    (corpus / "page.xyz").write_text("a page")
    single = tmp_path / "single.weird"
    single.write_text("single")
    train, validation = prepare_corpus([single, corpus], ByteTokenizer(), extensions=[".xyz"], val_frac=0.0)
    assert list(texts(train)) == ["single.weird", "page.xyz"]
    assert validation.num_documents == 0


def test_documents_that_do_not_come_back_are_counted(corpus: Path, bpe_file: Path, tmp_path: Path) -> None:
    description = json.loads(bpe_file.read_text())
    description["normalizer"] = {"type": "NFC"}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description))
    (corpus / "accent.py").write_text("e\u0301")
    train, _ = prepare_corpus(corpus, HFTokenizer(path))
    assert train.header["source"]["num_inexact_documents"] == 1


def test_one_document_cannot_be_split(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("a book")
    with pytest.raises(InputError) as caught:
        prepare_corpus(path, ByteTokenizer())
    assert caught.value.expected == "documents for training and for validation"
    assert "0 for" in caught.value.got
    assert caught.value.where == str(path)
    assert "--val-frac" in caught.value.fix
    train, validation = prepare_corpus(path, ByteTokenizer(), val_frac=1.0)
    assert (train.num_documents, validation.num_documents) == (0, 1)


def test_empty_corpora(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("")
    with pytest.raises(InputError) as caught:
        prepare_corpus(path, ByteTokenizer())
    assert caught.value.expected == "a corpus with text"
    assert caught.value.got == "no text at all (1 empty and 0 undecodable documents)"
    assert caught.value.where == str(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="expected at least one text or JSONL file; got no file with a known ending"):
        prepare_corpus(tmp_path / "folder", ByteTokenizer())
    assert not list(own_cache.rglob("*header.json"))


def test_a_misspelled_corpus() -> None:
    with pytest.raises(InputError, match=r"got 'pyhton', which is neither \(did you mean 'python'\?\)"):
        prepare_corpus("pyhton", ByteTokenizer())


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_to_1(corpus: Path, share: float) -> None:
    with pytest.raises(InputError, match=f"expected a share between 0 and 1; got {share}"):
        prepare_corpus(corpus, ByteTokenizer(), val_frac=share)


def test_default_corpus_is_the_standard_library(tmp_path: Path) -> None:
    names = [file.name for file in python_files()]
    assert names == sorted(names)
    assert {"argparse.py", "json/decoder.py", "email/message.py"} <= set(names)
    assert not [n for n in names if "site-packages" in n or n.startswith(("config-", "_sysconfigdata"))]


def test_default_corpus_does_without_missing_parts(tmp_path: Path) -> None:
    for name in (
        "abc.py",
        "json/decoder.py",
        "site-packages/x.py",
        "_sysconfigdata_x.py",
        "config-3.11-x/y.py",
        "z.so",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("pass")
    assert [file.name for file in python_files(tmp_path)] == ["abc.py", "json/decoder.py"]
    with pytest.raises(InputError, match="expected a standard library with source files; got none"):
        python_files(tmp_path / "nowhere")


def test_default_corpus_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for index in range(30):
        (tmp_path / f"m{index}.py").write_text(f"x = {index}")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    train, validation = prepare_corpus("python", ByteTokenizer())
    assert train.num_documents + validation.num_documents == 30
    assert train.header["source"]["corpus"] == "python"


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("LENGTHWISE_CACHE")
    assert default_cache_dir() == tmp_path / "xdg" / "lengthwise"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "lengthwise"


def test_progress_is_what_was_written(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", 200)
    shown: list[int] = []

    @contextmanager
    def bar(total: int) -> Iterator[Callable[[int], None]]:
        assert total == sum(path.stat().st_size for path in corpus.iterdir())
        yield shown.append
        assert shown[-1] == total

    monkeypatch.setattr(corpora, "_progress_bar", bar)
    prepare_corpus(corpus, ByteTokenizer(), progress=True)
    assert len(shown) == 60
    assert shown == sorted(shown)
    assert shown[0] == (corpus / "module00.py").stat().st_size


def test_progress_bar_goes_to_stderr(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_corpus(corpus, ByteTokenizer(), progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "tokenizing" in printed.err
