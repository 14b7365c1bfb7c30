"""The line a person watches while a model trains."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

# Seconds between redraws of the bar, and between plain lines where nobody watches a terminal.
_REDRAW_S = 0.5
_PLAIN_S = 20.0


class ProgressLine:
    """Loss, tokens per second and time left: a bar on a terminal, now and then a plain line elsewhere.

    Written to stderr, so that results on stdout stay clean. `update` costs a clock reading on most calls: nothing is
    drawn more than twice a second, and no thread redraws in between.
    """

    def __init__(self, label: str, total: int, *, start: int = 0, tokens_per_step: int = 0, show: bool = True) -> None:
        self._label, self._total, self._done = label, total, start
        self._tokens_per_step = tokens_per_step
        self._show = show
        self._terminal = show and sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._begin = self._last = time.monotonic()
        self._begin_step = start

    def __enter__(self) -> ProgressLine:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
                auto_refresh=False,
            )
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._done, figures="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.stop()

    def update(self, done: int, loss: float) -> None:
        """Tell that `done` steps are finished and what the loss of the newest was (nats per token)."""
        self._done = done
        now = time.monotonic()
        last = done >= self._total
        if not self._show or (not last and now - self._last < (_REDRAW_S if self._terminal else _PLAIN_S)):
            return
        self._last = now
        figures = self._figures(now, loss)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=figures)
            self._bar.refresh()
        else:
            print(f"{self._label} {done}/{self._total} {figures}", file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """A line of its own, above the bar where there is one."""
        if not self._show:
            return
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def _figures(self, now: float, loss: float) -> str:
        seconds = max(now - self._begin, 1e-9)
        steps = self._done - self._begin_step
        if steps < 1:
            return f"loss {loss:.3f}"
        rate = steps / seconds
        left = (self._total - self._done) / rate
        return f"loss {loss:.3f}  {rate * self._tokens_per_step:,.0f} tokens/s  {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
