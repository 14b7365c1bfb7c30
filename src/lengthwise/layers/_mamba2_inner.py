"""The inside of the Mamba-2 mixer, between its two projections, as one node of the graph that works tile by tile.

Between the projections there is little arithmetic but some fifty passes over tensors as large as the activations. Over
a whole batch each pass would travel to main memory and back. So the batch is cut into tiles, a few rows by as many
tokens as stay in cache together, and all passes are made over one tile before the next. Tiles of the same rows follow
one another in time and hand the state on, which makes the cut exact.

The steps are those of `ops.conv`, `ops.ssd` and `layers.norms`; this file only joins them, and writes the gradients of
their parts straight into the places where they belong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from lengthwise.layers.norms import norm_backward, norm_forward
from lengthwise.ops.conv.depthwise import conv_backward, conv_forward, extend, pad_gradient
from lengthwise.ops.ssd._chunks import Saved, chunk_backward, chunk_forward, chunk_view, from_chunks, to_chunks
from lengthwise.shapes import Bool, Float, Tensor

# Tokens a tile on a CPU: the fastest of 256 to 4096 at model widths of 128 to 768 on two cores with 2 MB of cache each.
TILE_TOKENS = 1024


@dataclass(frozen=True)
class Sizes:
    """What the shapes of the tensors do not tell."""

    headdim: int
    groups: int
    chunk_size: int
    dt_limit: tuple[float, float]
    norm_eps: float


class Parameters(NamedTuple):
    """Parameters of the inside of a mixer, in the dtype of the computation."""

    conv_weight: Float[Tensor, "C W"]
    conv_bias: Float[Tensor, " C"] | None
    dt_bias: Float[Tensor, " H"]
    A: Float[Tensor, " H"]
    D: Float[Tensor, " H"] | None
    norm_weight: Float[Tensor, " HP"]


class Tile(NamedTuple):
    """Rows, tokens and chunk size of a tile."""

    rows: slice
    tokens: slice
    chunk: int


class TileSaved(NamedTuple):
    """What the forward pass over a tile leaves for the backward pass."""

    extended: Tensor
    """Inputs of the convolution behind their buffer."""
    before_silu: Tensor
    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    y: Tensor
    r: Tensor
    log_decay: Tensor
    decay: Tensor
    scores: Tensor
    states: Tensor


def mamba2_inner(
    projected: Float[Tensor, "B T E"],
    parameters: Parameters,
    conv_state: Float[Tensor, "B before C"] | None,
    ssm_state: Float[Tensor, "B H P N"] | None,
    real: Bool[Tensor, "B T"] | None,
    sizes: Sizes,
) -> tuple[Float[Tensor, "B T HP"], Float[Tensor, "B H P N"]]:
    """From the input projection, laid out z, x, B, C, dt, to the gated and normed outputs, and the final state.

    Args:
        projected: inputs, E = 2 H P + 2 G N + H, T >= 1.
        parameters: float32 or wider; the arithmetic has their dtype, whatever that of `projected`.
        conv_state, ssm_state: the state before the first token, None for zeros.
        real: False at padding, None where there is none.
        sizes: the rest.
    """
    return _Inner.apply(projected, *parameters, conv_state, ssm_state, real, sizes)  # type: ignore[no-untyped-call]


class _Inner(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        parameters, (conv_state, ssm_state, real, sizes) = Parameters(*arguments[:6]), arguments[6:]
        batch, time, _ = projected.shape
        exact, heads = parameters.A.dtype, len(parameters.A)
        state_size = (len(parameters.conv_weight) - heads * sizes.headdim) // (2 * sizes.groups)
        out = projected.new_empty(batch, time, heads * sizes.headdim)
        final = projected.new_empty(batch, heads, sizes.headdim, state_size, dtype=exact)
        saving = any(ctx.needs_input_grad)
        saved: list[Tensor] = []
        with torch.autocast(projected.device.type, enabled=False):
            for tile in tiles(batch, time, sizes.chunk_size, projected.device):
                rows, tokens = tile.rows, tile.tokens
                if tokens.start == 0:
                    conv = None if conv_state is None else conv_state[rows]
                    ssm = None if ssm_state is None else ssm_state[rows]
                conv, ssm, kept = _tile_forward(
                    projected[rows, tokens].to(exact),
                    parameters,
                    conv,
                    ssm,
                    None if real is None else real[rows, tokens],
                    sizes,
                    tile.chunk,
                    out[rows, tokens],
                    saving,
                )
                if kept is not None:
                    saved += kept
                if tokens.stop == time:
                    final[rows] = ssm
        if saving:
            ctx.save_for_backward(projected, *parameters, real, *saved)
            ctx.sizes, ctx.has_state = sizes, (conv_state is not None, ssm_state is not None)
            ctx.set_materialize_grads(False)
        return out, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        projected, *rest = ctx.saved_tensors
        parameters, real, flat, sizes = Parameters(*rest[:6]), rest[6], rest[7:], ctx.sizes
        batch, time, _ = projected.shape
        exact, heads = parameters.A.dtype, len(parameters.A)
        if d_out is None:
            d_out = projected.new_zeros(batch, time, heads * sizes.headdim)
        d_projected = torch.empty_like(projected)
        sums = [None if parameter is None else torch.zeros_like(parameter) for parameter in parameters]
        d_conv_states: list[Any] = []
        d_ssm_states: list[Any] = []
        count = len(TileSaved._fields)
        with torch.autocast(projected.device.type, enabled=False):
            for index, tile in reversed(list(enumerate(tiles(batch, time, sizes.chunk_size, projected.device)))):
                rows, tokens = tile.rows, tile.tokens
                if tokens.stop == time:
                    d_conv, d_ssm = None, None if d_final is None else d_final[rows]
                piece = projected[rows, tokens].to(exact)
                d_piece = d_projected[rows, tokens] if projected.dtype == exact else torch.empty_like(piece)
                has_ssm = ctx.has_state[1] or tokens.start > 0
                d_parameters, d_conv, d_ssm = _tile_backward(
                    d_out[rows, tokens].to(exact),
                    d_ssm,
                    d_conv,
                    piece,
                    d_piece,
                    parameters,
                    None if real is None else real[rows, tokens],
                    sizes,
                    has_ssm,
                    TileSaved(*flat[index * count : (index + 1) * count]),
                )
                if projected.dtype != exact:
                    d_projected[rows, tokens] = d_piece
                for total, part in zip(sums, d_parameters, strict=True):
                    if total is not None and part is not None:
                        total += part
                if tokens.start == 0:
                    d_conv_states.insert(0, d_conv)
                    d_ssm_states.insert(0, d_ssm)
        return (
            d_projected,
            *sums,
            torch.cat(d_conv_states) if ctx.has_state[0] else None,
            torch.cat(d_ssm_states) if ctx.has_state[1] else None,
            None,
            None,
        )


def tiles(batch: int, time: int, chunk_size: int, device: torch.device) -> Iterator[Tile]:
    """Cut rows and tokens; the tiles of the same rows come in order of time.

    Tokens are cut at multiples of the chunk size, and a rest that fills no chunk is a tile and a chunk of its own.
    """
    limit = TILE_TOKENS if device.type == "cpu" else batch * time  # other devices hide what the tiles avoid
    chunk = min(chunk_size, time)
    step = min(max(chunk, limit // chunk * chunk), time // chunk * chunk)
    height = max(1, limit // time)
    for row in range(0, batch, height):
        rows, whole = slice(row, min(row + height, batch)), time // chunk * chunk
        for start in range(0, whole, step):
            yield Tile(rows, slice(start, min(start + step, whole)), chunk)
        if whole < time:
            yield Tile(rows, slice(whole, time), time - whole)


def _parts(projected: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
    """Views of z, of x, B and C together, and of dt before bias and softplus."""
    inner, conv_width, heads = len(parameters.norm_weight), len(parameters.conv_weight), len(parameters.A)
    z, xBC, dt = projected.split([inner, conv_width, heads], dim=-1)
    return z, xBC, dt


def _split_xBC(xBC: Tensor, headdim: int, groups: int, inner: int, chunk: int) -> list[Tensor]:
    """Views of x, B and C in the layout of SSD, from [B, T, C]."""
    bc_width = (xBC.shape[-1] - inner) // 2
    x, B, C = xBC.split([inner, bc_width, bc_width], dim=-1)
    return [
        chunk_view(x.unflatten(-1, (-1, headdim)), chunk),
        chunk_view(B.unflatten(-1, (groups, -1)), chunk),
        chunk_view(C.unflatten(-1, (groups, -1)), chunk),
    ]


def _tile_forward(
    projected: Tensor,
    parameters: Parameters,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    real: Tensor | None,
    sizes: Sizes,
    chunk: int,
    out: Tensor,
    save: bool,
) -> tuple[Tensor, Tensor, TileSaved | None]:
    """Write `out`; return the two states after the tile."""
    conv_weight, conv_bias, dt_bias, A, D, norm_weight = parameters
    z, xBC, raw_dt = _parts(projected, parameters)
    before = conv_weight.shape[1] - 1
    extended = extend(xBC, conv_state, before)
    before_silu = conv_forward(extended, conv_weight, conv_bias)
    views = _split_xBC(before_silu, sizes.headdim, sizes.groups, len(norm_weight), chunk)
    x, B, C = (torch.ops.aten.silu.out(view, out=view.new_empty(view.shape)) for view in views)
    dt = F.softplus(raw_dt + dt_bias).clamp_(*sizes.dt_limit)
    if real is not None:
        dt *= real[..., None]
    dt = to_chunks(dt, chunk, dt.dtype)
    y, final, saved = chunk_forward(x, dt, A, B, C, D, ssm_state, save)

    gated = F.silu(z)
    chunk_view(_heads(gated, sizes), chunk).mul_(y)
    r = norm_forward(gated, norm_weight, sizes.norm_eps, sizes.groups, out)
    kept = None if saved is None else TileSaved(extended, before_silu, x, dt, B, C, y, r, *saved)
    return extended[:, extended.shape[1] - before :], final, kept


def _tile_backward(
    d_out: Tensor,
    d_final: Tensor | None,
    d_next_conv: Tensor | None,
    projected: Tensor,
    d_projected: Tensor,
    parameters: Parameters,
    real: Tensor | None,
    sizes: Sizes,
    has_initial_state: bool,
    saved: TileSaved,
) -> tuple[Parameters, Tensor, Tensor | None]:
    """Write `d_projected`; return the gradients of the parameters and of the two states before the tile."""
    conv_weight, conv_bias, dt_bias, A, D, norm_weight = parameters
    z, _, raw_dt = _parts(projected, parameters)
    d_z, d_xBC, d_raw_dt = _parts(d_projected, parameters)
    chunk = saved.dt.shape[-1]

    gate = F.silu(z)
    gated = torch.empty_like(gate)
    gate_, gated_ = chunk_view(_heads(gate, sizes), chunk), chunk_view(_heads(gated, sizes), chunk)
    torch.mul(gate_, saved.y, out=gated_)
    d_gated, d_norm_weight = norm_backward(d_out, gated, norm_weight, saved.r)
    d_gated_ = chunk_view(_heads(d_gated, sizes), chunk)
    dy = torch.mul(d_gated_, gate_, out=torch.empty_like(saved.y))
    torch.mul(d_gated_, saved.y, out=gated_)  # now the gradient of the gate
    torch.ops.aten.silu_backward.grad_input(gated, z, grad_input=d_z)

    states = Saved(saved.log_decay, saved.decay, saved.scores, saved.states)
    grads = chunk_backward(dy, d_final, saved.x, saved.dt, A, saved.B, saved.C, D, has_initial_state, states)

    padded, d_before_silu = pad_gradient(saved.before_silu.shape, conv_weight.shape[1], dy)
    split = (sizes.headdim, sizes.groups, len(norm_weight), chunk)
    for given, at, into in zip(
        (grads.x, grads.B, grads.C),
        _split_xBC(saved.before_silu, *split),
        _split_xBC(d_before_silu, *split),
        strict=True,
    ):
        torch.ops.aten.silu_backward.grad_input(given, at, grad_input=into)
    d_extended, d_conv_weight, d_conv_bias = conv_backward(padded, saved.extended, conv_weight)
    before = conv_weight.shape[1] - 1
    if d_next_conv is not None:
        d_extended[:, d_extended.shape[1] - before :] += d_next_conv
    d_xBC.copy_(d_extended[:, before:])

    shifted = raw_dt + dt_bias
    d_dt = from_chunks(grads.dt)
    if real is not None:
        d_dt *= real[..., None]
    if sizes.dt_limit != (0.0, math.inf):
        dt = F.softplus(shifted)
        d_dt *= (dt >= sizes.dt_limit[0]) & (dt <= sizes.dt_limit[1])
    torch.ops.aten.softplus_backward.grad_input(d_dt, shifted, 1.0, 20.0, grad_input=d_raw_dt)
    d_parameters = Parameters(
        conv_weight=d_conv_weight,
        conv_bias=None if conv_bias is None else d_conv_bias,
        dt_bias=d_raw_dt.sum(dim=(0, 1)),
        A=grads.A,
        D=grads.D,
        norm_weight=d_norm_weight,
    )
    return d_parameters, d_extended[:, :before], grads.initial_state


def _heads(tensor: Tensor, sizes: Sizes) -> Tensor:
    """[B, T, H P] seen as [B, T, H, P]."""
    return tensor.unflatten(-1, (-1, sizes.headdim))
