"""From the settings of an evaluation to what it works with: the tasks, the engine, the tokenizer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise.data.benchmarks import folder_of
from lengthwise.data.rwkv_world import RWKVWorldTokenizer
from lengthwise.data.tokenizers import HFTokenizer, Tokenizer, load_tokenizer
from lengthwise.errors import InputError
from lengthwise.evaluate.config import EvalConfig
from lengthwise.evaluate.run import Subject
from lengthwise.tasks.library import TaskOptions

if TYPE_CHECKING:
    import torch

    from lengthwise.engines.base import Engine

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable with the key of a server; it is written nowhere."""
ENDS_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "<|eot_id|>")
"""Special tokens that end an answer. They are not part of it."""


_WHOSE: dict[str, Any] = {"auto": "auto", "native": "lengthwise", "transformers": "transformers"}


def task_options(config: EvalConfig) -> TaskOptions:
    """Where the tasks of an evaluation find their sources; fetched copies of RULER and BABILong unless named."""
    data_dir = None if config.data_dir is None else Path(config.data_dir)
    books = tuple(map(Path, config.books))
    if config.wording == "own":
        return TaskOptions(data_dir=data_dir, books=books)
    named = {"ruler": config.ruler_source, "babilong": config.babilong_source}
    folders = {name: folder_of(name, data_dir) if folder is None else Path(folder) for name, folder in named.items()}
    # A copy that nobody named counts where it is; one that a task needs and that is missing says so itself.
    wanted = {
        name
        for name in folders
        if named[name] is not None or folders[name].is_dir() or any(_is_of(task, name) for task in config.tasks)
    }
    return TaskOptions(
        data_dir=data_dir,
        books=books,
        ruler_source=folders["ruler"] if "ruler" in wanted else None,
        babilong_source=folders["babilong"] if "babilong" in wanted else None,
        model_template=config.model_template,
    )


def _is_of(task: str, benchmark: str) -> bool:
    """Whether a name of a task or group belongs to RULER, or to BABILong."""
    from lengthwise.tasks.registry import GROUPS

    members = GROUPS[task].members if task in GROUPS else (task,)
    babilong = all(member.startswith("babilong") for member in members)
    other = all(member.startswith(("passkey", "copying")) for member in members)
    return babilong if benchmark == "babilong" else not babilong and not other


def open_subject(config: EvalConfig) -> Subject:
    """Load the model, or reach the server, that a config names.

    Raises:
        InputError: where there is none of that name, no server answers, or no tokenizer is known that fits.
    """
    return _server(config) if config.engine == "server" else _local(config)


def _server(config: EvalConfig) -> Subject:
    from lengthwise.engines.server import ServerEngine, ServerSettings

    assert config.server_url is not None, "the config sees to it"
    tokenizer = _server_tokenizer(config)
    engine = ServerEngine(
        ServerSettings(
            url=config.server_url,
            model=config.model,
            api=config.server_api,
            api_key=os.environ.get(KEY_VARIABLE, "none"),
            concurrency=config.batch_size,
            timeout=config.server_timeout,
            max_retries=config.server_retries,
            context_length=config.context_length,
        )
    )
    return Subject(engine, tokenizer, engine.facts())


def _server_tokenizer(config: EvalConfig) -> Tokenizer:
    """The one that was named, else that of the folder or repository which the server's model is called by."""
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)
    try:
        return load_tokenizer(config.model)
    except InputError as error:
        raise InputError(
            expected="a tokenizer to count lengths with; a server does not give its own",
            got=f"none, and no tokenizer is found under the name {config.model!r}",
            where="--tokenizer",
            fix="give the tokenizer of the server's model: a tokenizer.json, or owner/name on the hub",
        ) from error


def _local(config: EvalConfig) -> Subject:
    import torch

    from lengthwise.devices import choose_device
    from lengthwise.engines.native import NativeEngine
    from lengthwise.engines.opening import open_model, tokenizer_of
    from lengthwise.models.lm import LanguageModel

    device, dtype = choose_device(config.device), getattr(torch, config.dtype)
    opened = open_model(config.model, engine=_WHOSE[config.engine], dtype=dtype, device=device)
    tokenizer = tokenizer_of(opened, config.tokenizer)
    model = opened.model.to(device)
    stops = stop_tokens(tokenizer)
    engine: Engine
    if isinstance(model, LanguageModel):
        engine = NativeEngine(
            model,
            batch_size=config.batch_size,
            chunk=config.chunk,
            reuse_prefixes=config.reuse_prefixes,
            stop_tokens=stops,
        )
    else:
        from lengthwise.engines.transformers import TransformersEngine

        engine = TransformersEngine(opened, batch_size=config.batch_size, chunk=config.chunk, stop_tokens=stops)
    facts = {
        "model": opened.source or config.model,
        "parameters": model.num_parameters(),
        "context_length": opened.context_length,
        "weights_sha256": weights_hash(getattr(model, "inner", model).named_parameters()),
        "backend": opened.backend_on(device),
        "device": str(device),
        "dtype": config.dtype,
        "stop_tokens": sorted(stops),
        **(opened.facts or {}),
        **engine.facts(),
    }
    return Subject(engine, tokenizer, facts)


def stop_tokens(tokenizer: Tokenizer) -> list[int]:
    """Ids that end an answer: the special tokens of the tokenizer that are an end of text."""
    if isinstance(tokenizer, RWKVWorldTokenizer):
        return [0]
    if not isinstance(tokenizer, HFTokenizer):
        return []
    added = tokenizer.description.get("added_tokens") or []
    return [int(token["id"]) for token in added if token.get("special") and token.get("content") in ENDS_OF_TEXT]


def weights_hash(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """sha256 over names, shapes and bits of all parameters."""
    import torch

    digest = hashlib.sha256()
    for name, parameter in parameters:
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
