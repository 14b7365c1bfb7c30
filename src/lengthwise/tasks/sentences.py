"""Where one sentence of a text ends and the next begins.

The published samples cut books with a Punkt splitter that was never trained, so that it knows no abbreviations. Without
training few of its rules are left, and these are they:

- a sentence ends at ``.``, ``?`` or ``!`` where white space follows, or one of the marks in `_AFTER`;
- but not at a dot that belongs to an ellipsis, nor after a single letter or a number that goes on (with a small letter,
  with ``;`` or ``:``, or, after a single letter, with a capital: "J. Smith");
- straight quotes and brackets that close at the end of a sentence stay with it.

So "Mr. Weston" is cut in two, and an end that a curly quote follows is none. On the prose of the golden samples it cuts
where they were cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_AFTER = r"""[)\";}\]*:@'({\[!?]"""
_END = re.compile(rf"[.?!](?=(?P<mark>{_AFTER})|\s+(?P<next>\S))")
_CLOSING = re.compile(r"""["')\]}]+(?=\s|--|$)""")
_INITIAL = re.compile(r"""(?:^|[\s()"`{}\[\]:;&#*@,!?]|--)[^\W\d_]$""")
_NUMBER = re.compile(r"""(?:^|[\s()"`{}\[\]:;&#*@!?]|--)-?[.,]?\d[\d,.\-]*$""")
_WORD = 32  # characters before a dot that decide what word it ends


def split_sentences(text: str) -> Iterator[str]:
    """Sentences of `text`, one after the other, without the white space between them."""
    begin = 0
    for found in _END.finditer(text):
        dot = found.start()
        if text[dot] == "." and not _ends_sentence(text, dot, found["mark"] or found["next"]):
            continue
        end = dot + 1
        if closing := _CLOSING.match(text, end):
            end = closing.end()
        if text[begin:end].strip():
            yield text[begin:end].strip()
        begin = end
    if text[begin:].strip():
        yield text[begin:].strip()


def _ends_sentence(text: str, dot: int, following: str) -> bool:
    """Whether a dot ends a sentence, given the first character of what comes next."""
    before = text[dot - 1 : dot]
    if before == ".":
        return False  # an ellipsis
    word = text[max(0, dot - _WORD) : dot]
    # Most dots follow a word of several letters: only the others are looked at closely.
    initial = before.isalpha() and not text[dot - 2 : dot - 1].isalpha() and _INITIAL.search(word) is not None
    number = not initial and not before.isalpha() and _NUMBER.search(word) is not None
    if not (initial or number):
        return True
    return not (following.islower() or following in ";:!?" or (initial and following.isupper()))
