"""The recurrence of RWKV-6 in its fast forms, which it shares with GLA (`ops/_vector_decay`)."""

from lengthwise.native import Backend
from lengthwise.ops._vector_decay import vector_decay
from lengthwise.ops._vector_decay.operation import DEFAULT_CHUNK_SIZE
from lengthwise.ops.padding import Padding
from lengthwise.shapes import Float, Int, Tensor


def rwkv6(
    r: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H K"],
    u: Float[Tensor, "H K"],
    initial_state: Float[Tensor, "B H K V"] | None = None,
    *,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """``o[t] = S[t-1]^T r[t] + (r[t] . u k[t]) v[t]``, ``S[t] = diag(exp(log_decay[t])) S[t-1] + k[t] v[t]^T``.

    Args:
        r: receptance, the queries.
        k: keys.
        v: values.
        log_decay: log of each key channel's decay, <= 0 (``-exp(w)`` in the published code); minus infinity forgets
            the token's past, but after the token has read it.
        u: bonus of each key channel, with which the current token is read in place of its decay.
        initial_state: the state before the first token, float32 (float64 for float64 inputs); None for zeros.
        lengths: number of real tokens of each row, None for all T.
        padding: the side on which the padding of `lengths` stands.
        chunk_size: tokens a chunk of the torch form, rounded up to a power of two; changes speed and rounding only.
        backend: the form that runs, see `lengthwise.native`.

    All arithmetic is in float32 or wider, whatever the dtype of the inputs, under autocast as well. The gradient cannot
    be differentiated again.

    Returns:
        ``o`` in the dtype of `v`, and the final state in float32 or wider. Gradients flow into every input,
        `initial_state` included, and out of both results. Outputs at padding have no meaning.

    Raises:
        InputError: where a shape, a length, the chunk size or the backend does not fit.
    """
    return vector_decay(
        "rwkv6",
        r,
        k,
        v,
        log_decay,
        u,
        initial_state,
        scale=1.0,
        lengths=lengths,
        padding=padding,
        chunk_size=chunk_size,
        backend=backend,
    )
