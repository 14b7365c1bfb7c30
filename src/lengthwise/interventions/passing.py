"""Initial states that are final states: State Passing and TBTT (arXiv 2507.02782, sections 4.4 and 4.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lengthwise.data.readers import Batch
from lengthwise.errors import InputError
from lengthwise.interventions.base import InterventionBase, finite_rows, required, zero_rows
from lengthwise.state import Kind, State


class StatePassing(InterventionBase):
    """Each sequence starts from the final state of an unrelated one: row i of the previous batch (section 4.4).

    With shuffled windows row i of the previous batch already is an unrelated sequence; `permute` shuffles the rows for
    readers that do not. With probability `zero_prob` a sequence starts from zero in all layers at once. The first batch
    starts from zero. When the batch size changes, rows are drawn with replacement from those that are there.

    Carried states are cut from the graph and kept in float32. They are one optimizer step stale: the weights that made
    them have moved since. Rows with a NaN or an infinity in any layer are replaced by zero and counted. The short
    convolution's buffer starts from zero unless `carry_short`: the paper passes the recurrent state only. Positions are
    passed on, because at position 0 some recurrences forget their state (Griffin). Keys and values of attention layers
    are not: the text they belong to is another one.
    """

    name: ClassVar[str] = "state-passing"
    carries_attention: ClassVar[bool] = False

    def __init__(
        self,
        zero_state: Callable[[int], State],
        *,
        seed: int,
        zero_prob: float = 0.1,
        carry_short: bool = False,
        permute: bool = False,
        slots: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(zero_state, seed=seed, zero_prob=zero_prob, slots=slots, rank=rank)
        kinds: list[Kind] = ["recurrent", "position"]
        self._kinds = kinds + ["short"] * carry_short + ["attention"] * self.carries_attention
        self._permute = permute
        self._slot = 0
        self._carried: list[State | None] = [None] * slots
        self._zeroed_rows = 0

    def initial_state(self, step: int, batch: Batch) -> State | None:
        """The previous final states of this slot, some rows zeroed by their coins; None (zero) at first."""
        self._slot = step % self._slots
        carried = self._carried[self._slot]
        if carried is None:
            return None
        batch_size = batch.tokens.shape[0]
        index = self._row_index(carried.batch_size, batch_size, step)
        if index is not None:
            carried = carried.rows(index)
        fresh = self._fresh_rows(step, batch)
        self._zeroed_rows += int(fresh.sum())
        return zero_rows(carried, fresh)

    def observe(self, final_state: State) -> None:
        """Keep the final states for the next step of this slot."""
        state = final_state.detach().only(*self._kinds).map(None, _own_float32)
        finite = finite_rows(state)
        if not bool(finite.all()):
            self._nonfinite_rows += int((~finite).sum())
            state = zero_rows(state, ~finite)
        self._carried[self._slot] = state

    def _row_index(self, have: int, want: int, step: int) -> Tensor | None:
        """Which carried row each new row gets; None: row i gets row i."""
        if have != want:
            return torch.randint(have, (want,), generator=self.generator("resample", step))
        if self._permute:
            return torch.randperm(have, generator=self.generator("permute", step))
        return None

    def _fresh_rows(self, step: int, batch: Batch) -> Tensor:
        """Bool[B]: rows that start from zero."""
        return self.coins(step, batch.tokens.shape[0])

    def stats(self) -> dict[str, int | float]:
        """zeroed_rows: sequences that a coin (or a document start) made start from zero; and the counters."""
        return {"zeroed_rows": self._zeroed_rows, **super().stats()}

    def state_dict(self) -> dict[str, Tensor]:
        """The carried states of every slot, and the counters."""
        tensors = {"zeroed_rows": torch.tensor(self._zeroed_rows, dtype=torch.int64), **super().state_dict()}
        for slot, state in enumerate(self._carried):
            if state is not None:
                tensors.update({f"slots.{slot}.{name}": tensor for name, tensor in state.named_tensors()})
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        super().load_state_dict(tensors)
        self._zeroed_rows = int(required(tensors, "zeroed_rows", self.name))
        self._carried = [self._load_slot(tensors, f"slots.{slot}.") for slot in range(self._slots)]

    def _load_slot(self, tensors: Mapping[str, Tensor], prefix: str) -> State | None:
        mine = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if not mine:
            return None
        template = self._zero_state(next(iter(mine.values())).shape[0])

        # Fresh memory instead of views into the file's: matrix products may round differently for addresses that are
        # aligned differently, and a resumed run is to end with the same bits.
        slots = {name for name, _ in template.named_tensors("attention")}

        def fill(name: str, like: Tensor) -> Tensor:
            value = required(mine, name, self.name)
            # The number of slots for keys and values is that of the tokens seen, of which a zero state knows nothing.
            fits = value.shape[2:] == like.shape[2:] if name in slots else value.shape == like.shape
            if not fits:
                raise InputError(
                    expected=f"carried states of shape {list(like.shape)} for {name}",
                    got=str(list(value.shape)),
                    where="the intervention's saved state",
                    fix="resume with the model the run was started with",
                )
            return value.to(like.device, copy=True)

        return template.map_named(None, fill)


class TBTT(StatePassing):
    """Truncated backpropagation through time: row i continues row i of the previous batch (section 4.5).

    State Passing over a reader of lanes. The short convolution's buffer is carried too, and so are the keys and values
    of attention layers (as many as their window or budget keeps); a row whose document starts (`batch.reset`) starts
    from zero. No gradient flows from one chunk into the one before.
    """

    name: ClassVar[str] = "tbtt"
    carries_attention: ClassVar[bool] = True

    def __init__(
        self,
        zero_state: Callable[[int], State],
        *,
        seed: int,
        zero_prob: float = 0.0,
        carry_short: bool = True,
        slots: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(
            zero_state, seed=seed, zero_prob=zero_prob, carry_short=carry_short, permute=False, slots=slots, rank=rank
        )

    def _row_index(self, have: int, want: int, step: int) -> Tensor | None:
        if have != want:
            raise InputError(
                expected=f"{have} rows, as in the batch before: with tbtt every row continues its own lane",
                got=f"{want} rows",
                where=f"tbtt at forward pass {step}",
                fix="read with lanes of a constant number, or use state-passing",
            )
        return None

    def _fresh_rows(self, step: int, batch: Batch) -> Tensor:
        return super()._fresh_rows(step, batch) | batch.reset.cpu()


def _own_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, contiguous, and not a small view that keeps a large block of memory alive.

    Contiguous so that the layout, and with it the order of summation in what reads it, is the same after a resume.
    """
    if not tensor.is_floating_point():
        return tensor
    out = tensor.to(torch.float32).contiguous()
    holds = out.untyped_storage().nbytes()
    return out.clone() if holds > 2 * out.numel() * out.element_size() else out
