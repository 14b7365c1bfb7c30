"""The bar over the tokens of a run, for whoever reads many of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, count: int, what: str | None = None) -> None:
        """Tell of `count` tokens that were read and, where it changes, of what is in hand."""
        ...


@contextmanager
def token_bar(what: str, total: int, *, shown: bool) -> Iterator[Advance]:
    """A bar over the tokens to read, with what is in hand, rate and time left, on stderr.

    Args:
        what: is in hand at the beginning.
        total: tokens of the whole run.
        shown: whether it is wanted; silent where not.
    """
    if not shown:
        yield lambda count, what=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(what, total=total, rate="")

        def advance(count: int, what: str | None = None) -> None:
            speed = display.tasks[0].speed
            rate = "" if speed is None else f"{speed:,.0f} tokens/s"
            display.update(task, advance=count, description=what, rate=rate)

        yield advance
