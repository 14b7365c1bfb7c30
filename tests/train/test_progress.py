import pytest

from lengthwise.train import progress
from lengthwise.train.progress import ProgressLine


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_without_a_terminal_a_plain_line_comes_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine("train (zero)", 1000, start=200, tokens_per_step=512) as line:
        for step in range(201, 301):
            clock.now += 0.25
            line.update(step, 1.5)
    captured = capsys.readouterr()
    assert captured.out == ""
    # 80 steps of 0.25 s make 20 s; 720 steps are left at 4 steps/s.
    assert captured.err == "train (zero) 280/1000 loss 1.500  2,048 tokens/s  3:00 left\n"


def test_the_last_step_is_always_told_and_silence_is_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for show in (True, False):
        with ProgressLine("train", 2, tokens_per_step=8, show=show) as line:
            clock.now += 1.0
            line.update(1, 2.0)
            line.update(2, 1.0)
            line.say("done")
    assert capsys.readouterr().err == "train 2/2 loss 1.000  16 tokens/s  0:00 left\ndone\n"


def test_a_terminal_gets_a_bar_that_is_redrawn_at_most_twice_a_second(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.progress import Progress

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    drawn = []
    monkeypatch.setattr(Progress, "refresh", lambda self: drawn.append(clock.now))
    with ProgressLine("train", 4000, tokens_per_step=8) as line:
        for step in range(1000):
            clock.now += 0.01
            line.update(step, 2.0)
        during = len(drawn)
    assert 15 <= during <= 22  # ten seconds


def test_long_times_have_hours() -> None:
    assert progress._clock(59.6) == "1:00"
    assert progress._clock(3 * 3600 + 62.0) == "3:01:02"
