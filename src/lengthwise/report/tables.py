"""The numbers behind the charts: the scoreboard of verdicts, and tables for the page, for Markdown and for CSV."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from lengthwise.report import words
from lengthwise.report.records import DISTANCES, Bin, Group, Measured


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, in percent.

    Args:
        value: the mean; None without samples.
        low, high: ends of the interval; None where it is unknown.
        note: what a reader has to know of it, e.g. how many samples failed.
        mark: underlined, as the paper does at the training length.
        signed: a difference, shown with its sign.
    """

    value: float | None
    low: float | None
    high: float | None
    note: str = ""
    mark: bool = False
    signed: bool = False

    @property
    def interval(self) -> str:
        """The interval in words; empty where it is unknown."""
        return "" if self.low is None or self.high is None else f"{self._text(self.low)} to {self._text(self.high)}"

    @property
    def number(self) -> str:
        """The mean in words; a dash where it is unknown."""
        return "–" if self.value is None else self._text(self.value)

    def _text(self, value: float) -> str:
        return words.signed(value, 1) if self.signed else f"{value:.1f}"


Value = str | int | float | Estimate | None


@dataclass(frozen=True)
class Cell:
    """One answer on the scoreboard: a verdict shown as a pill, or a text; with smaller lines below."""

    text: str
    small: str = ""
    verdict: str | None = None
    is_verdict: bool = False
    mark: bool = False


@dataclass(frozen=True)
class Row:
    """One question on the scoreboard, answered for every model."""

    question: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Columns and rows of raw values; None is "not measured"."""

    key: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    quiet: frozenset[int] = frozenset()
    """Rows with numbers of others, which a page shows less strongly."""

    def shown(self) -> list[list[str]]:
        """The rows as a person reads them."""
        return [[show(value) for value in row] for row in self.rows]

    def cells(self) -> list[list[Cell]]:
        """The rows for the page: intervals and notes as smaller lines below their number, a name that is that of the
        row above left out."""
        rows = [[_cell(value) for value in row] for row in self.rows]
        for above, row in reversed(list(itertools.pairwise(rows))):
            if row[0] == above[0] and len(row) > 2:
                row[0] = Cell("")
        return rows

    @property
    def textual(self) -> frozenset[int]:
        """Columns that hold words rather than numbers."""
        return frozenset(
            place
            for place in range(len(self.columns))
            if any(isinstance(row[place], str) and not str(row[place])[:1].isdigit() for row in self.rows)
        )

    def markdown(self) -> str:
        """The table in GitHub's Markdown, under its title."""
        lines = [f"### {self.title}", "", self.caption, "", _pipe(self.columns)]
        lines.append(_pipe(["---", *["---:"] * (len(self.columns) - 1)]))
        return "\n".join(lines + [_pipe(row) for row in self.shown()]) + "\n"

    def csv(self) -> str:
        """The table with full precision; an empty cell is "not measured"."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        wide = [any(isinstance(row[place], Estimate) for row in self.rows) for place in range(len(self.columns))]
        writer.writerow(_flat([(name, f"{name} low", f"{name} high") for name in self.columns], wide))
        writer.writerows(_flat([_ends(value) for value in row], wide) for row in self.rows)
        return text.getvalue()

    def latex(self) -> str:
        """The table in LaTeX, with the rules of the package booktabs; intervals as indices below and above."""
        lines = [
            "\\begin{table}[t]",
            "\\centering",
            f"\\caption{{{_tex(f'{self.title}. {self.caption}')}}}",
            f"\\label{{tab:{self.key}}}",
            f"\\begin{{tabular}}{{{'l' + 'r' * (len(self.columns) - 1)}}}",
            "\\toprule",
            " & ".join(map(_tex, self.columns)) + " \\\\",
            "\\midrule",
            *(" & ".join(map(_tex, row)) + " \\\\" for row in self.rows),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
        return "\n".join(lines) + "\n"


def show(value: Value) -> str:
    """A value as people read it: thousands separated, four significant digits, a dash for "not measured"."""
    if value is None:
        return "–"
    if isinstance(value, Estimate):
        return " ".join(
            part for part in (value.number, f"({value.interval})" if value.interval else "", value.note) if part
        )
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        text = f"{value:.4g}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"
        return text.replace("-", "−")
    return value


def _cell(value: Value) -> Cell:
    if not isinstance(value, Estimate):
        return Cell(show(value))
    return Cell(value.number, "\n".join(part for part in (value.interval, value.note) if part), mark=value.mark)


def _ends(value: Value) -> tuple[Value, Value, Value]:
    """A value and the ends of its interval, for columns that stand for both."""
    return (value.value, value.low, value.high) if isinstance(value, Estimate) else (value, None, None)


def _flat(parts: Sequence[tuple[Value, Value, Value]], wide: Sequence[bool]) -> list[Value]:
    """One cell for each narrow column, three for each wide one; an empty text for what is missing."""
    cells = [cell for part, three in zip(parts, wide, strict=True) for cell in (part if three else part[:1])]
    return ["" if cell is None else cell for cell in cells]


_TEX = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_TEX |= {mark: f"\\{mark}" for mark in "&%$#_{}"}
_TEX |= {"−": "$-$", "×": "$\\times$", "–": "--", "≥": "$\\geq$", "±": "$\\pm$"}


def _tex(value: Value) -> str:
    """A value in LaTeX; an estimate as a number with the ends of its interval as indices."""
    if isinstance(value, Estimate) and value.value is not None:
        number = f"{value.value:.1f}"
        number = f"\\underline{{{number}}}" if value.mark else number
        ends = "" if value.low is None or value.high is None else f"_{{{value.low:.1f}}}^{{{value.high:.1f}}}"
        note = f" {_tex(value.note)}" if value.note else ""
        return f"${number}{ends}${note}"
    return "".join(_TEX.get(letter, letter) for letter in show(value).replace("\n", " "))


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def board(group: Group) -> tuple[Row, ...]:
    """The scoreboard: what a reader wants to know first, one column per model. Empty without a measured model."""
    if group.subject is None:
        return ()
    context = group.subject.context_length
    how = f", {words.CONTROLLED}" if _controlled(group) else ""
    questions = [
        (f"Does perplexity hold past {context:,} tokens{how}?", _definition),
        (f"Does history beyond the last {context:,} tokens help?", _history),
        ("Spread of the state at the far end, relative to the training length", _growth),
        (f"Weight of text over {context:,} tokens back in the prediction, 0 to 1", _old_text),
    ]
    return tuple(Row(question, tuple(answer(model) for model in group.models)) for question, answer in questions)


def _controlled(group: Group) -> bool:
    """Whether some ratio of the group has the difficulty of the text taken out."""
    return any(model.definition is not None and model.definition.controlled for model in group.models)


MISSING = Cell("not measured")


def _definition(model: Measured) -> Cell:
    found = model.definition
    if found is None or found.verdict is None:
        return Cell(words.VERDICT_WORDS[None], is_verdict=True)
    small = [f"at worst {words.factor(found.worst_ratio)} its best"] if found.worst_ratio is not None else []
    sure = words.interval(found.worst_low, found.worst_high)
    small += [f"({sure})"] if sure else []
    small += [f"fails from {found.first_failing:,} on"] if found.first_failing is not None else []
    return Cell(words.VERDICT_WORDS[found.verdict], "\n".join(small), found.verdict, is_verdict=True)


def _history(model: Measured) -> Cell:
    found = model.restart
    if found is None or found.verdict is None:
        return Cell(words.VERDICT_WORDS[None], is_verdict=True)
    text = {"fail": "hurts", "pass": "helps" if found.uses_history else "no harm", "undecided": "undecided"}
    small = []
    if found.difference is not None:
        near = [value for value in (found.difference, found.low, found.high) if value is not None]
        small.append(f"{words.signed(found.difference, words.decimals(*near))} nats per token")
    sure = words.interval(found.low, found.high, sign=True)
    small += [f"({sure})"] if sure else []
    small += [f"fails from {found.first_failing:,} on"] if found.first_failing is not None else []
    return Cell(text[found.verdict], "\n".join(small), found.verdict, is_verdict=True)


def _growth(model: Measured) -> Cell:
    growth = words.state_growth(model)
    return MISSING if growth is None else Cell(words.factor(growth))


def _old_text(model: Measured) -> Cell:
    value = words.out_of_window(model)
    return MISSING if value is None else Cell(words.share(value))


def all_tables(group: Group) -> tuple[Table, ...]:
    """Every table that has something to show."""
    tables = [
        _verdicts(group),
        _by_position(
            group,
            "perplexity",
            "Perplexity by position",
            "exp of the mean negative log-likelihood of each bin, with 95 % bootstrap intervals over documents.",
            {m.name: m.perplexity or () for m in group.models},
        ),
        _by_position(
            group,
            "restart",
            "Full history minus restart, in nats per token",
            f"Negative: the full history helps. Low and high: {words.BOUNDS}.",
            {m.name: m.restart.bins if m.restart else () for m in group.models},
        ),
        _remembrance(group),
        _states(group),
        _heads(group),
        _training(group),
    ]
    return tuple(table for table in tables if table.rows)


def _verdicts(group: Group) -> Table:
    rows: list[tuple[Value, ...]] = []
    for m in group.models:
        d, r = m.definition, m.restart
        rows.append(
            (
                m.name,
                d.verdict if d else None,
                d.worst_ratio if d else None,
                d.worst_low if d else None,
                d.worst_high if d else None,
                d.tolerance if d else None,
                ("yes" if d.strict else "no") if d and d.strict is not None else None,
                d.best_perplexity if d else None,
                r.verdict if r else None,
                r.difference if r else None,
                r.low if r else None,
                r.high if r else None,
                r.tolerance if r else None,
                m.first_failing,
            )
        )
    columns = (
        "model",
        "definition 3.2",
        "worst ratio",
        "low",
        "high",
        "tolerance",
        "strict",
        "best perplexity",
        "restart",
        "full − restart (nats)",
        "low",
        "high",
        "tolerance",
        "first failing position",
    )
    caption = "Definition 3.2 made practical, and full history against restart with the last tokens of training length."
    caption += (
        f" Low and high of the worst ratio: {words.BOUNDS}; those of full − restart, over all bins: a "
        "two-sided 95 % interval."
    )
    if _controlled(group):
        caption += (
            f" Ratios are those of perplexities, {words.CONTROLLED}; strict goes by the perplexities as they are, "
            "which the chart and the table by position show."
        )
    return Table("verdicts", "Verdicts", caption, columns, tuple(rows))


def _by_position(group: Group, key: str, title: str, caption: str, bins: dict[str, tuple[Bin, ...]]) -> Table:
    places = sorted({(b.start, b.end) for found in bins.values() for b in found})
    by_place = {name: {(b.start, b.end): b for b in found} for name, found in bins.items()}
    rows: list[tuple[Value, ...]] = []
    for start, end in places:
        row: list[Value] = [f"{start:,} to {end:,}"]
        for name in bins:
            b = by_place[name].get((start, end))
            row += [b.value if b else None, b.low if b else None, b.high if b else None]
        rows.append(tuple(row))
    columns = ["positions"]
    for m in group.models:
        columns += [m.name, "low", "high"]
    return Table(key, title, caption, tuple(columns), tuple(rows))


def _remembrance(group: Group) -> Table:
    found = [m for m in group.models if m.remembrance]
    rows: list[tuple[Value, ...]] = []
    for distance, name in DISTANCES.items():
        for what in ("out_of_window", "area"):
            label = "older than the training length" if what == "out_of_window" else "area under the curve"
            values = [getattr(m.remembrance, what).get(distance) for m in found]
            if any(value is not None for value in values):
                rows.append((f"{name}, {label}", *values))
    caption = "0: old text does not change the prediction at the end; 1: it changes it entirely."
    columns = ("distance", *(m.name for m in found))
    return Table("remembrance", "Effective Remembrance", caption, columns, tuple(rows))


def _states(group: Group) -> Table:
    found = [m for m in group.models if m.states and m.states.positions]
    places = sorted({p for m in found if m.states for p in m.states.positions})
    rows: list[tuple[Value, ...]] = []
    for place in places:
        row: list[Value] = [f"{place:,}"]
        for m in found:
            assert m.states is not None
            index = m.states.positions.index(place) if place in m.states.positions else None
            for key in ("std", "max_abs"):
                values = m.states.whole.get(key, ())
                row.append(values[index] if index is not None and index < len(values) else None)
        rows.append(tuple(row))
    columns = ["position"]
    for m in found:
        columns += [f"{m.name}: std", "max |s|"]
    caption = "All elements of the recurrent state, over all layers."
    return Table("states", "State over time", caption, tuple(columns), tuple(rows))


def _heads(group: Group, top: int = 20) -> Table:
    subject = group.subject
    drift = subject.states.drift[:top] if subject and subject.states else ()
    found = [m for m in group.models if m.states]
    scores = [{(h.layer, h.head): h.score for h in m.states.drift} for m in found if m.states]
    rows = tuple((h.name, *(score.get((h.layer, h.head)) for score in scores)) for h in drift)
    caption = (
        "Drift score: the largest |log std(t) − log std(T)| at positions t past the training length T; 0 is steady."
    )
    return Table("heads", "Heads that drift most", caption, ("head", *(m.name for m in found)), rows)


def _training(group: Group) -> Table:
    rows: list[tuple[Value, ...]] = []
    for run in group.trainings:
        if run.steps:
            tenth = run.losses[-max(1, len(run.losses) // 10) :]
            rows.append((run.name, run.steps[-1], run.losses[0], sum(tenth) / len(tenth)))
    columns = ("run", "steps", "first loss (nats)", "mean of the last tenth (nats)")
    return Table("training", "Training", "Loss in nats per token.", columns, tuple(rows))
