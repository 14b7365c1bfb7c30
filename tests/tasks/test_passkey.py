"""Passkey prompts: exact lengths, the key where it was asked for, both ways of scoring, rows for training."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.tasks.sources import shared_tokenizer, tokenizer_of_kind

from lengthwise.errors import InputError
from lengthwise.tasks.base import Sample, Task
from lengthwise.tasks.passkey import VARIANTS, PasskeyConfig, PasskeyTask, passkey_tasks, read_wording
from lengthwise.tasks.passkey.layouts import blocks_text, landmark_text
from lengthwise.tasks.passkey.wording import OWN, OWN_BLOCKS, PasskeyWording

KINDS = ("bytes", "bpe", "metaspace")


def task(variant: str = "exact", **settings: object) -> PasskeyTask:
    return passkey_tasks([variant], **settings)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [0, 1, 2, 33, 1499])
def test_exact_prompts_have_the_exact_length(kind: str, more: int) -> None:
    tokenizer = tokenizer_of_kind(kind)
    passkey = task(depths=(0.0, 0.3, 0.77, 1.0))
    length = passkey.min_length(tokenizer) + more
    for sample in passkey.samples(range(4), length, tokenizer, seed=3):
        assert sample.num_tokens == len(tokenizer.encode(sample.prompt))
        lacking = length - sample.max_new_tokens - sample.num_tokens
        # A single byte more than the shortest prompt can be filled by nothing, as white space at the end is dropped.
        assert lacking == 0 or (more <= 2 and 0 < lacking <= 2)


@pytest.mark.parametrize("name", ["neox", "gpt2"])
def test_exact_length_with_tokenizers_in_use(name: str) -> None:
    tokenizer = shared_tokenizer(name)
    for length in (200, 1024, 2047):
        for sample in task().samples(range(4), length, tokenizer, seed=0):
            assert sample.num_tokens == len(tokenizer.encode(sample.prompt)) == length - 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["landmark", "blocks"])
@pytest.mark.parametrize("more", [0, 40, 1111])
def test_published_prompts_are_as_long_as_their_unit_allows(kind: str, variant: str, more: int) -> None:
    tokenizer = tokenizer_of_kind(kind)
    passkey = task(variant)
    length = passkey.min_length(tokenizer) + more
    for sample in passkey.samples(range(4), length, tokenizer, seed=1):
        room, key = length - sample.max_new_tokens, sample.answers[0]
        assert sample.num_tokens == len(tokenizer.encode(sample.prompt)) <= room
        meta = sample.meta
        if variant == "landmark":
            before, after = meta["filler_chars_before"], meta["filler_chars"] - meta["filler_chars_before"]
            assert sample.prompt == landmark_text(OWN, key, before, after)
            longer = landmark_text(OWN, key, before, after + 4)
        else:
            assert sample.prompt == blocks_text(OWN_BLOCKS, key, meta["depth"], meta["blocks"])
            longer = blocks_text(OWN_BLOCKS, key, meta["depth"], meta["blocks"] + 1)
        assert len(tokenizer.encode(longer)) > room


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_key_stands_at_its_depth(kind: str, depth: float) -> None:
    tokenizer = tokenizer_of_kind(kind)
    passkey = task(depths=(depth,))
    (sample,) = passkey.samples([0], 3000, tokenizer, seed=0)
    line = OWN.line(sample.answers[0])
    assert sample.prompt.count(line) == 1
    begin = sample.prompt.index(line)
    end = begin + len(line)
    head, tail = OWN.instruction + "\n\n", "\n\n" + OWN.question
    before, after = sample.prompt[len(head) : begin], sample.prompt[end : -len(tail)]
    filler = len(tokenizer.encode(before.strip())) + len(tokenizer.encode(after.strip()))
    reached = len(tokenizer.encode(before.strip())) / filler
    longest = max(len(tokenizer.encode(sentence)) for sentence in OWN.filler.split("."))
    assert abs(reached - depth) <= longest / filler
    assert abs(sample.meta["depth_reached"] - reached) <= longest / filler
    if depth == 0:
        assert not before
    if depth == 1:
        assert not after


def test_the_key_stands_between_sentences() -> None:
    for sample in task(depths=(0.1, 0.35, 0.62)).samples(range(9), 1500, tokenizer_of_kind("bpe"), seed=0):
        before, after = sample.prompt.split(OWN.line(sample.answers[0]))
        assert before.endswith(". ")
        assert after[:2] in (f" {letter}" for letter in "TAIN")


def test_landmark_is_five_lines_with_filler_from_its_beginning() -> None:
    (sample,) = task("landmark").samples([0], 900, tokenizer_of_kind("bytes"), seed=0)
    instruction, before, line, after, question = sample.prompt.split("\n")
    endless = (OWN.filler + " ") * 20
    assert (instruction, question) == (OWN.instruction, OWN.question)
    assert line == OWN.line(sample.answers[0])
    assert endless.startswith(before)
    assert endless.startswith(after)
    assert len(before) == sample.meta["filler_chars_before"]
    assert len(before) + len(after) == sample.meta["filler_chars"]


def test_landmark_places_the_key_anywhere() -> None:
    samples = task("landmark").samples(range(80), 1000, tokenizer_of_kind("bytes"), seed=0)
    shares = np.array([sample.meta["filler_chars_before"] / sample.meta["filler_chars"] for sample in samples])
    assert np.histogram(shares, bins=4, range=(0, 1))[0].min() > 8
    keys = [int(sample.answers[0]) for sample in samples]
    assert min(keys) >= 1
    assert max(keys) <= 50_000
    assert all(sample.answers[0] == str(int(sample.answers[0])) for sample in samples)


@pytest.mark.parametrize(("depth", "blocks", "place"), [(0.0, 10, 0), (0.1, 10, 0), (0.5, 10, 4), (0.99, 10, 8)])
def test_blocks_replace_one_block(depth: float, blocks: int, place: int) -> None:
    text = blocks_text(OWN_BLOCKS, "01234", depth, blocks)
    lines = text.removeprefix(OWN_BLOCKS.instruction).removesuffix(OWN_BLOCKS.question).split("\n")
    assert len(lines) == blocks + 1
    assert lines[-1] == ""
    assert [number for number, line in enumerate(lines) if "01234" in line] == [place]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sample_depends_on_nothing_but_its_number(variant: str) -> None:
    passkey, tokenizer = task(variant), tokenizer_of_kind("bpe")
    assert isinstance(passkey, Task)
    many = passkey.samples(range(9), 700, tokenizer, seed=5)
    assert task(variant).samples([7], 700, tokenizer, seed=5) == [many[7]]
    assert passkey.samples([3, 1], 700, tokenizer, seed=5) == [many[3], many[1]]
    assert len({sample.prompt for sample in many}) == 9
    assert passkey.samples([7], 700, tokenizer, seed=6)[0].answers != many[7].answers
    assert passkey.samples([7], 720, tokenizer, seed=5)[0].answers != many[7].answers
    assert Sample.from_dict(json.loads(json.dumps(many[0].to_dict()))) == many[0]


def test_depths_take_turns() -> None:
    samples = task(depths=(0.2, 0.6)).samples(range(6), 400, tokenizer_of_kind("bytes"), seed=0)
    assert [sample.meta["depth"] for sample in samples] == [0.2, 0.6] * 3
    assert [sample.meta["trial"] for sample in samples] == [0, 0, 1, 1, 2, 2]


def test_keys_keep_their_zeros() -> None:
    samples = task(digits=3).samples(range(60), 400, tokenizer_of_kind("bytes"), seed=0)
    assert {len(sample.answers[0]) for sample in samples} == {3}
    assert any(sample.answers[0].startswith("0") for sample in samples)
    assert all(sample.prompt.count(sample.answers[0]) == 2 for sample in samples)


@pytest.mark.parametrize(
    ("output", "string", "integer"),
    [
        (" 00734", 1, 1),
        ("The key is 00734. Also 5.", 1, 1),
        (" 734", 0, 1),
        ("0734", 0, 1),
        (" 007345", 0, 0),
        (" 00735", 0, 0),
        ("5, then 00734", 0, 0),
        ("", 0, 0),
        ("no idea", 0, 0),
        ("٠٠٧٣٤", 0, 0),
        ("9" * 5000, 0, 0),
    ],
)
def test_scores(output: str, string: float, integer: float) -> None:
    passkey = task()
    (sample,) = passkey.samples([0], 400, tokenizer_of_kind("bytes"), seed=0)
    sample = Sample.from_dict({**sample.to_dict(), "answers": ["00734"]})
    assert passkey.score(sample, output).value == string
    assert passkey.score(sample, output, "integer").value == integer
    assert passkey.score(sample, output).details["integer"] == integer
    assert passkey.score(sample, output).scorer == "passkey/string/1"
    assert task("landmark").scorers()[0] == "integer"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [255, 256, 400])
def test_rows_are_a_prompt_and_its_key(kind: str, context: int) -> None:
    tokenizer = tokenizer_of_kind(kind)
    tokens, mask = task().rows(7, context, tokenizer, seed=2)
    assert tokens.shape == mask.shape == (7, context + 1)
    assert not mask[:, 0].any()
    for row, counted in zip(tokens, mask, strict=True):
        text = tokenizer.decode(row)
        key = text[-5:]
        assert key.isdigit()
        assert text.count(key) == 3
        assert text.endswith(OWN.question + " " + key)
        # The key alone counts, and it is at the end.
        assert tokenizer.decode(row[counted]).strip() == key
        assert counted[-int(counted.sum()) :].all()
    alone, _ = task().rows(1, context, tokenizer, seed=2)
    np.testing.assert_array_equal(alone[0], tokens[0])
    some, its_mask = task().rows([4, 1], context, tokenizer, seed=2)
    np.testing.assert_array_equal(some, tokens[[4, 1]])
    np.testing.assert_array_equal(its_mask, mask[[4, 1]])
    assert len(np.unique(tokens, axis=0)) == 7


def test_rows_can_count_everything_and_take_depths() -> None:
    tokenizer = tokenizer_of_kind("bytes")
    tokens, mask = task().rows(4, 300, tokenizer, seed=2, depths=(0.0, 1.0), all_tokens=True)
    assert mask[:, 1:].all()
    assert not mask[:, 0].any()
    begins = [tokenizer.decode(row).index("The pass key is") for row in tokens]
    assert begins[0] == begins[2] == len(OWN.instruction) + 2
    assert begins[1] == begins[3] > begins[0]


OTHER = {
    "instruction": "Look for the number.",
    "filler": "Grey clouds came. They went.",
    "key_line": "Number: {key}!",
    "question": "Number?",
}


@pytest.mark.parametrize("ending", [".json", ".toml"])
def test_words_of_a_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"words{ending}"
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in OTHER.items())
    path.write_text(json.dumps(OTHER) if ending == ".json" else lines)
    assert read_wording(path) == PasskeyWording(**OTHER)
    passkey = task(wording=str(path), depths=(0.5,))
    (sample,) = passkey.samples([0], 120, tokenizer_of_kind("bytes"), seed=0)
    assert sample.prompt.startswith("Look for the number.\n\nGrey clouds")
    assert sample.prompt.endswith("\n\nNumber?")
    assert passkey.parameters()["wording"] != task().parameters()["wording"]


def error_of(call: object) -> InputError:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    return caught.value


def test_errors_of_a_words_file(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    error = error_of(lambda: read_wording(path))
    assert error.expected == "a JSON or TOML file with the pieces of a passkey prompt"
    assert error.where == str(path)
    path.write_text(json.dumps({**OTHER, "hint": "x"}))
    assert error_of(lambda: read_wording(path)).got == "'hint'"
    path.write_text(json.dumps({key: OTHER[key] for key in ("filler", "key_line")}))
    assert error_of(lambda: read_wording(path)).got == "a file without instruction, question"
    path.write_text(json.dumps({**OTHER, "key_line": "none"}))
    assert error_of(lambda: read_wording(path)).fix == "write {key} where the key stands"
    path.write_text(json.dumps({**OTHER, "filler": " "}))
    assert error_of(lambda: read_wording(path)).where == "filler of a passkey wording"
    path.write_text("[1, 2]")
    assert "without instruction" in error_of(lambda: read_wording(path)).got


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_too_short_says_the_least_length(variant: str, kind: str) -> None:
    tokenizer, passkey = tokenizer_of_kind(kind), task(variant)
    least = passkey.min_length(tokenizer)
    error = error_of(lambda: passkey.samples([0], least - 1, tokenizer, seed=0))
    assert error.expected == f"a length of at least {least} tokens"
    assert error.got == str(least - 1)
    assert error.fix == "raise --lengths"
    assert len(passkey.samples(range(8), least, tokenizer, seed=0)) == 8


def test_wrong_settings_are_refused(unchecked: None) -> None:
    assert error_of(lambda: PasskeyConfig(variant="landmarks")).fix == "did you mean 'landmark'?"
    assert error_of(lambda: PasskeyConfig(depths=())).where == "depths of passkey"
    assert error_of(lambda: PasskeyConfig(depths=(0.5, 1.5))).got == "(0.5, 1.5)"
    assert error_of(lambda: PasskeyConfig(digits=0)).expected == "1 to 18"
    assert error_of(lambda: PasskeyConfig(max_new_tokens=0)).got == "0"
    sample = task().samples([0], 400, tokenizer_of_kind("bytes"), seed=0)[0]
    assert error_of(lambda: task().score(sample, "", "strin")).fix == "did you mean 'string'?"
    assert error_of(lambda: task("blocks").rows(1, 300, tokenizer_of_kind("bytes"), 0)).where == "variant of passkey"
    assert "gives the text back" in error_of(lambda: task().samples([0], 400, tokenizer_of_kind("lower"), 0)).expected


def test_rows_too_short(unchecked: None) -> None:
    error = error_of(lambda: task().rows(1, 40, tokenizer_of_kind("bytes"), 0))
    assert error.where == "passkey with the tokenizer bytes"
