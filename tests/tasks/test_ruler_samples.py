"""Properties of samples: length, filling, depth, answers, and what they depend on."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.base import Sample
from lengthwise.tasks.library import Library
from lengthwise.tasks.registry import make_task
from lengthwise.tasks.ruler.common_words import TIERS, CommonWordsTask
from lengthwise.tasks.ruler.frequent_words import zeta, zipf_counts
from lengthwise.tasks.ruler.needles import NeedleTask
from lengthwise.tasks.ruler.reading import ReadingTask
from lengthwise.tasks.ruler.task import RulerTask
from lengthwise.tasks.ruler.tracking import sorted_places

NEEDLES = [
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
]
TASKS = [*NEEDLES, "vt", "cwe", "fwe", "qa_1", "qa_2"]


def task_of(name: str, library: Library) -> RulerTask:
    task = make_task(name, library)
    assert isinstance(task, RulerTask)
    return task


def check(task: RulerTask, indices: list[int], length: int, tokenizer: Tokenizer) -> None:
    """Counted right, not too long, and named."""
    budget = task.max_new_tokens(tokenizer)
    for sample in task.samples(indices, length, tokenizer, 0):
        assert sample.num_tokens == len(tokenizer.encode(sample.prompt))
        assert sample.num_tokens + budget <= length
        assert sample.max_new_tokens == budget
        assert (sample.length, sample.task) == (length, task.name)
        assert sample.id == f"{task.name}/{length}/{sample.index:05d}"


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", ["bytes", "gpt2"])
def test_prompts_fit_and_are_counted_right(
    name: str, kind: str, library: Library, official_library: Library, tokenizers: dict[str, Tokenizer]
) -> None:
    for source in (library, official_library):
        task = task_of(name, source)
        least = task.min_length(tokenizers[kind])
        check(task, [0], least, tokenizers[kind])
        check(task, [1, 2], least + 37, tokenizers[kind])
    check(task_of(name, library), [3], 4096, tokenizers[kind])


@pytest.mark.parametrize("name", ["niah_single_1", "niah_multivalue", "vt", "cwe", "qa_1"])
@pytest.mark.parametrize("kind", ["llama3", "sentencepiece", "greedy", "loose"])
def test_so_they_are_with_other_tokenizers(
    name: str, kind: str, library: Library, official_library: Library, tokenizers: dict[str, Tokenizer]
) -> None:
    for source in (library, official_library):
        check(task_of(name, source), [0], 1500, tokenizers[kind])


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_filled(name: str, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    task = task_of(name, library)
    samples = task.samples(range(6), 2048, tokenizers["gpt2"], 0)
    assert np.mean([sample.num_tokens + sample.max_new_tokens for sample in samples]) >= 0.95 * 2048


@pytest.mark.parametrize("name", ["niah_single_2", "vt", "cwe", "qa_1"])
def test_prompts_are_filled_where_counts_do_not_add_up(
    name: str, library: Library, tokenizers: dict[str, Tokenizer]
) -> None:
    task = task_of(name, library)
    (sample,) = task.samples([3], 2048, tokenizers["loose"], 0)
    assert sample.num_tokens + sample.max_new_tokens >= 0.95 * 2048


@pytest.mark.parametrize("name", TASKS)
def test_a_sample_depends_on_its_number_and_the_seed_alone(
    name: str, official_library: Library, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers["bytes"]
    task = task_of(name, official_library)
    many = task.samples(range(9), 2048, tokenizer, 5)
    assert task.samples([7], 2048, tokenizer, 5) == [many[7]]
    assert task.samples([8, 2], 2048, tokenizer, 5) == [many[8], many[2]]
    fresh = task_of(name, Library(official_library.options))
    fresh.samples([1], 3000, tokenizer, 6)
    assert fresh.samples([7], 2048, tokenizer, 5) == [many[7]]
    assert len({sample.prompt for sample in many}) == 9
    assert task.samples([7], 2048, tokenizer, 6)[0].prompt != many[7].prompt
    assert [sample.index for sample in many] == list(range(9))


@pytest.mark.parametrize("name", TASKS)
def test_too_short_a_length_names_the_least(name: str, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    task, tokenizer = task_of(name, library), tokenizers["bytes"]
    least = task.min_length(tokenizer)
    with pytest.raises(InputError) as caught:
        task.samples([0], least - 1, tokenizer, 0)
    assert f"at least {least} tokens for {name} with the tokenizer bytes; got {least - 1}" in str(caught.value)
    assert f"ask for {least} or more" in caught.value.fix


@pytest.mark.parametrize("name", TASKS)
def test_at_the_least_length_many_samples_can_be_made(
    name: str, library: Library, tokenizers: dict[str, Tokenizer]
) -> None:
    task = task_of(name, library)
    assert len(task.samples(range(15), task.min_length(tokenizers["bytes"]), tokenizers["bytes"], 1)) == 15


def context_of(task: NeedleTask, sample: Sample) -> str:
    """The prompt without what is around the haystack."""
    before = task._template().before.partition("{")[0]
    assert sample.prompt.startswith(before)
    head = sample.prompt.index("\n") + 1
    return sample.prompt[head : sample.prompt.rindex("\n")]


@pytest.mark.parametrize("name", NEEDLES)
def test_needles_stand_once_in_the_haystack(name: str, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    task = task_of(name, library)
    assert isinstance(task, NeedleTask)
    for sample in task.samples(range(15), 2048, tokenizers["bytes"], 0):
        context = context_of(task, sample)
        assert len(set(sample.answers)) == len(sample.answers) == task.config.num_asked * task.config.num_values
        for answer in sample.answers:
            assert sample.prompt.count(answer) == context.count(answer) == 1
        for key in sample.meta["keys"]:
            assert context.count(key) == task.config.num_values
            assert sample.prompt[sample.prompt.rindex("\n") :].count(key) == 2
            assert sample.prompt.endswith(" is") == task.binary


@pytest.mark.parametrize("name", ["niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multikey_2"])
def test_depths_are_uniform_and_as_said(name: str, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    """Kolmogorov-Smirnov: 120 uniform numbers stray by 0.2 from the diagonal once in ten thousand times."""
    task = task_of(name, library)
    assert isinstance(task, NeedleTask)
    seen, said = [], []
    for sample in task.samples(range(120), 5000, tokenizers["bytes"], 0):
        context = context_of(task, sample)
        at = context.index(sample.answers[0])
        begin = max(context.rfind("Among the secret", 0, at), 0)
        end = context.index(".", at)
        seen.append(begin / (len(context) - (end - begin)))
        said.append(sample.meta["depths"][0] / 100)
    assert np.abs(np.array(seen) - np.array(said)).max() < 0.05
    for depths in (seen, said):
        assert np.abs(np.sort(depths) - (np.arange(120) + 0.5) / 120).max() < 0.2


@pytest.mark.parametrize("name", ["vt", "qa_1", "qa_2"])
def test_evidence_is_anywhere(name: str, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    task = task_of(name, library)
    place = 2 if name == "vt" else 0
    length = 3000 if name == "vt" else 5000
    depths = [sample.meta["depths"][place] for sample in task.samples(range(120), length, tokenizers["bytes"], 0)]
    if name == "vt":
        # The third of five sorted places: symmetric around the middle, and wide.
        assert abs(np.mean(depths) - 50) < 6
        assert np.std(depths) > 12
    else:
        assert np.abs(np.sort(depths) - (np.arange(120) + 0.5) / 1.2).max() < 20 + 5  # documents are a few per cent


def test_haystacks_begin_anywhere(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    samples = task_of("niah_single_2", library).samples(range(0, 1600, 32), 2048, tokenizers["bytes"], 0)
    starts = [sample.meta["haystack"]["first_sentence"] for sample in samples]
    assert len(set(starts)) > 45
    assert max(starts) - min(starts) > 0.8 * len(library.prose())


@pytest.mark.parametrize("name", ["niah_single_2", "niah_grid:depth=50"])
def test_neighbours_share_the_beginning_of_their_haystack(
    name: str, library: Library, tokenizers: dict[str, Tokenizer]
) -> None:
    task = task_of(name, library)
    samples = task.samples(range(70), 8192, tokenizers["bytes"], 0)
    starts = [sample.meta["haystack"]["first_sentence"] for sample in samples]
    assert [len(set(starts[first : first + 32])) for first in (0, 32, 64)] == [1, 1, 1]
    assert len(set(starts)) == 3
    # Whatever stands before the needle of the one with the deepest is the same for all of them, up to their own needle.
    first = max(samples[:32], key=lambda sample: sample.meta["depths"][0])
    for sample in samples[:32]:
        pairs = enumerate(zip(sample.prompt, first.prompt, strict=False))
        shared = len(sample.prompt) if sample is first else next(place for place, (a, b) in pairs if a != b)
        assert shared >= sample.meta["depths"][0] / 100 * 0.95 * 7000
    depths = [sample.meta["depths"][0] for sample in samples]
    if "depth" not in name:
        assert np.abs(np.sort(depths) - (np.arange(70) + 0.5) / 0.70).max() < 16, "uniform, by Kolmogorov and Smirnov"
    # A sample depends on its number, not on its company.
    assert task.samples([21], 8192, tokenizers["bytes"], 0) == [samples[21]]


def test_variables_can_be_tracked(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    for sample in task_of("vt", library).samples(range(20), 3000, tokenizers["bytes"], 0):
        example, _, main = sample.prompt.rpartition("\n\n")
        for text, names in ((main, sample.answers), (example, sample.meta["example"]["names"])):
            values: dict[str, str] = {}
            for name, value in re.findall(r"LET (\w+) BE (\w+)\.", text):
                values[name] = values.get(value, value)
            asked = re.findall(r"have the number (\d+)\?", text)[-1]
            assert [name for name, value in values.items() if value == asked] == list(names)
            assert len(values) == 5
        assert example.endswith(" " + " ".join(sample.meta["example"]["names"]))
        assert main.count(library.wording.noise) == sample.meta["noise_lines"]


def test_hops_are_a_parameter(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    (sample,) = task_of("vt:hops=2", library).samples([0], 3000, tokenizers["bytes"], 0)
    assert len(sample.answers) == 3


def test_places_are_uniform_and_distinct() -> None:
    rng = np.random.default_rng(0)
    counts: Counter[tuple[int, ...]] = Counter(sorted_places(rng.random(2).tolist(), 5) for _ in range(20_000))
    assert len(counts) == 10
    assert all(abs(times - 2000) < 5 * 43 for times in counts.values())
    assert all(len(set(sorted_places(rng.random(5).tolist(), 5))) == 5 for _ in range(50))
    assert len(sorted_places([0.1, 0.2, 0.9], 1)) == 3


@pytest.mark.parametrize(("length", "tier"), [(1700, 2), (3000, 1), (12000, 0)])
def test_common_words_are_the_most_common(
    length: int, tier: int, library: Library, tokenizers: dict[str, Tokenizer]
) -> None:
    task = task_of("cwe", library)
    assert isinstance(task, CommonWordsTask)
    times = TIERS[tier]
    for sample in task.samples(range(3), length, tokenizers["bytes"], 0):
        example, main = (re.findall(r"(?<=\d\. )\S+", line) for line in _list_lines(sample.prompt))
        counts = Counter(main)
        assert {word for word, number in counts.items() if number == times.common} == set(sample.answers)
        assert {number for word, number in counts.items() if word not in sample.answers} == {times.uncommon}
        shown = Counter(example)
        assert sorted(set(shown.values())) == [times.example_uncommon, times.example_common]
        assert len(shown) == times.example_words
        assert not set(shown) & set(counts)
        answer = re.findall(r"(?<=\d\. )\S+", sample.prompt.split("\n")[2])
        assert {word for word, number in shown.items() if number == times.example_common} == set(answer)


def _list_lines(prompt: str) -> list[str]:
    return [line for line in prompt.split("\n") if re.match(r"1\. ", line)]


def test_more_words_than_there_are(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    (sample,) = task_of("cwe", library).samples([0], 420_000, tokenizers["bytes"], 0)
    counts = Counter(re.findall(r"(?<=\d\. )\S+", _list_lines(sample.prompt)[1]))
    assert len(counts) > len(library.words.all)
    assert sorted(set(counts.values())) == [3, 30]
    assert sample.num_tokens + sample.max_new_tokens > 0.99 * 420_000


def test_frequent_words_are_those_of_ranks_two_to_four(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    for length in (600, 1000, 5000):
        for sample in task_of("fwe", library).samples(range(8), length, tokenizers["bytes"], 0):
            counts = Counter(re.findall(r"(?<!\S)(?:\.\.\.|[a-z]{6})(?!\S)", sample.prompt.split("\n")[1]))
            ranked = counts.most_common()
            assert ranked[0][0] == "..."
            assert {word for word, _ in ranked[1:4]} == set(sample.answers)
            assert ranked[3][1] > (ranked[4][1] if len(ranked) > 4 else 0)
            assert sample.meta["counts"] == [counts[word] for word in sample.answers]


def test_zipf() -> None:
    assert zeta(2.0) == pytest.approx(np.pi**2 / 6, abs=1e-9)
    assert zeta(4.0) == pytest.approx(np.pi**4 / 90, abs=1e-9)
    assert zipf_counts(1000, 4, 2.0).tolist() == [607, 151, 67, 37]


@pytest.mark.parametrize("name", ["qa_1", "qa_2"])
def test_documents_answer_the_question(name: str, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    task = task_of(name, library)
    assert isinstance(task, ReadingTask)
    questions, pool = task.documents.questions, task.documents.pool
    for sample in task.samples(range(20), 8000, tokenizers["bytes"], 0):
        question = questions[sample.meta["question"]]
        assert sample.prompt.endswith(f"Question: {question.text} Answer:")
        assert sample.answers == tuple(dict.fromkeys(question.answers))
        texts = sample.prompt.partition("\n\n")[2].rpartition("\n\nQuestion: ")[0].split("\n\n")
        numbered = [text.partition(". ") for text in texts]
        assert [head for head, _, _ in numbered] == [f"Text {n}" for n in range(1, len(texts) + 1)]
        found = [text for _, _, text in numbered]
        assert len(set(found)) == len(found) == sample.meta["documents"]
        assert set(found) <= set(pool.units)
        assert [found.index(pool.units[document]) + 1 for document in question.needed] == sample.meta["needed"]
        if len(found) > len(question.needed) + len(question.beside):
            assert {pool.units[document] for document in question.beside} <= set(found)


def test_questions_come_in_order_and_come_again(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    task = task_of("qa_2", library)
    samples = task.samples(range(20), 4096, tokenizers["bytes"], 0)
    assert [sample.meta["question"] for sample in samples] == [*range(15), *range(5)]
    assert samples[0].prompt != samples[15].prompt


def test_questions_that_do_not_fit_are_passed_over(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    task = task_of("qa_1", library)
    assert isinstance(task, ReadingTask)
    tokenizer = tokenizers["bytes"]
    least = task.min_length(tokenizer)
    asked = [sample.meta["question"] for sample in task.samples(range(30), least, tokenizer, 0)]
    assert asked == sorted(asked, key=lambda number: asked.index(number))
    assert 0 < len(set(asked)) < len(task.documents.questions)


def test_parameters_name_every_source(library: Library, official_library: Library) -> None:
    own, official = (task_of("niah_multikey_1", source).parameters() for source in (library, official_library))
    assert own["prose"]["origin"] == "python"
    assert official["prose"]["origin"] == "essays"
    assert own["prose"]["sha256"] != official["prose"]["sha256"]
    assert own["words_sha256"] == official["words_sha256"] == library.words.fingerprint
    assert own["wording"] == {"name": "own", "sha256": library.wording.fingerprint}
    assert official["wording"]["name"] == "official"
    assert set(official["wording"]["source"]["files"]) == {
        "scripts/data/synthetic/constants.py",
        "scripts/data/synthetic/niah.py",
        "scripts/data/synthetic/qa.py",
        "scripts/data/template.py",
    }
    assert task_of("qa_1", library).parameters()["sha256"] == library.documents("squad", None, "qa_1").fingerprint


def test_missing_benchmark_files_say_what_to_do(tmp_path: Any, tokenizers: dict[str, Tokenizer]) -> None:
    from lengthwise.tasks.library import TaskOptions

    empty = Library(TaskOptions(data_dir=tmp_path))
    with pytest.raises(InputError) as caught:
        task_of("qa_2", empty).samples([0], 4096, tokenizers["bytes"], 0)
    assert caught.value.where == f"{tmp_path}/hotpotqa/hotpot_dev_distractor_v1.json, which qa_2 reads"
    assert "lengthwise data get hotpotqa" in caught.value.fix


def test_a_file_of_another_form_is_refused(tmp_path: Any, library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    path = tmp_path / "squad.json"
    path.write_text('{"data": [{"paragraphs": 3}]}')
    with pytest.raises(InputError, match=r"a file of the form of SQuAD 2\.0"):
        task_of(f"qa_1:file={path}", library).samples([0], 4096, tokenizers["bytes"], 0)
    path.write_text('{"data": []}')
    with pytest.raises(InputError, match="questions with answers"):
        task_of(f"qa_1:file={path}", library).samples([0], 4096, tokenizers["bytes"], 0)


def test_a_tokenizer_that_changes_text_is_refused(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(InputError, match="a tokenizer that gives the text back as it was"):
        task_of("vt", library).samples([0], 4096, tokenizers["prefix"], 0)


@pytest.mark.parametrize("kind", ["bytes", "loose"])
@pytest.mark.parametrize("name", ["niah_single_1", "niah_single_2", "niah_multikey_2", "vt", "fwe", "qa_1", "qa_2"])
def test_a_sample_that_fits_nowhere_is_refused(
    library: Library, tokenizers: dict[str, Tokenizer], name: str, kind: str
) -> None:
    # No length that `build` lets pass is so short; a sample of words longer than any that were reckoned with would be.
    tokenizer = tokenizers[kind]
    task = task_of(name, library)
    assert library.counter(tokenizer).additive == (kind == "bytes")
    counts = library.counter(tokenizer)
    room = 40
    if name.startswith("qa"):
        assert isinstance(task, ReadingTask)
        question = task.documents.questions[0]
        own = task._counts(counts)
        own._fitting[room] = own.fitting(8000)  # as if its documents fitted
        assert own.needed(question) > room
    with pytest.raises(InputError) as caught:
        task.build_some([0], 4096, room, tokenizer, 0)
    own_fitting = task._counts(counts)._fitting if isinstance(task, ReadingTask) else {}
    own_fitting.pop(room, None)
    assert caught.value.expected == f"a prompt of at most {room} tokens"
    assert caught.value.got == f"none for sample 0 with the tokenizer {tokenizer.name}"
    assert (caught.value.where, caught.value.fix) == (name, "ask for a greater length")


@pytest.mark.parametrize("kind", ["bytes", "loose"])
def test_common_words_that_fit_nowhere_are_drawn_again_and_refused(
    library: Library, tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    task = task_of("cwe", library)
    with pytest.raises(InputError) as caught:
        task.build_some([0], 4096, 40, tokenizers[kind], 0)
    assert caught.value.got == "none in 50 draws for sample 0"


def test_common_words_swallow_no_other_error(
    library: Library, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise InputError(expected="a", got="b", where="c", fix="d")

    task = task_of("cwe", library)
    monkeypatch.setattr(CommonWordsTask, "_assemble", refuse)
    with pytest.raises(InputError, match="expected a; got b; in c; d"):
        task.samples([0], 2048, tokenizers["loose"], 0)


def test_scores_name_their_rule(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    task = task_of("niah_multivalue", library)
    (sample,) = task.samples([0], 2048, tokenizers["bytes"], 0)
    text = f"they are {sample.answers[0]} and 9{sample.answers[1]}"
    assert task.score(sample, text).value == 0.5
    assert task.score(sample, text).scorer == "ruler_string_match_all@1"
    assert task.score(sample, text, "strict_match_all@1").value == 0.25
    qa = task_of("qa_2", library)
    (question,) = qa.samples([0], 4096, tokenizers["bytes"], 0)
    assert qa.scorers() == ("ruler_string_match_part@1", "strict_match_any@1")
    assert qa.score(question, "Yesterday").value == 1.0
    assert qa.score(question, "Yesterday", "strict_match_any@1").value == 0.0


def test_the_budget_is_rulers_unless_the_answer_needs_more(library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    assert task_of("niah_single_1", library).max_new_tokens(tokenizers["gpt2"]) == 128
    # Five names of five letters, one token a byte, with what stands between, and a quarter more.
    assert task_of("vt", library).max_new_tokens(tokenizers["bytes"]) == 43
