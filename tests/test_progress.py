"""The bar over tokens: what it shows, where, and when it is silent."""

import pytest

from lengthwise.progress import token_bar


def test_a_bar_goes_to_stderr_and_names_what_is_in_hand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # drawn as on a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with token_bar("measuring", 200, shown=True) as bar:
        bar(50)
    first = capsys.readouterr()
    with token_bar("evaluating", 200, shown=True) as bar:
        bar(0, "passkey at 1,024")
        for _ in range(4):  # the rate is known from the third on
            bar(50)
    second = capsys.readouterr()
    assert (first.out, second.out) == ("", "")
    assert "measuring" in first.err
    assert "25%" in first.err
    assert "passkey at 1,024" in second.err
    assert "100%" in second.err
    assert "tokens/s" in second.err


def test_a_bar_that_is_not_wanted_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with token_bar("measuring", 200, shown=False) as bar:
        bar(50)
        bar(0, "passkey at 1,024")
    assert capsys.readouterr() == ("", "")
