"""Official rows of RULER, taken apart into facts and rebuilt byte for byte by the library.

What is derived from the rows, and how, stands in `golden_rows`. What is verified here: that the library joins, orders,
numbers and formats the facts as RULER does; that the facts obey RULER's rules of construction; that the prompt has the
number of tokens the row says. `test_a_wrong_form_is_noticed` shows that each of these can fail.

Settings, all optional:

    LENGTHWISE_RULER_GOLDEN   file of rows {"task", "model_template", "max_seq_length", "sample", ...}, JSONL (.gz)
    LENGTHWISE_RULER_FILES    folder of the files the rows were made from, named as in the default golden file's folder
    LENGTHWISE_RULER_SOURCE   copy of RULER, whose wording as the library reads it must be the rows'
"""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.tasks import golden_rows
from tests.tasks.golden_rows import Row, rebuild, take_apart, wording_for

from lengthwise.data.documents import read_bytes
from lengthwise.data.tokenizers import HFTokenizer
from lengthwise.tasks.questions import Documents, read_hotpotqa, read_squad
from lengthwise.tasks.ruler import common_words, reading, tracking
from lengthwise.tasks.ruler.checkout import in_singular, official_wording
from lengthwise.tasks.ruler.common_words import TIERS
from lengthwise.tasks.ruler.frequent_words import zipf_counts
from lengthwise.tasks.ruler.wording import BUDGETS, Template
from lengthwise.tasks.tokens import TokenCounter

_SHARED = Path(__file__).parents[3] / "shared" / "data"
GOLDEN = Path(os.environ.get("LENGTHWISE_RULER_GOLDEN", _SHARED / "ruler" / "golden_4096.jsonl.gz"))
FILES = Path(os.environ.get("LENGTHWISE_RULER_FILES", _SHARED / "ruler"))
TOKENIZER = "20B_tokenizer.json"


@cache
def entries() -> list[dict[str, Any]]:
    if not GOLDEN.is_file():
        pytest.skip(f"no golden rows at {GOLDEN}; LENGTHWISE_RULER_GOLDEN names another file")
    return [json.loads(line) for line in read_bytes(GOLDEN).splitlines() if line.strip()]


@cache
def groups() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of one task and model template, which share their wording."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for entry in entries():
        found[entry["task"], entry.get("model_template", "base")].append(entry)
    return found


@cache
def rows_of(key: tuple[str, str]) -> list[Row]:
    return [Row.of(entry["sample"], entry["task"]) for entry in groups()[key]]


@cache
def essays() -> tuple[str, ...]:
    """Words of the essays; none where there is no such file, and then haystacks are not compared with their source."""
    path = FILES / "PaulGrahamEssays.json.gz"
    return tuple(re.split(r"\s+", json.loads(read_bytes(path))["text"])) if path.is_file() else ()


@cache
def counter() -> TokenCounter | None:
    path = FILES.parent / "tokenizers" / f"{TOKENIZER}.xz"
    return TokenCounter(HFTokenizer(path)) if path.is_file() else None


@cache
def documents(task: str) -> Documents | None:
    name, read = {
        "qa_1": ("squad_dev_v2_partial.json.gz", read_squad),
        "qa_2": ("hotpot_dev_distractor_first100.json.gz", read_hotpotqa),
    }[task]
    return read(FILES / name) if (FILES / name).is_file() else None


def everything() -> list[tuple[tuple[str, str], int]]:
    """Every row by its group and place; one empty entry where there is no file, so that the test says so."""
    try:
        return [(key, place) for key, found in groups().items() for place in range(len(found))]
    except pytest.skip.Exception:
        return [(("", ""), 0)]


def name_of(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("key", "place"), everything(), ids=name_of)
def test_a_row_is_rebuilt_from_its_facts(key: tuple[str, str], place: int) -> None:
    if not key[0]:
        entries()
    rows = rows_of(key)
    row, sample = rows[place], groups()[key][place]["sample"]
    words = wording_for(rows, place)
    facts = take_apart(row, words, essays())
    assert rebuild(row, facts, words) == (row.input, row.prefix)
    RULES[row.family](row, facts, groups()[key][place]["max_seq_length"])
    count = counter()
    if count is not None and TOKENIZER in groups()[key][place]["tokenizer"]:
        prompt = row.input + row.prefix
        assert count.counts([prompt])[0] + BUDGETS[row.family] == sample["length"]
        assert count.whole([prompt])[0] + BUDGETS[row.family] == sample["length"]
        if "token_position_answer" in sample:
            before = row.input[: row.input.index(row.outputs[0])]
            assert count.whole([before])[0] == sample["token_position_answer"]


def needle_rules(row: Row, facts: golden_rows.Needles, length: int) -> None:
    values: dict[str, list[str]] = defaultdict(list)
    for _, key, value in facts.hidden:
        values[key].append(value)
    assert all(row.input.count(value) == 1 for value in row.outputs)
    assert Counter(row.outputs) == Counter(value for key in facts.keys for value in values[key])
    # Values stand in the order of the keys that were asked for.
    owners = [key for value in row.outputs for key in facts.keys if value in values[key]]
    assert list(dict.fromkeys(owners)) == list(facts.keys)


def tracking_rules(row: Row, facts: golden_rows.Tracking, length: int) -> None:
    assert facts.main.names == row.outputs
    for chain, letters in ((facts.main, tracking._NAME_LEN), (facts.example, tracking._EXAMPLE_NAME_LEN)):
        assert all(re.fullmatch(rf"[A-Z]{{{letters}}}", name) for name in chain.names)
        assert 10_000 <= int(chain.value) <= 99_999
        assert len(set(chain.places)) == len(chain.places)
        assert chain.places[-1] < chain.noise


def common_word_rules(row: Row, facts: golden_rows.CommonWords, length: int) -> None:
    tier = next(tier for tier in TIERS if length >= tier.least_length)
    for words, common, often, seldom in (
        (facts.main, row.outputs, tier.common, tier.uncommon),
        (facts.example, facts.example_common, tier.example_common, tier.example_uncommon),
    ):
        counts = Counter(words)
        assert {word for word, times in counts.items() if times == often} == set(common)
        assert {times for word, times in counts.items() if word not in common} == {seldom}
        assert len(common) == common_words.NUM_COMMON
    assert len(set(facts.example)) == tier.example_words


def frequent_word_rules(row: Row, facts: tuple[str, ...], length: int) -> None:
    ranked = Counter(facts).most_common()
    assert {word for word, _ in ranked[1:4]} == set(row.outputs)
    vocabulary = (length - BUDGETS["fwe"]) // 50
    observed = [times for _, times in ranked]
    fitting = [
        number
        for number in range(len(facts), 2 * len(facts) + vocabulary)
        if [c for c in zipf_counts(number, vocabulary, 2.0).tolist() if c] == observed
    ]
    assert fitting, "no length gives these counts by Zipf's law"


def reading_rules(row: Row, facts: golden_rows.Reading, length: int) -> None:
    assert len(set(facts.documents)) == len(facts.documents)
    source = documents(row.task)
    if source is None:
        return
    assert set(facts.documents) <= set(source.pool.units)
    asked = [q for q in source.questions if q.text == facts.question and q.answers == row.outputs]
    needed = [{source.pool.units[document] for document in question.needed} for question in asked]
    assert any(texts <= set(facts.documents) for texts in needed)


RULES: dict[str, Callable[..., None]] = {
    "niah": needle_rules,
    "vt": tracking_rules,
    "cwe": common_word_rules,
    "fwe": frequent_word_rules,
    "qa": reading_rules,
}


def test_one_value_is_asked_for_as_several_are_with_words_replaced() -> None:
    """RULER has one template for needles; the library makes its other form of it."""
    forms: dict[bool, set[Template]] = defaultdict(set)
    for key in groups():
        rows = rows_of(key)
        if rows[0].family == "niah" and key[1] == "base":
            template = wording_for(rows, 0).template
            several = len(rows[0].outputs) > 1
            kind = "uuid" if re.fullmatch("[0-9a-f-]{36}", rows[0].outputs[0]) else "number"
            word = kind + "s" * several
            parts = (template.before, template.after, template.prefix)
            forms[several].add(Template(*(part.replace(word, "{type_needle_v}") for part in parts)))
    if not forms[True] or not forms[False]:
        pytest.skip("the golden file has not both forms")
    (several_form,) = forms[True]
    assert {in_singular(several_form)} == forms[False]


def test_a_checkout_says_the_same() -> None:
    source = os.environ.get("LENGTHWISE_RULER_SOURCE")
    if source is None:
        pytest.skip("LENGTHWISE_RULER_SOURCE names no copy of RULER")
    for key in groups():
        rows = rows_of(key)
        read, words = official_wording(Path(source), key[1]), wording_for(rows, 0)
        family = rows[0].family
        if family == "niah":
            kind = "uuid" if re.fullmatch("[0-9a-f-]{36}", rows[0].outputs[0]) else "number"
            several = len(rows[0].outputs) > 1
            filled = read.needles(len(rows[0].outputs)).filled(type_needle_v=kind + "s" * several, query="{query}")
            assert filled == words.template.filled(query="{query}")
            needle = read.needle.format(type_needle_v=kind + "s", key="{key}", value="{value}")
            assert needle == words.needle
        elif family == "vt":
            names = ("vt", "vt_example", "vt_head", "noise", "assign_value", "assign_name", "vt_example_end")
            for name in names:
                ours, found = getattr(read, name), getattr(words, name)
                if isinstance(ours, Template):
                    count = len(rows[0].outputs)
                    ours, found = (t.filled(query="1", num_v=count) for t in (ours, found))
                assert ours == found, name
        elif family == "qa":
            assert read.qa.filled(query="{query}") == words.qa.filled(query="{query}")
            assert read.document == words.document
        else:
            assert getattr(read, family).filled() == words.filled()


def _sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Break one form of the library; says which family must notice."""
    if name == "names without and":
        monkeypatch.setattr(golden_rows, "listed", lambda names: ", ".join(names))
        return "niah_multiquery"
    if name == "no empty pieces":
        whole = golden_rows.among_sentences
        monkeypatch.setattr(golden_rows, "among_sentences", lambda *args, **_: whole(*args))
        return "niah"
    if name == "needles one place on":
        one_line = golden_rows.among_lines

        def later(shared: Any, line: str, number: int, needles: Any) -> Any:
            return one_line(shared, line, number, [(min(gap + 1, number), text) for gap, text in needles])

        monkeypatch.setattr(golden_rows, "among_lines", later)
        return "niah_single_1"
    if name == "needles at the end":
        others = golden_rows.among_needles
        monkeypatch.setattr(golden_rows, "among_needles", lambda o, n: others(o, [(len(o), text) for _, text in n]))
        return "niah_multikey"
    if name == "numbered from 0":
        monkeypatch.setattr(
            golden_rows, "numbered", lambda words: " ".join(f"{place}. {word}" for place, word in enumerate(words))
        )
        return "cwe"
    if name == "one line break behind the example":
        forms = golden_rows.official_forms
        monkeypatch.setattr(golden_rows, "official_forms", lambda w: replace(forms(w), vt_example_end="\n"))
        return "vt"
    if name == "no space behind a name":
        forms = golden_rows.official_forms
        monkeypatch.setattr(
            golden_rows, "official_forms", lambda w: replace(forms(w), assign_name="VAR {name} = VAR {source}")
        )
        return "vt"
    parts = reading.qa_parts

    def from_zero(wording: Any, pool: Any, chosen: Any, question: str) -> Any:
        if name == "documents in a row":
            return parts(replace(wording, document_joint="\n"), pool, chosen, question)
        return parts(wording, pool, list(chosen)[::-1], question)

    monkeypatch.setattr(golden_rows, "qa_parts", from_zero)
    return "qa"


@pytest.mark.parametrize(
    "name",
    [
        "names without and",
        "no empty pieces",
        "needles one place on",
        "needles at the end",
        "numbered from 0",
        "one line break behind the example",
        "no space behind a name",
        "documents in a row",
        "documents backwards",
    ],
)
def test_a_wrong_form_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries()
    task = _sabotage(name, monkeypatch)
    differ = 0
    for key in groups():
        if not key[0].startswith(task):
            continue
        rows = rows_of(key)
        for place, row in enumerate(rows):
            try:
                words = wording_for(rows, place)
                differ += rebuild(row, take_apart(row, words, essays()), words) != (row.input, row.prefix)
            except golden_rows.NotUnderstood:
                differ += 1
    if not any(key[0].startswith(task) for key in groups()):
        pytest.skip(f"the golden file has no rows of {task}")
    assert differ
