"""What a run would read, compute and hold in memory, worked out before it starts.

The estimates count tensors whose size is known from the shapes: weights, gradients, moments, states, and the
activations of a Mamba-2 layer. They leave out the Python process and torch itself (`PROCESS_BYTES`), which are added as
a constant. They are estimates: benchmarks measure, this file only warns in time.
"""

from __future__ import annotations

from typing import Any

from lengthwise.models.config import ModelConfig
from lengthwise.models.lm import MAX_LOGITS
from lengthwise.train.config import TrainConfig
from lengthwise.train.prepare import starting_point

FLOAT_BYTES = 4
PROCESS_BYTES = 350_000_000
"""Python, torch and its threads with no model loaded, resident, on Linux."""


def layer_floats(config: ModelConfig) -> int:
    """Numbers that one Mamba-2 layer makes per token: projections, convolution, chunk matrices, gate, norms."""
    mixer = config.mixer
    conv_width = config.d_inner + 2 * mixer.ngroups * mixer.d_state
    projected = config.d_inner + conv_width + config.num_heads
    # Per token and head a row of the chunk's decay matrix, of C B^T, and of their product.
    chunk = 3 * config.num_heads * mixer.chunk_size
    return 3 * config.d_model + projected + 3 * conv_width + 5 * config.d_inner + chunk


def logit_bytes(config: ModelConfig, tokens: int, *, gradients: bool) -> int:
    """Logits that `LanguageModel.nll` holds at once, with their softmax and, in training, their gradient."""
    held = min(tokens * config.padded_vocab_size, MAX_LOGITS)
    return held * FLOAT_BYTES * (3 if gradients else 2)


def train_plan(config: TrainConfig) -> dict[str, Any]:
    """Sizes of a training run; loads the checkpoint it starts from, reads no text.

    Returns:
        Counts of parameters, steps and tokens, and bytes of memory by purpose.

    Raises:
        InputError: what the config names is not there or does not fit.
    """
    checkpoint = starting_point(config)
    model, sizes = checkpoint.model, checkpoint.config
    context_length = config.context_length or checkpoint.context_length
    assert context_length is not None, "starting_point settles the context length"
    parameters = model.num_parameters()
    tokens = config.steps * config.batch_size * context_length
    micro_batch = config.batch_size // config.grad_accum
    state_bytes = model.init_state(1).nbytes
    memory = {
        "weights, gradients, moments": 4 * FLOAT_BYTES * parameters,
        "activations": micro_batch * context_length * sizes.num_layers * layer_floats(sizes) * FLOAT_BYTES,
        "logits": logit_bytes(sizes, micro_batch * context_length, gradients=True),
        "states": 3 * micro_batch * state_bytes,
        "process": PROCESS_BYTES,
    }
    return {
        "start_from": config.init_from or "initial weights",
        "data": config.data,
        "intervention": config.intervention.kind,
        "parameters": parameters,
        "context_length": context_length,
        "batch_size": config.batch_size,
        "steps": config.steps,
        "tokens": tokens,
        "tokens_per_parameter": tokens / parameters,
        "state_bytes_per_sequence": state_bytes,
        "memory_bytes": {**memory, "all": sum(memory.values())},
    }
