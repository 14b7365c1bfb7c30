"""The selective scan of Mamba-1: checks, padding, and the choice between its two forms."""

import torch
import torch.nn.functional as F

from lengthwise.native import Backend, usable
from lengthwise.ops.checks import check_chunk_size, check_shapes
from lengthwise.ops.padding import Padding, check_lengths, emptied, real_tokens
from lengthwise.ops.selective_scan.chunked import chunked_scan
from lengthwise.ops.selective_scan.native import library, native_scan
from lengthwise.shapes import Float, Int, Tensor

DEFAULT_CHUNK_SIZE = 32


def selective_scan(
    x: Float[Tensor, "B T D"],
    dt: Float[Tensor, "B T D"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "B T N"],
    C: Float[Tensor, "B T N"],
    D: Float[Tensor, " D"] | None = None,
    initial_state: Float[Tensor, "B D N"] | None = None,
    *,
    dt_bias: Float[Tensor, " D"] | None = None,
    z: Float[Tensor, "B T D"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D N"]]:
    """Mamba-1's recurrence, ``h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]``, ``y[t] = h[t] . C[t] + D x[t]``.

    Here a channel d has a state of N numbers, ``A`` is a decay rate for each of them, and B and C, which all channels
    share, say where an input goes and what is read.

    Args:
        x: inputs; D, in shapes, is the inner width of the mixer.
        dt: step sizes, >= 0; a step of 0 leaves the state as it is. With `dt_bias` they are what is before softplus.
        A: decay rates, <= 0.
        B, C: input and output projections of the state.
        D: skip weight of each channel, or None.
        initial_state: the state before the first token, float32 (float64 for float64 inputs); None for zeros.
        dt_bias: where given, the step sizes are ``softplus(dt + dt_bias)``.
        z: where given, ``y`` is multiplied by ``silu(z)``.
        lengths: number of real tokens of each row, None for all T.
        padding: the side on which the padding of `lengths` stands.
        chunk_size: tokens between two states that the backward pass starts from: speed and memory, not the result.
        backend: "native" for the kernel in C, "torch", or "auto" for the faster one that can run.

    All arithmetic is in float32 or wider, whatever the dtype of the inputs, under autocast as well. The gradient cannot
    be differentiated again.

    Returns:
        ``y`` in the dtype of `x`, and the final state in float32 or wider. Gradients flow into every input,
        `initial_state` included, and out of both results. Outputs at padding have no meaning.

    Raises:
        InputError: where a shape, a length, the chunk size or the backend does not fit.
    """
    batch, time, _ = x.shape
    _check(x, dt, A, B, C, D, initial_state, dt_bias, z, chunk_size)
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        x, dt, B, C = emptied(lengths, padding, x, dt, B, C)
        z = None if z is None else emptied(lengths, padding, z)[0]
    native = usable(backend, x.device, x.dtype, library)
    exact = torch.promote_types(x.dtype, torch.float32)
    dtype, tensors = x.dtype, (x, dt, A, B, C, D, initial_state, dt_bias, z)
    x, dt, A, B, C, D, initial_state, dt_bias, z = (None if t is None else t.to(exact) for t in tensors)  # type: ignore[assignment]
    if time == 0:
        return x.to(dtype), x.new_zeros(batch, *A.shape) if initial_state is None else initial_state
    # Inside a node of the graph, torch does not say whether gradients are wanted at all.
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if native:
        real = _real_span(lengths, batch, time, padding)
        y, final_state = native_scan(x, dt, A, B, C, D, initial_state, dt_bias, z, real, chunk_size, save)
        return y.to(dtype), final_state
    if dt_bias is not None:
        dt = F.softplus(dt + dt_bias)
    if lengths is not None:
        dt = dt * real_tokens(lengths, time, padding)[..., None]
    y, final_state = chunked_scan(x, dt, A, B, C, D, initial_state, chunk_size, save)
    if z is not None:
        y = y * F.silu(z)
    return y.to(dtype), final_state


def _real_span(lengths: Tensor | None, batch: int, time: int, padding: Padding) -> Tensor:
    """[B, 2]: the first real token of each row, and the one behind the last."""
    if lengths is None:
        return torch.tensor([0, time]).expand(batch, 2).contiguous()
    lengths = lengths.long()
    first = time - lengths if padding == "left" else torch.zeros_like(lengths)
    return torch.stack([first, first + lengths], dim=1)


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    dt_bias: Tensor | None,
    z: Tensor | None,
    chunk_size: int,
) -> None:
    batch, time, channels = x.shape
    states = A.shape[-1]
    wanted = {
        "dt": (dt, (batch, time, channels)),
        "A": (A, (channels, states)),
        "B": (B, (batch, time, states)),
        "C": (C, (batch, time, states)),
        "D": (D, (channels,)),
        "initial_state": (initial_state, (batch, channels, states)),
        "dt_bias": (dt_bias, (channels,)),
        "z": (z, (batch, time, channels)),
    }
    check_shapes("selective_scan", wanted, x=x, A=A)
    check_chunk_size("selective_scan", chunk_size, DEFAULT_CHUNK_SIZE)
