"""RWKV-6 (Peng et al. 2024, arXiv 2404.05892): time mixing and channel mixing, states as arguments and results."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from lengthwise.layers.base import Mixer, Place
from lengthwise.layers.configs import RWKV6ChannelMixConfig, RWKV6Config
from lengthwise.native import usable
from lengthwise.ops._vector_decay.native import library
from lengthwise.ops.conv.depthwise import extend, last_inputs
from lengthwise.ops.rwkv6 import rwkv6
from lengthwise.shapes import Float, Int, Tensor
from lengthwise.state import MixerState, tensor_field

_MIXES = 5  # w, k, v, r, g


@dataclass(frozen=True)
class RWKV6State(MixerState):
    """State of one time mixing."""

    wkv: Tensor = tensor_field("recurrent")
    """[B, H, K, V], float32 (float64 for a float64 model)."""
    shift: Tensor = tensor_field("short")
    """[B, D]: the last input."""


@dataclass(frozen=True)
class RWKV6ChannelState(MixerState):
    """State of one channel mixing."""

    shift: Tensor = tensor_field("short")
    """[B, D]: the last input."""


class RWKV6TimeMix(Mixer):
    """The time mixing of RWKV-6.

    With x the input, ``d[t] = x[t-1] - x[t]``, and for each j of w, k, v, r, g

        x_j = x + d * (mu_j + m_j),  m = tanh((x + d * mu_x) W1) W2, in five slices

    r, k, v and the gate are projections of x_r, x_k, x_v, x_g; the log of the decay is
    ``-exp(time_decay + tanh(x_w Wd1) Wd2)``. What `ops.rwkv6` returns is normed over each head, multiplied by silu of
    the gate, and projected.

    Args:
        d_model: width D of input and output.
        config: sizes and options.
        norm_eps: not used; the eps of the norm over heads is ``1e-5 * head_size_divisor**2``.
    """

    def __init__(self, d_model: int, config: RWKV6Config, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config = config
        self.num_heads = d_model // config.head_size
        self.time_maa_x = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_w = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_k = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_v = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_r = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_g = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_w1 = nn.Parameter(torch.zeros(d_model, _MIXES * config.mix_rank))
        self.time_maa_w2 = nn.Parameter(torch.zeros(_MIXES, config.mix_rank, d_model))
        self.time_decay = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_decay_w1 = nn.Parameter(torch.zeros(d_model, config.decay_rank))
        self.time_decay_w2 = nn.Parameter(torch.zeros(config.decay_rank, d_model))
        self.time_faaaa = nn.Parameter(torch.zeros(self.num_heads, config.head_size))
        self.receptance = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.gate = nn.Linear(d_model, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.ln_x = nn.GroupNorm(self.num_heads, d_model, eps=1e-5 * config.head_size_divisor**2)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, place: Place) -> None:
        """The official initialisation.

        Channel i of D mixes the more of the token before, the smaller i / D and the lower the layer. Decays range from
        slow to fast over the channels. Matrices are orthogonal, the output zero, so that a fresh block adds nothing.
        """
        width = self.output.out_features
        depth, share = _depth(place), torch.arange(width) / width  # 0 to 1
        along = torch.arange(width) / max(1, width - 1)
        for mix in (self.time_maa_x, self.time_maa_w, self.time_maa_k, self.time_maa_v):
            mix.copy_((1 - share ** _height(place)).view(1, 1, -1))
        self.time_maa_v.sub_(0.3 * depth)
        for mix in (self.time_maa_r, self.time_maa_g):
            mix.copy_((1 - share ** (0.5 * _height(place))).view(1, 1, -1))
        self.time_maa_w1.zero_()
        self.time_maa_w2.uniform_(-0.01, 0.01, generator=generator)
        self.time_decay.copy_((-6 + 5 * along ** (0.7 + 1.3 * depth)).view(1, 1, -1))
        self.time_decay_w1.zero_()
        self.time_decay_w2.uniform_(-0.01, 0.01, generator=generator)
        zigzag = ((torch.arange(width) + 1) % 3 - 1) * 0.1
        self.time_faaaa.copy_((depth * (1 - along) + zigzag).view_as(self.time_faaaa))
        for linear, gain in ((self.receptance, 1.0), (self.key, 0.1), (self.value, 1.0), (self.gate, 0.1)):
            nn.init.orthogonal_(linear.weight, gain, generator=generator)
        self.output.weight.zero_()
        self.ln_x.weight.fill_(((1 + place.layer) / place.num_layers) ** 0.7)
        self.ln_x.bias.zero_()

    def init_state(self, batch: int) -> RWKV6State:
        """The zero state of `batch` rows."""
        weight, size = self.output.weight, self.config.head_size
        exact = torch.promote_types(weight.dtype, torch.float32)
        return RWKV6State(
            wkv=weight.new_zeros(batch, self.num_heads, size, size, dtype=exact),
            shift=weight.new_zeros(batch, weight.shape[0]),
        )

    def runs_native(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether the kernel in C computes the recurrence."""
        return usable(self.backend, device, dtype, library)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: RWKV6State | None = None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], RWKV6State]:
        """Mix over time.

        Args:
            x: inputs.
            state: state before the first token; None for zeros.
            lengths: number of real tokens of each row, padding on the right; None for all T.

        Returns:
            Outputs, and the state after the last real token of each row.
        """
        delta, shift = _token_shift(x, None if state is None else state.shift, lengths)
        low = torch.tanh((x + delta * self.time_maa_x) @ self.time_maa_w1)
        low = rearrange(low, "b t (j r) -> j (b t) r", j=_MIXES)
        # In the order of the slices of W1 and W2.
        shares = torch.cat([self.time_maa_w, self.time_maa_k, self.time_maa_v, self.time_maa_r, self.time_maa_g])
        mixed = torch.baddbmm(shares, low, self.time_maa_w2).view(_MIXES, *x.shape)
        x_w, x_k, x_v, x_r, x_g = (torch.addcmul(x, delta, mix.to(x.dtype)) for mix in mixed.unbind(0))

        decay = torch.tanh(x_w @ self.time_decay_w1) @ self.time_decay_w2
        exact = torch.promote_types(decay.dtype, torch.float32)
        log_decay = -torch.exp(self.time_decay.to(exact) + decay.to(exact))
        r, k, v, log_decay = (
            rearrange(tensor, "b t (h k) -> b t h k", h=self.num_heads)
            for tensor in (self.receptance(x_r), self.key(x_k), self.value(x_v), log_decay)
        )
        o, wkv = rwkv6(
            r,
            k,
            v,
            log_decay,
            self.time_faaaa,
            None if state is None else state.wkv,
            lengths=lengths,
            chunk_size=self.config.chunk_size,
            backend=self.backend,
        )
        normed = rearrange(F.layer_norm(o.to(exact), o.shape[-1:], eps=self.ln_x.eps), "b t h v -> b t (h v)")
        normed = torch.addcmul(self.ln_x.bias.to(exact), normed, self.ln_x.weight.to(exact))
        gated = normed * F.silu(self.gate(x_g).to(exact))
        return self.output(gated.to(x.dtype)), RWKV6State(wkv=wkv, shift=shift)


class RWKV6ChannelMix(Mixer):
    """``sigmoid(R x_r) * V relu(K x_k)^2`` with ``x_j = x + d * mu_j``, ``d[t] = x[t-1] - x[t]``.

    Args:
        d_model: width D of input and output.
        config: inner width.
        norm_eps: not used.
    """

    def __init__(self, d_model: int, config: RWKV6ChannelMixConfig, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config = config
        self.time_maa_k = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_r = nn.Parameter(torch.zeros(1, 1, d_model))
        self.key = nn.Linear(d_model, config.width, bias=False)
        self.receptance = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(config.width, d_model, bias=False)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, place: Place) -> None:
        """The official initialisation: an orthogonal key, and zeros behind it."""
        width = self.receptance.in_features
        mix = 1 - (torch.arange(width) / width) ** _height(place)
        self.time_maa_k.copy_(mix.view(1, 1, -1))
        self.time_maa_r.copy_(mix.view(1, 1, -1))
        nn.init.orthogonal_(self.key.weight, generator=generator)
        self.receptance.weight.zero_()
        self.value.weight.zero_()

    def init_state(self, batch: int) -> RWKV6ChannelState:
        """The zero state of `batch` rows."""
        weight = self.receptance.weight
        return RWKV6ChannelState(shift=weight.new_zeros(batch, weight.shape[0]))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: RWKV6ChannelState | None = None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], RWKV6ChannelState]:
        """Mix over channels, and with the token before. Arguments and results as of `RWKV6TimeMix`."""
        delta, shift = _token_shift(x, None if state is None else state.shift, lengths)
        inner = torch.relu(self.key(torch.addcmul(x, delta, self.time_maa_k))).square()
        receptance = torch.sigmoid(self.receptance(torch.addcmul(x, delta, self.time_maa_r)))
        return receptance * self.value(inner), RWKV6ChannelState(shift=shift)


def _token_shift(
    x: Float[Tensor, "B T D"], before: Float[Tensor, "B D"] | None, lengths: Int[Tensor, " B"] | None
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
    """The token before each token less the token itself, and the last real token of each row."""
    extended = extend(x, None if before is None else before[:, None], 1)
    return extended[:, :-1] - x, last_inputs(extended, 1, lengths)[:, 0]


def _depth(place: Place) -> float:
    """0 in the lowest layer, 1 in the highest."""
    return place.layer / max(1, place.num_layers - 1)


def _height(place: Place) -> float:
    """1 in the lowest layer, 1 / L in the highest."""
    return 1 - place.layer / place.num_layers
