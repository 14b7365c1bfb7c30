"""Official RULER rows taken apart into facts, and the wording they were written in, found by comparing rows.

RULER's wording is not part of this repository, so it is read from the rows themselves, when a test runs. What is found
that way is only text that rows have in common outside their facts: the words before the context, from the context to
the end of the question, the beginning of the answer, the needle sentence, and the head of a document. Never taken from
a row are how its facts are joined, numbered, ordered and formatted; those come from the library, and a row counts
as rebuilt when the library makes the same bytes of the facts.

The wording for a row is found in the *other* rows of its task (`wording_for`), so that nothing of a row can find its
way into its own wording.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lengthwise.tasks.passages import Passage, Shared, join_parts
from lengthwise.tasks.questions import Documents
from lengthwise.tasks.ruler.common_words import cwe_example, numbered
from lengthwise.tasks.ruler.haystacks import among_lines, among_needles, among_sentences
from lengthwise.tasks.ruler.reading import qa_parts
from lengthwise.tasks.ruler.tracking import Chain, Noise, vt_pieces
from lengthwise.tasks.ruler.wording import OWN, Template, Wording, escaped, listed

_KEY = r"[^\s,.:][^\n,.:]*?"
_VALUE = r"[^\s,:]+?"
_NAME = r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]{7}|[a-z]+(?:-[a-z]+)+)"
_NAMES = re.compile(rf"{_NAME}(?:, (?:and )?{_NAME})*")


class NotUnderstood(Exception):
    """A row that does not have the form of its task."""


@dataclass(frozen=True)
class Row:
    """What a row says, its prompt in one piece."""

    task: str
    input: str
    prefix: str
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, sample: dict[str, Any], task: str) -> Row:
        return cls(task, sample["input"], sample["answer_prefix"], tuple(sample["outputs"]))

    @property
    def family(self) -> str:
        return "niah" if self.task.startswith("niah") else self.task.partition("_")[0]


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # what these two share at the start, all do
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((place for place, (a, b) in pairs if a != b), min(len(first), len(last)))]


def _common_end(texts: Sequence[str]) -> str:
    return _common_start([text[::-1] for text in texts])[::-1]


def _up_to_space(text: str) -> str:
    """Back to the last space or line break, which stays: words that only happen to begin alike are not in common."""
    return text[: max(text.rfind(" "), text.rfind("\n")) + 1]


def _from_space(text: str) -> str:
    """From the first space, line break or bracket on."""
    found = re.search(r"[\s<\[]", text)
    return text[found.start() :] if found else ""


def _between(text: str, start: str, end: str) -> str:
    if not (text.startswith(start) and text.endswith(end) and len(text) >= len(start) + len(end)):
        raise NotUnderstood(f"{text[:80]!r} is not of the form {start!r} ... {end!r}")
    return text[len(start) : len(text) - len(end)]


def _same(values: Sequence[Any], what: str) -> Any:
    """The one value that all have."""
    if len(set(values)) != 1:
        raise NotUnderstood(f"rows disagree on {what}: {[str(v)[-80:] for v in dict.fromkeys(values)]}")
    return values[0]


def _around_query(rows: Sequence[Row]) -> tuple[str, str]:
    """What surrounds the query in the beginnings of answers: the same words in front and behind in all rows."""
    if len({row.prefix for row in rows}) < 2:
        found = _NAMES.search(rows[0].prefix)
        if found is None:
            raise NotUnderstood("rows with different queries are needed to see where the query stands")
        return rows[0].prefix[: found.start()], rows[0].prefix[found.end() :]
    prefixes = [row.prefix for row in rows]
    start = _up_to_space(_common_start(prefixes))
    return start, _from_space(_common_end([prefix[len(start) :] for prefix in prefixes]))


# Needles


@dataclass(frozen=True)
class Needles:
    """Facts of a needle row."""

    kind: str
    """line, needles or sentences."""
    keys: tuple[str, ...]
    """Asked for, in order."""
    hidden: tuple[tuple[int, str, str], ...]
    """Units before it, key and value of every needle that was put in (all of them, where the haystack is needles)."""
    line: str = ""
    number: int = 0
    units: tuple[str, ...] = ()


@dataclass(frozen=True)
class NeedleWords:
    """Wording of a needle task, found in its rows."""

    template: Template
    needle: str


def _needle_places(context: str, values: Sequence[str], keys: Sequence[str]) -> list[tuple[str, str, str]]:
    """For each value asked for: what stands before its key, between the two, and behind the value."""
    places = []
    for value in values:
        at = context.find(value)
        before = context[:at]
        key = max(keys, key=before.rfind)
        begin = before.rfind(key)
        if at < 0 or begin < 0:
            raise NotUnderstood(f"no needle with the value {value}")
        places.append((context[:begin], context[begin + len(key) : at], context[at + len(value) :]))
    return places


def niah_words(rows: Sequence[Row]) -> NeedleWords:
    """The wording that needle rows of one task have in common."""
    start, end = _around_query(rows)
    befores, afters = [], []
    for row in rows:
        query = _between(row.prefix, start, end)
        body, question = _split_question(row.input, query)
        afters.append(question)
        befores.append((row, body, _keys(query)))
    after = _same(afters, "the question")
    # A needle: the words that stand in all of them before the key, between, and behind the value.
    places = [place for row, body, keys in befores for place in _needle_places(body, row.outputs, keys)]
    middle = _same([middle for _, middle, _ in places], "the middle of the needle")
    front = _sentence_end(_common_end([front for front, _, _ in places]))
    back = re.match(r"[^\s]*", _common_start([back for _, _, back in places]))
    needle = f"{front}{{key}}{middle}{{value}}{back[0] if back else ''}"
    starts = {body[: len(body) - len(_context(body, needle))] for _, body, _ in befores}
    before = _same(list(starts), "the beginning")
    return NeedleWords(Template(escaped(before), after, f"{escaped(start)}{{query}}{escaped(end)}"), needle)


def _split_question(text: str, query: str) -> tuple[str, str]:
    """A prompt without its last line, and that line with its break, the query as a place."""
    at = text.rfind(query)
    line = text.rfind("\n", 0, at)
    if at < 0 or line < 0:
        raise NotUnderstood(f"no question with {query!r}")
    return text[:line], f"{escaped(text[line:at])}{{query}}{escaped(text[at + len(query) :])}"


def _keys(query: str) -> tuple[str, ...]:
    return tuple(re.split(r", and |, ", query))


def _sentence_end(text: str) -> str:
    """What of a text belongs to the sentence it ends in."""
    cuts = [found.end() for found in re.finditer(r"""\n|[.!?]["')\]]* """, text)]
    return text[cuts[-1] :] if cuts else text.lstrip()


def _needle_pattern(needle: str) -> re.Pattern[str]:
    front, _, rest = needle.partition("{key}")
    middle, _, back = rest.partition("{value}")
    pattern = f"{re.escape(front)}(?P<key>{_KEY}){re.escape(middle)}(?P<value>{_VALUE}){re.escape(back)}"
    return re.compile(pattern + r"(?=\s|$)")


def _context(body: str, needle: str) -> str:
    """The end of a body that is haystack: the lines that are needles or one line repeated, else the last line."""
    pattern = _needle_pattern(needle)
    lines = body.split("\n")
    common, times = Counter(lines).most_common(1)[0]
    taken = 0
    for line in reversed(lines):
        if not ((times > 2 and line == common) or pattern.fullmatch(line)):
            break
        taken += 1
    return "\n".join(lines[len(lines) - max(taken, 1) :])


def take_niah(row: Row, words: NeedleWords, essays: Sequence[str]) -> Needles:
    """The facts of a needle row.

    Args:
        essays: words of the text the haystack is from; may be empty.
    """
    start, _, end = words.template.prefix.partition("{query}")
    keys = _keys(_between(row.prefix, start, end))
    query = listed(keys)
    question = words.template.after.format(query=query)
    context = _between(row.input, words.template.before.format(), question)
    pattern = _needle_pattern(words.needle)
    lines = context.split("\n")
    found = [pattern.fullmatch(line) for line in lines]
    if len(lines) > 1 and all(found):
        hidden = tuple((place, match["key"], match["value"]) for place, match in enumerate(found) if match)
        return Needles("needles", keys, hidden)
    if len(lines) > 1:
        common = Counter(lines).most_common(1)[0][0]
        hidden_list, number = [], 0
        for line, match in zip(lines, found, strict=True):
            if match:
                hidden_list.append((number, match["key"], match["value"]))
            elif line != common:
                raise NotUnderstood(f"a line that is neither haystack nor needle: {line!r}")
            else:
                number += 1
        return Needles("line", keys, tuple(hidden_list), line=common, number=number)
    return _take_sentences(context, keys, pattern, essays)


def _take_sentences(context: str, keys: tuple[str, ...], pattern: re.Pattern[str], essays: Sequence[str]) -> Needles:
    """Needles among sentences. Units are what stands between two needles; with the essays at hand, sentences that were
    torn apart where the source has no space are units as well, and the text must be the source's beginning."""
    units: list[str] = []
    hidden: list[tuple[int, str, str]] = []
    done = 0
    for match in pattern.finditer(context):
        if text := context[done : match.start()].strip(" "):
            units.append(text)
        hidden.append((len(units), match["key"], match["value"]))
        done = match.end()
    if text := context[done:].strip(" "):
        units.append(text)
    if len(context.split()) <= len(essays):
        units, hidden = _at_source(units, hidden, " ".join(essays[: len(context.split())]))
    return Needles("sentences", keys, tuple(hidden), units=tuple(units))


def _at_source(
    units: list[str], hidden: list[tuple[int, str, str]], source: str
) -> tuple[list[str], list[tuple[int, str, str]]]:
    """The same units cut where the row has a space that the source has not; each piece is a piece of the source."""
    pieces: list[str] = []
    number_of: list[int] = [0]
    at = 0
    for unit in units:
        rest = unit
        while rest:
            if source[at : at + len(rest)] == rest:
                length = len(rest)
            else:
                pairs = enumerate(zip(rest, source[at:], strict=False))
                length = next((i for i, (a, b) in pairs if a != b), len(rest))
                if length == 0 or rest[length] != " ":
                    raise NotUnderstood(f"{rest[:60]!r} is not what the essays go on with: {source[at : at + 60]!r}")
            pieces.append(rest[:length])
            at += length
            rest = rest[length:].removeprefix(" ")
        number_of.append(len(pieces))
        at += source[at : at + 1] == " "
    return pieces, [(number_of[before], key, value) for before, key, value in hidden]


def rebuild_niah(facts: Needles, words: NeedleWords) -> tuple[str, str]:
    """Input and beginning of the answer, by the library."""
    template = words.template.filled(query=listed(facts.keys))
    texts = [(gap, words.needle.format(key=key, value=value)) for gap, key, value in facts.hidden]
    if facts.kind == "needles":
        asked = [index for index, (_, key, _) in enumerate(facts.hidden) if key in facts.keys]
        others = [text for index, (_, text) in enumerate(texts) if index not in asked]
        context = "\n".join(among_needles(others, [(index - n, texts[index][1]) for n, index in enumerate(asked)]))
    elif facts.kind == "line":
        shared = Shared((facts.line + "\n") * facts.number)
        context = join_parts(among_lines(shared, facts.line, facts.number, texts))
    else:
        context = join_parts(among_sentences(Passage(facts.units, " "), 0, len(facts.units), texts, empty=True))
    return template.before + context + template.after, template.prefix


# Variable tracking


@dataclass(frozen=True)
class Tracking:
    """Facts of a vt row."""

    example: Chain
    main: Chain


def _line_patterns(wording: Wording) -> tuple[re.Pattern[str], re.Pattern[str]]:
    def pattern(form: str) -> re.Pattern[str]:
        marked = form.format(name="\0", value="\1", source="\2")
        text = re.escape(marked)
        for mark, group in (("\0", "name"), ("\1", "value"), ("\2", "source")):
            text = text.replace(re.escape(mark), rf"(?P<{group}>\w+)")
        return re.compile(text)

    return pattern(wording.assign_value), pattern(wording.assign_name)


def _vt_blocks(text: str, wording: Wording) -> list[tuple[int, int, str]]:
    """Runs of lines that are noise or assignments: first character, last, and the noise line."""
    patterns = _line_patterns(wording)
    lines = text.split("\n")
    noise, times = Counter(line for line in lines if line).most_common(1)[0]
    if times < 2:
        raise NotUnderstood("no line comes up twice")
    blocks: list[list[int]] = []
    place = 0
    for line in lines:
        if line == noise or any(pattern.fullmatch(line) for pattern in patterns):
            if blocks and blocks[-1][1] + 1 == place:
                blocks[-1][1] = place + len(line)
            else:
                blocks.append([place, place + len(line)])
        place += len(line) + 1
    return [(first, last, noise) for first, last in blocks]


def _chain(block: str, noise: str, wording: Wording) -> Chain:
    value_line, name_line = _line_patterns(wording)
    names: list[str] = []
    places: list[int] = []
    value = ""
    number = 0
    for line in block.split("\n"):
        if line == noise:
            number += 1
            continue
        first, other = value_line.fullmatch(line), name_line.fullmatch(line)
        if other is not None and names:
            if other["source"] != names[-1]:
                raise NotUnderstood(f"{line!r} does not go on from {names[-1]}")
            names.append(other["name"])
        elif first is not None and not names:
            names.append(first["name"])
            value = first["value"]
        else:
            raise NotUnderstood(f"an assignment out of order: {line!r}")
        places.append(number)
    return Chain(tuple(names), value, tuple(places), number)


def vt_words(rows: Sequence[Row], wording: Wording) -> Wording:
    """The wording that vt rows have in common."""
    heads, befores, afters, bares, prefixes, noises = [], [], [], [], [], []
    for row in rows:
        (first, second) = _two(_vt_blocks(row.input, wording))
        example, main = (_chain(row.input[a:b], noise, wording) for a, b, noise in (first, second))
        prefixes.append(escaped(row.prefix).replace(main.value, "{query}"))
        between = row.input[first[1] : second[0]]
        names = " " + " ".join(example.names) + wording.vt_example_end
        answer, found, before = between.partition(names)
        if not found:
            raise NotUnderstood(f"the example has no answer {names!r}")
        bares.append(escaped(answer).replace(example.value, "{query}"))
        befores.append(escaped(before))
        heads.append(row.input[: first[0]].removesuffix(before))
        afters.append(escaped(row.input[second[1] :]).replace(main.value, "{query}"))
        noises.append(first[2])
    prefix = _same(prefixes, "the beginning of the answer")
    bare = _between(_same(bares, "the example's question"), "", prefix)
    before, after = _same(befores, "the beginning"), _same(afters, "the question")
    return replace(
        wording,
        noise=_same(noises, "the noise line"),
        vt=Template(before, after, prefix),
        vt_example=Template(before, bare, prefix),
        vt_head=_same(heads, "the words before the example"),
    )


def _two(blocks: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    if len(blocks) != 2:
        raise NotUnderstood(f"{len(blocks)} runs of noise and assignments instead of an example's and the task's")
    return blocks


def take_vt(row: Row, wording: Wording) -> Tracking:
    first, second = _two(_vt_blocks(row.input, wording))
    return Tracking(*(_chain(row.input[a:b], noise, wording) for a, b, noise in (first, second)))


def rebuild_vt(facts: Tracking, wording: Wording) -> tuple[str, str]:
    line = wording.noise + "\n"
    noise = Noise(Shared(line * (facts.main.noise + facts.example.noise)), line, 1)
    example = vt_pieces(wording, wording.vt_example, facts.example, noise)
    main = vt_pieces(wording, wording.vt, facts.main, noise)
    answer = " " + " ".join(facts.example.names) + wording.vt_example_end
    text = join_parts([wording.vt_head, *example, answer, *main])
    prefix = wording.vt.filled(query=facts.main.value, num_v=len(facts.main.names)).prefix
    return _between(text, "", prefix), prefix


# Common words


@dataclass(frozen=True)
class CommonWords:
    """Facts of a cwe row: the words of both lists in their order."""

    example: tuple[str, ...]
    example_common: tuple[str, ...]
    main: tuple[str, ...]


def _numbered_lists(text: str) -> list[tuple[int, int, tuple[str, ...]]]:
    """Numbered lists of at least five words, one line each: first character, last, words."""
    found = []
    at = 0
    while (begin := text.find("1. ", at)) >= 0:
        end = text.find("\n", begin)
        end = len(text) if end < 0 else end
        words: list[str] = []
        place, number = begin + 3, 2
        while (following := text.find(f" {number}. ", place, end)) >= 0:
            words.append(text[place:following])
            place = following + len(f" {number}. ")
            number += 1
        if len(words) < 4:
            at = begin + 3
            continue
        found.append((begin, end, (*words, text[place:end])))
        at = end
    return found


def cwe_words(rows: Sequence[Row]) -> Template:
    """The wording that cwe rows have in common."""
    templates = []
    for row in rows:
        lists = _numbered_lists(row.input)
        if len(lists) != 3:
            raise NotUnderstood(f"{len(lists)} numbered lists instead of three")
        first, _, third = lists
        before = row.input[: first[0]]
        templates.append(Template(escaped(before), escaped(row.input[third[1] :]), escaped(row.prefix)))
    return _same(templates, "the wording")


def take_cwe(row: Row) -> CommonWords:
    example, answer, main = (words for _, _, words in _numbered_lists(row.input))
    return CommonWords(example, answer, main)


def rebuild_cwe(facts: CommonWords, template: Template) -> tuple[str, str]:
    wording = replace(OWN, cwe=template)
    filled = template.filled()
    example = cwe_example(wording, facts.example, facts.example_common)
    return example + filled.before + numbered(facts.main) + filled.after, filled.prefix


# Frequent words


def _coded(text: str) -> tuple[int, int]:
    """The longest run of code words and blanks: first character and last."""
    runs = list(
        re.finditer(
            rf"(?<![^\s])(?:{re.escape(OWN.blank)}|[a-z]{{6}})(?: (?:{re.escape(OWN.blank)}|[a-z]{{6}}))*(?![^\s])",
            text,
        )
    )
    if not runs:
        raise NotUnderstood("no code words")
    best = max(runs, key=lambda run: run.end() - run.start())
    return best.start(), best.end()


def fwe_words(rows: Sequence[Row]) -> Template:
    """The wording that fwe rows have in common."""
    templates = []
    for row in rows:
        begin, end = _coded(row.input)
        templates.append(Template(*map(escaped, (row.input[:begin], row.input[end:], row.prefix))))
    return _same(templates, "the wording")


def take_fwe(row: Row) -> tuple[str, ...]:
    begin, end = _coded(row.input)
    return tuple(row.input[begin:end].split(" "))


def rebuild_fwe(facts: tuple[str, ...], template: Template) -> tuple[str, str]:
    filled = template.filled()
    return filled.before + " ".join(facts) + filled.after, filled.prefix


# Questions


@dataclass(frozen=True)
class Reading:
    """Facts of a qa row."""

    documents: tuple[str, ...]
    question: str


def _document_heads(text: str) -> tuple[str, str]:
    """What stands before and behind the numbers of documents: the pair that counts up furthest."""
    heads = Counter(
        (found[1], found[3]) for found in re.finditer(r"(?:^|\n)([^\n\d]{1,40}?)(\d+)([^\n\d]{0,5}(?:\n| ))", text)
    )
    best: tuple[int, tuple[str, str]] = (0, ("", ""))
    for (head, mark), times in heads.items():
        if times > 1:
            number = 0
            while f"{head}{number + 1}{mark}" in text:
                number += 1
            best = max(best, (number, (head, mark)))
    if best[0] < 2:
        raise NotUnderstood("no numbered documents")
    return best[1]


def qa_words(rows: Sequence[Row]) -> Wording:
    """The wording that qa rows have in common."""
    head, mark = _same([_document_heads(row.input) for row in rows], "the heads of documents")
    before = _same([row.input[: row.input.index(f"{head}1{mark}")] for row in rows], "the beginning")
    ends = []
    for row in rows:
        number = 1
        while f"{OWN.document_joint}{head}{number + 1}{mark}" in row.input:
            number += 1
        ends.append(row.input[row.input.rindex(f"{head}{number}{mark}") :])
    tail = _from_space(_common_end(ends))
    ends = [end[: len(end) - len(tail)] for end in ends]
    # The words before the question begin with a blank line, at the same distance from it in every row.
    first, *others = ends
    for found in re.finditer(r"\n\n", first):
        after = first[found.start() :]
        for other in others:
            after = max((_common_start([after, other[at.start() :]]) for at in re.finditer(r"\n\n", other)), key=len)
        after = _up_to_space(after)
        if len(after) > 8:
            break
    else:
        raise NotUnderstood("no words before the question")
    template = Template(
        escaped(before), f"{escaped(after)}{{query}}{escaped(tail)}", escaped(_same([r.prefix for r in rows], "prefix"))
    )
    return replace(OWN, qa=template, document=f"{escaped(head)}{{number}}{escaped(mark)}{{text}}")


def take_qa(row: Row, wording: Wording) -> Reading:
    after, _, tail = wording.qa.after.partition("{query}")
    body, found, question = _between(row.input, wording.qa.before.format(), tail.format()).rpartition(after.format())
    if not found:
        raise NotUnderstood("no words before the question")
    head, _, _ = wording.document.partition("{text}")
    documents: list[str] = []
    body = _between(body, head.format(number=1), "")
    while True:
        text, more, body = body.partition(wording.document_joint + head.format(number=len(documents) + 2))
        documents.append(text)
        if not more:
            return Reading(tuple(documents), question)


def rebuild_qa(facts: Reading, wording: Wording) -> tuple[str, str]:
    documents = Documents(Passage(facts.documents, "\n"), (), "")
    text = join_parts(qa_parts(wording, documents, range(len(facts.documents)), facts.question))
    prefix = wording.qa.filled(query=facts.question).prefix
    return _between(text, "", prefix), prefix


# All


def official_forms(wording: Wording) -> Wording:
    """Ours with the forms of lines that RULER has in its code and we in ours."""
    return replace(wording, assign_value="VAR {name} = {value}", assign_name="VAR {name} = VAR {source} ")


def wording_for(rows: Sequence[Row], index: int) -> Any:
    """What the rows other than `index` have in common; of that row itself where it has no company."""
    others = [row for place, row in enumerate(rows) if place != index] or list(rows)
    family = rows[index].family
    if family == "niah":
        return niah_words(others)
    if family == "vt":
        return vt_words(others, official_forms(OWN))
    return {"cwe": cwe_words, "fwe": fwe_words, "qa": qa_words}[family](others)


def take_apart(row: Row, words: Any, essays: Sequence[str] = ()) -> Any:
    """The facts of a row."""
    if row.family == "niah":
        return take_niah(row, words, essays)
    if row.family == "vt":
        return take_vt(row, words)
    if row.family == "qa":
        return take_qa(row, words)
    return take_cwe(row) if row.family == "cwe" else take_fwe(row)


def rebuild(row: Row, facts: Any, words: Any) -> tuple[str, str]:
    """Input and beginning of the answer."""
    return {
        "niah": rebuild_niah,
        "vt": rebuild_vt,
        "cwe": rebuild_cwe,
        "fwe": rebuild_fwe,
        "qa": rebuild_qa,
    }[row.family](facts, words)
