"""The inside of the Mamba-2 mixer as one node of the graph that is computed in C (`mamba2.c`), in float32."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from lengthwise.layers._mamba2_inner import Parameters, Sizes
from lengthwise.native import Team, load, team
from lengthwise.shapes import Bool, Float, Tensor

MAX_CHUNK = 256
"""Larger chunks are cut to this: a chunk's matrices shall stay in the cache of a core."""
SPAN_TOKENS = 1024
"""Tokens of a row that threads work on together, where there are fewer rows than keep all of them busy."""
ROW_BLOCKS = 32
"""Rows are summed in so many blocks at most, each in order and then the blocks, whatever the number of threads."""

_FLOATS = (torch.float32, torch.bfloat16)


class _Job(ctypes.Structure):
    """`mamba2_job` of `mamba2.c`."""

    _fields_ = (
        ("by", Team),
        *((name, ctypes.c_int64) for name in ("batch", "time", "heads", "width", "groups", "size", "taps", "chunk")),
        *((name, ctypes.c_int64) for name in ("half", "blocks", "span")),
        *((name, ctypes.c_float) for name in ("eps", "dt_least", "dt_most")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *(
                    "projected",
                    "dt_bias",
                    "real",
                    "conv_weight",
                    "conv_bias",
                    "A",
                    "D",
                    "norm_weight",
                    "conv_state",
                    "ssm_state",
                ),
                *("out", "final", "states", "r"),
                *("d_out", "d_final", "d_projected", "d_conv_state", "d_ssm_state", "sums", "scratch"),
            )
        ),
        *((name, ctypes.c_int64) for name in ("model_width", "readers", "silent", "from_time", "to_time")),
        ("block_eps", ctypes.c_float),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("residual", "added", "block_weight", "in_weight", "in_bias", "out_weight", "out_bias"),
                *("next_conv", "panels"),
            )
        ),
    )


def mamba2_inner_native(
    projected: Float[Tensor, "B T E"],
    parameters: Parameters,
    conv_state: Float[Tensor, "B before C"] | None,
    ssm_state: Float[Tensor, "B H P N"] | None,
    real: Bool[Tensor, "B T"] | None,
    sizes: Sizes,
) -> tuple[Float[Tensor, "B T HP"], Float[Tensor, "B H P N"]]:
    """As `mamba2_inner`; parameters and states in float32."""
    if projected.dtype not in _FLOATS:
        projected = projected.float()
    return _Native.apply(projected.contiguous(), *parameters, conv_state, ssm_state, real, sizes)  # type: ignore[no-untyped-call]


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, compiled when first asked for; None where they cannot be."""
    job = ctypes.POINTER(_Job)
    return load(
        Path(__file__).with_name("mamba2.c"),
        {
            "mamba2_sizes": [job, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)],
            "mamba2_forward": [job],
            "mamba2_backward": [job],
        },
    )


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        given = Parameters(*arguments[:6])
        conv_state, ssm_state, real, sizes = arguments[6:]
        parameters = Parameters(*(None if p is None else p.contiguous() for p in given))  # type: ignore[arg-type]
        batch, time, _ = projected.shape
        saving = any(ctx.needs_input_grad)
        job, kept = _describe((batch, time), parameters, conv_state, ssm_state, real, sizes)
        job.half = projected.dtype == torch.bfloat16
        numbers = _sizes(job)
        out = projected.new_empty(batch, time, job.heads * job.width)
        final = _floats(batch, job.heads, job.width, job.size)
        states = r = None
        if saving:
            before = -(-time // job.chunk) - (ssm_state is None)
            states = _floats(batch, before, job.heads, job.size, numbers.state_row)
            r = _floats(batch, time, job.groups)
        scratch = _floats(numbers.scratch)
        _point(job, projected=projected, out=out, final=final, states=states, r=r, scratch=scratch, kept=kept)
        _call("mamba2_forward", job)
        if saving:
            ctx.save_for_backward(projected, *parameters, conv_state, real, out, states, r)
            ctx.sizes, ctx.has_ssm_state = sizes, ssm_state is not None
            ctx.set_materialize_grads(False)
        return out, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        projected, *rest = ctx.saved_tensors
        parameters = Parameters(*rest[:6])
        conv_state, real, out, states, r = rest[6:]
        sizes = ctx.sizes
        d_out = torch.zeros_like(out) if d_out is None else d_out.contiguous()
        d_final = None if d_final is None else d_final.contiguous()
        ssm_state = states if ctx.has_ssm_state else None
        job, kept = _describe((len(projected), projected.shape[1]), parameters, conv_state, ssm_state, real, sizes)
        job.half = projected.dtype == torch.bfloat16
        numbers = _sizes(job, backward=True)
        d_projected = torch.empty_like(projected)
        d_conv_state = None if conv_state is None else torch.empty_like(conv_state)
        d_ssm_state = None
        if ctx.has_ssm_state:
            d_ssm_state = _floats(job.batch, job.heads, job.width, job.size)
        sums = _floats(job.blocks, numbers.sums)
        _point(
            job,
            projected=projected,
            out=out,
            states=states,
            r=r,
            d_out=d_out,
            d_final=d_final,
            d_projected=d_projected,
            d_conv_state=d_conv_state,
            d_ssm_state=d_ssm_state,
            sums=sums,
            scratch=_floats(numbers.scratch),
            kept=kept,
        )
        _call("mamba2_backward", job)
        return d_projected, *_parameter_gradients(sums[0], parameters), d_conv_state, d_ssm_state, None, None


class Surroundings(NamedTuple):
    """What stands around the inside of a mixer in a block: a norm before it and the two projections, all in float32."""

    norm_weight: Float[Tensor, " D"]
    norm_eps: float
    in_weight: Float[Tensor, "E D"]
    in_bias: Float[Tensor, " E"] | None
    out_weight: Float[Tensor, "D HP"]
    out_bias: Float[Tensor, " D"] | None


def mamba2_read_native(
    residual: Float[Tensor, "B T D"],
    added: Float[Tensor, "R T D"] | None,
    surroundings: Surroundings,
    parameters: Parameters,
    conv_state: Float[Tensor, "B before C"] | None,
    ssm_state: Float[Tensor, "R H P N"] | None,
    sizes: Sizes,
) -> tuple[Float[Tensor, "B before C"], Float[Tensor, "R H P N"]]:
    """A whole block without gradients: norm, projections and residual stream with the inside of the mixer.

    Args:
        residual: the stream before the block, float32; a slice of time is fine.
        added: takes the stream behind it; may be `residual`. None where only the states are wanted, which is cheaper.
        surroundings: the rest of the block.
        parameters, sizes: see `mamba2_inner`.
        conv_state: before the first token; None for zeros.
        ssm_state: likewise. Where it has R rows and `residual` one, all R rows read the same input, and most of the
            work is done once for all.

    Returns:
        Both states after the last token. To be called without gradients.
    """
    batch, width = len(residual), residual.shape[2]
    rows = batch if ssm_state is None else len(ssm_state)
    channels, taps = parameters.conv_weight.shape
    heads, headdim = len(parameters.A), sizes.headdim
    next_conv = _floats(batch, taps - 1, channels)
    final = _floats(rows, heads, headdim, (channels - heads * headdim) // (2 * sizes.groups))
    for name, stream in (("residual", residual), ("added", added)):
        assert stream is None or stream.stride()[1:] == (width, 1), name
    # Threads take whole rows; those that are left over they read together, so that none of them waits.
    left = batch % team().threads if rows == batch else 0
    for part in (slice(0, batch - left), slice(batch - left, batch)):
        own = part if rows == batch else slice(None)
        if part.stop > part.start:
            _read_rows(
                residual[part],
                None if added is None else added[own],
                surroundings,
                parameters,
                None if conv_state is None else conv_state[part],
                None if ssm_state is None else ssm_state[own],
                sizes,
                next_conv[part],
                final[own],
            )
    return next_conv, final


def _read_rows(
    residual: Tensor,
    added: Tensor | None,
    surroundings: Surroundings,
    parameters: Parameters,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    sizes: Sizes,
    next_conv: Tensor,
    final: Tensor,
) -> None:
    """`mamba2_read_native` of some rows; the last two arguments take what it returns."""
    batch, time, width = residual.shape
    readers = len(final) if len(final) > batch else 0
    job, kept = _describe((batch, time), parameters, conv_state, ssm_state, None, sizes, readers=readers)
    job.model_width, job.readers, job.silent = width, readers, added is None
    job.block_eps = surroundings.norm_eps
    first = job.heads * job.width if added is None else 0  # of the rows of the projection that are wanted
    in_bias = surroundings.in_bias
    _point(
        job,
        block_weight=surroundings.norm_weight,
        in_weight=surroundings.in_weight[first:],
        in_bias=None if in_bias is None else in_bias[first:],
        out_weight=surroundings.out_weight,
        out_bias=surroundings.out_bias,
        next_conv=next_conv,
        final=final,
        kept=kept,
    )
    job.residual, job.from_time = residual.data_ptr(), residual.stride(0) // width
    if added is not None:
        job.added, job.to_time = added.data_ptr(), added.stride(0) // width
    numbers = _sizes(job)
    _point(job, scratch=_floats(numbers.scratch), panels=_floats(numbers.panels), kept=kept)
    _call("mamba2_forward", job)


def _describe(
    shape: tuple[int, int],
    parameters: Parameters,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    real: Tensor | None,
    sizes: Sizes,
    *,
    readers: int = 0,
) -> tuple[_Job, list[Tensor]]:
    """A job without inputs, results and scratch, and the tensors it points to, to be kept until it is done."""
    batch, time = shape
    heads, channels = len(parameters.A), len(parameters.conv_weight)
    by = team()
    if batch * time * channels * max(1, readers) < 1 << 14:  # threads would cost more than they save
        by.threads = 1
    chunk = min(sizes.chunk_size, time, MAX_CHUNK)
    # Each thread takes rows of its own where that keeps all of them busy.
    apart = not readers and (by.threads == 1 or batch % by.threads == 0 or batch >= 4 * by.threads)
    job = _Job(
        by=by,
        batch=batch,
        time=time,
        heads=heads,
        width=sizes.headdim,
        groups=sizes.groups,
        size=(channels - heads * sizes.headdim) // (2 * sizes.groups),
        taps=parameters.conv_weight.shape[1],
        chunk=chunk,
        blocks=min(batch, ROW_BLOCKS),
        span=0 if apart else 1 if readers else max(1, min(SPAN_TOKENS // chunk, -(-time // chunk))),
        eps=sizes.norm_eps,
        dt_least=sizes.dt_limit[0],
        dt_most=sizes.dt_limit[1],
    )
    kept: list[Tensor] = []
    _point(
        job,
        dt_bias=parameters.dt_bias,
        real=None if real is None else real.contiguous(),
        conv_weight=parameters.conv_weight.t().contiguous(),
        conv_bias=parameters.conv_bias,
        A=parameters.A,
        D=parameters.D,
        norm_weight=parameters.norm_weight,
        conv_state=None if conv_state is None else conv_state.contiguous(),
        ssm_state=None if ssm_state is None else ssm_state.contiguous(),
        kept=kept,
    )
    return job, kept


def _floats(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32)


def _point(job: _Job, *, kept: list[Tensor], **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None:
            assert tensor.is_contiguous(), name
            setattr(job, name, tensor.data_ptr())
            kept.append(tensor)


class _Numbers(NamedTuple):
    """How many numbers a job needs."""

    scratch: int
    sums: int
    """Of one block of rows."""
    state_row: int
    """One row of a kept state."""
    panels: int


def _sizes(job: _Job, *, backward: bool = False) -> _Numbers:
    sizes = (ctypes.c_int64 * 4)()
    compiled = library()
    assert compiled is not None, "the caller checks for a compiler"
    compiled.mamba2_sizes(job, backward, sizes)
    return _Numbers(*sizes)


def _call(name: str, job: _Job) -> None:
    getattr(library(), name)(job)


def _parameter_gradients(sums: Tensor, parameters: Parameters) -> Parameters:
    """The pieces of a block of sums, each of which begins at a multiple of 16 numbers."""
    channels, taps = parameters.conv_weight.shape
    heads = len(parameters.A)
    lengths = [taps * channels, channels, len(parameters.norm_weight), heads, heads, heads]
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + -(-length // 16) * 16)
    conv_weight, conv_bias, norm_weight, A, D, dt_bias = (
        sums[start : start + length] for start, length in zip(starts, lengths, strict=False)
    )
    return Parameters(
        conv_weight=conv_weight.view(taps, channels).t(),
        conv_bias=None if parameters.conv_bias is None else conv_bias,
        dt_bias=dt_bias,
        A=A,
        D=None if parameters.D is None else D,
        norm_weight=norm_weight,
    )
