"""Any causal language model of transformers as a model whose state is an argument and a result.

The library's caches are changed in place by every call, and models differ in how they take them. `HFModel` copies a
cache before it is handed over, so that a state that someone holds stays what it was; it gives position ids on every
call where the model takes them, masks where there is padding, and moves out and in what a model keeps in its modules.

It corrects nothing: a model that loses its state from call to call loses it here as well. `engines.probe` finds out,
and `engines.oneshot` reads such models without a cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from lengthwise.engines import caches
from lengthwise.errors import InputError, RunFailure
from lengthwise.models.lm import MAX_LOGITS
from lengthwise.ops.padding import Padding, check_lengths
from lengthwise.shapes import Bool, Float, Int, Tensor
from lengthwise.state import Kind

_CACHE_ARGUMENTS = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")
Positions = Literal["given", "own", "restart"]
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_SCALES = ("logits_scaling", "logit_scale", "lm_head_multiplier", "logits_mup_width_multiplier")


@dataclass(frozen=True)
class HFState:
    """The state after some tokens, as a value. Nothing changes it; every call of the model works on a copy."""

    cache: Any
    """The library's own cache object; None where the model returns none."""
    held: dict[str, Tensor] = field(default_factory=dict)
    """What the model keeps in attributes of its modules, by ``path.attribute``."""
    position: Int[Tensor, " B"] | None = None
    """Real tokens read by each row."""
    mask: Bool[Tensor, "B S"] | None = None
    """Which of the slots read so far were real tokens; None: all."""
    slots: int = 0
    """Tokens handed over so far, padding included."""

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        assert self.position is not None
        return len(self.position)

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors, all rows."""
        return caches.nbytes((self.cache, list(self.held.values())))

    def named_tensors(self, kind: Kind | None = None) -> list[tuple[str, Tensor]]:
        """Tensors of one kind, or all, by their path in the cache or the name of the attribute that holds them."""
        return [
            (".".join(path), tensor)
            for path, tensor in caches.tensors(self.cache) + caches.tensors(self.held)
            if tensor.numel() and kind in (None, caches.kind_of(path, tensor))
        ]

    def map(self, kind: Kind | None, fn: Callable[[Tensor], Tensor]) -> HFState:
        """Apply `fn(tensor)` to the tensors of one kind (all floating-point ones for None)."""

        def change(path: tuple[str, ...], tensor: Tensor) -> Tensor:
            mine = caches.kind_of(path, tensor)
            wanted = tensor.is_floating_point() if kind is None else mine == kind
            return fn(tensor) if wanted and tensor.numel() else tensor

        return replace(self, cache=caches.rebuild(self.cache, change), held=caches.rebuild(self.held, change))

    def detach(self) -> HFState:
        """The same values, cut from the graph."""
        return replace(self, cache=caches.detached(self.cache), held=caches.detached(self.held))


@dataclass(frozen=True)
class HFOutput:
    """What a call returns."""

    logits: Float[Tensor, "B _ vocab"] | None
    """All T positions, one for logits="last", None for "none"."""
    state: HFState
    """After the last real token of each row."""


class HFModel:
    """A causal language model of transformers, or of a library that registers its models there.

    Args:
        model: as `AutoModelForCausalLM` makes it, not used before: what it keeps in its modules now is taken for the
            beginning of a text.
        positions: "given": position ids on every call, where the model takes them. "own": left to the model. "restart":
            given, and beginning at 0 on every call, which is wrong and tells whether a model does just that.
    """

    def __init__(self, model: Any, *, positions: Positions = "given") -> None:
        self.model = model
        self.config = model.config
        self.positions = positions
        parameters = inspect.signature(model.forward).parameters
        self._any_argument = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        self._arguments = frozenset(parameters)
        self.cache_argument = next((name for name in _CACHE_ARGUMENTS if name in parameters), None)
        self.takes_positions = "position_ids" in parameters
        self.takes_mask = "attention_mask" in parameters
        self._held = caches.Held(model)
        self._makes_cache: bool | None = None
        self._head: tuple[nn.Module, Callable[[Tensor], Tensor]] | Literal["unknown"] | None = "unknown"

    @property
    def name(self) -> str:
        """Name of the model's class."""
        return type(self.model).__name__

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return bool(self.model.training)

    def train(self, mode: bool = True) -> HFModel:
        """Switch between training and evaluation."""
        self.model.train(mode)
        return self

    def eval(self) -> HFModel:
        """Switch to evaluation."""
        return self.train(False)

    def parameters(self) -> Any:
        """The model's parameters."""
        return self.model.parameters()

    def named_parameters(self) -> Any:
        """The model's parameters with their names."""
        return self.model.named_parameters()

    def num_parameters(self) -> int:
        """Parameters, tied tables counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def to(self, device: torch.device | str) -> HFModel:
        """Move the model, in place."""
        self.model.to(device)
        return self

    @property
    def vocab_size(self) -> int:
        """Rows of the table of embeddings: every id below is a token to the model."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def held_names(self) -> list[str]:
        """Attributes of modules that hold state; known after the first call."""
        return self._held.names

    @property
    def keeps_cache(self) -> bool:
        """Whether the model makes a cache that it does not return, so that the caller has to make it; known after the
        first call."""
        return self._makes_cache is False

    def __call__(
        self,
        tokens: Int[Tensor, "B T"],
        state: HFState | None = None,
        *,
        logits: str = "all",
        lengths: Int[Tensor, " B"] | None = None,
        padding: Padding = "right",
    ) -> HFOutput:
        """Read tokens from a state.

        Args:
            tokens: token ids.
            state: what an earlier call returned; None for the beginning of a text.
            logits: "all", "last" (the last real token of each row) or "none".
            lengths: number of real tokens of each row, told to the model by a mask; None for all T.
            padding: the side on which the padding stands.

        Raises:
            InputError: where tokens, lengths or the state do not fit.
            RunFailure: where a state is given and the model returned none that could be carried.
        """
        self._check(tokens, state, lengths)
        if logits == "none" and lengths is None and (head := self.head()) is not None:
            return HFOutput(None, self._forward(head[0], tokens, state, None, padding, {})[1])
        options: dict[str, Any] = {}
        if "logits_to_keep" in self._arguments and (
            logits == "none" or (logits == "last" and _ends_real(lengths, padding))
        ):
            options["logits_to_keep"] = 1
        output, new = self._forward(self.model, tokens, state, lengths, padding, options)
        if logits == "none":
            return HFOutput(None, new)
        scores = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
        if logits == "last":
            if _ends_real(lengths, padding):
                scores = scores[:, -1:]
            else:
                assert lengths is not None
                scores = scores[torch.arange(len(tokens)), (lengths - 1).clamp(min=0)][:, None]
        return HFOutput(scores, new)

    def nll(
        self, tokens: Int[Tensor, "B T1"], state: HFState | None = None, *, max_logits: int = MAX_LOGITS
    ) -> tuple[Float[Tensor, "B T"], HFState]:
        """Negative log-likelihood of each next token, in nats; reads ``tokens[:, :-1]``, scores ``tokens[:, 1:]``.

        Logits are made for a piece of the time axis at once where the model's head could be told apart from its
        backbone (see `head`), else for all positions.

        Args:
            tokens: token ids, one more than positions scored.
            state: state before the first token.
            max_logits: elements of logits held at once.
        """
        self._check(tokens[:, :-1], state, None)
        targets, head = tokens[:, 1:], self.head()
        if head is None:
            output = self(tokens[:, :-1], state)
            assert output.logits is not None
            return _cross_entropy(output.logits, targets), output.state
        output, new = self._forward(head[0], tokens[:, :-1], state, None, "right", {})
        step = max(1, max_logits // (len(tokens) * self.vocab_size))
        losses = [
            _cross_entropy(head[1](output[0][:, t : t + step]), targets[:, t : t + step])
            for t in range(0, targets.shape[1], step)
        ]
        return torch.cat(losses, dim=1), new

    def predictions(self, tokens: Int[Tensor, "B T"], places: Int[Tensor, " n"]) -> Float[Tensor, "B n vocab"]:
        """Logits after the tokens at `places`, from one pass over the whole text."""
        if (head := self.head()) is None:
            scores = self(tokens).logits
            assert scores is not None
            return scores[:, places]
        output, _ = self._forward(head[0], tokens, None, None, "right", {})
        return head[1](output[0][:, places])

    def without_cache(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T vocab"]:
        """Logits of a whole text in a call that keeps nothing, as in training."""
        options = {"use_cache": False} if "use_cache" in self._arguments or self._any_argument else {}
        with _positions_of(self.model, tokens.shape[1]):
            scores: Tensor = self.model(tokens, **options).logits
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def head(self) -> tuple[nn.Module, Callable[[Tensor], Tensor]] | None:
        """(backbone, function from its last hidden state to logits), or None where the two are not what they seem.

        Models scale or cap their logits in ways that only their own forward knows. The usual forms are tried on a few
        tokens, and one is taken only if it gives the model's own logits.
        """
        if self._head == "unknown":
            self._head = self._find_head()
        return self._head

    @torch.no_grad()
    def _find_head(self) -> tuple[nn.Module, Callable[[Tensor], Tensor]] | None:
        backbone, table = getattr(self.model, "base_model", None), self.model.get_output_embeddings()
        if backbone is None or backbone is self.model or table is None:
            return None
        device = next(self.model.parameters()).device
        tokens = torch.arange(8, device=device)[None] % self.vocab_size
        # Whatever a backbone raises where it is not what it seems: then the whole model is called.
        try:
            wanted = self._forward(self.model, tokens, None, None, "right", {})[0].logits
            hidden = self._forward(backbone, tokens, None, None, "right", {})[0][0]
            raw = table(hidden)
        except Exception:
            return None
        for finish in _finishes(self.config):
            found = finish(raw)
            if found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-5, atol=1e-5):
                return backbone, _Head(table, finish)
        return None

    def _forward(
        self,
        module: Any,
        tokens: Tensor,
        state: HFState | None,
        lengths: Tensor | None,
        padding: Padding,
        options: dict[str, Any],
    ) -> tuple[Any, HFState]:
        """One call of the model or of its backbone, on a copy of the state."""
        batch, time = tokens.shape
        past, cache = (0, None) if state is None else (state.slots, caches.copied(state.cache))
        real = _real(tokens, lengths, padding)
        position = torch.zeros(batch, dtype=torch.int64, device=tokens.device) if state is None else state.position
        assert position is not None
        mask = None if state is None else state.mask
        if real is not None or mask is not None:
            ones = torch.ones(batch, past, dtype=torch.bool, device=tokens.device)
            here = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
            mask = torch.cat([ones if mask is None else mask, here], dim=1)
        options = dict(options)
        if "use_cache" in self._arguments or self._any_argument:
            options["use_cache"] = self.cache_argument is not None
        if self.positions != "own" and self.takes_positions:
            steps = torch.ones_like(tokens) if real is None else real.long()
            begin = torch.zeros_like(position) if self.positions == "restart" else position
            places = begin[:, None] + steps.cumsum(dim=1) - 1
            options["position_ids"] = places.clamp(min=0) if real is None else places.masked_fill(~real, 0)
        if self.takes_mask and mask is not None:
            whole = past == 0 or caches.has_attention(cache)
            if whole or real is not None:
                options["attention_mask"] = (mask if whole else mask[:, past:]).long()
        if state is None and self._makes_cache is False:
            cache = self._new_cache()
        if self.cache_argument is not None and cache is not None:
            options[self.cache_argument] = cache
        self._held.put(None if state is None else state.held)
        with _positions_of(module, past + time):
            output = module(tokens, **options)
        self._held.learn()
        returned = next((c for name in _CACHE_ARGUMENTS if (c := _get(output, name)) is not None), None)
        if returned is None:
            if state is None and self._makes_cache is None and self.cache_argument == "past_key_values":
                # The model made a cache and keeps it to itself: make one for it, and read it afterwards.
                self._makes_cache = False
                options.pop("use_cache", None)
                return self._forward(module, tokens, state, lengths, padding, options)
            returned = cache
        elif self._makes_cache is None:
            self._makes_cache = True
        held = self._held.take()
        self._held.put(None)
        count = torch.full_like(position, time) if lengths is None else lengths.to(position)
        return output, HFState(returned, held, position + count, mask, past + time)

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.config.get_text_config(decoder=True))

    def _check(self, tokens: Tensor, state: HFState | None, lengths: Tensor | None) -> None:
        if tokens.dim() != 2 or tokens.is_floating_point() or tokens.numel() == 0:
            raise InputError(
                expected="integer tokens [B, T], not empty",
                got=f"shape {tuple(tokens.shape)}, dtype {tokens.dtype}",
                where=self.name,
                fix="pass token ids of the model's own tokenizer",
            )
        if int(tokens.min()) < 0 or int(tokens.max()) >= self.vocab_size:
            raise InputError(
                expected=f"token ids in 0..{self.vocab_size - 1}",
                got=f"ids {int(tokens.min())}..{int(tokens.max())}",
                where=self.name,
                fix="pass token ids of the model's own tokenizer",
            )
        if lengths is not None:
            check_lengths(lengths, *tokens.shape)
            if not self.takes_mask:
                raise InputError(
                    expected="a model that takes an attention mask",
                    got=f"{self.name}, whose forward takes none",
                    where="lengths",
                    fix="read rows of one length together, or one at a time",
                )
        if state is None:
            return
        if state.batch_size != len(tokens):
            raise InputError(
                expected=f"a state of {len(tokens)} rows, one for each row of tokens",
                got=f"{state.batch_size} rows",
                where=self.name,
                fix="pass the state of the same rows",
            )
        if caches.is_empty((state.cache, list(state.held.values()))):
            raise RunFailure(
                expected="a model that returns what it carries",
                got=f"{self.name}, which returned no cache",
                where="the state given to it",
                fix="read the whole text in one call",
            )


@dataclass(frozen=True)
class _Head:
    """From a backbone's last hidden state to logits, in float32 or wider."""

    table: nn.Module
    finish: Callable[[Tensor], Tensor]

    def __call__(self, hidden: Tensor) -> Tensor:
        scores = self.finish(self.table(hidden))
        return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _get(output: Any, name: str) -> Any:
    return output.get(name) if hasattr(output, "get") else getattr(output, name, None)


def _ends_real(lengths: Tensor | None, padding: Padding) -> bool:
    """Whether the last column holds the last real token of every row."""
    return lengths is None or padding == "left"


def _real(tokens: Tensor, lengths: Tensor | None, padding: Padding) -> Tensor | None:
    """True at real tokens; None where all are."""
    if lengths is None:
        return None
    time = tokens.shape[1]
    places = torch.arange(time, device=tokens.device)[None]
    lengths = lengths.to(tokens.device)[:, None]
    return places < lengths if padding == "right" else places >= time - lengths


def _cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def _finishes(config: Any) -> list[Callable[[Tensor], Tensor]]:
    """What models do to the head's scores before they call them logits: nothing, a cap, a scale, or its inverse."""
    found: list[Callable[[Tensor], Tensor]] = [lambda x: x]
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    for name in _CAPS:
        if isinstance(cap := getattr(text, name, None), int | float) and cap:
            found.append(lambda x, cap=cap: cap * torch.tanh(x / cap))  # type: ignore[misc]
    for name in _SCALES:
        if isinstance(scale := getattr(text, name, None), int | float) and scale:
            found.append(lambda x, scale=scale: x * scale)  # type: ignore[misc]
            found.append(lambda x, scale=scale: x / scale)  # type: ignore[misc]
    return found


@contextmanager
def _positions_of(module: nn.Module, count: int) -> Iterator[None]:
    """Say what an IndexError inside a model means: ids are checked before, so what ran out is a table of positions."""
    try:
        yield
    except IndexError as error:
        raise InputError(
            expected="texts within the positions that the model has learned",
            got=f"{count:,} tokens ({error})",
            where=type(module).__name__,
            fix="give a shorter --length, or shorter --lengths: the model has no position beyond its table",
        ) from error
