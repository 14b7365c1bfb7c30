"""A Mamba-2 layer at less than full price, where part of its work is not wanted or is the same for many rows.

Both functions give what `Mamba2.forward` gives, without gradients.

- `state_after`: only the state is wanted, because nothing above reads the output. The gate, the output projection and
  everything that multiplies C are left out: about a third of the work remains.
- `forward_shared`: many rows, each with its own state, read the same input, as in the lowest layer when all rows read
  the same tokens. The recurrence is linear in (input, initial state), so the input's part is computed once for all
  rows and each row adds what its state still contributes: with ``d[t] = sum_{s <= t} dt[s] A``,

      y_row[t] = y_shared[t] + exp(d[t]) S_row C[t]           S_row' = S_shared' + exp(d[T]) S_row
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange

from lengthwise.layers.mamba2 import Mamba2, Mamba2State
from lengthwise.layers.norms import rms_norm
from lengthwise.ops.conv import causal_conv
from lengthwise.ops.ssd import ssd
from lengthwise.shapes import Float, Tensor


@torch.no_grad()
def state_after(mixer: Mamba2, u: Float[Tensor, "B T D"], state: Mamba2State | None = None) -> Mamba2State:
    """The state after reading `u` from `state`; no output.

    Args:
        mixer: the layer.
        u: inputs, at least one token.
        state: state before the first token; None for zeros.
    """
    config = mixer.config
    first, heads = mixer.d_inner, mixer.num_heads
    bias = None if mixer.in_proj.bias is None else mixer.in_proj.bias[first:]
    raw, dt = F.linear(u, mixer.in_proj.weight[first:], bias).split([mixer.conv_width, heads], dim=-1)
    # The channels of x and B alone go through the convolution; the buffer keeps those of C too.
    wanted = mixer.d_inner + config.ngroups * config.d_state
    filters, filter_bias = mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias
    xB, _ = causal_conv(
        raw[..., :wanted],
        filters[:wanted],
        None if filter_bias is None else filter_bias[:wanted],
        None if state is None else state.conv[..., :wanted],
    )
    x, B = F.silu(xB, inplace=True).split([mixer.d_inner, wanted - mixer.d_inner], dim=-1)
    dt = _step_sizes(mixer, dt)
    log_decay = torch.cumsum(dt * _rates(mixer, dt.dtype), dim=1)  # [B, T, H]
    total = log_decay[:, -1]
    weight = (total[:, None] - log_decay).exp() * dt
    x = rearrange(x, "b t (h p) -> b t h p", h=heads).to(dt.dtype).mul_(weight[..., None])
    added = torch.matmul(
        rearrange(x, "b t (g r) p -> b g (r p) t", g=config.ngroups),
        rearrange(B.to(dt.dtype), "b t (g n) -> b g t n", g=config.ngroups),
    )  # [B, G, r P, N]
    ssm = rearrange(added, "b g (r p) n -> b (g r) p n", p=config.headdim)
    if state is not None:
        ssm = torch.addcmul(ssm, total.exp()[..., None, None], state.ssm)
    width = config.d_conv - 1
    before = raw.new_zeros(raw.shape[0], width, mixer.conv_width) if state is None else state.conv
    kept = min(width, raw.shape[1])
    conv = torch.cat([before[:, kept:], raw[:, raw.shape[1] - kept :]], dim=1)
    return Mamba2State(ssm=ssm, conv=conv)


@torch.no_grad()
def forward_shared(
    mixer: Mamba2, u: Float[Tensor, "1 T D"], state: Mamba2State
) -> tuple[Float[Tensor, "R T D"], Mamba2State]:
    """Outputs and state of R rows that read the same input, each from a state of its own.

    The convolution sees the last W - 1 inputs of a row. Where they differ between rows, as after a row has entered, the
    first W - 1 tokens are read row by row; from then on they are the same.

    Args:
        mixer: the layer.
        u: the inputs, at least one token.
        state: states of all rows before the first token.
    """
    rows, time, width = state.ssm.shape[0], u.shape[1], state.conv.shape[1]
    if rows == 1:
        return mixer(u, state)
    if not torch.equal(state.conv, state.conv[:1].expand_as(state.conv)):
        y, state = mixer(u[:, :width].expand(rows, -1, -1), state)
        if time <= width:
            return y, state
        later, state = forward_shared(mixer, u[:, width:], state)
        return torch.cat([y, later], dim=1), state
    config, heads = mixer.config, mixer.num_heads
    z, raw, dt = mixer.in_proj(u).split([mixer.d_inner, mixer.conv_width, heads], dim=-1)
    convolved, conv = causal_conv(raw, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, state.conv[:1])
    bc_width = config.ngroups * config.d_state
    x, B, C = F.silu(convolved, inplace=True).split([mixer.d_inner, bc_width, bc_width], dim=-1)
    B, C = (rearrange(tensor, "b t (g n) -> b t g n", g=config.ngroups) for tensor in (B, C))
    dt = _step_sizes(mixer, dt)
    rates = _rates(mixer, dt.dtype)
    x = rearrange(x, "b t (h p) -> b t h p", h=heads)
    y, ssm = ssd(x, dt, rates, B, C, mixer.D, None, chunk_size=config.chunk_size)

    decay = torch.cumsum(dt * rates, dim=1).exp()  # [1, T, H]
    by_group = rearrange(state.ssm, "b (g r) p n -> b g n (r p)", g=config.ngroups)
    carried = torch.matmul(rearrange(C, "b t g n -> b g t n").to(by_group.dtype), by_group)
    carried = rearrange(carried, "b g t (r p) -> b t (g r) p", p=config.headdim)
    # No gradient is wanted, so the largest tensor, [R, T, H P], is worked on in place.
    outputs = carried.mul_(decay[..., None]).add_(y)
    gated = rearrange(outputs, "b t h p -> b t (h p)").mul_(F.silu(z.to(outputs.dtype)))
    normed = rms_norm(gated, mixer.norm.weight, mixer.norm.eps, mixer.norm.groups).to(u.dtype)
    new = torch.addcmul(ssm, decay[:, -1, :, None, None], state.ssm)
    return mixer.out_proj(normed), Mamba2State(ssm=new, conv=conv.expand(rows, -1, -1))


def _step_sizes(mixer: Mamba2, dt: Tensor) -> Tensor:
    """dt after bias, softplus and limits, in float32 or wider."""
    exact = torch.promote_types(dt.dtype, torch.float32)
    dt = F.softplus(dt.to(exact) + mixer.dt_bias.to(exact))
    return dt if mixer.config.dt_limit == (0.0, math.inf) else dt.clamp(*mixer.config.dt_limit)


def _rates(mixer: Mamba2, dtype: torch.dtype) -> Tensor:
    """A of each head, at most zero."""
    return -torch.exp(mixer.A_log.to(dtype))
