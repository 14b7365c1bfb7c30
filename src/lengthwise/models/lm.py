"""The one language-model skeleton: embedding, pre-norm residual blocks, final norm, output head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lengthwise.errors import InputError
from lengthwise.layers.mamba2 import Mamba2
from lengthwise.layers.norms import RMSNorm
from lengthwise.models.config import ModelConfig
from lengthwise.ops.padding import Padding, check_lengths, swap_side
from lengthwise.seeds import generator
from lengthwise.shapes import Float, Int, Tensor
from lengthwise.state import State

# Logits held at once by `nll`: 2^24 float32 values are 64 MB, about the largest that costs no speed.
MAX_LOGITS = 1 << 24


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
    """``r + mixer(norm(r))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = Mamba2(config.d_model, config.mixer, config.norm_eps)


class Backbone(nn.Module):
    """Everything below the output head. Names are those of the state-spaces checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)


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
        """Initialise as the official code does: embeddings N(0, 0.02), mixers by their own rule, norms 1."""
        random = generator(seed, "model-init")
        self.backbone.embedding.weight.normal_(0.0, 0.02, generator=random)
        for block in self.backbone.layers:
            assert isinstance(block, Block)
            block.norm.weight.fill_(1.0)
            block.mixer.reset_parameters(random, self.config.num_layers)
        self.backbone.norm_f.weight.fill_(1.0)
        if not self.config.tie_embeddings:
            bound = self.config.d_model**-0.5
            self.lm_head.weight.uniform_(-bound, bound, generator=random)

    def num_parameters(self) -> int:
        """Parameters, tied tables counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def init_state(self, batch: int) -> State:
        """The zero state of `batch` rows."""
        return State(tuple(block.mixer.init_state(batch) for block in self._blocks()))

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        state: State | None = None,
        *,
        lengths: Int[Tensor, " B"] | None = None,
        padding: Padding = "right",
        logits: Literal["all", "last", "none"] = "all",
    ) -> Output:
        """Read tokens from a state.

        Args:
            tokens: token ids.
            state: state before the first token; None for the zero state.
            lengths: number of real tokens of each row; None for all T.
            padding: the side on which the padding stands.
            logits: which positions get logits; "last" is the last real token of each row.

        Raises:
            InputError: where a shape, a token id, a length or the state does not fit.
        """
        batch, time = self._check(tokens, state)
        if lengths is not None:
            check_lengths(lengths, batch, time)
            if padding == "left":
                tokens = swap_side(tokens, lengths, "left")
        residual = F.embedding(tokens, self.backbone.embedding.weight)
        if self.config.residual_in_fp32:
            residual = residual.to(torch.promote_types(residual.dtype, torch.float32))
        layers = []
        weight_dtype = self.backbone.embedding.weight.dtype
        for index, block in enumerate(self._blocks()):
            record = None if state is None else state.layers[index]
            y, new = block.mixer(block.norm(residual).to(weight_dtype), record, lengths)
            residual = residual + y
            layers.append(new)
        hidden = self.backbone.norm_f(residual).to(weight_dtype)
        if logits == "last":
            last = torch.full((batch,), time - 1, device=tokens.device) if lengths is None else lengths - 1
            chosen = hidden[torch.arange(batch, device=tokens.device), last.clamp(min=0)][:, None]
        if lengths is not None and padding == "left":
            hidden = swap_side(hidden, lengths, "right")
        table = {"all": hidden, "last": chosen if logits == "last" else hidden, "none": None}
        if logits not in table:
            raise InputError(
                expected='"all", "last" or "none"',
                got=repr(logits),
                where="LanguageModel logits",
                fix="use one of these",
            )
        source = table[logits]
        return Output(None if source is None else self.head(source), hidden, State(tuple(layers)))

    def head(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T vocab"]:
        """Logits in float32 or wider, -inf at the padded rows of the vocabulary."""
        table = self.backbone.embedding.weight if self.config.tie_embeddings else self.lm_head.weight
        scores = F.linear(hidden, table)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
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
        return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)

    def _blocks(self) -> list[Block]:
        return list(self.backbone.layers)  # type: ignore[arg-type]

    def _check(self, tokens: Tensor, state: State | None) -> tuple[int, int]:
        wrong, fix = None, "pass token ids of the model's own tokenizer"
        if tokens.dim() != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool or tokens.numel() == 0:
            wrong = f"shape {tuple(tokens.shape)}, dtype {tokens.dtype}"
        elif tokens.device.type != "meta" and (int(tokens.min()) < 0 or int(tokens.max()) >= self.config.vocab_size):
            wrong = f"ids {int(tokens.min())}..{int(tokens.max())}"
        elif state is not None and (len(state.layers) != self.config.num_layers or state.batch_size != tokens.shape[0]):
            wrong = f"a state of {len(state.layers)} layers and {state.batch_size} rows for {tokens.shape[0]} rows"
            fix = f"pass a state of this model ({self.config.num_layers} layers) with as many rows as tokens"
        if wrong:
            raise InputError(
                expected=f"integer tokens [B, T], not empty, in 0..{self.config.vocab_size - 1}, and a fitting state",
                got=wrong,
                where="LanguageModel",
                fix=fix,
            )
        return tokens.shape[0], tokens.shape[1]
