"""What other libraries' models carry from call to call, handled as a value: copied, looked at, changed by kind.

Caches are objects of many classes, nested and changed in place. Here a cache is only ever walked: every tensor in it
is found by its path, and a copy with other tensors is made without knowing the class. Some models keep (part of) their
state in attributes of their modules instead; `Held` finds those attributes and moves their tensors out and in.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from lengthwise.shapes import Tensor
from lengthwise.state import Kind

_LIBRARIES = ("transformers", "transformers_modules", "fla")
"""Objects of these packages are opened; any other object is shared as it is."""
_ATTENTION = ("key", "value", "attn", "attention", "latent")
_SHORT = ("conv", "shift", "short", "ffn")

Path = tuple[str, ...]


def rebuild(value: Any, fn: Callable[[Path, Tensor], Tensor]) -> Any:
    """A copy of a cache in which every tensor is ``fn(path, tensor)``.

    Containers and the libraries' own objects are new, so changing the copy in place leaves the original as it was. A
    tensor that stands at two places is one tensor in the copy as well.
    """
    return _rebuild(value, fn, (), {})


def _rebuild(value: Any, fn: Callable[[Path, Tensor], Tensor], path: Path, done: dict[int, Any]) -> Any:
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Tensor):
        done[id(value)] = fn(path, value)
    elif isinstance(value, tuple):
        items = [_rebuild(each, fn, (*path, str(i)), done) for i, each in enumerate(value)]
        done[id(value)] = type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    elif isinstance(value, list):
        items_of_list: list[Any] = []
        done[id(value)] = items_of_list
        items_of_list.extend(_rebuild(each, fn, (*path, str(i)), done) for i, each in enumerate(value))
    elif isinstance(value, dict) and type(value) is dict:
        done[id(value)] = held = {}
        held.update({key: _rebuild(each, fn, (*path, str(key)), done) for key, each in value.items()})
    elif _is_cache_object(value):
        new = done[id(value)] = object.__new__(type(value))
        if isinstance(value, dict):
            dict.update(new, {key: _rebuild(each, fn, (*path, str(key)), done) for key, each in value.items()})
        elif isinstance(value, list):
            list.extend(new, (_rebuild(each, fn, (*path, str(i)), done) for i, each in enumerate(value)))
        for name, each in vars(value).items():
            new.__dict__[name] = _rebuild(each, fn, (*path, name), done)
    else:
        return value
    return done[id(value)]


def _is_cache_object(value: Any) -> bool:
    kind = type(value)
    if kind.__module__.split(".")[0] not in _LIBRARIES or isinstance(value, nn.Module | enum.Enum | type):
        return False
    # Configurations know nothing of the text, and are large.
    return hasattr(value, "__dict__") and not kind.__name__.endswith("Config")


def copied(value: Any) -> Any:
    """A copy with cloned tensors; the graph goes through the copy."""
    return rebuild(value, lambda _, tensor: tensor.clone())


def tensors(value: Any) -> list[tuple[Path, Tensor]]:
    """Every tensor of a cache with its path, in a fixed order."""
    found: list[tuple[Path, Tensor]] = []

    def note(path: Path, tensor: Tensor) -> Tensor:
        found.append((path, tensor))
        return tensor

    rebuild(value, note)
    return found


def kind_of(path: Path, tensor: Tensor) -> Kind:
    """Which kind of state a tensor is, told by the names on its path: the nearest that says something.

    RWKV-4's state is a bare list of five tensors: two token shifts, then numerator, denominator and maximum.
    """
    if not tensor.is_floating_point():
        return "position"
    names = [part.lower() for name in path for part in name.split(".")]
    for name in reversed(names):
        if any(part in name for part in _SHORT):
            return "short"
        if any(part in name for part in ("recurrent", "ssm", "rnn", "memory")):
            return "recurrent"
        if any(part in name for part in _ATTENTION):
            return "attention"
    if len(names) == 1 and names[0].isdigit():
        return "short" if int(names[0]) < 2 else "recurrent"
    # Caches before transformers 4.36: a tuple of layers, each a pair of keys and values.
    return "attention" if len(names) == 2 and all(name.isdigit() for name in names) else "recurrent"


class Held:
    """State that a model keeps in its modules: attributes that a forward pass sets, beside parameters and buffers.

    Args:
        model: in which to look.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._clean = dict(self._attributes())
        self._names: list[tuple[str, str]] | None = None

    def _attributes(self) -> Iterator[tuple[tuple[str, str], Tensor | None]]:
        for path, module in self._modules.items():
            for name, value in vars(module).items():
                if value is None or isinstance(value, Tensor):
                    yield (path, name), value

    def learn(self) -> None:
        """After the first forward pass with a cache: whatever it set is state."""
        if self._names is None:
            self._names = [
                key for key, value in self._attributes() if value is not None and value is not self._clean.get(key)
            ]

    @property
    def names(self) -> list[str]:
        """Attributes that hold state, as ``path.attribute``."""
        return [f"{path}.{name}" for path, name in self._names or ()]

    def take(self) -> dict[str, Tensor]:
        """What the attributes hold now; the modules may change these tensors in place until `put`."""
        found = {f"{path}.{name}": getattr(self._modules[path], name) for path, name in self._names or ()}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def put(self, values: Mapping[str, Tensor] | None) -> None:
        """Set the attributes to copies of `values`; None: to what they were before the first forward pass."""
        for path, name in self._names or ():
            if values is None:
                setattr(self._modules[path], name, self._clean.get((path, name)))
            else:
                value = values.get(f"{path}.{name}")
                setattr(self._modules[path], name, None if value is None else value.clone())


def nbytes(value: Any) -> int:
    """Bytes held by all tensors of a cache."""
    return sum(tensor.numel() * tensor.element_size() for _, tensor in tensors(value))


def detached(value: Any) -> Any:
    """The same values, cut from the graph."""
    return rebuild(value, lambda _, tensor: tensor.detach())


def is_empty(value: Any) -> bool:
    """Whether a cache holds no number at all, so that it cannot carry anything."""
    return not any(tensor.numel() and tensor.is_floating_point() for _, tensor in tensors(value))


def has_attention(value: Any) -> bool:
    """Whether a cache holds keys and values, so that a mask has to cover every token since the start."""
    return any(kind_of(path, tensor) == "attention" for path, tensor in tensors(value) if tensor.numel())
