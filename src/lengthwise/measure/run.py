"""A whole measurement: every metric over the same text, into a run folder that can be resumed.

Work is cut into pieces, one batch of documents of one metric each. A finished piece is one line of `metrics.jsonl`
that holds all that its results need, so a killed run repeats at most one piece, and the summary can be made again from
the lines without the model.

| metric | piece | line |
|---|---|---|
| stream | rows with full history: losses, and states of the first rows | loss sums per row and bin; state sums |
| restart | the same rows, restarted | loss sums per row and bin beyond the context |
| remembrance | one document at a time | its surface for every distance |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lengthwise.checkpoints import Checkpoint
from lengthwise.devices import choose_device
from lengthwise.engines import OpenedModel, from_checkpoint, open_model
from lengthwise.engines.memory import check_attention_memory, check_memory
from lengthwise.errors import InputError
from lengthwise.measure.config import LENGTH_FACTOR, ONE_PASS_FACTOR, MeasureConfig
from lengthwise.measure.inputs import Sequences, given, sample
from lengthwise.measure.perplexity import check_token_bytes
from lengthwise.measure.pieces import Pieces
from lengthwise.measure.remembrance import DISTANCES, remembrance_surface
from lengthwise.measure.restart import restart_sums
from lengthwise.measure.states import StateStatistics
from lengthwise.measure.stream import Advance, Piece, SequenceModel, check_tokens, full_history_sums
from lengthwise.measure.summary import summarize
from lengthwise.measure.windows import window_sums
from lengthwise.models.lm import LanguageModel
from lengthwise.progress import token_bar
from lengthwise.runs import RunFolder


def measure(
    config: MeasureConfig,
    out: str | Path,
    *,
    checkpoint: Checkpoint | None = None,
    sequences: tuple[np.ndarray, np.ndarray] | Sequences | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a model and leave a run folder of kind "measure" at `out`.

    Args:
        config: what to measure. A folder of another config is refused.
        out: run folder; new or empty, or holding this run when `resume` is set.
        checkpoint: the model, already loaded; None to load `config.model`, through transformers where it is not in a
            format of ours.
        sequences: (tokens [n, L + 1], document ids [n]) or `Sequences`; None to sample them from the corpus. Their
            number and length replace those of the config.
        resume: go on with a run that was interrupted.
        progress: show a progress bar on stderr.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: where the model, the text or the lengths do not fit, or the folder holds another run.
        RunFailure: where a loss or a state is not finite, or the device is full.
    """
    device = choose_device(config.device)
    if checkpoint is None:
        opened = open_model(config.model, engine=config.engine, device=device)
    elif config.engine == "transformers":
        raise InputError(
            expected="engine auto or lengthwise for a checkpoint that is already loaded",
            got="'transformers'",
            where="MeasureConfig.engine",
            fix="leave it out, or leave out the checkpoint",
        )
    else:
        opened = from_checkpoint(checkpoint)
        opened = replace(opened, source=opened.source or config.model)
    resolved, skipped = offered(resolve(config, opened), opened)
    if sequences is None:
        text = sample(resolved, opened, progress=progress)
        resolved = replace(resolved, num_sequences=len(text.tokens))
    else:
        text = sequences if isinstance(sequences, Sequences) else given(config, opened, *sequences)
        resolved, skipped = offered(_fitted(config, opened, text), opened)
    check_tokens(text.tokens, opened.vocab_size, batch_size=resolved.batch_size, chunk=resolved.chunk)
    if opened.reading == "one-shot":
        assert resolved.length is not None
        check_memory(opened, resolved.length)
    if text.token_bytes is not None:
        check_token_bytes(text.token_bytes, text.tokens)
    if text.no_bytes is not None:
        skipped = {**skipped, "bits per byte": text.no_bytes}
    attention = plan_attention(resolved, opened)
    backend, hashes = opened.backend_on(device), text.hashes()
    run = RunFolder.create(out, "measure", resolved.to_dict(), resume=resume, data_hashes=hashes)
    with run.noting_failure():
        if run.manifest["data_hashes"] != hashes:
            raise InputError(
                expected="the text that this run began with",
                got="other sequences from the same options (the corpus has changed)",
                where=str(run.path),
                fix="choose another --out, or restore the corpus",
            )
        _note_model(run, opened)
        run.update_manifest(backend=backend, num_undecodable_files=text.num_undecodable_files)
        plan = Pieces.make(resolved, len(text.tokens), opened.reading)
        with _attention_budget(opened.model, resolved.attention_budget):
            _work(opened.model.to(device), plan, text, run, progress)
        summary, arrays = summarize(resolved, plan.edges, text, run.read_metrics())
        summary |= {
            "outside": opened.facts,
            "skipped": skipped,
            "attention": attention,
            "sequences_wanted": text.wanted,
        }
        run.write_arrays(arrays)
        run.write_json("summary.json", summary)
    run.finish()
    # As a reader of the folder gets it: lists, not tuples.
    return dict(run.read_json("summary.json"))


def resolve(config: MeasureConfig, opened: OpenedModel) -> MeasureConfig:
    """The config with every length filled in; texts that are read in one pass are shorter unless told otherwise."""
    factor = LENGTH_FACTOR if opened.reading == "streamed" else ONE_PASS_FACTOR
    return config.resolved(opened.context_length, factor=factor)


def offered(config: MeasureConfig, opened: OpenedModel) -> tuple[MeasureConfig, dict[str, str]]:
    """The config with the metrics that this model allows, and why others are left out.

    Raises:
        InputError: where none is left.
    """
    skipped: dict[str, str] = {}
    if "states" in config.metrics and (reason := opened.no_states()):
        skipped["states"] = reason
    metrics = tuple(metric for metric in config.metrics if metric not in skipped)
    if not metrics:
        raise InputError(
            expected="a metric that this model allows",
            got=f"states, but {skipped['states']}",
            where=config.model,
            fix="ask for perplexity, restart or remembrance",
        )
    return replace(config, metrics=metrics), skipped


def plan_attention(config: MeasureConfig, opened: OpenedModel) -> dict[str, Any] | None:
    """What attention layers will keep: budget in tokens, bytes of a text at its end, bytes of the largest batch.

    Args:
        config: with every length filled in.
        opened: the model.

    Returns:
        None for models without attention, and for those that are not ours: of these the cache knows what it keeps.

    Raises:
        InputError: where a budget is given and there is nothing to bound, or the keys and values exceed the limit.
    """
    model, budget = opened.model, config.attention_budget
    assert config.length is not None
    assert config.remembrance_length is not None
    if not isinstance(model, LanguageModel) or model.attention_state_bytes(1) == 0:
        if budget is not None:
            raise InputError(
                expected="a model of ours with attention layers, whose memory a budget bounds",
                got="one without attention" if isinstance(model, LanguageModel) else f"one run by {opened.engine}",
                where="MeasureConfig.attention_budget",
                fix="leave the budget out",
            )
        return None
    texts = [(config.batch_size, config.length)]
    if "remembrance" in config.metrics:
        texts.append((config.remembrance_starts + 1, config.remembrance_length))
    with _attention_budget(model, budget):
        largest = check_attention_memory(
            model,
            texts,
            config.memory_limit,
            fix="give a shorter --length, a smaller --batch-size, an --attention-budget, or a higher --memory-limit",
        )
        return {
            "budget": budget,
            "bytes_per_text": model.attention_state_bytes(config.length),
            "bytes_of_largest_batch": largest,
        }


@contextmanager
def _attention_budget(model: SequenceModel, budget: int | None) -> Iterator[None]:
    """Bound what attention layers keep, and take the bound away again."""
    if not isinstance(model, LanguageModel) or budget is None:
        yield
        return
    model.set_attention_budget(budget)
    try:
        yield
    finally:
        model.set_attention_budget(None)


def _note_model(run: RunFolder, opened: OpenedModel) -> None:
    """Record who runs the model and how it is read; a run that goes on must be read as it began.

    Raises:
        InputError: where the folder's run was read in another way.
    """
    if opened.facts is None:
        return
    before = run.manifest.get("outside")
    if before is not None and before["reading"] != opened.reading:
        raise InputError(
            expected=f"a model that is read as this run began, {before['reading']}",
            got=opened.reading,
            where=str(run.path),
            fix="choose another --out: the model or its library has changed",
        )
    run.update_manifest(outside=opened.facts)


def _fitted(config: MeasureConfig, opened: OpenedModel, text: Sequences) -> MeasureConfig:
    """The config with the number and the length of the sequences that were given."""
    length = text.tokens.shape[1] - 1 if text.tokens.ndim == 2 else 0
    fitted = replace(config, num_sequences=max(1, len(text.tokens)), length=max(1, length))
    return resolve(fitted, opened)


def _work(model: SequenceModel, plan: Pieces, text: Sequences, run: RunFolder, progress: bool) -> None:
    """Compute the pieces that the run does not hold yet."""
    pieces = plan.pieces()
    done = {(record["metric"], record["index"]) for record in run.read_metrics()}
    with token_bar("measuring", sum(plan.tokens_read().values()), shown=progress) as bar:
        for metric, index in pieces:
            if (metric, index) in done:
                bar(plan.cost((metric, index)))
                continue
            result = _PIECES[metric](model, plan, text, index, bar)
            run.append_metrics({"metric": metric, "index": index, **result})


def _stream_piece(model: SequenceModel, plan: Pieces, text: Sequences, index: int, bar: Advance) -> dict[str, Any]:
    rows = plan.batches[index]
    num_rows = plan.state_rows(rows)
    states = StateStatistics(plan.positions)

    def look(piece: Piece) -> None:
        states.look(piece.end, piece.state, num_rows)

    sums = full_history_sums(
        model,
        text.tokens[rows],
        plan.edges,
        chunk=plan.config.chunk,
        cuts=plan.positions if num_rows else (),
        look=look if num_rows else None,
        advance=bar,
    )
    return {"sums": sums.tolist(), "states": states.to_record() if num_rows else None}


def _windows_piece(model: SequenceModel, plan: Pieces, text: Sequences, index: int, bar: Advance) -> dict[str, Any]:
    config, rows = plan.config, text.tokens[plan.batches[index]]
    sizes = {"chunk": config.chunk, "batch_size": config.batch_size}
    found = {w: window_sums(model, rows, plan.edges, w, **sizes, advance=bar) for w in plan.windows}
    return {"sums": {str(window): sums.tolist() for window, sums in found.items()}}


def _restart_piece(model: SequenceModel, plan: Pieces, text: Sequences, index: int, bar: Advance) -> dict[str, Any]:
    sums = restart_sums(
        model,
        text.tokens[plan.batches[index]],
        plan.edges[np.searchsorted(plan.edges, plan.context_length) :],
        plan.context_length,
        stride=plan.config.restart_stride,
        chunk=plan.config.chunk,
        batch_size=plan.config.batch_size,
        advance=bar,
    )
    return {"sums": sums.tolist()}


def _remembrance_piece(model: SequenceModel, plan: Pieces, text: Sequences, index: int, bar: Advance) -> dict[str, Any]:
    row = text.tokens[index : index + 1, : plan.ends[-1] + 1]
    surface = remembrance_surface(model, row, plan.starts, plan.ends, advance=bar)
    # JSON has no NaN: what lies beyond its end is null.
    values = {
        name: [[None if np.isnan(v) else v for v in line] for line in surface[name][0].tolist()] for name in DISTANCES
    }
    return {"starts": list(plan.starts), "ends": list(plan.ends), "values": values}


_PIECES = {
    "stream": _stream_piece,
    "windows": _windows_piece,
    "restart": _restart_piece,
    "remembrance": _remembrance_piece,
}
