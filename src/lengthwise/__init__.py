"""Find out how far a sequence model really reads, and make it read further.

The names below are what a program needs most; each is imported when it is first used, so that `import lengthwise`
costs nothing and does not load torch. The loops live in `lengthwise.measure`, `lengthwise.train` and
`lengthwise.extend`, the page in `lengthwise.report`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lengthwise.checkpoints import Checkpoint, list_shipped, load_checkpoint, save_checkpoint
    from lengthwise.data import TokenStore, load_tokenizer, prepare_corpus
    from lengthwise.errors import InputError, LengthwiseError, RunFailure
    from lengthwise.interventions import InterventionConfig
    from lengthwise.models.config import Mamba2Config, ModelConfig
    from lengthwise.models.lm import LanguageModel
    from lengthwise.models.presets import PRESETS, get_preset
    from lengthwise.runs import RunFolder
    from lengthwise.state import MixerState, State
    from lengthwise.train import TrainConfig

__version__ = "0.1.0.dev0"

# Public name -> module that defines or exports it. tests/test_public_api.py pins the list.
_HOMES = {
    "Checkpoint": "checkpoints",
    "list_shipped": "checkpoints",
    "load_checkpoint": "checkpoints",
    "save_checkpoint": "checkpoints",
    "TokenStore": "data",
    "load_tokenizer": "data",
    "prepare_corpus": "data",
    "InputError": "errors",
    "LengthwiseError": "errors",
    "RunFailure": "errors",
    "InterventionConfig": "interventions",
    "Mamba2Config": "models.config",
    "ModelConfig": "models.config",
    "LanguageModel": "models.lm",
    "PRESETS": "models.presets",
    "get_preset": "models.presets",
    "RunFolder": "runs",
    "MixerState": "state",
    "State": "state",
    "TrainConfig": "train",
}

__all__ = [
    "PRESETS",
    "Checkpoint",
    "InputError",
    "InterventionConfig",
    "LanguageModel",
    "LengthwiseError",
    "Mamba2Config",
    "MixerState",
    "ModelConfig",
    "RunFailure",
    "RunFolder",
    "State",
    "TokenStore",
    "TrainConfig",
    "__version__",
    "get_preset",
    "list_shipped",
    "load_checkpoint",
    "load_tokenizer",
    "prepare_corpus",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lengthwise' has no attribute '{name}'")
    return getattr(import_module(f"lengthwise.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
