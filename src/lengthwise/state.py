"""The state of a recurrent model as an immutable value.

A `State` holds one typed record per layer, and one more where the layer's MLP carries a state of its own. Each tensor
of a record belongs to a kind:

- ``recurrent``: the matrix or vector that the recurrence carries (SSM, linear attention, RG-LRU),
- ``short``: the buffer of a short convolution or a token shift,
- ``attention``: keys and values of past tokens, [B, S, ...] with the newest token last; see below,
- ``position``: an absolute position counter, the number of tokens read, [B].

Slot s of S slots of kind ``attention`` holds the token at position ``position - S + s``; slots whose token would lie
before position 0 are empty, whatever is in them. So rows with different pasts lie side by side, slots may be dropped
from the left, and a row whose position is 0 has no past.

Nothing here mutates: every operation returns a new value. ``None`` in place of a `State` means the zero state.
Batch is dimension 0 of every tensor.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from lengthwise.errors import InputError
from lengthwise.runs import atomic_write_bytes
from lengthwise.shapes import Bool, Int, Tensor

Kind = Literal["recurrent", "short", "attention", "position"]
KINDS: tuple[Kind, ...] = ("recurrent", "short", "attention", "position")

_RECORDS: dict[str, type[MixerState]] = {}
_Record = TypeVar("_Record", bound="MixerState")


def tensor_field(kind: Kind) -> Any:
    """Declare a tensor of a `MixerState` and the kind it belongs to."""
    return field(metadata={"kind": kind})


@dataclass(frozen=True)
class MixerState:
    """Base of the per-layer records. Subclasses are frozen dataclasses whose fields are made by `tensor_field`."""

    def __init_subclass__(cls) -> None:
        # The only registry of the module: it is filled when a class is defined and lets `State.load` find it by name.
        _RECORDS[cls.__name__] = cls

    def tensors(self) -> list[tuple[str, Kind, Tensor]]:
        """(field name, kind, tensor) in the order of declaration."""
        return [(f.name, f.metadata["kind"], getattr(self, f.name)) for f in fields(self)]

    def with_tensors(self: _Record, **tensors: Tensor) -> _Record:
        """A copy with some tensors replaced."""
        return replace(self, **tensors)


@dataclass(frozen=True)
class State:
    """The state of a whole model: one record per layer, batch first.

    Args:
        layers: one `MixerState` per layer, all with the same number of rows.
        channels: one record per layer for what its MLP carries, None where it carries nothing; empty where no MLP does.
    """

    layers: tuple[MixerState, ...]
    channels: tuple[MixerState | None, ...] = ()

    def __post_init__(self) -> None:
        rows = {tensor.shape[0] if tensor.dim() else None for _, tensor in self.named_tensors()}
        if len(rows) != 1 or None in rows:
            raise InputError(
                expected="a state whose tensors all have the same number of rows",
                got="a tensor without dimensions" if None in rows else f"rows {sorted(filter(None, rows))}",
                where="State",
                fix="build it with init_state(batch) or State.cat",
            )

    def _records(self) -> list[tuple[str, MixerState]]:
        """(prefix, record) of every record, layer by layer."""
        records = []
        for index, layer in enumerate(self.layers):
            records.append((f"layers.{index}", layer))
            channel = self.channels[index] if self.channels else None
            if channel is not None:
                records.append((f"layers.{index}.channel", channel))
        return records

    def named_tensors(self, kind: Kind | None = None) -> list[tuple[str, Tensor]]:
        """Tensors of one kind, or all, named ``layers.<index>.<field>`` or ``layers.<index>.channel.<field>``."""
        return [
            (f"{prefix}.{name}", tensor)
            for prefix, record in self._records()
            for name, of_kind, tensor in record.tensors()
            if kind is None or of_kind == kind
        ]

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.named_tensors()[0][1].shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors, all rows."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self.named_tensors())

    def map_named(self, kind: Kind | None, fn: Callable[[str, Tensor], Tensor]) -> State:
        """Apply `fn(name, tensor)` to the tensors of one kind (all for None); the others are shared as they are."""
        if kind is not None and kind not in KINDS:
            raise InputError(
                expected=f"a kind of state tensor: {', '.join(KINDS)}",
                got=f"'{kind}'",
                where="State.map",
                fix="pass one of these, or None for all",
            )
        changed = {
            prefix: record.with_tensors(
                **{
                    name: fn(f"{prefix}.{name}", tensor)
                    for name, of_kind, tensor in record.tensors()
                    if kind is None or of_kind == kind
                }
            )
            for prefix, record in self._records()
        }
        return State(
            tuple(changed[f"layers.{index}"] for index in range(len(self.layers))),
            tuple(changed.get(f"layers.{index}.channel") for index in range(len(self.channels))),
        )

    def map(self, kind: Kind | None, fn: Callable[[Tensor], Tensor]) -> State:
        """Apply `fn(tensor)` to the tensors of one kind (all for None)."""
        return self.map_named(kind, lambda _, tensor: fn(tensor))

    def detach(self) -> State:
        """The same values, cut from the graph."""
        return self.map(None, lambda tensor: tensor.detach())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        """Move to a device; `dtype` changes floating-point tensors only, positions keep theirs."""
        return self.map(
            None,
            lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None),
        )

    def rows(self, index: Int[Tensor, " n"]) -> State:
        """The rows `index`, in that order; a row may be taken more than once."""
        return self.map(None, lambda tensor: tensor.index_select(0, index.to(tensor.device)))

    def where(self, mask: Bool[Tensor, " B"], other: State) -> State:
        """Row b of self where ``mask[b]``, else row b of `other`. Gradients flow into the chosen rows only."""
        mine, theirs = _with_equal_slots([self, other])
        others = dict(theirs.named_tensors())

        def choose(name: str, tensor: Tensor) -> Tensor:
            shape = (-1,) + (1,) * (tensor.dim() - 1)
            return torch.where(mask.to(tensor.device).view(shape), tensor, others[name].to(tensor.dtype))

        return mine.map_named(None, choose)

    def only(self, *kinds: Kind) -> State:
        """The same with every tensor of another kind emptied: zeros, and no slots at all for ``attention``.

        Where slots are dropped their position is emptied too: without the tokens there is nothing to count from, and
        such a row may lie beside rows that have slots.
        """
        kept = {name for kind in kinds for name, _ in self.named_tensors(kind)}
        slots = {name for name, _ in self.named_tensors("attention")}
        if "attention" not in kinds:
            records = {name.rsplit(".", 1)[0] for name in slots}
            kept -= {name for name, _ in self.named_tensors("position") if name.rsplit(".", 1)[0] in records}

        def empty(name: str, tensor: Tensor) -> Tensor:
            if name in kept:
                return tensor
            return tensor[:, :0] if name in slots else torch.zeros_like(tensor)

        return self.map_named(None, empty)

    def zeros_like(self) -> State:
        """The zero state of the same shapes."""
        return self.map(None, torch.zeros_like)

    def finite_rows(self) -> Bool[Tensor, " B"]:
        """True for rows that hold no NaN and no infinity in any tensor."""
        finite = torch.ones(self.batch_size, dtype=torch.bool)
        for _, tensor in self.named_tensors():
            if tensor.is_floating_point():
                # A sum is finite only if its terms are; this is far cheaper than isfinite over every element.
                total = tensor.detach().flatten(1).sum(dim=1, dtype=torch.float64)
                finite &= torch.isfinite(total).cpu()
        return finite

    @staticmethod
    def cat(states: Sequence[State]) -> State:
        """Rows of all states, one after the other."""
        states = _with_equal_slots(states)
        first = states[0]
        columns = [dict(state.named_tensors()) for state in states]
        return first.map_named(None, lambda name, _: torch.cat([column[name] for column in columns]))

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, atomically."""
        # Copies: layers may share a tensor, which the format does not allow.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.named_tensors()}
        metadata = {
            "records": [type(layer).__name__ for layer in self.layers],
            "channels": [None if record is None else type(record).__name__ for record in self.channels],
            "modules": {type(record).__name__: type(record).__module__ for _, record in self._records()},
        }
        text = {key: json.dumps(value) for key, value in metadata.items()}
        atomic_write_bytes(Path(path), serialize(tensors, metadata=text))

    @staticmethod
    def load(path: str | Path) -> State:
        """Read a file written by `save`.

        Raises:
            InputError: where the file is missing, cut short, or holds no state.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            modules = metadata.get("modules", {})
            layers = [
                _record(name, modules, f"layers.{index}", tensors) for index, name in enumerate(metadata["records"])
            ]
            channels = [
                None if name is None else _record(name, modules, f"layers.{index}.channel", tensors)
                for index, name in enumerate(metadata.get("channels", []))
            ]
            state = State(tuple(layers), tuple(channels))
            if unknown := sorted(tensors.keys() - {name for name, _ in state.named_tensors()}):
                raise ValueError(f"tensors that belong to no layer: {', '.join(unknown[:4])}")
        except (OSError, SafetensorError, ImportError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                expected="a state written by State.save",
                got=f"{type(error).__name__}: {error}",
                where=str(path),
                fix="check the path, or save the state again",
            ) from error
        return state


def _record(name: str, modules: Mapping[str, str], prefix: str, tensors: Mapping[str, Tensor]) -> MixerState:
    """A record from the tensors of a file, which names the module of ours that defines its class."""
    package = __name__.partition(".")[0]
    if name not in _RECORDS and modules.get(name, "").startswith(f"{package}."):
        importlib.import_module(modules[name])
    if name not in _RECORDS:
        raise KeyError(f"no record {name} is defined here; import the module that defines it")
    record = _RECORDS[name]
    return record(**{f.name: tensors[f"{prefix}.{f.name}"] for f in fields(record)})


def _with_equal_slots(states: Sequence[State]) -> list[State]:
    """The states with as many attention slots each as the one that has most; empty slots are added on the left."""
    most: dict[str, int] = {}
    for state in states:
        for name, tensor in state.named_tensors("attention"):
            most[name] = max(most.get(name, 0), tensor.shape[1])

    def filled(name: str, tensor: Tensor) -> Tensor:
        missing = most[name] - tensor.shape[1]
        if missing == 0:
            return tensor
        return torch.cat([tensor.new_zeros(len(tensor), missing, *tensor.shape[2:]), tensor], dim=1)

    return [state.map_named("attention", filled) if most else state for state in states]
