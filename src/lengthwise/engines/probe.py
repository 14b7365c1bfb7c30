"""Does a model carry its state? Texts read in one piece and in several, compared against what rounding explains.

Everything here works on a `Subject`: one of our models, or `HFModel`. Errors are largest absolute differences of
logits over their spread, which is the root mean square of the logits about their mean at each position. So an error
of 1 is as large as what tells tokens apart.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from lengthwise.engines.base import evaluating
from lengthwise.models.lm import LanguageModel
from lengthwise.seeds import generator
from lengthwise.shapes import Float, Int, Tensor

ROUNDING_FACTOR = 16
"""An error passes up to this many times the error of one pass in the model's own precision."""
FLOORS = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""... or up to this, where that is more: sums in another order. Models asked for float64 keep parts in float32."""
CEILINGS = {torch.float64: 1e-3, torch.float32: 0.02, torch.bfloat16: 0.5, torch.float16: 0.1}
"""... but never above this: a model whose single pass moves more is not rounding, it is another function each time."""
EXACT_PARAMETERS = 100_000_000
"""Larger models are not copied to float64; their rounding is taken from the same text in other company."""
LARGE_FLOOR = 1e-4
"""The floor for these: sums in another order are only a part of what rounding does."""
LENGTH = 64
ROWS = 3


class Subject(Protocol):
    """What is probed."""

    training: bool

    def __call__(self, tokens: Tensor, state: Any = None, *, logits: Any = "all") -> Any:
        """Output with `logits` and `state`."""
        ...


@dataclass(frozen=True)
class Yardstick:
    """What rounding alone does to a model's logits."""

    spread: float
    """Root mean square of the logits about their mean at each position."""
    rounding: float
    """Largest error of one pass in the model's precision."""
    tolerance: float
    """Largest error that passes."""
    how: str
    """What `rounding` compares."""


@dataclass(frozen=True)
class Comparison:
    """Two sets of logits that should be equal."""

    difference: float
    """Largest absolute difference."""
    error: float
    """The same over the spread."""
    first: int | None
    """First position at which the error is above the tolerance."""
    passes: bool


@dataclass(frozen=True)
class Carrying:
    """Whether a model's state can be trusted from one call to the next."""

    right: bool
    why: str
    """A sentence: what was compared, and what was found."""
    error: float | None = None
    tolerance: float | None = None


def probe_tokens(model: Any, rows: int, length: int, *, seed: int) -> Int[Tensor, "rows length"]:
    """Random tokens of the model's vocabulary, on its device; none that its configuration calls special."""
    config, device = model.config, next(iter(model.parameters())).device
    vocab = int(model.vocab_size) if hasattr(model, "vocab_size") else int(config.vocab_size)
    special = {value for value in _token_ids(config) if value < vocab}
    ids = torch.tensor([i for i in range(min(vocab, 4096)) if i not in special])
    chosen = torch.randint(len(ids), (rows, length), generator=generator(seed, "check-tokens"))
    return ids[chosen].to(device)


def _token_ids(config: Any) -> Iterator[int]:
    values = config.to_dict()
    values = {**values, **(values.get("text_config") or {})}
    for name, value in values.items():
        if name.endswith(("token_id", "token_index")):
            yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int))


def logits_of(model: Any, scores: Tensor) -> Tensor:
    """The logits that mean something: ours are minus infinity at the padded rows of the vocabulary."""
    return scores[..., : model.config.vocab_size] if isinstance(model, LanguageModel) else scores


def read(
    model: Any, tokens: Int[Tensor, "B T"], pieces: Sequence[int] = (), state: Any = None
) -> tuple[Float[Tensor, "B T vocab"], Any]:
    """Logits of a text read in pieces of these lengths with the state carried, and the last state; () for one piece."""
    outputs, start = [], 0
    for length in pieces or (tokens.shape[1],):
        output = model(tokens[:, start : start + length], state)
        if tuple(output.logits.shape[:2]) != (len(tokens), length):
            raise ValueError(f"logits of shape {tuple(output.logits.shape)} for {len(tokens)} rows of {length} tokens")
        outputs.append(logits_of(model, output.logits))
        start, state = start + length, output.state
    assert start == tokens.shape[1], "pieces must add up to the text"
    return torch.cat(outputs, dim=1), state


def spread_of(logits: Float[Tensor, "B T vocab"]) -> float:
    """Root mean square of the logits about their mean at each position; a constant there changes no probability."""
    values = logits.detach().double()
    return float((values - values.mean(dim=-1, keepdim=True)).square().mean().sqrt())


def compare(actual: Tensor, expected: Tensor, yardstick: Yardstick, *, offset: int = 0) -> Comparison:
    """Compare logits [B, T, vocab]; NaN and infinity count as an infinite difference.

    Args:
        actual, expected: logits at the same positions.
        yardstick: of the model.
        offset: position of the first of them in the text.
    """
    gap = (actual.detach().double() - expected.detach().double()).abs().nan_to_num(nan=float("inf"))
    by_position = gap.amax(dim=(0, 2))
    difference = float(by_position.max())
    error = difference / yardstick.spread
    beyond = (by_position / yardstick.spread > yardstick.tolerance).nonzero()
    return Comparison(difference, error, int(beyond[0]) + offset if len(beyond) else None, len(beyond) == 0)


def take_yardstick(model: Any, tokens: Int[Tensor, "B T"]) -> Yardstick:
    """Measure what rounding does to one pass over these tokens: against float64 where the model is small enough."""
    with torch.no_grad():
        found = read(model, tokens)[0]
        spread = spread_of(found)
        dtype = next(iter(model.parameters())).dtype
        exact, floor = in_float64(model), FLOORS.get(dtype, 1e-5)
        expected = None if exact is None else _attempt(lambda: read(exact, tokens)[0])
        if expected is not None:
            rounding = _largest(found, expected) / spread
            how = f"one pass in {_short(dtype)} against float64"
        else:
            alone = torch.cat([read(model, tokens[row : row + 1])[0] for row in range(len(tokens))])
            shorter = read(model, tokens[:, :-3])[0]
            rounding = max(_largest(found, alone), _largest(found[:, :-3], shorter)) / spread
            floor = max(floor, LARGE_FLOOR)
            how = f"rows alone against rows together, and a shorter text, in {_short(dtype)}"
    tolerance = min(max(floor, ROUNDING_FACTOR * rounding), CEILINGS.get(dtype, 0.02))
    return Yardstick(spread, rounding, tolerance, how)


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max())


def in_float64(model: Any) -> Any:
    """A copy of the model in float64; None for a large one."""
    from lengthwise.engines.hf import HFModel

    module = model.model if isinstance(model, HFModel) else model
    if not isinstance(module, nn.Module) or sum(p.numel() for p in module.parameters()) > EXACT_PARAMETERS:
        return None
    twin: Any = copy.deepcopy(module).double()
    if not isinstance(model, HFModel):
        return twin
    # Grouped products of experts know no float64; models without experts refuse the setting.
    _attempt(lambda: twin.set_experts_implementation("eager"))
    return HFModel(twin, positions=model.positions)


def _attempt(action: Callable[[], Any]) -> Any:
    """The result, or None where the library refuses; for steps that a check can do without."""
    try:
        return action()
    except Exception:
        return None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def several(length: int) -> list[int]:
    """Pieces of uneven lengths that add up to `length` (at least 16): long, one token, short, the rest."""
    first = length // 2 - 2
    return [first, 1, 5, 2, length - first - 8]


def carries(model: Any, *, seed: int = 0, length: int = LENGTH) -> Carrying:
    """The quick part of a check: whole texts against two pieces, and against uneven ones with a single token.

    Any exception of the model counts as a state that cannot be carried.
    """
    with evaluating(model), torch.no_grad():
        tokens = probe_tokens(model, 2, length, seed=seed)
        yardstick = take_yardstick(model, tokens)
        whole = read(model, tokens)[0]
        worst: Comparison | None = None
        for pieces in ([length // 2, length - length // 2], several(length)):
            try:
                found = compare(read(model, tokens, pieces)[0], whole, yardstick)
            except Exception as error:  # of a model that is not ours; it may be anything
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                return Carrying(False, f"reading {length} tokens in pieces {_listed(pieces)} failed ({reason})")
            if not found.passes:
                why = (
                    f"reading {length} tokens in pieces {_listed(pieces)} changes logits by {found.difference:.2g} "
                    f"from position {found.first} on; rounding explains {yardstick.tolerance * yardstick.spread:.2g}"
                )
                return Carrying(False, why, found.error, yardstick.tolerance)
            worst = found if worst is None or found.error > worst.error else worst
    assert worst is not None
    explained = yardstick.tolerance * yardstick.spread
    why = f"whole text and pieces agree to {worst.difference:.2g}, where rounding explains {explained:.2g}"
    return Carrying(True, why, worst.error, yardstick.tolerance)


def _listed(pieces: Sequence[int]) -> str:
    return " + ".join(map(str, pieces))


def pads_left(model: Any, *, seed: int = 0, length: int = LENGTH) -> Carrying:
    """Whether a shorter row may stand in one batch with a longer one, padded on its left, and be read on from there.

    Two rows are read together, the shorter one with padding in its first piece: a piece, another, a single token. Each
    must give what it gives alone. Any exception of the model counts as a padding that cannot be used.
    """
    with evaluating(model), torch.no_grad():
        tokens = probe_tokens(model, 2, length, seed=seed)
        yardstick = take_yardstick(model, tokens)
        first, short = length // 2, length - length // 4
        alone = [read(model, tokens[:1])[0], read(model, tokens[1:, length - short :])[0]]
        lengths = torch.tensor([first, first - (length - short)], device=tokens.device)
        try:
            padded = tokens.clone()
            padded[1, : length - short] = 0
            output = model(padded[:, :first], None, lengths=lengths, padding="left")
            pieces, state = [logits_of(model, output.logits)], output.state
            for begin, end in ((first, length - 1), (length - 1, length)):
                output = model(padded[:, begin:end], state)
                pieces.append(logits_of(model, output.logits))
                state = output.state
            together = torch.cat(pieces, dim=1)
            found = [
                compare(together[:1], alone[0], yardstick),
                compare(together[1:, length - short :], alone[1], yardstick, offset=length - short),
            ]
        except Exception as error:  # of a model that is not ours; it may be anything
            return Carrying(False, f"padding failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
    worst = max(found, key=lambda each: each.error)
    explained = f"rounding explains {yardstick.tolerance * yardstick.spread:.2g}"
    if not worst.passes:
        why = f"padding on the left changes logits by {worst.difference:.2g}, where {explained}"
        return Carrying(False, why, worst.error, yardstick.tolerance)
    why = f"padded rows and rows alone agree to {worst.difference:.2g}, where {explained}"
    return Carrying(True, why, worst.error, yardstick.tolerance)
