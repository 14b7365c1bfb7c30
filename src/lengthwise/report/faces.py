"""What a group shows, whatever its kind: measurements and evaluations behind the same few functions."""

from __future__ import annotations

from lengthwise.report import charts, tables, words
from lengthwise.report._marks import Chart, Missing
from lengthwise.report.evals import charts as eval_charts
from lengthwise.report.evals import tables as eval_tables
from lengthwise.report.evals import words as eval_words
from lengthwise.report.evals.records import EvalGroup
from lengthwise.report.records import Group

AnyGroup = Group | EvalGroup


def headline(group: AnyGroup) -> str:
    """The result in one short sentence or two."""
    return eval_words.headline(group) if isinstance(group, EvalGroup) else words.headline(group)


def standing(group: AnyGroup) -> str:
    """What was done: the line below the headline."""
    return eval_words.standing(group) if isinstance(group, EvalGroup) else words.standing(group)


def story(group: AnyGroup) -> tuple[words.Line, ...]:
    """The few sentences below it."""
    return eval_words.story(group) if isinstance(group, EvalGroup) else words.story(group)


def board(group: AnyGroup) -> tuple[tables.Row, ...]:
    """The scoreboard."""
    return eval_tables.board(group) if isinstance(group, EvalGroup) else tables.board(group)


def all_charts(group: AnyGroup) -> dict[str, list[Chart | Missing]]:
    """Every chart by section, in the order of the page."""
    return eval_charts.all_charts(group) if isinstance(group, EvalGroup) else charts.all_charts(group)


def drawn(group: AnyGroup) -> list[Chart]:
    """The charts that could be made, in the order of the page."""
    return [chart for section in all_charts(group).values() for chart in section if isinstance(chart, Chart)]


def all_tables(group: AnyGroup) -> tuple[tables.Table, ...]:
    """Every table that has something to show."""
    return eval_tables.all_tables(group) if isinstance(group, EvalGroup) else tables.all_tables(group)
