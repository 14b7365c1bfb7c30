"""The public names, and what importing the package costs."""

import subprocess
import sys

import lengthwise

PUBLIC = {
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
}


def test_public_names_are_these() -> None:
    assert set(lengthwise.__all__) == PUBLIC
    assert set(dir(lengthwise)) == PUBLIC


def test_every_public_name_can_be_had() -> None:
    for name in PUBLIC:
        assert getattr(lengthwise, name) is not None


def test_a_public_name_never_hides_a_subpackage() -> None:
    # `from lengthwise.measure import ...` must keep working after `lengthwise.measure` was imported.
    modules = {"measure", "train", "extend", "report", "data", "cli", "models", "checkpoints", "check", "engines"}
    assert not PUBLIC & modules


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(lengthwise, "LangaugeModel")


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, lengthwise; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
