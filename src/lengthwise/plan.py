"""What a run would read, compute and hold in memory, worked out before it starts.

The estimates count tensors whose size is known from the shapes: weights, gradients, moments, states, and the
activations of the layers. They leave out the Python process and torch itself (`PROCESS_BYTES`), which are added as
a constant. They are estimates: benchmarks measure, this file only warns in time. Against the resident peak: a training
step of Mamba-2 at width 256, 4 layers, 8 x 512 tokens was estimated at 0.55 GB and took 0.61 GB (0.83 and 0.88 in its
torch form), for the optimizer brings 0.08 GB of code along; measuring with the same model stays below its estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lengthwise.checkpoints import load_checkpoint
from lengthwise.devices import choose_device
from lengthwise.engines import OpenedModel, open_model
from lengthwise.engines.memory import one_pass_bytes
from lengthwise.engines.native import GENERATED, NativeEngine
from lengthwise.evaluate.config import BLOCK, EvalConfig
from lengthwise.evaluate.run import Subject, lay_out
from lengthwise.extend import ExtendConfig
from lengthwise.measure.config import NUM_SEQUENCES, MeasureConfig
from lengthwise.measure.pieces import Pieces
from lengthwise.measure.remembrance import TOKENS_PER_FORWARD as REMEMBRANCE_TOKENS
from lengthwise.measure.run import offered, plan_attention, resolve
from lengthwise.models.config import (
    AttentionConfig,
    GLAConfig,
    Mamba1Config,
    Mamba2Config,
    MixerConfig,
    ModelConfig,
    RGLRUConfig,
    RWKV6Config,
)
from lengthwise.models.lm import MAX_LOGITS, LanguageModel
from lengthwise.native import resolve_backend
from lengthwise.tasks.base import Task
from lengthwise.train.config import TrainConfig
from lengthwise.train.prepare import starting_point
from lengthwise.units import FLOAT_BYTES

PROCESS_BYTES = 250_000_000
"""Python with torch and no model loaded, resident, on Linux."""


def layer_floats(config: ModelConfig, device: torch.device, dtype: torch.dtype = torch.float32) -> int:
    """Numbers that the largest layer makes per token: projections, convolution, chunk matrices, gates, norms, MLP.

    Args:
        config: sizes.
        device, dtype: where and in which numbers the model runs: kernels in C make fewer of them than torch.
    """
    native = resolve_backend("auto", device, dtype) == "native"
    return max(_mixer_floats(config.d_model, mixer, native) for mixer in set(config.mixers)) + _mlp_floats(config)


def _mixer_floats(d_model: int, mixer: MixerConfig, native: bool) -> int:
    match mixer:
        case Mamba2Config():
            heads = mixer.num_heads(d_model)
            inner = heads * mixer.headdim
            conv_width = inner + 2 * mixer.ngroups * mixer.d_state
            if native:
                # The projection, the output, and a state for each chunk; the rest is computed again. The residual
                # stream with its norm counts double, for the gradients of the layer at work.
                return 6 * d_model + inner + conv_width + heads + inner + inner * mixer.d_state // mixer.chunk_size
            # Per token and head a row of the chunk's decay matrix, of C B^T, and of their product.
            chunk = 3 * heads * mixer.chunk_size
            return 3 * d_model + inner + conv_width + heads + 3 * conv_width + 5 * inner + chunk
        case Mamba1Config():
            return 3 * d_model + 9 * d_model * mixer.expand + 2 * mixer.d_state + mixer.rank(d_model)
        case GLAConfig():
            keys, values = mixer.key_width(d_model), mixer.value_width(d_model)
            return 3 * d_model + 8 * keys + 7 * values + 2 * mixer.num_heads * mixer.chunk_size
        case RWKV6Config():
            heads = d_model // mixer.head_size
            return 22 * d_model + 5 * mixer.mix_rank + mixer.decay_rank + 2 * heads * mixer.chunk_size
        case RGLRUConfig():
            return 3 * d_model + 10 * mixer.width(d_model)
        case AttentionConfig():
            # The scores themselves are never held as a whole.
            return 3 * d_model + 3 * (mixer.num_heads + 2 * mixer.kv_heads()) * mixer.width(d_model)


def _mlp_floats(config: ModelConfig) -> int:
    return 0 if config.mlp is None else 2 * config.d_model + 4 * config.mlp.width


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
    floats = layer_floats(sizes, choose_device(config.device))
    memory = {
        "weights, gradients, moments": 4 * FLOAT_BYTES * parameters,
        "activations": micro_batch * context_length * sizes.num_layers * floats * FLOAT_BYTES,
        "logits": logit_bytes(sizes, micro_batch * context_length, gradients=True),
        "states": 3 * micro_batch * state_bytes,
        "process": PROCESS_BYTES,
    }
    return {
        "start_from": config.init_from or "initial weights",
        "data": config.source,
        "loss_on": config.loss_on,
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


def measure_plan(config: MeasureConfig) -> dict[str, Any]:
    """Sizes of a measurement; loads the model, reads no text.

    Returns:
        The lengths that will be used, tokens read for each part, and bytes of memory by purpose.

    Raises:
        InputError: the model is not there, or the lengths do not fit.
    """
    opened = open_model(config.model, engine=config.engine)
    full, skipped = offered(resolve(config, opened), opened)
    assert full.length is not None
    num_sequences = full.num_sequences or NUM_SEQUENCES
    pieces = Pieces.make(full, num_sequences, opened.reading)
    text_bytes = num_sequences * (full.length + 1) * (1 if opened.vocab_size <= 256 else 2)
    memory, state_bytes = _measure_memory(opened, full, len(pieces.starts), text_bytes)
    attention = plan_attention(full, opened)
    if attention is not None:
        memory["keys and values"] = attention["bytes_of_largest_batch"]
    return {
        "model": config.model,
        "engine": opened.engine,
        "reading": opened.reading,
        **({"why": opened.why} if opened.why is not None else {}),
        **({"skipped": skipped} if skipped else {}),
        "parameters": opened.model.num_parameters(),
        "context_length": full.context_length,
        "data": config.data,
        "length": full.length,
        "num_sequences": num_sequences,
        "metrics": list(full.metrics),
        "tokens_read": pieces.tokens_read(),
        "state_bytes_per_sequence": state_bytes,
        "memory_bytes": {**memory, "all": sum(memory.values())},
    }


def _measure_memory(
    opened: OpenedModel, config: MeasureConfig, num_starts: int, text: int
) -> tuple[dict[str, int], int | None]:
    """Bytes by purpose, and bytes of one sequence's state; None for models that are not ours."""
    assert config.length is not None
    together = max(config.batch_size * config.chunk, REMEMBRANCE_TOKENS)
    model = opened.model
    if not isinstance(model, LanguageModel):
        once = config.length if opened.reading == "one-shot" else together
        return {**one_pass_bytes(opened, once), "text": text, "process": PROCESS_BYTES}, None
    sizes, state_bytes = model.config, model.init_state(1).nbytes
    rows = max(config.batch_size, num_starts)
    return {
        "weights": FLOAT_BYTES * model.num_parameters(),
        # Without gradients only one layer's activations live at a time, beside the residual stream.
        "activations": together * layer_floats(sizes, choose_device(config.device)) * FLOAT_BYTES,
        "logits": logit_bytes(sizes, together, gradients=False),
        "states": 2 * rows * state_bytes,
        "text": text,
        "process": PROCESS_BYTES,
    }, state_bytes


def eval_plan(config: EvalConfig, tasks: Sequence[Task], subject: Subject) -> dict[str, Any]:
    """Sizes of an evaluation; makes no sample and runs nothing.

    Returns:
        Tasks and lengths, samples, tokens of prompts and answers together, and bytes of memory by purpose.

    Raises:
        InputError: a length does not fit a task or the engine.
    """
    cells, left_out = lay_out(config, tasks, subject)
    kept = {name: value for name, value in subject.facts.items() if value is not None and name != "weights_sha256"}
    memory = _eval_memory(config, subject, max(length for _, length in cells))
    lengths = {length for _, length in cells}
    too_short = [f"{each['task']} at {each['length']:,} (needs {each['least']:,})" for each in left_out]
    return {
        "subject": kept,
        "tokenizer": subject.tokenizer.name,
        "tasks": {f"at {length:,}": [task.name for task, at in cells if at == length] for length in sorted(lengths)},
        **({"left_out": too_short} if too_short else {}),
        "samples": len(cells) * config.num_samples,
        "tokens_at_most": sum(length for _, length in cells) * config.num_samples,
        **({"memory_bytes": {**memory, "all": sum(memory.values())}} if memory else {}),
    }


def _eval_memory(config: EvalConfig, subject: Subject, longest: int) -> dict[str, int]:
    """Bytes by purpose; nothing for a server, whose memory is elsewhere."""
    engine, rows = subject.engine, config.batch_size
    if isinstance(engine, NativeEngine):
        model = engine.model
        sizes, together = model.config, rows * min(config.chunk, longest)
        # States wait where prompts part ways and for a batch of answers; a block has no more of them than samples.
        waiting = min(BLOCK, config.num_samples) if config.reuse_prefixes else rows
        state = model.init_state(1).nbytes + model.attention_state_bytes(longest)
        first = next(model.parameters())
        return {
            "weights": first.element_size() * model.num_parameters(),
            "activations": together * layer_floats(sizes, first.device, first.dtype) * FLOAT_BYTES,
            "logits": 2 * rows * sizes.padded_vocab_size * FLOAT_BYTES,
            "states": (2 * GENERATED * rows + waiting) * state,
            "process": PROCESS_BYTES,
        }
    opened = getattr(engine, "opened", None)
    if not isinstance(opened, OpenedModel):
        return {}
    once = rows * (longest if opened.reading == "one-shot" else min(config.chunk, longest))
    per_pass = one_pass_bytes(opened, once)
    per_pass["keys and values"] = one_pass_bytes(opened, rows * longest)["keys and values"]
    return {**per_pass, "process": PROCESS_BYTES}


def extend_plan(config: ExtendConfig) -> dict[str, Any]:
    """Sizes of an extension: two training runs and three measurements; reads no text.

    Raises:
        InputError: the model is not there, or the lengths do not fit.
    """
    resolved = config.resolved(load_checkpoint(config.model))
    control, intervention = resolved.train_configs()
    training = train_plan(intervention)
    measuring = measure_plan(resolved.measure_config(config.model, None))
    memory = {"training": training["memory_bytes"]["all"], "measuring": measuring["memory_bytes"]["all"]}
    return {
        "model": config.model,
        "parameters": training["parameters"],
        "data": config.data,
        "train_twice": {
            "interventions": [intervention.intervention.kind, control.intervention.kind],
            **{name: training[name] for name in ("steps", "batch_size", "context_length", "tokens")},
            "peak_lr": intervention.peak_lr,
        },
        "measure_three_times": {
            name: measuring[name] for name in ("length", "num_sequences", "metrics", "tokens_read")
        },
        "state_bytes_per_sequence": training["state_bytes_per_sequence"],
        # One after the other, so the larger counts.
        "memory_bytes": {**memory, "all": max(memory.values())},
    }
