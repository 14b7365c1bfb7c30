"""The verdicts as sentences that a person reads. Every number in them is one of the verdict's own."""

from __future__ import annotations

from lengthwise.measure.verdict import BinDifference, BinRatio, DefinitionVerdict, RestartVerdict

CONTROLLED = "the difficulty of the text taken out"
"""What a ratio with a control variate is: it is not that of the perplexities as they are."""


def definition_words(found: DefinitionVerdict, context_length: int, num_documents: int) -> str:
    """The definition verdict in one or two sentences."""
    length = found.ratios[-1].end
    worst = next(r for r in found.ratios if (r.start, r.end) == found.worst_bin)
    best = f"its best inside the training context of {context_length:,}"
    perplexity = f"perplexity, {CONTROLLED}," if found.controlled else "perplexity"
    if found.verdict == "fail":
        return f"{_limits(found, context_length)}: {_place(worst)} its {perplexity} is {_times(worst)} {best}."
    if found.verdict == "pass":
        multiple = length / context_length
        factor = f"{multiple:.0f}" if multiple >= 10 or multiple == round(multiple) else f"{multiple:.1f}"
        return (
            f"Reads up to {length:,} tokens, {factor} times its training context of {context_length:,}: its "
            f"{perplexity} stays within {found.tolerance:.0%} of its best inside that context. "
            f"The largest is {_times(worst)} that best, {_place(worst)}."
        )
    if found.worst_low is None:
        return (
            f"How far it reads is undecided: one document gives no interval. {_place(worst).capitalize()} its "
            f"{perplexity} is {worst.ratio:.2f} times {best}."
        )
    widest = max(found.ratios, key=lambda ratio: ratio.high or 0.0)
    return (
        f"How far it reads is undecided with {num_documents} documents: {_place(widest)} its {perplexity} is "
        f"{_times(widest)} {best}, and the limit is {1 + found.tolerance:.2f}. More documents would tell."
    )


def _limits(found: DefinitionVerdict, context_length: int) -> str:
    """What a failed verdict shows: up to where perplexity holds, from where it is worse, and that rest is open."""
    first, held = found.first_failing_position, _held(found, context_length)
    if first == context_length:
        return f"Reads no further than its training context of {context_length:,} tokens"
    if held == first:
        return f"Its perplexity holds up to {first:,} tokens, then gets worse"
    if held > context_length:
        shown = f"shown to hold up to {held:,} tokens and to be worse from {first:,}"
        return f"Its perplexity is {shown}, undecided between"
    return f"Its perplexity is shown to be worse from {first:,} tokens, undecided from {context_length:,} up to there"


def _held(found: DefinitionVerdict, context_length: int) -> int:
    """Up to where every bin is shown to be within the tolerance; the training context where the first one is not."""
    held = context_length
    for each in found.ratios:
        if each.high is None or each.high > 1 + found.tolerance:
            break
        held = each.end
    return held


def restart_words(found: RestartVerdict, context_length: int, num_documents: int) -> str:
    """The restart verdict in one or two sentences."""
    history = f"at most {context_length:,} tokens of history"
    if found.verdict == "fail":
        worst = max(found.bins, key=lambda each: each.difference)
        return (
            f"What it read long ago harms it: {_place(worst)} it predicts worse by {_nats(worst)} with everything "
            f"before than with {history} and a fresh state. "
            f"The harm is shown from {found.first_failing_position:,} tokens on."
        )
    if found.low is None or found.high is None:
        return (
            f"Whether its history harms it is undecided: one document gives no interval. With everything before, its "
            f"loss is {found.difference:+.4f} nats per token against {history}."
        )
    overall = f"{_signed(found.difference)} nats per token ({_signed(found.low)} to {_signed(found.high)})"
    if found.verdict == "undecided":
        return (
            f"Whether its history harms it is undecided with {num_documents} documents: with everything before, its "
            f"loss changes by {overall} against {history}, and in some bin the limit of {found.tolerance:.0%} lies "
            f"inside the interval. More documents would tell."
        )
    if found.uses_history:
        return (
            f"It gains from text further back than its training context: with everything before, its loss changes by "
            f"{overall} against {history}."
        )
    if found.low > 0:
        return (
            f"Text further back than its training context costs it a little, less than {found.tolerance:.0%} of "
            f"perplexity in every bin: its loss changes by {overall} against {history}."
        )
    return (
        f"Text further back than its training context neither harms nor helps it measurably: its loss changes by "
        f"{overall} against {history}."
    )


def _place(where: BinRatio | BinDifference) -> str:
    return f"at {where.start:,} to {where.end:,} tokens"


def _times(found: BinRatio) -> str:
    if found.low is None or found.high is None:
        return f"{found.ratio:.2f} times"
    return f"{found.ratio:.2f} times ({found.low:.2f} to {found.high:.2f})"


def _nats(found: BinDifference) -> str:
    if found.low is None or found.high is None:
        return f"{found.difference:.3f} nats per token"
    return f"{found.difference:.3f} nats per token ({found.low:.3f} to {found.high:.3f})"


def _signed(value: float) -> str:
    """With a true minus sign, and without one for a zero."""
    text = f"{value:+.4f}"
    return "0.0000" if float(text) == 0 else text.replace("-", "−")
