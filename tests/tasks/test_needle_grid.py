"""One needle at a chosen depth, in any haystack; needles and haystacks of the user's."""

import json
from pathlib import Path

import pytest

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.base import Sample
from lengthwise.tasks.library import Library
from lengthwise.tasks.registry import expand, make_task
from lengthwise.tasks.ruler.needles import NeedleTask
from lengthwise.tasks.ruler.wording import OWN

SHAPES = {"word": r"[a-z-]+", "number": r"\d{7}", "uuid": r"[0-9a-f-]{36}"}


def samples(library: Library, tokenizer: Tokenizer, settings: str, count: int = 3, length: int = 4000) -> list[Sample]:
    task = make_task(f"niah_grid:{settings}", library)
    return task.samples(range(count), length, tokenizer, 0)


@pytest.mark.parametrize(
    "name", expand("niah_grid:haystack=prose+line+needles,key=word+number+uuid,value=word+number+uuid")
)
def test_every_format(name: str, official_library: Library, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    import re

    task = make_task(name, library)
    assert isinstance(task, NeedleTask)
    (sample,) = task.samples([1], 3000, tokenizers["gpt2"], 0)
    assert sample.num_tokens == len(tokenizers["gpt2"].encode(sample.prompt))
    assert sample.num_tokens + sample.max_new_tokens >= 0.93 * 3000
    assert re.fullmatch(SHAPES[task.config.value], sample.answers[0])
    assert re.fullmatch(SHAPES[task.config.key], sample.meta["keys"][0])
    assert sample.prompt.count(task.needle_text(sample.meta["keys"][0], sample.answers[0])) == 1


@pytest.mark.parametrize("haystack", ["prose", "line", "needles"])
@pytest.mark.parametrize("depth", [0, 20, 50, 100])
def test_the_needle_stands_at_its_depth(
    haystack: str, depth: int, library: Library, tokenizers: dict[str, Tokenizer]
) -> None:
    for sample in samples(library, tokenizers["bytes"], f"haystack={haystack},depth={depth}", length=8000):
        context = sample.prompt[sample.prompt.index("\n") + 1 : sample.prompt.rindex("\n")]
        needle = f"Among the secret numbers, that of {sample.meta['keys'][0]} is {sample.answers[0]}."
        before, _, after = context.partition(needle)
        assert 100 * len(before) / (len(before) + len(after)) == pytest.approx(depth, abs=2)
        if depth == 0:
            assert before == ""
        if depth == 100:
            assert after == ""
        assert sample.meta["depths"] == [depth]


def test_depths_share_needles_and_haystacks(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    first, second = (samples(library, tokenizers["bytes"], f"key=uuid,depth={depth}") for depth in (0, 70))
    for one, other in zip(first, second, strict=True):
        assert one.answers == other.answers
        assert one.meta["keys"] == other.meta["keys"]
        assert one.meta["haystack"] == other.meta["haystack"]
        assert one.prompt != other.prompt


def test_formats_differ(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    one = samples(library, tokenizers["bytes"], "haystack=prose", 1)[0]
    other = samples(library, tokenizers["bytes"], "haystack=line", 1)[0]
    assert one.answers != other.answers


@pytest.fixture
def needle_file(tmp_path: Path) -> Path:
    path = tmp_path / "needles.json"
    path.write_text(
        json.dumps(
            [
                {
                    "needle": "The password of {key} was changed to {value} today.",
                    "question": "To what was the password of {key} changed?",
                    "answer_prefix": " It was changed to",
                },
                {"needle": "Soup is best at noon.", "question": "When is soup best?", "answers": ["noon", "midday"]},
            ]
        )
    )
    return path


def test_own_needles(needle_file: Path, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    seen = set()
    for sample in samples(library, tokenizers["gpt2"], f"depth=30,needle_file={needle_file}", 12):
        assert sample.num_tokens == len(tokenizers["gpt2"].encode(sample.prompt))
        if sample.answers == ("noon", "midday"):
            assert sample.prompt.count("Soup is best at noon.") == 1
            assert sample.prompt.endswith("\nWhen is soup best? Answer:")
            seen.add("soup")
        else:
            key = sample.meta["keys"][0]
            assert sample.prompt.count(f"The password of {key} was changed to {sample.answers[0]} today.") == 1
            assert sample.prompt.endswith(f"\nTo what was the password of {key} changed? It was changed to")
            seen.add("password")
    assert seen == {"soup", "password"}
    task = make_task(f"niah_grid:needle_file={needle_file}", library)
    assert [needle["needle"] for needle in task.parameters()["needles"]][1] == "Soup is best at noon."


@pytest.mark.parametrize(
    "content", ["[]", "{", "[{}]", '{"needle": "a"}', '{"needle": "{who}", "question": "b"}', '"x"', "[3]",
                '{"needle": "a", "question": "b", "answers": []}'],
)  # fmt: skip
def test_needle_files_of_another_form(content: str, tmp_path: Path, library: Library) -> None:
    path = tmp_path / "needles.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        make_task(f"niah_grid:needle_file={path}", library).parameters()
    assert caught.value.expected.startswith("needles as JSON")
    assert caught.value.where == str(path)


def test_a_needle_that_the_haystack_holds(tmp_path: Path, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    path = tmp_path / "needles.json"
    path.write_text(json.dumps({"needle": OWN.noise, "question": "What?", "answers": ["rain"]}))
    with pytest.raises(InputError, match="needles that the haystack does not hold by itself; got none in 100 draws"):
        samples(library, tokenizers["bytes"], f"haystack=line,needle_file={path}", 1)


def test_own_haystack(tmp_path: Path, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n".join(f"In chapter {i} we learn of the number {i * i}." for i in range(200)))
    for sample in samples(library, tokenizers["gpt2"], f"haystack_file={path}", 3, 2000):
        assert sample.num_tokens == len(tokenizers["gpt2"].encode(sample.prompt))
        assert sample.prompt.count("In chapter") > 20
    task = make_task(f"niah_grid:haystack_file={path}", library)
    assert task.parameters()["prose"]["origin"] == str(path)
    assert task.parameters()["prose"]["sentences"] == 200


def test_own_haystack_too_short(tmp_path: Path, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    path = tmp_path / "note.txt"
    path.write_text("A short note. That is all there is to say of it.")
    with pytest.raises(InputError) as caught:
        samples(library, tokenizers["bytes"], f"haystack_file={path}", 1, 5000)
    assert str(caught.value) == (
        "expected a haystack of at least 4,872 tokens for the length 5,000; got 49 tokens in 2 sentences; "
        f"in {path}; add text to it or ask for a shorter length; a file of yours is not repeated"
    )


def test_special_tokens_in_an_own_haystack(tmp_path: Path, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("All is well here. Then <|end|> came by. " * 200)
    with pytest.raises(InputError, match="text without special tokens"):
        samples(library, tokenizers["gpt2"], f"haystack_file={path}", 1, 2000)
    assert samples(library, tokenizers["bytes"], f"haystack_file={path}", 1, 2000)


def test_an_own_haystack_that_the_tokenizer_changes(
    tmp_path: Path, library: Library, tokenizers: dict[str, Tokenizer]
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Le cafe\u0301 est bon. " * 400)
    with pytest.raises(InputError) as caught:
        samples(library, tokenizers["gpt2"], f"haystack_file={path}", 1, 2000)
    assert caught.value.expected == "a tokenizer that gives the text back as it was"
    assert caught.value.where == str(path)
    for name in ("llama3", "loose", "bytes"):
        (sample,) = samples(library, tokenizers[name], f"haystack_file={path}", 1, 1500)
        assert sample.num_tokens == len(tokenizers[name].encode(sample.prompt))


def test_prose_goes_round(official_library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    """The essays of the tests are short: a long prompt has them more than once, as RULER repeats them."""
    total = len(official_library.prose().text)
    (sample,) = samples(official_library, tokenizers["bytes"], "depth=50", 1, 3 * total)
    assert sample.num_tokens == len(sample.prompt.encode())
    assert sample.num_tokens + sample.max_new_tokens > 0.99 * 3 * total
    assert sample.prompt.count(official_library.prose().units[7]) in (2, 3)
