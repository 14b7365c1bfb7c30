"""A Mamba-2 block that is only read: without gradients, and without the work that nobody needs.

`read_block` gives what the block itself would give, up to rounding. It saves

- the output, where only the state is wanted because nothing above reads it: the gate, the output projection and
  everything that multiplies C are left out, and about a third of the work remains,
- most of the work of many rows that read the same input, each with its own state, as in the lowest layer when all rows
  read the same tokens. The recurrence is linear in (input, initial state), so the input's part is computed once for all
  rows and each row adds what its state still contributes: with ``d[t] = sum_{s <= t} dt[s] A``,

      y_row[t] = y_shared[t] + exp(d[t]) S_row C[t]           S_row' = S_shared' + exp(d[T]) S_row

In float32 on a CPU the whole block is one kernel (`mamba2.c`), in which nothing that a token needs leaves the cache
between the residual stream before the block and behind it. Otherwise it is made of the parts of the layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from lengthwise.layers._mamba2_native import Surroundings, mamba2_read_native
from lengthwise.layers.mamba2 import Mamba2, Mamba2State
from lengthwise.layers.norms import RMSNorm, rms_norm
from lengthwise.ops.conv import causal_conv
from lengthwise.ops.ssd import ssd
from lengthwise.shapes import Float, Tensor

FEWEST_TOKENS = 16
"""The kernel goes through both projections for each row apart, which pays from so many tokens a row on."""


@torch.no_grad()
def read_block(
    norm: nn.Module,
    mixer: Mamba2,
    residual: Float[Tensor, "B T D"],
    state: Mamba2State | None = None,
    *,
    silent: bool = False,
) -> tuple[Float[Tensor, "R T D"] | None, Mamba2State]:
    """The residual stream behind the block, and the state.

    Args:
        norm: of the block, before the mixer.
        mixer: the mixer.
        residual: the stream before the block, at least one token; a row for each of the state, or one for all R. It may
            be written over, so that memory holds one stream and not two.
        state: before the first token; None for zeros.
        silent: the state alone is wanted; the stream is None then.
    """
    _, time, width = residual.shape
    rows = len(residual) if state is None else len(state.ssm)
    read = _read_in_one if _is_one_kernel(norm, mixer, residual) else _read_in_parts
    out = None
    if not silent:
        out = residual if rows == len(residual) else residual.new_empty(rows, time, width)
    begin = 0
    if state is not None and rows > len(residual) and not _same_rows(state.conv):
        # The first W - 1 tokens are read row by row; from then on all rows see the same in the convolution.
        begin = min(mixer.config.d_conv - 1, time)
        first = residual[:, :begin].expand(rows, -1, -1)
        state = _read_in_parts(norm, mixer, first, state, None if out is None else out[:, :begin])
    if begin < time:
        state = read(norm, mixer, residual[:, begin:], state, None if out is None else out[:, begin:])
    assert state is not None
    return out, state


def _is_one_kernel(norm: nn.Module, mixer: Mamba2, residual: Tensor) -> bool:
    return (
        isinstance(norm, RMSNorm)
        and residual.dtype == mixer.in_proj.weight.dtype == torch.float32
        and residual.shape[1] >= FEWEST_TOKENS
        and mixer.runs_native(residual.device, residual.dtype)
    )


def _read_in_one(
    norm: nn.Module, mixer: Mamba2, residual: Tensor, state: Mamba2State | None, out: Tensor | None
) -> Mamba2State:
    """`read_block` by the kernel: the stream behind the block is written to `out`, where it is wanted.

    Rows that share the input have the same buffer of the convolution.
    """
    assert isinstance(norm, RMSNorm)
    surroundings = Surroundings(
        norm_weight=norm.weight,
        norm_eps=norm.eps,
        in_weight=mixer.in_proj.weight,
        in_bias=mixer.in_proj.bias,
        out_weight=mixer.out_proj.weight,
        out_bias=mixer.out_proj.bias,
    )
    rows = len(residual) if state is None else len(state.ssm)
    conv, ssm = (None, None) if state is None else (state.conv[: len(residual)].float(), state.ssm.float())
    inside = mixer.inner_parameters(torch.float32)
    conv, ssm = mamba2_read_native(residual, out, surroundings, inside, conv, ssm, mixer.sizes)
    return Mamba2State(ssm=ssm, conv=conv.expand(rows, -1, -1))


def _read_in_parts(
    norm: nn.Module, mixer: Mamba2, residual: Tensor, state: Mamba2State | None, out: Tensor | None
) -> Mamba2State:
    """The same by the parts of the layer."""
    u = norm(residual).to(mixer.in_proj.weight.dtype)
    rows = len(residual) if state is None else len(state.ssm)
    if out is None:
        return _state_after(mixer, u.expand(rows, -1, -1), state)
    y, new = mixer(u, state) if state is None or len(u) == rows else _forward_shared(mixer, u, state)
    torch.add(residual, y, out=out)
    return new


def _state_after(mixer: Mamba2, u: Float[Tensor, "B T D"], state: Mamba2State | None) -> Mamba2State:
    """The state after reading `u` from `state`; no output."""
    config = mixer.config
    first, width = mixer.d_inner, config.d_conv - 1
    bias = None if mixer.in_proj.bias is None else mixer.in_proj.bias[first:]
    projected = F.linear(u, mixer.in_proj.weight[first:], bias)  # all but z
    raw = projected[..., : mixer.conv_width]
    before = raw.new_zeros(raw.shape[0], width, mixer.conv_width) if state is None else state.conv
    kept = min(width, raw.shape[1])
    conv = torch.cat([before[:, kept:], raw[:, raw.shape[1] - kept :]], dim=1)
    # The channels of x and B alone go through the convolution; the buffer keeps those of C too.
    wanted = mixer.d_inner + config.ngroups * config.d_state
    dt = _step_sizes(mixer, projected[..., mixer.conv_width :])
    filters, filter_bias = mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias
    xB, _ = causal_conv(
        raw[..., :wanted],
        filters[:wanted],
        None if filter_bias is None else filter_bias[:wanted],
        None if state is None else state.conv[..., :wanted],
        backend=mixer.backend,
    )
    x, B = F.silu(xB, inplace=True).split([mixer.d_inner, wanted - mixer.d_inner], dim=-1)
    log_decay = torch.cumsum(dt * mixer.inner_parameters(dt.dtype).A, dim=1)  # [B, T, H]
    total = log_decay[:, -1]
    weight = (total[:, None] - log_decay).exp() * dt
    x = rearrange(x, "b t (h p) -> b t h p", p=config.headdim).to(dt.dtype).mul_(weight[..., None])
    added = torch.matmul(
        rearrange(x, "b t (g r) p -> b g (r p) t", g=config.ngroups),
        rearrange(B.to(dt.dtype), "b t (g n) -> b g t n", g=config.ngroups),
    )  # [B, G, r P, N]
    ssm = rearrange(added, "b g (r p) n -> b (g r) p n", p=config.headdim)
    if state is not None:
        ssm = torch.addcmul(ssm, total.exp()[..., None, None], state.ssm)
    return Mamba2State(ssm=ssm, conv=conv)


def _forward_shared(
    mixer: Mamba2, u: Float[Tensor, "1 T D"], state: Mamba2State
) -> tuple[Float[Tensor, "R T D"], Mamba2State]:
    """Outputs and state of R rows that read the same input, each from a state of its own but for the convolution's."""
    rows, config, heads = len(state.ssm), mixer.config, mixer.num_heads
    projected = mixer.in_proj(u)
    z, raw, dt = projected.split([mixer.d_inner, mixer.conv_width, heads], dim=-1)
    filters, bias = mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias
    convolved, conv = causal_conv(raw, filters, bias, state.conv[:1], backend=mixer.backend)
    bc_width = config.ngroups * config.d_state
    x, B, C = F.silu(convolved, inplace=True).split([mixer.d_inner, bc_width, bc_width], dim=-1)
    B, C = (rearrange(tensor, "b t (g n) -> b t g n", g=config.ngroups) for tensor in (B, C))
    dt = _step_sizes(mixer, dt)
    A = mixer.inner_parameters(dt.dtype).A
    x = rearrange(x, "b t (h p) -> b t h p", h=heads)
    y, ssm = ssd(x, dt, A, B, C, mixer.D, None, chunk_size=config.chunk_size, backend=mixer.backend)

    decay = torch.cumsum(dt * A, dim=1).exp()  # [1, T, H]
    by_group = rearrange(state.ssm, "b (g r) p n -> b g n (r p)", g=config.ngroups)
    carried = torch.matmul(rearrange(C, "b t g n -> b g t n").to(by_group.dtype), by_group)
    carried = rearrange(carried, "b g t (r p) -> b t (g r) p", p=config.headdim)
    # No gradient is wanted, so the largest tensor, [R, T, H P], is worked on in place.
    outputs = carried.mul_(decay[..., None]).add_(y)
    gated = rearrange(outputs, "b t h p -> b t (h p)").mul_(F.silu(z.to(outputs.dtype)))
    normed = rms_norm(gated, mixer.norm.weight, mixer.norm.eps, mixer.norm.groups, backend=mixer.backend).to(u.dtype)
    new = torch.addcmul(ssm, decay[:, -1, :, None, None], state.ssm)
    return mixer.out_proj(normed), Mamba2State(ssm=new, conv=conv.expand(rows, -1, -1))


def _same_rows(buffer: Tensor) -> bool:
    """Whether all rows are the first one; some roundings, as rows of one product may differ by, do not count."""
    exact = torch.promote_types(buffer.dtype, torch.float32)
    first, eps = buffer[:1].to(exact), torch.finfo(buffer.dtype).eps
    return bool((buffer - first).abs().max() <= 16 * eps * first.abs().max()) if buffer.numel() else True


def _step_sizes(mixer: Mamba2, dt: Tensor) -> Tensor:
    """dt after bias, softplus and limits, in float32 or wider."""
    exact = torch.promote_types(dt.dtype, torch.float32)
    dt = F.softplus(dt.to(exact) + mixer.dt_bias.to(exact))
    return dt if mixer.config.dt_limit == (0.0, math.inf) else dt.clamp(*mixer.config.dt_limit)
