"""What a check finds: one record per property, and what it means for the use of the model. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["pass", "fail", "not supported", "error"]
Severity = Literal["silent", "loud", "limit", "none"]
Positions = Literal["given", "own"]
Group = Literal["state", "padding", "packing", "basics"]


@dataclass(frozen=True)
class Property:
    """Something that holds for a model that carries its state rightly."""

    name: str
    group: Group
    title: str
    """What should hold, as shown in tables."""
    fault: str
    """What is the case where it does not hold, as the title of a bug report."""
    broken: str
    """What it means for measuring and using the model where it does not hold."""


PROPERTIES: tuple[Property, ...] = (
    Property(
        "two-pieces",
        "state",
        "whole text = two pieces",
        "a text read in two pieces with its cache gives other logits than the whole text",
        "Long texts must be read in one piece; perplexity by position would be that of a model that loses (part of) "
        "its past at every border.",
    ),
    Property(
        "uneven-pieces",
        "state",
        "whole text = uneven pieces",
        "a text read in uneven pieces with its cache gives other logits than the whole text",
        "A text must not be cut just anywhere: results depend on where the borders fall.",
    ),
    Property(
        "piece-then-tokens",
        "state",
        "whole text = a piece, then single tokens",
        "a text read as a piece and then single tokens gives other logits than the whole text",
        "What the model writes after a prompt does not come from the distribution that its perplexity is measured on.",
    ),
    Property(
        "single-tokens",
        "state",
        "whole text = single tokens",
        "a text read token by token gives other logits than the whole text",
        "Reading token by token is another function than reading the text at once; figures of the two must not be "
        "compared.",
    ),
    Property(
        "carried",
        "state",
        "a second call depends on the first",
        "the logits of a second call do not depend on the first",
        "Nothing is carried: every call begins a new text, without saying so.",
    ),
    Property(
        "fresh-start",
        "state",
        "a new text starts from nothing",
        "a new text with a new cache sees what the text before it left behind",
        "A text is read with what an earlier, unrelated text left behind; results depend on what ran before.",
    ),
    Property(
        "gradients",
        "state",
        "gradients through the state = of the whole text",
        "gradients through the cache differ from those of the whole text",
        "Training across pieces (truncated backpropagation, State Passing with gradients) follows a wrong gradient.",
    ),
    Property(
        "generate",
        "state",
        "generate() = whole text",
        "generate() computes other logits than a forward pass over the same text",
        "Answers in generation benchmarks come from another model than the one whose loss is reported.",
    ),
    Property(
        "left-padding",
        "padding",
        "left padding: real tokens unchanged",
        "padding on the left, with a mask, changes the logits of real tokens",
        "Rows of different lengths must not be padded on the left; scores depend on the other rows of the batch.",
    ),
    Property(
        "after-left-padding",
        "padding",
        "left padding: what follows unchanged",
        "a cache filled from text padded on the left, with a mask, gives other logits afterwards",
        "After a prompt padded on the left the state holds padding; batched generation depends on the other rows.",
    ),
    Property(
        "right-padding",
        "padding",
        "right padding: real tokens unchanged",
        "padding on the right, with a mask, changes the logits of real tokens",
        "Rows of different lengths must not be padded on the right, not even for scoring.",
    ),
    Property(
        "after-right-padding",
        "padding",
        "right padding: what follows unchanged",
        "a cache filled from text padded on the right, with a mask, gives other logits afterwards",
        "After a text padded on the right the state has read the padding; it must not be carried on. Scoring alone is "
        "not affected.",
    ),
    Property(
        "generate-left-padded",
        "padding",
        "generate() from a padded batch = row by row",
        "generate() from a batch padded on the left gives other logits than row by row",
        "Batched generation gives other answers than one prompt at a time.",
    ),
    Property(
        "packed",
        "packing",
        "packed documents = separate ones",
        "documents in one row see each other",
        "Documents in one row see each other.",
    ),
    Property(
        "causality",
        "basics",
        "a later token changes no earlier logits",
        "a later token changes earlier logits",
        "The model sees the token it predicts; its perplexity means nothing.",
    ),
    Property(
        "prefix",
        "basics",
        "a longer text changes no earlier logits",
        "the logits of a text depend on how long it goes on",
        "Losses at one position depend on how long the text is; lengths must not be compared.",
    ),
    Property(
        "rows",
        "basics",
        "rows do not see each other",
        "the logits of a row depend on the other rows",
        "A text's losses depend on the other texts of its batch.",
    ),
    Property(
        "repeat",
        "basics",
        "the same call gives the same result",
        "the same call gives another result the second time",
        "Results depend on chance or on earlier calls.",
    ),
    Property(
        "train-mode",
        "basics",
        "training mode = evaluation mode",
        "training mode gives other logits than evaluation mode, without dropout",
        "What is trained is another function than what is measured.",
    ),
    Property(
        "rounding",
        "basics",
        "rounding is small",
        "one pass differs from the same pass in float64 by more than rounding",
        "One pass in this precision is not the function that it is in float64; nothing else can be told from that.",
    ),
)
BY_NAME = {each.name: each for each in PROPERTIES}
NAMES = tuple(BY_NAME)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One property of one model."""

    name: str
    """Of the property: one of `NAMES`."""
    status: Status
    """error: the model raised an exception; not supported: the model offers no such thing, or refuses it by name."""
    positions: Positions | None = None
    """Whether position ids were given or left to the model; None where that makes no difference."""
    difference: float | None = None
    """Largest absolute difference of logits (of gradients: the norm of the difference)."""
    error: float | None = None
    """The same over the spread of the logits (over the norm of the gradient)."""
    tolerance: float | None = None
    """Largest error that passes: what rounding explains."""
    first: int | None = None
    """First position of the text at which the error is above the tolerance."""
    note: str = ""
    """What was found beyond the numbers: a cause, an exception's message, why it was not checked."""

    @property
    def severity(self) -> Severity:
        """silent: wrong numbers without a word; loud: an exception; limit: not offered."""
        levels: dict[Status, Severity] = {"pass": "none", "fail": "silent", "not supported": "limit", "error": "loud"}
        return levels[self.status]

    @property
    def bad(self) -> bool:
        """Whether the model is at fault."""
        return self.status in ("fail", "error")

    @property
    def title(self) -> str:
        """The property in words, with the way positions were treated where that matters."""
        title = BY_NAME[self.name].title
        return f"{title} (position ids left to the model)" if self.positions == "own" else title

    @property
    def fault(self) -> str:
        """What is the case where the property does not hold, with the condition that matters."""
        fault = BY_NAME[self.name].fault
        return f"{fault}, unless position ids are given" if self.positions == "own" else fault

    @property
    def meaning(self) -> str:
        """What follows for the use of the model; empty where all is well."""
        if not self.bad:
            return ""
        broken = BY_NAME[self.name].broken
        return f"{broken} With position ids given on every call it holds." if self.positions == "own" else broken

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            **asdict(self),
            "group": BY_NAME[self.name].group,
            "title": self.title,
            "severity": self.severity,
            "meaning": self.meaning,
            # JSON has no infinity: a difference that is not a number.
            **{name: _finite(getattr(self, name)) for name in ("difference", "error", "tolerance")},
        }


def _finite(value: float | None) -> float | None:
    return None if value is None or value in (float("inf"), float("-inf")) or value != value else value


def worst(findings: Sequence[Finding]) -> Finding | None:
    """The fault to report first: wrong numbers before exceptions, then in the order of `PROPERTIES`."""
    faults = sorted(
        (each for each in findings if each.bad),
        key=lambda each: (each.status != "fail", NAMES.index(each.name), each.positions == "own"),
    )
    return faults[0] if faults else None


def trust(findings: Sequence[Finding]) -> list[str]:
    """What can be trusted for measuring, in sentences."""
    status = {(each.name, each.positions): each.status for each in findings}

    def of(name: str) -> Status | None:
        return status.get((name, "given"), status.get((name, None)))

    streams = ("two-pieces", "uneven-pieces", "carried")
    words = []
    if any(of(name) in ("fail", "error") for name in ("causality", "repeat", "rows")):
        words.append("Do not measure this model: not even one pass over a text means what it should (see basics).")
    if all(of(name) == "pass" for name in streams):
        own = [name for name in streams if status.get((name, "own")) in ("fail", "error")]
        also = " as long as position ids are given on every call" if own else ""
        tokens = "" if of("single-tokens") == "pass" else ", but not token by token"
        words.append(f"Long texts can be streamed in pieces with the state carried{also}{tokens}.")
    elif of("two-pieces") == "pass" and of("carried") == "pass":
        words.append(
            "Long texts can be read in long pieces, but one-token calls give other numbers: read in one piece."
        )
    elif of("two-pieces") == "not supported":
        words.append("Read texts in one piece: the model carries nothing from call to call.")
    else:
        words.append("Read texts in one piece: the state is not carried rightly from call to call.")
    if of("fresh-start") in ("fail", "error"):
        words.append("Load the model anew for every measurement: texts see what earlier ones left in its modules.")
    if of("generate") == "pass":
        padded = of("generate-left-padded") in ("fail", "error")
        limit = ", for prompts of one length; a padded batch gives other answers" if padded else ""
        words.append(f"generate() writes from the distribution that perplexity is measured on{limit}.")
    elif of("generate") in ("fail", "error"):
        words.append("generate() is not the model whose perplexity is measured.")
    sides = [
        side for side in ("left", "right") if of(f"{side}-padding") == "pass" and of(f"after-{side}-padding") == "pass"
    ]
    scored = [side for side in ("left", "right") if of(f"{side}-padding") == "pass" and side not in sides]
    if sides == ["left", "right"]:
        words.append("Rows of different lengths can be padded on either side.")
    elif sides:
        words.append(
            f"Pad rows of different lengths on the {sides[0]}"
            + (f"; on the {scored[0]} only where nothing is read afterwards." if scored else ".")
        )
    elif scored:
        where = "either side" if len(scored) == 2 else f"the {scored[0]}"
        words.append(f"Padding on {where} is right for scoring, but not for reading on.")
    else:
        words.append("Read rows of one length together, or one row at a time: padding changes results.")
    gradient = of("gradients")
    if gradient == "pass":
        words.append("Gradients flow through the carried state as through the whole text.")
    elif gradient in ("fail", "error"):
        words.append("Do not train through the carried state.")
    elif any(each.name == "gradients" and each.note.startswith("not checked") for each in findings):
        words.append("Whether gradients flow through the carried state was not checked.")
    else:
        words.append("The carried state cannot be trained through.")
    return words
