"""Everything a training run needs before its first step: weights to start from, tokenizer, tokens, reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lengthwise.checkpoints import Checkpoint, load_checkpoint
from lengthwise.data.corpora import prepare_corpus
from lengthwise.data.readers import Lanes, ShuffledWindows
from lengthwise.data.store import TokenStore
from lengthwise.data.tokenizers import Tokenizer, tokenizer_file
from lengthwise.distributed import World
from lengthwise.engines.opening import from_checkpoint, tokenizer_of
from lengthwise.errors import InputError
from lengthwise.models.lm import LanguageModel
from lengthwise.train.config import TrainConfig

if TYPE_CHECKING:
    from lengthwise.tasks.reader import TaskRows


def starting_point(config: TrainConfig) -> Checkpoint:
    """The checkpoint a run begins with: freshly initialised weights, or those of `init_from`, in float32.

    Its `extra` already tells how the finished model will have been trained: pre_training holds the settings of the
    run from scratch, post_training a list with one entry per later run.

    Raises InputError where neither the config nor the checkpoint names a tokenizer or a context length.
    """
    if config.model is not None:
        spec, base = _place_of_tokenizer(config.tokenizer or "bytes")
        return Checkpoint(
            model=LanguageModel(config.model, seed=config.seed),
            config=config.model,
            tokenizer_spec=spec,
            context_length=config.context_length,
            source=base,
            extra={"pre_training": _facts(config, config.context_length)},
        )
    assert config.init_from is not None, "TrainConfig holds a model or init_from"
    found = load_checkpoint(config.init_from)
    if config.tokenizer is not None:
        spec, base = _place_of_tokenizer(config.tokenizer)
        found = replace(found, tokenizer_spec=spec, source=base)
    if found.tokenizer_spec is None:
        raise _missing("tokenizer", config.init_from, "give --tokenizer (bytes, or the path of its tokenizer.json)")
    context_length = config.context_length or found.context_length
    if context_length is None:
        raise _missing("context_length", config.init_from, "give --context-length")
    # The model keeps the context length it was made for: what counts as "beyond training" does not move.
    kept_length = found.context_length or context_length
    earlier = found.extra.get("post_training", [])
    extra = {**found.extra, "post_training": [*earlier, _facts(config, context_length)]}
    # Loaded tensors are views of the file's memory map; training wants memory of its own, aligned.
    for parameter in found.model.parameters():
        parameter.data = parameter.data.clone()
    return replace(found, context_length=kept_length, extra=extra)


def checkpoint_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that belongs to a checkpoint. Raises InputError where none is named or it does not fit."""
    return tokenizer_of(from_checkpoint(checkpoint))


def training_store(config: TrainConfig, tokenizer: Tokenizer, world: World, *, progress: bool) -> TokenStore:
    """The training side of the corpus; rank 0 prepares it, the others open what it made."""
    assert config.data is not None, "a config without tasks has a corpus"
    if world.is_main:
        store, _ = prepare_corpus(config.data, tokenizer, progress=progress)
        world.barrier()
        return store
    world.barrier()
    return prepare_corpus(config.data, tokenizer)[0]


def build_reader(config: TrainConfig, store: TokenStore, context_length: int, world: World) -> ShuffledWindows | Lanes:
    """The reader of this rank; all ranks together read `config.batch_size` rows a step."""
    _check_share(config, world)
    kind: Callable[..., ShuffledWindows | Lanes] = Lanes if config.uses_lanes else ShuffledWindows
    rows = config.batch_size // world.size
    return kind(store, context_length, rows, config.seed, rank=world.rank, world_size=world.size)


def build_task_reader(config: TrainConfig, tokenizer: Tokenizer, context_length: int, world: World) -> TaskRows:
    """The reader of this rank for a run on tasks. Raises InputError for unknown tasks and those that do not fit."""
    from lengthwise.tasks.reader import TaskRows
    from lengthwise.tasks.registry import make_tasks

    _check_share(config, world)
    return TaskRows(
        make_tasks(config.tasks),
        tokenizer,
        context_length,
        config.batch_size // world.size,
        config.seed,
        all_tokens=config.loss_on == "all",
        vary_length=config.vary_length,
        rank=world.rank,
        world_size=world.size,
    )


def _check_share(config: TrainConfig, world: World) -> None:
    if config.batch_size % (world.size * config.grad_accum):
        raise InputError(
            expected=f"a batch_size that {world.size} processes x {config.grad_accum} micro-batches divide",
            got=str(config.batch_size),
            where="TrainConfig.batch_size",
            fix="change batch_size or the number of processes",
        )


def _facts(config: TrainConfig, context_length: int | None) -> dict[str, Any]:
    return {
        "data": config.source,
        "context_length": context_length,
        "batch_size": config.batch_size,
        "steps": config.steps,
        "tokens": config.steps * config.batch_size * (context_length or 0),
        "peak_lr": config.peak_lr,
        "intervention": config.intervention.to_dict(),
        "seed": config.seed,
    }


def _place_of_tokenizer(spec: str) -> tuple[str, str]:
    """(name inside a checkpoint folder, folder it is copied from)."""
    path = tokenizer_file(spec)
    return (spec, "") if path is None else (path.name, str(path.parent))


def _missing(what: str, checkpoint: str, fix: str) -> InputError:
    return InputError(expected=f"a checkpoint that names its {what}", got="none", where=checkpoint, fix=fix)
