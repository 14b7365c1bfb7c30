"""The pieces a passkey prompt is made of: ours, or those of a file."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lengthwise.errors import InputError, check_keys

_FIX = "see docs/tasks/passkey.md for an example"


@dataclass(frozen=True, kw_only=True)
class PasskeyWording:
    """The pieces of a prompt."""

    instruction: str
    filler: str
    """Text that is repeated: sentences, or one block of the variant `blocks`."""
    key_line: str
    """Holds {key}, once or more."""
    question: str
    """Ends where the key follows."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str):
                raise _wrong(field.name, "a text", repr(value), "put it in quotes")
        if "{key}" not in self.key_line:
            raise _wrong("key_line", "a text with {key} in it", repr(self.key_line), "write {key} where the key stands")
        if not self.filler.strip():
            raise _wrong("filler", "text to repeat", repr(self.filler), "give at least one sentence")

    def line(self, key: str) -> str:
        """The key line with its key."""
        return self.key_line.replace("{key}", key)

    @property
    def fingerprint(self) -> str:
        """sha256 hex of all pieces."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def _wrong(piece: str, expected: str, got: str, fix: str) -> InputError:
    return InputError(expected=expected, got=got, where=f"{piece} of a passkey wording", fix=fix)


OWN = PasskeyWording(
    instruction="Somewhere in the text below a pass key is given. Remember it: at the end you will be asked for it.",
    filler="The river runs slowly past the mill. A cat sleeps on the warm wall. It rained a little in the night. "
    "Now the road is dry again. Nobody is in a hurry.",
    key_line="The pass key is {key}. Keep it in mind: the pass key is {key}.",
    question="What was the pass key? The pass key was",
)
"""Our words, for the variants that put line breaks between the pieces themselves."""
OWN_BLOCKS = PasskeyWording(
    instruction=OWN.instruction + "\n\n",
    filler=OWN.filler + "\n",
    key_line=OWN.key_line + "\n",
    question="\n" + OWN.question,
)
"""The same for `blocks`, whose pieces follow one another as they are."""


def read_wording(path: str | Path) -> PasskeyWording:
    """Pieces out of a JSON or TOML file with the keys instruction, filler, key_line and question.

    Raises:
        InputError: no such file, not JSON or TOML, a key that is missing or unknown, a key line without {key}.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        values = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(
            expected="a JSON or TOML file with the pieces of a passkey prompt",
            got=f"none that can be read ({error})",
            where=str(file),
            fix=_FIX,
        ) from error
    names = [field.name for field in fields(PasskeyWording)]
    expected = f"the keys {', '.join(names)}"
    given = values if isinstance(values, dict) else {}
    check_keys(given, names, expected=expected, where=str(file))
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(expected=expected, got=f"a file without {', '.join(missing)}", where=str(file), fix=_FIX)
    return PasskeyWording(**given)
