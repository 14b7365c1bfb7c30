"""Results in words: the headline, the four-line story, the short forms of numbers.

Every sentence follows from numbers of the run and says no more than they do: a gain that the zero-state control shows
too is called a gain from more training, and a missing measurement is called missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from lengthwise.report.records import Group, Measured

VERDICT_WORDS = {"pass": "holds", "fail": "breaks", "undecided": "undecided", None: "not measured"}
"""A verdict as the page shows it."""
CONTROLLED = "the difficulty of the text taken out"
"""What the ratios of a verdict with a control variate are, beside the perplexities of charts and tables."""
BOUNDS = "97.5 % bounds over documents, the upper one for its own bin, the lower ones for all bins together"
"""What `low` and `high` of the verdicts' bins are: made for "is every bin good?" and "is some bin bad?"."""
DRIFT_FACTOR = 1.1
"""Change of the state's std past T that is worth calling a drift; State Passing in the paper's Figure 4 shows +10 %."""


@dataclass(frozen=True)
class Line:
    """One line of the story: a tag of one word, a sentence, and a tone ('fail', 'pass', 'undecided', 'plain')."""

    tag: str
    text: str
    tone: str


def count(value: int | None) -> str:
    """A number of tokens or steps, thousands separated."""
    return "not measured" if value is None else f"{value:,}"


def decimals(*values: float) -> int:
    """Decimals that show the largest of small differences with three digits or so: 3 for 0.25, 4 for 0.012."""
    largest = max((abs(value) for value in values), default=0.0)
    return 3 if largest >= 0.1 else 4 if largest >= 0.001 else 5


def signed(value: float, digits: int | None = None) -> str:
    """A signed number with a true minus sign, and no sign for what rounds to zero."""
    text = f"{value:+.{decimals(value) if digits is None else digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def share(value: float) -> str:
    """A number between 0 and 1: two decimals, three where it is small."""
    return f"{value:.2f}" if value >= 0.095 else f"{value:.3f}" if value >= 0.0005 or value == 0 else "<0.001"


def level(value: float) -> str:
    """A positive number with three digits or so."""
    return (
        f"{value:,.0f}"
        if value >= 1000
        else f"{value:.1f}"
        if value >= 100
        else f"{value:.3g}"
        if value < 1
        else f"{value:.2f}"
    )


def factor(value: float | None) -> str:
    """A ratio as a person reads it: ×1.31, ×12, ×0.97."""
    if value is None:
        return "not measured"
    return f"×{value:.2f}" if value < 9.95 else f"×{value:,.0f}"


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """An interval as "low to high", empty where it is unknown."""
    if low is None or high is None:
        return ""
    if sign:
        digits = decimals(low, high)
        return f"{signed(low, digits)} to {signed(high, digits)}"
    return f"{low:.2f} to {high:.2f}" if high < 100 else f"{low:,.0f} to {high:,.0f}"


def span(pair: tuple[int, int] | None) -> str:
    """Positions [start, end) as words."""
    return "an unknown position" if pair is None else f"positions {pair[0]:,} to {pair[1]:,}"


def plural(number: int, noun: str) -> str:
    """ "1 step", "100 steps"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def reach(model: Measured) -> str:
    """How far was measured: "16,384 tokens, 64 times the training length"."""
    times = model.length / model.context_length
    shown = f"{times:.0f}" if times == int(times) else f"{times:.1f}"
    return f"{model.length:,} tokens, {shown} times the training length"


def headline(group: Group) -> str:
    """The result of a group in one short sentence or two."""
    subject = group.subject
    if subject is None:
        return "A training run, not measured yet"
    if len(group.models) > 1 and group.kind == "measure":
        return _tally(group)
    past, to = f"past {subject.context_length:,} tokens", f"to {subject.length:,} tokens"
    alone = {
        "fail": f"Breaks {past}",
        "pass": f"Holds {to}",
        "undecided": f"Undecided up {to}",
        None: "Length generalization was not measured",
    }[subject.verdict]
    after, control = group.model("after"), group.model("control")
    if after is None or after is subject:
        return alone
    name = group.intervention or "the intervention"
    steps = f"{plural(group.num_steps, 'step')} of {name}" if group.num_steps else name
    changed = (subject.verdict, after.verdict)
    if changed == ("fail", "pass"):
        if control is not None and control.verdict == "pass":
            return f"{alone}. Mended, but by more training as much as by {name}"
        return f"{alone}. Mended by {steps}"
    if changed == ("pass", "pass"):
        return f"{alone}, before and after {name}"
    if changed == ("fail", "fail"):
        return f"{alone}, and still does after {steps}"
    if after.verdict is None:
        return alone
    then = {"pass": f"holds {to}", "fail": f"breaks {past}", "undecided": "undecided"}[after.verdict]
    return f"{alone}. After {steps}: {then}"


def _tally(group: Group) -> str:
    """How many of several models hold."""
    held = sum(model.verdict == "pass" for model in group.models)
    broke = sum(model.verdict == "fail" for model in group.models)
    rest = len(group.models) - held - broke
    parts = [f"{held} of {len(group.models)} models hold past the training length"]
    parts += [f"{broke} break{'s' if broke == 1 else ''}"] if broke else []
    parts += [f"{rest} undecided or not measured"] if rest else []
    return ", ".join(parts)


def standing(group: Group) -> str:
    """What was measured, on what, how far: the line below the headline."""
    subject = group.subject
    if subject is None:
        return "The loss of training is shown below."
    parts = [f"trained on {subject.context_length:,} tokens at a time", f"measured to {reach(subject)}"]
    if subject.num_sequences:
        parts.append(f"on {plural(subject.num_sequences, 'text')}")
    return ", ".join(parts)


def story(group: Group) -> tuple[Line, ...]:
    """Breaks here, why, repaired, proof: as many of the four as the run can tell."""
    subject = group.subject
    if subject is None:
        return ()
    if group.kind == "measure" and len(group.models) > 1:
        return tuple(_line(VERDICT_WORDS[m.verdict], f"{m.name}: {finding(m)}", m.verdict) for m in group.models)
    tag = {"fail": "Breaks", "pass": "Holds", "undecided": "Undecided", None: "Not measured"}[subject.verdict]
    lines = [_line(tag, finding(subject), subject.verdict)]
    reason = why(group)
    if reason:
        lines.append(Line("Why" if subject.verdict == "fail" and _explained(group) else "Inside", reason, "plain"))
    after, control = group.model("after"), group.model("control")
    if after is not None and after is not subject:
        tag = {"pass": "Holds", "fail": "Breaks", "undecided": "Undecided", None: "Not measured"}[after.verdict]
        if subject.verdict == "fail":
            tag = {"pass": "Mended", "fail": "Not mended"}.get(after.verdict or "", tag)
        name = group.intervention or "the intervention"
        steps = f"After {plural(group.num_steps, 'step')} of {name}: " if group.num_steps else f"After {name}: "
        lines.append(_line(tag, steps + _lower(finding(after)), after.verdict))
    if control is not None and control is not subject:
        lines.append(_control_line(group, control, after))
    return tuple(lines)


def _line(tag: str, text: str, verdict: str | None) -> Line:
    return Line(_upper(tag), text, verdict or "plain")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _control_line(group: Group, control: Measured, after: Measured | None) -> Line:
    """What the same steps without the intervention do: the proof, or the lack of one."""
    same = "The same windows and steps from zero states"
    ratio = control.definition.worst_ratio if control.definition else None
    measured = f" ({ratio:.2f} times)" if ratio is not None else ""
    name = group.intervention or "the intervention"
    mended = after is not None and after.verdict == "pass"
    if control.verdict == "fail" and mended:
        text = f"{same} still break{measured}: the gain comes from the states, not from more training."
        return Line("Proof", text, "pass")
    if control.verdict == "pass" and mended:
        text = f"{same} hold as well{measured}: the gain may come from more training alone, not from {name}."
        return Line("No proof", text, "undecided")
    shown = {"fail": "break", "pass": "hold", "undecided": "stay undecided", None: "were not measured"}
    return Line("Control", f"{same} {shown[control.verdict]}{measured if control.verdict else ''}.", "plain")


def finding(model: Measured) -> str:
    """Both verdicts of one model in a sentence each; the intervals stand in the table below them."""
    parts = [text for text in (_definition_words(model), _restart_words(model)) if text]
    return " ".join(parts) if parts else "Neither verdict was measured."


def _definition_words(model: Measured) -> str:
    found = model.definition
    if found is None or found.worst_ratio is None or found.verdict is None:
        return ""
    worst = f"{found.worst_ratio:.2f} times its best within the training length"
    perplexity = f"Perplexity, {CONTROLLED}," if found.controlled else "Perplexity"
    if found.verdict == "fail":
        from_there = f", beyond the tolerance from {count(found.first_failing)} on" if found.first_failing else ""
        return f"{perplexity} climbs to {worst}{from_there}."
    if found.verdict == "pass":
        return f"{perplexity} stays at or below {worst}."
    return f"{perplexity} reaches {worst}: too close to the tolerance for this much text to decide."


def _restart_words(model: Measured) -> str:
    found = model.restart
    if found is None or found.difference is None or found.verdict is None:
        return ""
    size = f"{signed(abs(found.difference)).lstrip('+')} nats per token"
    rest = f"forgetting all but the last {model.context_length:,} tokens"
    if found.verdict == "fail":
        return f"{_upper(rest)} would be better, by {size}." if found.difference > 0 else f"{_upper(rest)} is better."
    if found.uses_history:
        return f"Reading everything beats {rest}, by {size}."
    if found.verdict == "pass":
        return f"Reading everything is no worse than {rest}."
    return f"Whether {rest} would be better is undecided."


def _drifts(model: Measured) -> bool:
    """Whether the spread of the state at the far end is clearly another than at the training length."""
    growth = state_growth(model)
    return growth is not None and not 1 / DRIFT_FACTOR < growth < DRIFT_FACTOR


def _clings(group: Group) -> bool:
    """Whether old text moves the prediction of the model as it came clearly more than that of the mended one."""
    subject, after = group.subject, group.model("after")
    old = out_of_window(subject) if subject else None
    new = out_of_window(after) if after else None
    return old is not None and new is not None and old > 1.5 * new


def _explained(group: Group) -> bool:
    """Whether what goes on inside differs in a way that can be called a reason."""
    return (group.subject is not None and _drifts(group.subject)) or _clings(group)


def state_growth(model: Measured) -> float | None:
    """Std of the whole state at the last position measured, as a multiple of that at the training length."""
    if model.states is None or not model.states.positions:
        return None
    at, last = model.states.std_at(model.context_length), model.states.std_at(model.states.positions[-1])
    return None if not at or last is None else last / at


def why(group: Group) -> str:
    """What the state and Effective Remembrance say about the model as it came, beside the mended one."""
    subject, after = group.subject, group.model("after")
    if subject is None:
        return ""
    parts = []
    growth = state_growth(subject)
    if growth is not None and subject.states is not None:
        later = state_growth(after) if after is not None and after is not subject else None
        then = f"; after: {factor(later)}" if later is not None else ""
        last = count(subject.states.positions[-1])
        if _drifts(subject):
            told = f"Its state leaves the range that training showed it: by {last} tokens its spread is"
        else:
            told = f"The spread of its state hardly changes past the training length: by {last} tokens it is"
        parts.append(f"{told} {factor(growth)} that at {count(subject.context_length)}{then}.")
    old = out_of_window(subject)
    if old is not None:
        later = out_of_window(after) if after is not None and after is not subject else None
        then = f" (after: {share(later)})" if later is not None else ""
        parts.append(
            f"Text more than {count(subject.context_length)} tokens back shifts its prediction by {share(old)}{then} "
            "on a scale from 0 to 1."
        )
    return " ".join(parts)


def out_of_window(model: Measured) -> float | None:
    """Effective Remembrance (total variation) of everything further back than the training length."""
    return model.remembrance.out_of_window.get("tv") if model.remembrance else None


def section_title(group: Group, section: str) -> str:
    """The finding of a section as its title; a neutral title where the numbers say nothing clear."""
    subject, after = group.subject, group.model("after")
    plain = {
        "perplexity": "Perplexity by position",
        "restart": "Does the model make use of its history?",
        "remembrance": "How much old text moves the prediction",
        "states": "The state over time",
        "heads": "The heads that drift most",
        "training": "The training runs",
    }[section]
    if subject is None or (len(group.models) > 1 and group.kind == "measure"):
        return plain
    after = None if after is subject else after
    name = group.intervention or "the intervention"
    if section == "perplexity" and subject.definition:
        past = f"past {subject.context_length:,} tokens"
        first = {"fail": f"Perplexity climbs {past}", "pass": f"Perplexity holds {past}"}.get(
            subject.definition.verdict or "", plain
        )
        then = after.definition.verdict if after and after.definition else None
        return first + {"pass": f"; after {name} it holds", "fail": f"; after {name} it climbs"}.get(then or "", "")
    if section == "restart" and subject.restart:
        first = {"fail": "More history makes it worse", "pass": "More history does no harm"}.get(
            subject.restart.verdict or "", plain
        )
        if subject.restart.uses_history:
            first = "More history helps it"
        if after is None or after.restart is None or after.restart.verdict not in ("pass", "fail"):
            return first
        then = (
            "it hurts"
            if after.restart.verdict == "fail"
            else "it helps"
            if after.restart.uses_history
            else "it is harmless"
        )
        return f"{first}; after {name} {then}"
    broken = subject.verdict == "fail"
    if section == "remembrance" and broken and _clings(group):
        return "Why: it clings to old text"
    if section == "states" and broken and _drifts(subject):
        return "Why: its state leaves the range it was trained on"
    return plain
