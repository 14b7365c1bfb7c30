"""Sentences end where an untrained Punkt splitter ends them."""

import pytest
from tests.tasks.sources import books_text

from lengthwise.tasks.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("  \n ", []),
        ("One. Two? Three! Four", ["One.", "Two?", "Three!", "Four"]),
        ("No abbreviations: Mr. Hale came.", ["No abbreviations: Mr.", "Hale came."]),
        ("He said J. Brown left. He did.", ["He said J. Brown left.", "He did."]),
        ("a. small letter", ["a. small letter"]),
        ("It was Clay's. She knew.", ["It was Clay's.", "She knew."]),
        ("At 7. the bell rang. At 8. Nobody came.", ["At 7. the bell rang.", "At 8.", "Nobody came."]),
        ("Version 3.5 is out.", ["Version 3.5 is out."]),
        ("Well... Perhaps not.", ["Well... Perhaps not."]),
        ('"Shut it." He left.', ['"Shut it."', "He left."]),
        ("(So it was.) Then", ["(So it was.)", "Then"]),
        ("“Shut it.” He left. So.", ["“Shut it.” He left.", "So."]),
        ("Oh! yes, I must.", ["Oh!", "yes, I must."]),
        ("What?! Really?", ["What?", "!", "Really?"]),
        ("me.--Oh! yes", ["me.--Oh!", "yes"]),
        ("than,\n\n“Very well. So", ["than,\n\n“Very well.", "So"]),
        ("two\nlines.\n\nTwo  spaces.  End.", ["two\nlines.", "Two  spaces.", "End."]),
    ],
)
def test_ends(text: str, sentences: list[str]) -> None:
    assert list(split_sentences(text)) == sentences


def test_nothing_is_lost_but_white_space() -> None:
    text = books_text(10)
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())
