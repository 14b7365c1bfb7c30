"""A name to a model that runs: ours where our checkpoints know the format, else through transformers.

This is the one place that decides which code runs a model, and whether its state is carried from call to call.
"""

from __future__ import annotations

import importlib
import json
import socket
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lengthwise.checkpoints import Checkpoint, describe, list_shipped, load_checkpoint, recognise, shipped_folder
from lengthwise.checkpoints.locate import tokenizer_in
from lengthwise.data.tokenizers import Tokenizer, load_tokenizer
from lengthwise.engines.hf import HFModel
from lengthwise.engines.oneshot import OneShot
from lengthwise.engines.probe import LENGTH, Carrying, carries
from lengthwise.engines.tiny import tiny_model, windows_of
from lengthwise.errors import InputError, near_matches
from lengthwise.hub import hub_name
from lengthwise.models.config import ModelConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.models.presets import PRESETS

Engine = Literal["auto", "lengthwise", "transformers"]
Reading = Literal["streamed", "one-shot"]
_CONTEXT_SETTINGS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "model_max_length",
    "context_length",
    "seq_length",
    "n_ctx",
)
"""Settings of a transformers configuration that say how long a text the model was made for."""
TYPICAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [9, 18, 27]},
    "falcon_h1": {
        "hidden_size": 2048,
        "intermediate_size": 4096,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "mamba_d_ssm": 3072,
        "mamba_n_heads": 48,
        "mamba_d_head": 64,
    },
    "granitemoehybrid": {"layer_types": (["linear_attention"] * 5 + ["full_attention"] + ["linear_attention"] * 2) * 4},
    "lfm2": {"full_attn_idxs": [2, 5, 8, 10, 12, 14], "num_hidden_layers": 16},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
}
"""Model types whose default configuration is of no published model, with what makes it like one."""


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A model that can be measured, and what is known about it."""

    model: Any
    """A `SequenceModel`: `LanguageModel`, `HFModel` or `OneShot`."""
    source: str
    """Folder or name it came from."""
    engine: Literal["lengthwise", "transformers"]
    """Whose code runs it."""
    vocab_size: int
    """Token ids that the model takes."""
    context_length: int | None
    """Training context T in tokens; None where the model does not say."""
    tokenizer_spec: str | None
    """"bytes", or a tokenizer.json; None where unknown."""
    tokenizer_base: Path | None = None
    """Folder that a relative `tokenizer_spec` starts from."""
    reading: Reading = "streamed"
    """Whether the state is carried from piece to piece, or texts are read in one pass."""
    why: str | None = None
    """For models that are not ours: what the reading rests on, in a sentence."""
    context_source: str | None = None
    """Setting that `context_length` was taken from, where it is not the checkpoint's own record of its training."""

    @property
    def facts(self) -> dict[str, Any] | None:
        """What a run records about a model that is not ours; None for ours."""
        if self.engine == "lengthwise":
            return None
        inner = self.model.inner if isinstance(self.model, OneShot) else self.model
        return {
            "engine": self.engine,
            "class": inner.name,
            "model_type": getattr(inner.config, "model_type", None),
            "reading": self.reading,
            "why": self.why,
            "context_length_from": self.context_source,
        }

    def backend_on(self, device: torch.device) -> str:
        """What runs the mixers: see `LanguageModel.backend_on`; for a model that is not ours, the name of its library.

        Raises:
            InputError: where the model was set to a form that cannot run.
        """
        return self.model.backend_on(device) if isinstance(self.model, LanguageModel) else self.engine

    def no_states(self) -> str | None:
        """Why statistics of the recurrent state cannot be taken; None where they can."""
        if self.reading == "one-shot":
            return "the model's state is not carried, so there is none to look at"
        if isinstance(self.model, LanguageModel):
            has = self.model.config.is_recurrent
        elif isinstance(self.model, HFModel):
            device = next(iter(self.model.parameters())).device
            with torch.inference_mode():
                state = self.model(torch.zeros(1, 2, dtype=torch.int64, device=device), logits="none").state
            has = bool(state.named_tensors("recurrent"))
        else:
            has = True
        return None if has else "the model has no recurrent state"


def from_checkpoint(checkpoint: Checkpoint) -> OpenedModel:
    """One of our models, as what a measurement takes."""
    return OpenedModel(
        model=checkpoint.model,
        source=checkpoint.source,
        engine="lengthwise",
        vocab_size=checkpoint.config.vocab_size,
        context_length=checkpoint.context_length,
        tokenizer_spec=checkpoint.tokenizer_spec,
        tokenizer_base=Path(checkpoint.source) if checkpoint.source else None,
    )


def tokenizer_of(opened: OpenedModel, given: str | None = None) -> Tokenizer:
    """The tokenizer to use with a model.

    Args:
        opened: the model.
        given: a specification for `load_tokenizer` that takes the place of the model's own.

    Raises:
        InputError: where none is known, or it has more tokens than the model.
    """
    if given is not None:
        tokenizer = load_tokenizer(given)
    elif opened.tokenizer_spec is None:
        what = "a checkpoint that names its tokenizer"
        raise InputError(
            expected=what if opened.engine == "lengthwise" else "a tokenizer.json beside the model",
            got="none",
            where=opened.source,
            fix="give --tokenizer (bytes, or the path of its tokenizer.json)",
        )
    else:
        base = None if opened.tokenizer_spec == "bytes" else opened.tokenizer_base
        tokenizer = load_tokenizer(opened.tokenizer_spec, base)
    if tokenizer.vocab_size > opened.vocab_size:
        raise InputError(
            expected=f"a tokenizer with at most {opened.vocab_size} tokens, the model's vocabulary",
            got=f"{tokenizer.name} with {tokenizer.vocab_size}",
            where="tokenizer",
            fix="use the tokenizer that the model was made for; a new model needs a vocab_size for it",
        )
    return tokenizer


def open_model(
    name: str,
    *,
    engine: Engine = "auto",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> OpenedModel:
    """Load a model with its weights, and find out how texts have to be read with it.

    Args:
        name: a folder, the name of a shipped model, or a name on the model hub.
        engine: whose code shall run it; auto: ours where our checkpoints know the format.
        dtype: of the weights.
        device: where the weights go, and where the probe runs.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        InputError: where nothing of that name is there, or neither engine can read it.
    """
    if engine == "lengthwise" or (engine == "auto" and is_ours(name)):
        return from_checkpoint(load_checkpoint(name, dtype=dtype))
    model = load_transformers(name, dtype=dtype, trust_remote_code=trust_remote_code)
    adapter = HFModel(model.to(device))
    found = _reading(adapter)
    context, source = context_of(model.config)
    spec, base = _tokenizer_file(name)
    return OpenedModel(
        model=adapter if found.right else OneShot(adapter),
        source=name,
        engine="transformers",
        vocab_size=adapter.vocab_size,
        context_length=context,
        context_source=source,
        tokenizer_spec=spec,
        tokenizer_base=base,
        reading="streamed" if found.right else "one-shot",
        why=found.why,
    )


def _reading(adapter: HFModel) -> Carrying:
    """Whether the cache is right: with these weights, and in a small model whose windows the probe slides."""
    with quiet():
        found = carries(adapter)
        beyond = windows_beyond(adapter.config, LENGTH)
        if not found.right or not beyond:
            return found
        try:
            small = carries(HFModel(tiny_model(adapter.config).model))
        except InputError:  # no small model of this class: what the weights showed has to do
            return found
    if small.right:
        return found
    return replace(
        found,
        right=False,
        why=f"in a small random model of its class, with {', '.join(beyond)} cut to what the probe slides, {small.why}",
    )


def windows_beyond(config: Any, length: int) -> list[str]:
    """The windows that a text of this length does not slide, as ``name = value``."""
    return [f"{name} = {value}" for name, value in windows_of(config).items() if value > length]


def load(
    name: str, *, engine: Engine = "auto", dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> LanguageModel | HFModel:
    """A model with its weights, on the CPU, in evaluation mode; the arguments are those of `open_model`.

    Raises:
        InputError: where nothing of that name is there, or neither engine can read it.
    """
    if engine == "lengthwise" or (engine == "auto" and is_ours(name)):
        return load_checkpoint(name, dtype=dtype).model.eval()
    return HFModel(load_transformers(name, dtype=dtype, trust_remote_code=trust_remote_code))


def config_of_ours(name: str) -> ModelConfig | None:
    """The configuration of one of our models, by preset, shipped name or folder; None for any other name."""
    if name in PRESETS:
        return PRESETS[name].config
    return describe(name).config if is_ours(name) else None


def is_ours(name: str) -> bool:
    """Whether our checkpoints can read what `name` is; of a repository on the hub only the config is fetched.

    Raises:
        InputError: where there is nothing of that name and transformers, which might know more, is not installed; where
            the hub cannot be reached.
    """
    if name in PRESETS or shipped_folder(name) is not None:
        return True
    _check_reachable(name)
    try:
        return recognise(name) is not None
    except InputError:
        if importlib.util.find_spec("transformers") is None:
            raise
        return False


def _config_of_folder(path: Path) -> dict[str, Any] | None:
    """A folder's config.json; None where there is none that can be read."""
    try:
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def context_of(config: Any) -> tuple[int | None, str | None]:
    """The length a configuration says its model was made for, and the setting that says so; None where none does."""
    text = config.get_text_config(decoder=True)
    for name in _CONTEXT_SETTINGS:
        value = getattr(text, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value, name
    return None, None


def _tokenizer_file(name: str) -> tuple[str | None, Path | None]:
    """The file of a tokenizer beside a model: in its folder, or the tokenizer.json in the hub's cache."""
    folder = Path(name)
    if folder.is_dir():
        file = tokenizer_in(folder)
        return (file, folder) if file is not None else (None, None)
    cached_file: Any = library().utils.cached_file
    found = cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    return (Path(found).name, Path(found).parent) if found else (None, None)


# transformers.


def library() -> Any:
    """The library, imported when it is first needed.

    Raises InputError, naming the extra, where it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            expected="the package transformers, for models that are not in a format of ours",
            got=f"{type(error).__name__}: {error}",
            where="this Python installation",
            fix="install the extra: pip install 'lengthwise[hf]'",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's advice on performance and padding out of the output; faults are found by looking."""
    logging = library().utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def load_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """The transformers configuration of a folder, a name on the hub, or a model type such as ``jamba``.

    Raises:
        InputError: where there is none, or no causal language model belongs to it.
    """
    package = library()
    with quiet():
        try:
            if name in package.models.auto.configuration_auto.CONFIG_MAPPING_NAMES and not Path(name).is_dir():
                config = package.AutoConfig.for_model(name, **TYPICAL.get(name, {}))
            else:
                _check_name(name, package)
                _check_reachable(name)
                _register_fla(name)
                config = package.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        except InputError:
            raise
        except Exception as error:  # the hub, the file system, and configurations of many authors
            raise _not_loadable(name, error, "a configuration that transformers can read") from error
    mapping = package.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in mapping and not remote:
        raise InputError(
            expected="a model that transformers can load as a causal language model",
            got=f"model type '{getattr(config, 'model_type', '?')}'",
            where=name,
            fix="give a decoder; encoders and sequence-to-sequence models carry no state of a text",
        )
    return config


def load_transformers(name: str, *, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """A causal language model with its weights, in evaluation mode.

    Raises:
        InputError: where there is nothing of that name, no weights, or the library cannot load them.
    """
    package = library()
    known = package.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    if name in known and not Path(name).is_dir():
        raise InputError(
            expected="a folder or a name on the hub, with weights",
            got=f"'{name}', a model type",
            where="MODEL",
            fix=f"add --config-only to check a small random {name}, where the verb has it",
        )
    load_config(name, trust_remote_code=trust_remote_code)
    with quiet():
        try:
            model = package.AutoModelForCausalLM.from_pretrained(name, dtype=dtype, trust_remote_code=trust_remote_code)
        except Exception as error:
            raise _not_loadable(name, error, "weights that transformers can load") from error
    return model.eval()


def _check_name(name: str, package: Any) -> None:
    """Refuse what is neither a folder nor a possible name on the hub, with near matches of what could be meant."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(
                expected="a folder with a config.json",
                got="a folder without one",
                where=name,
                fix="give the folder that holds the model's files",
            )
        return
    if hub_name(name) is not None and not path.exists():
        return
    types = list(package.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
    names = [*list_shipped(), *PRESETS, *types]
    raise InputError(
        expected="a folder, the name of a shipped model or preset, owner/name on the hub, or a model type",
        got=f"'{name}', which is none of these",
        where="MODEL",
        fix=f"check the path ({near_matches(name, names) if _near(name, names) else 'see `lengthwise models`'})",
    )


def _near(name: str, names: list[str]) -> bool:
    return near_matches(name, names).startswith("did you mean")


def _register_fla(name: str) -> None:
    """Import flash-linear-attention where a folder holds a model type of it: importing registers its classes."""
    values = _config_of_folder(Path(name)) or {}
    kind = values.get("model_type")
    known = library().models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    if kind is not None and kind not in known and importlib.util.find_spec("fla") is not None:
        importlib.import_module("fla")


def _not_loadable(name: str, error: Exception, expected: str) -> InputError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if hub_name(name) is None and not Path(name).is_dir():
        fix = "give a folder with a config.json"
        return InputError(expected=expected, got=reason, where=f"the default configuration of '{name}'", fix=fix)
    if not Path(name).is_dir():
        fix = "check the name, or the connection to the hub"
        if _offline():
            reason = "it is not among the files downloaded before, and HF_HUB_OFFLINE forbids to download it"
            fix = "unset HF_HUB_OFFLINE, or give the folder of a downloaded model"
        return InputError(
            expected="a folder, the name of a shipped model, or owner/name on the model hub",
            got=f"'{name}': there is no such folder here, and from the hub: {reason}",
            where="MODEL",
            fix=fix,
        )
    fix = "check the folder's files"
    if "trust_remote_code" in str(error):
        fix = "read the code that comes with the model, then add --trust-remote-code where the verb has it"
    elif not any(Path(name).glob("*.safetensors")) and not any(Path(name).glob("*.bin")):
        fix = "there are no weights in this folder: `lengthwise check --config-only` checks a small model of its class"
    return InputError(expected=expected, got=reason, where=name, fix=fix)


def _check_reachable(name: str) -> None:
    """Refuse a name of the hub at once where the hub cannot be reached; its client tries for half a minute.

    Raises:
        InputError: where the name is not among the downloaded files and the hub's address is not known here.
    """
    repository = hub_name(name)
    if repository is None or _offline() or Path(name).is_dir() or urllib.request.getproxies():
        return
    hub = importlib.import_module("huggingface_hub")
    if isinstance(hub.try_to_load_from_cache(repository.repository, "config.json"), str):
        return
    host = urllib.parse.urlsplit(importlib.import_module("huggingface_hub.constants").ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise InputError(
            expected="a folder, the name of a shipped model, or owner/name on the model hub",
            got=f"'{name}': there is no such folder here, and the hub cannot be reached ({host}: {error.strerror})",
            where="MODEL",
            fix="check the path, or the connection",
        ) from error


def _offline() -> bool:
    """Whether the hub's client was told, when it was imported, to keep off the network."""
    return bool(importlib.import_module("huggingface_hub.constants").HF_HUB_OFFLINE)
