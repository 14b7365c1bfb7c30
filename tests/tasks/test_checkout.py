"""RULER's wording, read from a copy of its repository; the copy here is laid out alike and says other things."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tasks.golden_rows import Row, rebuild, take_apart, wording_for

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.library import Library, TaskOptions
from lengthwise.tasks.registry import make_task
from lengthwise.tasks.ruler.checkout import official_wording
from lengthwise.tasks.ruler.task import RulerTask
from lengthwise.tasks.ruler.tracking import TrackingTask
from lengthwise.tasks.ruler.wording import OWN, Template


def test_everything_is_read(checkout: Path) -> None:
    wording = official_wording(checkout)
    assert wording.name == "official"
    assert wording.several == Template(
        "Some strange {type_needle_v} lie below. Look for the {type_needle_v}.\n",
        "\nWhat are all the strange {type_needle_v} of {query} above?",
        " The strange {type_needle_v} of {query} are",
    )
    assert wording.single == Template(
        "A strange {type_needle_v} lie below. Look for the {type_needle_v}.\n",
        "\nWhat is the strange {type_needle_v} of {query} above?",
        " The strange {type_needle_v} of {query} is",
    )
    assert wording.needle == "The strange {type_needle_v} of {key} include {value}."
    assert wording.noise == "Snow falls. Cats nap. So it is."
    assert wording.document == "Paper {number}:\n{text}"
    assert wording.cwe.filled().after == "\nQuestion: Which 10 come up most?"
    assert wording.cwe.filled().prefix == " Answer: The 10 are:"
    assert wording.budgets == {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}
    assert wording.source is not None
    assert wording.source["model_template"] == "base"
    assert {len(digest) for digest in wording.source["files"].values()} == {64}


def test_a_model_template_goes_around_the_task_and_before_the_prefix(checkout: Path) -> None:
    wording = official_wording(checkout, "chat")
    filled = wording.qa.filled(query="Why?")
    assert filled.before == "You are a bot.\n\nUSER: Read this.\n\n"
    assert filled.after == "\n\nAnswer now.\n\nQuestion: Why? BOT:"
    assert filled.prefix == " Answer:"
    # The replacing of words reaches the model template too, as it does in RULER.
    assert wording.single.filled(type_needle_v="number", query="x").before.startswith(
        "You is a bot.\n\nUSER: A strange"
    )
    # The worked example of vt stands inside the model template and has none of its own.
    assert wording.vt_head.format() == "You are a bot.\n\nUSER: "
    assert wording.vt.before == wording.vt_example.before == "Watch what is set.\n\n"
    assert wording.vt.filled(query="1", num_v=5).after == "\nQuestion: Who has 1 above? BOT:"
    assert wording.vt_example.filled(query="1", num_v=5).after == "\nQuestion: Who has 1 above?"


def test_both_wordings_have_one_form(checkout: Path) -> None:
    official = official_wording(checkout)
    assert set(vars(official)) == set(vars(OWN))
    assert official.fingerprint != OWN.fingerprint
    assert replace(OWN, noise="x").fingerprint != OWN.fingerprint
    assert replace(OWN, budgets={**OWN.budgets, "vt": 31}).fingerprint != OWN.fingerprint


def test_samples_have_the_official_form(official_library: Library, tokenizers: dict[str, Tokenizer]) -> None:
    task = make_task("vt", official_library)
    assert isinstance(task, TrackingTask)
    (sample,) = task.samples([0], 3000, tokenizers["gpt2"], 0)
    example, _, main = sample.prompt.rpartition("\n\nWatch what is set.\n\n")
    assert example.startswith("Watch what is set.\n\n")
    names = sample.meta["example"]["names"]
    assert example.endswith(f":  {' '.join(names)}")
    assert f"\nVAR {sample.answers[1]} = VAR {sample.answers[0]} \n" in "\n" + main
    assert main.endswith(
        f"\nQuestion: Who has {sample.meta['value']} above? Answer: 5 names have {sample.meta['value']}: "
    )


@pytest.mark.parametrize("template", ["base", "chat"])
@pytest.mark.parametrize("name", ["niah_single_1", "niah_multivalue", "niah_multikey_2", "vt", "cwe", "fwe", "qa_1"])
def test_own_samples_can_be_taken_apart_and_rebuilt(
    name: str, template: str, data_dir: Path, checkout: Path, tokenizers: dict[str, Tokenizer]
) -> None:
    """The tool of the fidelity test on rows whose wording, lengths and model template it has never seen."""
    library = Library(TaskOptions(data_dir=data_dir, ruler_source=checkout, model_template=template))
    task = make_task(name, library)
    assert isinstance(task, RulerTask)
    rows = []
    for sample in task.samples(range(4), 3000, tokenizers["gpt2"], 1):
        cut = sample.prompt.rindex(" The " if name.startswith("niah") else " Answer:")
        rows.append(Row(name, sample.prompt[:cut], sample.prompt[cut:], sample.answers))
    for place, row in enumerate(rows):
        words = wording_for(rows, place)
        assert rebuild(row, take_apart(row, words), words) == (row.input, row.prefix)


def changed(checkout: Path, tmp_path: Path, file: str, old: str, new: str) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    path = copy / file
    path.write_text(path.read_text().replace(old, new))
    return copy


CONSTANTS = "scripts/data/synthetic/constants.py"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (CONSTANTS, "TASKS =", "JOBS =", "an assignment of a plain value to TASKS"),
        (CONSTANTS, "TASKS = {", "TASKS = make({})\n_ = {", "an assignment of a plain value to TASKS"),
        (CONSTANTS, "TASKS = {", "TASKS = {{", "the file scripts/data/synthetic/constants.py of RULER"),
        (CONSTANTS, "'answer_prefix'", "'prefix'", "an entry without 'answer_prefix'"),
        (CONSTANTS, "'qa'", "'questions'", "an entry without 'qa'"),
        (CONSTANTS, "{context}", "{text}", "placeholders of niah: type_needle_v, context, query; got text"),
        (CONSTANTS, "below. Look", "{ below. Look", "a template whose braces enclose names"),
        (
            CONSTANTS,
            "'tokens_to_generate': 128",
            "'tokens_to_generate': 0",
            "a positive whole number as tokens_to_generate",
        ),
        ("scripts/data/template.py", "'base'", "'bare'", "did you mean 'bare'?"),
        ("scripts/data/template.py", "{task_template}", "task", "a model template with {task_template}"),
        ("scripts/data/synthetic/niah.py", "noise", "hum", "haystack in the branch for noise"),
        ("scripts/data/synthetic/niah.py", 'needle = "', 'thorn = "', "an assignment of a plain value to needle"),
        (
            "scripts/data/synthetic/qa.py",
            "DOCUMENT_PROMPT",
            "PROMPT",
            "an assignment of a plain value to DOCUMENT_PROMPT",
        ),
    ],
)
def test_another_layout_is_explained(
    checkout: Path, tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    copy = changed(checkout, tmp_path, file, old, new)
    with pytest.raises(InputError) as caught:
        official_wording(copy)
    assert message in str(caught.value)
    assert str(copy) in caught.value.where


def test_older_copies_call_noise_repeat(checkout: Path, tmp_path: Path) -> None:
    copy = changed(checkout, tmp_path, "scripts/data/synthetic/niah.py", '"noise"', '"repeat"')
    assert official_wording(copy).noise == official_wording(checkout).noise


def test_a_folder_that_is_no_copy_is_refused(tmp_path: Path) -> None:
    for folder, got in ((tmp_path, "a folder without it"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(InputError) as caught:
            official_wording(folder)
        assert caught.value.got == got
        assert caught.value.where == f"--ruler-source {folder}"
        assert "lengthwise data get ruler" in caught.value.fix


def test_essays_are_found_in_the_copy_too(
    checkout: Path, data_dir: Path, tmp_path: Path, tokenizers: dict[str, Tokenizer]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    without = Library(TaskOptions(data_dir=tmp_path, ruler_source=copy))
    with pytest.raises(
        InputError, match="the prose haystack of RULER's wording reads; run `lengthwise data get essays`"
    ):
        make_task("niah_single_2", without).samples([0], 2048, tokenizers["bytes"], 0)
    (copy / "scripts/data/synthetic/json").mkdir()
    shutil.copy(data_dir / "essays/PaulGrahamEssays.json", copy / "scripts/data/synthetic/json")
    assert make_task("niah_single_2", without).samples([0], 2048, tokenizers["bytes"], 0)
