"""The one language-model skeleton: embedding, pre-norm residual blocks, final norm, output head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lengthwise.errors import InputError
from lengthwise.layers.attention import Attention
from lengthwise.layers.base import Mixer, Place
from lengthwise.layers.build import build_mixer, build_mlp
from lengthwise.layers.linear import Linear
from lengthwise.layers.norms import NORMS, RMSNorm, RMSNormPlusOne
from lengthwise.models.config import ModelConfig
from lengthwise.models.packing import cut_at
from lengthwise.native import Backend
from lengthwise.ops.padding import Padding, check_lengths, check_padding, swap_side
from lengthwise.seeds import generator
from lengthwise.shapes import Bool, Float, Int, Tensor
from lengthwise.state import MixerState, State

# Logits held at once by `nll`: 2^24 float32 values are 64 MB, about the largest that costs no speed.
MAX_LOGITS = 1 << 24
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Output:
    """What a forward pass returns."""

    logits: Float[Tensor, "B _ vocab"] | None
    """All T positions, one for logits="last", None for "none". Padded rows of the vocabulary are -inf."""
    hidden: Float[Tensor, "B T D"]
    """After the final norm."""
    state: State
    """After the last real token of each row."""


class Block(nn.Module):
    """``r + mixer(norm(r))``, then ``r + mlp(norm2(r))`` where the model has MLPs."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norm = _norm(config)
        self.mixer = build_mixer(config.d_model, config.mixers[layer], config.norm_eps)
        if config.mlp is not None:
            self.norm2 = _norm(config)
            self.mlp = build_mlp(config.d_model, config.mlp, config.norm_eps)
        self.has_mlp = config.mlp is not None

    def init_state(self, batch: int) -> tuple[MixerState, MixerState | None]:
        """The zero states of the mixer and, where it carries one, of the MLP."""
        channel = self.mlp.init_state(batch) if self.has_mlp and isinstance(self.mlp, Mixer) else None
        return self.mixer.init_state(batch), channel

    def forward(
        self,
        residual: Float[Tensor, "B T D"],
        state: MixerState | None,
        channel: MixerState | None,
        lengths: Int[Tensor, " B"] | None,
        dtype: torch.dtype,
    ) -> tuple[Float[Tensor, "B T D"], MixerState, MixerState | None]:
        """The residual stream and the states after the block. dtype: of what the branches read."""
        y, state = self.mixer(self.norm(residual).to(dtype), state, lengths)
        residual = residual + y
        if self.has_mlp:
            u = self.norm2(residual).to(dtype)
            if isinstance(self.mlp, Mixer):
                y, channel = self.mlp(u, channel, lengths)
            else:
                y = self.mlp(u)
            residual = residual + y
        assert state is not None
        return residual, state, channel


class Backbone(nn.Module):
    """Everything below the output head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        if config.embedding_norm:
            self.embedding_norm = _norm(config)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm_f = _norm(config)


def _norm(config: ModelConfig) -> nn.Module:
    return NORMS[config.norm](config.d_model, config.norm_eps)


class LanguageModel(nn.Module):
    """A causal language model whose state is an argument and a result, in training as in inference.

    Args:
        config: sizes.
        seed: of the initialisation.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False)
        if self.backbone.embedding.weight.device.type != "meta":
            self.reset_parameters(seed)

    @torch.no_grad()
    def reset_parameters(self, seed: int = 0) -> None:
        """Initialise: embeddings N(0, 0.02), mixers and MLPs by the rule of their family, norms neutral.

        RWKV, recognised by its norm of the embedding, has tiny embeddings and an orthogonal head, as published.
        """
        config, random = self.config, generator(seed, "model-init")
        if config.embedding_norm:
            self.backbone.embedding.weight.uniform_(-1e-4, 1e-4, generator=random)
        else:
            self.backbone.embedding.weight.normal_(0.0, 0.02, generator=random)
        for index, block in enumerate(self.blocks()):
            place = Place(index, config.num_layers, config.num_residuals)
            block.mixer.reset_parameters(random, place)
            if block.has_mlp:
                block.mlp.reset_parameters(random, place)  # type: ignore[operator]
        for module in self.modules():
            if isinstance(module, tuple(NORMS.values())):
                module.reset_parameters()  # type: ignore[operator]
        if not config.tie_embeddings:
            rows, width = self.lm_head.weight.shape
            if config.embedding_norm:
                gain = 0.5 * math.sqrt(rows / width) if rows > width else 0.5
                nn.init.orthogonal_(self.lm_head.weight, gain, generator=random)
            else:
                bound = width**-0.5
                self.lm_head.weight.uniform_(-bound, bound, generator=random)

    def num_parameters(self) -> int:
        """Parameters, tied tables counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def init_state(self, batch: int) -> State:
        """The zero state of `batch` rows."""
        records = [block.init_state(batch) for block in self.blocks()]
        channels = tuple(channel for _, channel in records)
        return State(tuple(mixer for mixer, _ in records), channels if any(channels) else ())

    def set_attention_budget(self, budget: int | None) -> None:
        """Bound what attention layers keep and see to the last `budget` tokens before each one; None for all of them.

        With a budget a stream of any length needs constant memory, and the model is one with a window of that size: its
        predictions change, so whoever reports them must say so. See `attention_state_bytes`.
        """
        for block in self.blocks():
            if isinstance(block.mixer, Attention):
                block.mixer.budget = budget

    def attention_state_bytes(self, num_tokens: int) -> int:
        """Bytes of keys and values that one row holds after so many tokens, window and budget considered."""
        total = 0
        for block in self.blocks():
            if isinstance(block.mixer, Attention):
                mixer = block.mixer
                reach = mixer.reach()
                kept = num_tokens if reach is None else min(num_tokens, reach - 1)
                floats = mixer.config.token_floats(self.config.d_model)
                total += kept * floats * block.norm.weight.element_size()  # type: ignore[operator]
        return total

    def set_backend(self, backend: Backend) -> None:
        """Choose the form of recurrences, products and norms; "auto" is the fastest for the device and dtype."""
        for module in self.modules():
            if isinstance(module, Mixer | Linear | RMSNorm | RMSNormPlusOne):
                module.backend = backend

    def backend_on(self, device: torch.device) -> str:
        """The form in which the mixers run on a device, in the dtype of the weights.

        Asks for the kernels, and so compiles those that this machine has not compiled before.

        Returns:
            "native", "torch", or "native+torch" where mixers differ. Attention has no kernel and counts as torch.

        Raises:
            InputError: where a mixer was set to "native" and cannot run so.
        """
        dtype = self.backbone.embedding.weight.dtype
        native = {block.mixer.runs_native(device, dtype) for block in self.blocks()}
        return "+".join(sorted("native" if each else "torch" for each in native))

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        state: State | None = None,
        *,
        lengths: Int[Tensor, " B"] | None = None,
        padding: Padding = "right",
        resets: Bool[Tensor, "B T"] | None = None,
        logits: Literal["all", "last", "none"] = "all",
    ) -> Output:
        """Read tokens from a state.

        Args:
            tokens: token ids.
            state: state before the first token; None for the zero state.
            lengths: number of real tokens of each row; None for all T.
            padding: the side on which the padding stands.
            resets: True where a document begins: the state before that token counts as zero; None for nowhere.
            logits: which positions get logits; "last" is the last real token of each row.

        Raises:
            InputError: where a shape, a token id, a length or the state does not fit.
        """
        batch, time = self._check(tokens, state)
        if logits not in ("all", "last", "none"):
            raise InputError(
                expected='"all", "last" or "none"',
                got=repr(logits),
                where="LanguageModel logits",
                fix="use one of these",
            )
        if resets is not None and resets.shape != tokens.shape:
            raise InputError(
                expected=f"a mask of the shape of the tokens, ({batch}, {time})",
                got=f"shape {tuple(resets.shape)}",
                where="LanguageModel resets",
                fix="pass one value for each token, True where a document begins",
            )
        check_padding(padding)
        if lengths is not None:
            check_lengths(lengths, batch, time)
            if padding == "left":
                tokens = swap_side(tokens, lengths, "left")
                resets = None if resets is None else swap_side(resets, lengths, "left")
        if resets is None:
            hidden, new = self._read(tokens, state, lengths)
        else:
            hidden, new = self._read_documents(tokens, state, lengths, resets)
        chosen = None if logits == "none" else hidden
        if logits == "last":
            last = torch.full((batch,), time - 1, device=tokens.device) if lengths is None else lengths - 1
            chosen = hidden[torch.arange(batch, device=tokens.device), last.clamp(min=0)][:, None]
        if lengths is not None and padding == "left":
            hidden = swap_side(hidden, lengths, "right")
            chosen = hidden if logits == "all" else chosen
        return Output(None if chosen is None else self.head(chosen), hidden, new)

    def _read(self, tokens: Tensor, state: State | None, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Hidden states after the final norm, and the state; padding on the right."""
        residual = self.embed(tokens)
        weight_dtype = self.backbone.embedding.weight.dtype
        layers, channels = [], []
        for index, block in enumerate(self.blocks()):
            record = None if state is None else state.layers[index]
            channel = state.channels[index] if state is not None and state.channels else None
            residual, record, channel = block(residual, record, channel, lengths, weight_dtype)
            layers.append(record)
            channels.append(channel)
        hidden = self.backbone.norm_f(residual).to(weight_dtype)
        return hidden, State(tuple(layers), tuple(channels) if any(channels) else ())

    def _read_documents(
        self, tokens: Tensor, state: State | None, lengths: Tensor | None, resets: Tensor
    ) -> tuple[Tensor, State]:
        """The same with documents that begin inside the rows; see `models.packing`."""
        parts = cut_at(resets, lengths)
        start = None if state is None else state.rows(parts.row)
        if start is not None:
            start = start.where(parts.continues, start.zeros_like())
        hidden, new = self._read(parts.gather(tokens), start, parts.length)
        return parts.scatter(hidden, tokens), new.rows(parts.last)

    def embed(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What enters the first block: embeddings, scaled and normed where the model does so."""
        config = self.config
        residual = F.embedding(tokens.long(), self.backbone.embedding.weight)
        if config.embedding_scale is not None:
            residual = residual * config.embedding_scale
        if config.residual_in_fp32:
            residual = residual.to(torch.promote_types(residual.dtype, torch.float32))
        return self.backbone.embedding_norm(residual) if config.embedding_norm else residual

    def head(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T vocab"]:
        """Logits in float32 or wider, -inf at the padded rows of the vocabulary."""
        table = self.backbone.embedding.weight if self.config.tie_embeddings else self.lm_head.weight
        scores = F.linear(hidden, table)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if (cap := self.config.logit_softcap) is not None:
            scores = cap * torch.tanh(scores / cap)
        if self.config.padded_vocab_size > self.config.vocab_size:
            columns = torch.arange(scores.shape[-1], device=scores.device)
            scores = scores.masked_fill(columns >= self.config.vocab_size, float("-inf"))
        return scores

    def nll(
        self, tokens: Int[Tensor, "B T1"], state: State | None = None, *, max_logits: int = MAX_LOGITS
    ) -> tuple[Float[Tensor, "B T"], State]:
        """Negative log-likelihood of each next token, in nats, lower is better.

        Reads ``tokens[:, :-1]`` and scores ``tokens[:, 1:]``. Consecutive pieces of a stream overlap by one token.
        Logits are made for a piece of the time axis at once, and made again in the backward pass where there are
        several, so that memory does not hold [B, T, vocab].

        Args:
            tokens: token ids, one more than positions scored.
            state: state before the first token.
            max_logits: elements of logits held at once.

        Returns:
            NLL of positions 1..T, float32 or wider, and the state after ``tokens[:, :-1]``.
        """
        if tokens.dim() != 2 or tokens.shape[1] < 2:
            raise InputError(
                expected="tokens of shape [B, T+1] with T >= 1",
                got=f"shape {tuple(tokens.shape)}",
                where="LanguageModel.nll",
                fix="pass the targets along: one token more than positions to score",
            )
        output = self(tokens[:, :-1], state, logits="none")
        targets = tokens[:, 1:]
        batch, time = targets.shape
        step = max(1, max_logits // (batch * self.config.padded_vocab_size))
        pieces = [(output.hidden[:, t : t + step], targets[:, t : t + step]) for t in range(0, time, step)]
        if len(pieces) > 1 and torch.is_grad_enabled():
            losses = [checkpoint(self._piece_nll, *piece, use_reentrant=False) for piece in pieces]
        else:
            losses = [self._piece_nll(*piece) for piece in pieces]
        return torch.cat(losses, dim=1) if len(losses) > 1 else losses[0], output.state

    def _piece_nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        scores = self.head(hidden)
        return F.cross_entropy(scores.flatten(0, 1), targets.flatten().long(), reduction="none").view_as(targets)

    def blocks(self) -> list[Block]:
        """The blocks, from the lowest."""
        return list(self.backbone.layers)  # type: ignore[arg-type]

    def _check(self, tokens: Tensor, state: State | None) -> tuple[int, int]:
        self.check_tokens(tokens)
        if state is not None:
            self.check_state(state, len(tokens))
        return tokens.shape[0], tokens.shape[1]

    def check_tokens(self, tokens: Tensor) -> None:
        """Refuse what are no token ids of this model, [B, T] and not empty.

        Raises:
            InputError: where shape, dtype or an id does not fit.
        """
        wrong = None
        if tokens.dim() != 2 or tokens.dtype not in _WHOLE or tokens.numel() == 0:
            wrong = f"shape {tuple(tokens.shape)}, dtype {tokens.dtype}"
        elif tokens.device.type != "meta" and (int(tokens.min()) < 0 or int(tokens.max()) >= self.config.vocab_size):
            wrong = f"ids {int(tokens.min())}..{int(tokens.max())}"
        if wrong:
            raise InputError(
                expected=f"integer tokens [B, T], not empty, in 0..{self.config.vocab_size - 1}, and a fitting state",
                got=wrong,
                where="LanguageModel",
                fix="pass token ids of the model's own tokenizer",
            )

    def check_state(self, state: State, batch: int) -> None:
        """Refuse a state of another model, or of another number of rows.

        Raises:
            InputError: where layers, rows, records or shapes do not fit.
        """
        blocks = self.blocks()
        channels = state.channels or (None,) * len(state.layers)
        carries = [block.has_mlp and isinstance(block.mlp, Mixer) for block in blocks]
        fits = len(state.layers) == len(channels) == len(blocks) and state.batch_size == batch
        if not fits or any(carry != (channel is not None) for carry, channel in zip(carries, channels, strict=True)):
            of_mlps = sum(channel is not None for channel in channels)
            more = f", {of_mlps} with a state of their MLP," if of_mlps != sum(carries) else ""
            raise InputError(
                expected=f"integer tokens [B, T], not empty, in 0..{self.config.vocab_size - 1}, and a fitting state",
                got=f"a state of {len(state.layers)} layers{more} and {state.batch_size} rows for {batch} rows",
                where="LanguageModel",
                fix=f"pass a state of this model ({len(blocks)} layers) with as many rows as tokens",
            )
        for index, (block, layer, channel) in enumerate(zip(blocks, state.layers, channels, strict=True)):
            block.mixer.check_state(layer, batch, f"layers.{index} of the state of LanguageModel")
            if channel is not None:
                assert isinstance(block.mlp, Mixer)
                block.mlp.check_state(channel, batch, f"layers.{index}.channel of the state of LanguageModel")
