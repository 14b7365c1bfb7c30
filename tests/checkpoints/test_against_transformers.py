"""The same logits as transformers' own models, both ways: from their files, and from ours.

Only one forward pass over the whole text is compared. In pieces, transformers 5.23 restarts the state of Mamba-1 and
RecurrentGemma without a word.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoints.published import LAYOUTS, write_folder
from tests.models.families import FAMILIES

from lengthwise.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from lengthwise.models.config import ModelConfig, RGLRUConfig
from lengthwise.models.lm import LanguageModel

# Float32 of two implementations that sum in different orders; logits are of size one to five.
TOLERANCE = 1e-5
MODELS = {
    "transformers mamba": ("MambaForCausalLM", "mamba1"),
    "transformers mamba-2": ("Mamba2ForCausalLM", "mamba2"),
    "transformers recurrentgemma": ("RecurrentGemmaForCausalLM", "griffin"),
    "transformers llama": ("LlamaForCausalLM", "transformer"),
}
GRIFFIN = "transformers recurrentgemma"
NAMES = list(MODELS)


def theirs(name: str, folder: Path) -> Any:
    import transformers

    return getattr(transformers, MODELS[name][0]).from_pretrained(folder, dtype=torch.float32).eval()


def tokens(config: ModelConfig) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, (3, 21), generator=torch.Generator().manual_seed(3))


def assert_same_logits(ours: Checkpoint, other: Any) -> None:
    text = tokens(ours.config)
    with torch.no_grad():
        mine, expected = ours.model.eval()(text).logits, other(text, use_cache=False).logits
    real = ours.config.vocab_size
    assert expected.std() > 0.2
    error = (mine - expected)[..., :real].abs().max() / expected[..., :real].abs().max()
    assert error <= TOLERANCE, f"{float(error):.2g} of the largest logit"


def their_window(config: ModelConfig) -> ModelConfig:
    """RecurrentGemma with the window of transformers instead of its authors'."""
    others = tuple((layer, replace(mixer, window_reaches=False)) for layer, mixer in config.other_mixers)
    return replace(config, other_mixers=others)


def with_their_window(checkpoint: Checkpoint) -> Checkpoint:
    config = their_window(checkpoint.config)
    model = LanguageModel(config)
    model.load_state_dict(checkpoint.model.state_dict())
    return replace(checkpoint, model=model, config=config)


@pytest.mark.parametrize("name", NAMES)
def test_a_published_file_gives_their_logits(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    loaded = load_checkpoint(write_folder(tmp_path, layout, layout.tensors()))
    assert_same_logits(with_their_window(loaded) if name == GRIFFIN else loaded, theirs(name, tmp_path))


@pytest.mark.skipif(GRIFFIN not in NAMES, reason="its layers are not there yet")
def test_the_window_is_that_of_the_authors(tmp_path: Path) -> None:
    """One key more than transformers: the logits part ways where the text is longer than the window, not before."""
    layout = LAYOUTS[GRIFFIN]
    loaded = load_checkpoint(write_folder(tmp_path, layout, layout.tensors()))
    other, text = theirs(GRIFFIN, tmp_path), tokens(loaded.config)
    with torch.no_grad():
        difference = (loaded.model.eval()(text).logits - other(text, use_cache=False).logits).abs().amax(dim=(0, 2))
    assert difference[:6].max() < 1e-4
    assert difference[6:].max() > 1e-2
    # The choice is kept on disk, among our notes.
    save_checkpoint(tmp_path / "theirs", with_their_window(loaded))
    again = load_checkpoint(tmp_path / "theirs")
    assert again.format == loaded.format
    assert_same_logits(again, other)


@pytest.mark.parametrize("name", NAMES)
def test_what_transformers_writes_is_read(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    other = theirs(name, write_folder(tmp_path / "old", layout, layout.tensors()))
    other.save_pretrained(tmp_path / "new")
    loaded = load_checkpoint(tmp_path / "new")
    assert loaded.format == layout.format
    assert_same_logits(with_their_window(loaded) if name == GRIFFIN else loaded, other)


@pytest.mark.parametrize("name", NAMES)
def test_transformers_reads_what_we_write(name: str, tmp_path: Path) -> None:
    """A model of ours that has never been on disk, in their format."""
    config = FAMILIES[MODELS[name][1]]
    if isinstance(config.mixer, RGLRUConfig):
        # To fit, the recurrence has its width from the model and the embeddings their factor from the rounded root.
        config = replace(their_window(config), mixer=replace(config.mixer, lru_width=24), embedding_scale=4.90625)
    model = LanguageModel(config, seed=3)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    checkpoint = Checkpoint(model=model, config=config, context_length=64, tokenizer_spec="bytes")
    save_checkpoint(tmp_path, checkpoint, format=LAYOUTS[name].format)
    assert_same_logits(load_checkpoint(tmp_path), theirs(name, tmp_path))
