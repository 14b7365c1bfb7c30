"""The selective scan in torch operations: states are kept before each chunk alone, and made again to go back.

There is no matrix product in this recurrence: each channel has N decays of its own. What a loop over tokens in torch
can save is the graph (one node here instead of some ten a token), the calls for what needs no loop (all decays of a
chunk are one call), and memory traffic, by working on tiles that stay in cache.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lengthwise.shapes import Tensor

# Numbers [tokens, rows, D, N] a tile on a CPU holds: 2^19 float32 values are 2 MB. From a quarter to twice as many the
# time is the same within the noise; far more leave the cache.
TILE = 1 << 19


def chunked_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk: int,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` without bias, gate and lengths, for tensors of one dtype, float32 or wider; T is at least 1.

    chunk: tokens between the states that are kept. save: whether there will be a backward pass.
    """
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], *A.shape)
    y, final_state = _Chunked.apply(x, dt, A, B, C, initial_state, chunk, save)  # type: ignore[no-untyped-call]
    return (y if D is None else y + D * x), final_state


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        x, dt, A, B, C, state, chunk, save = arguments
        y, final = torch.empty_like(x), torch.empty_like(state)
        kept = x.new_empty(-(-x.shape[1] // chunk), *state.shape) if save else None
        with torch.autocast(x.device.type, enabled=False):
            for rows in _row_tiles(x, A, chunk):
                carried = state[rows]
                for index, tokens in enumerate(_chunks(x.shape[1], chunk)):
                    if kept is not None:
                        kept[index, rows] = carried
                    _, states = _states(x, dt, A, B, carried, rows, tokens)
                    read = _over_states(states[1:], C[rows, tokens].transpose(0, 1))
                    y[rows, tokens] = read.transpose(0, 1)
                    carried = states[-1]
                final[rows] = carried
        if save:
            ctx.save_for_backward(x, dt, A, B, C, kept)
            ctx.chunk = chunk
            ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, kept = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else dy
        dx, d_dt, dB, dC = (torch.empty_like(tensor) for tensor in (x, dt, B, C))
        dA, d_initial = torch.zeros_like(A), torch.empty_like(kept[0])
        pieces = list(enumerate(_chunks(x.shape[1], ctx.chunk)))
        with torch.autocast(x.device.type, enabled=False):
            for rows in _row_tiles(x, A, ctx.chunk):
                carry = torch.zeros_like(kept[0, rows]) if d_final is None else d_final[rows]
                for index, tokens in reversed(pieces):
                    decay, states = _states(x, dt, A, B, kept[index, rows], rows, tokens)
                    x_, dt_, dy_ = (tensor[rows, tokens].transpose(0, 1) for tensor in (x, dt, dy))  # [Q, R, D]
                    B_, C_ = (tensor[rows, tokens].transpose(0, 1) for tensor in (B, C))  # [Q, R, N]
                    grad = dy_[..., None] * C_[:, :, None]  # of h, [Q, R, D, N]
                    grad[-1] += carry
                    for t in range(len(grad) - 2, -1, -1):
                        grad[t].addcmul_(grad[t + 1], decay[t + 1])
                    dC[rows, tokens] = _over_channels(states[1:], dy_).transpose(0, 1)
                    dB[rows, tokens] = _over_channels(grad, dt_ * x_).transpose(0, 1)
                    d_entry = _over_states(grad, B_)
                    dx[rows, tokens] = (d_entry * dt_).transpose(0, 1)
                    carry = grad.mul_(decay)[0].clone()
                    d_exponent = grad.mul_(states[:-1])  # of dt A
                    by_decay = torch.mul(d_exponent, A, out=decay).sum(dim=-1)
                    d_dt[rows, tokens] = by_decay.addcmul_(d_entry, x_).transpose(0, 1)
                    dA += d_exponent.mul_(dt_[..., None]).sum(dim=(0, 1))
                d_initial[rows] = carry
        return dx, d_dt, dA, dB, dC, d_initial, None, None


def _chunks(time: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, time)) for start in range(0, time, chunk)]


def _row_tiles(x: Tensor, A: Tensor, chunk: int) -> list[slice]:
    """Rows that are worked on together; all of them where the device hides what tiles avoid."""
    batch, time, _ = x.shape
    step = max(1, TILE // (min(chunk, time) * A.numel()) if x.device.type == "cpu" else batch)
    return [slice(row, min(row + step, batch)) for row in range(0, batch, step)]


def _states(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, before: Tensor, rows: slice, tokens: slice
) -> tuple[Tensor, Tensor]:
    """Decays [Q, R, D, N] of a tile, and its states [Q + 1, R, D, N], the first one `before`."""
    dt_, x_ = dt[rows, tokens].transpose(0, 1), x[rows, tokens].transpose(0, 1)
    decay = (dt_[..., None] * A).exp_()
    states = x.new_empty(len(decay) + 1, *decay.shape[1:])
    states[0] = before
    torch.mul((dt_ * x_)[..., None], B[rows, tokens].transpose(0, 1)[:, :, None], out=states[1:])
    for t in range(len(decay)):
        states[t + 1].addcmul_(states[t], decay[t])
    return decay, states


def _over_states(h: Tensor, weight: Tensor) -> Tensor:
    """Sums over n of h [Q, R, D, N] times weight [Q, R, N]."""
    return torch.matmul(h, weight[..., None]).squeeze(-1)


def _over_channels(h: Tensor, weight: Tensor) -> Tensor:
    """Sums over d of h [Q, R, D, N] times weight [Q, R, D]."""
    return torch.matmul(weight[:, :, None], h).squeeze(-2)
