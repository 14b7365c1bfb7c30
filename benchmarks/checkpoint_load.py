"""Reading a checkpoint of one gigabyte: how much memory it takes at its peak, as a share of the weights in memory.

Four files of the same Mamba-2 model with random weights: float32 in one safetensors file, which stays mapped; float32
in four; float16 in one, which has to be converted; and Llama's layout, whose queries, keys and values are joined. Each
is read in a process of its own, every weight is then touched once, and the peak of that process above what it held
after its imports is divided by the size of the weights in memory. Files are made on the fly and deleted.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._common import THREADS, child, peak_mb

MEMORY_BAR = 1.2
KINDS = ("one file", "four files", "float16", "joined")


def run() -> dict[str, Any]:
    """All four, one after the other; figures, bar and setting."""
    found: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        folder = Path(tempfile.mkdtemp(prefix="lengthwise-load-"))
        try:
            child("checkpoint_load", "write", kind, folder)
            found[kind] = child("checkpoint_load", "read", kind, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    ratios = {kind: values["peak_mb"] / values["weights_mb"] for kind, values in found.items()}
    largest = max(ratios.values())
    first = found[KINDS[0]]
    return {
        "line": f"peak of {', '.join(f'{ratio:.2f}x ({kind})' for kind, ratio in ratios.items())} the weights, at most "
        f"{MEMORY_BAR}x; {first['weights_mb'] * 2**20 / 1e9:.2f} GB in {first['seconds']:.2f} s, "
        f"{first['seconds'] + first['touch_seconds']:.2f} s with every weight touched",
        "ratios": ratios,
        "largest": largest,
        "memory_bar": MEMORY_BAR,
        "holds": largest <= MEMORY_BAR,
        "figures": found,
        "setting": {
            "model": "Mamba-2 of a gigabyte in float32; Llama for 'joined', random weights",
            "threads": THREADS,
        },
    }


def _config(kind: str) -> Any:
    from lengthwise.models.config import AttentionConfig, GatedMLPConfig, Mamba2Config, ModelConfig

    if kind == "joined":
        return ModelConfig(
            d_model=1024,
            num_layers=18,
            vocab_size=16_000,
            mixer=AttentionConfig(num_heads=16),
            mlp=GatedMLPConfig(width=2816),
            tie_embeddings=False,
            pad_vocab_size_multiple=1,
        )
    return ModelConfig(d_model=1024, num_layers=36, vocab_size=16_000, mixer=Mamba2Config())


def _write(kind: str, folder: Path) -> dict[str, float]:
    import torch

    from lengthwise.checkpoints import Checkpoint, save_checkpoint
    from lengthwise.models.lm import LanguageModel

    config = _config(kind)
    with torch.device("meta"):
        model = LanguageModel(config)
    state = {name: torch.empty(tensor.shape).uniform_(-0.1, 0.1) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    dtype = torch.float16 if kind == "float16" else torch.float32
    save_checkpoint(folder, Checkpoint(model=model, config=config), dtype=dtype)
    if kind == "four files":
        _cut(folder / "model.safetensors")
    return {"megabytes": sum(path.stat().st_size for path in folder.iterdir()) / 1e6}


def _cut(path: Path) -> None:
    """One safetensors file as four with an index."""
    from safetensors.torch import load_file, save_file

    tensors, where = load_file(path), {}
    for index in range(4):
        part = {name: tensors[name] for name in sorted(tensors)[index::4]}
        file = f"model-{index + 1:05d}-of-00004.safetensors"
        save_file(part, path.with_name(file))
        where.update(dict.fromkeys(part, file))
    path.with_name("model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    path.unlink()


def _read(folder: Path) -> dict[str, float]:
    import torch

    from lengthwise.checkpoints import load_checkpoint
    from lengthwise.models.lm import LanguageModel

    torch.set_num_threads(THREADS)
    with torch.device("meta"):
        LanguageModel(_config("one file"))  # imports what a model needs
    gc.collect()
    base = peak_mb()
    begin = time.perf_counter()
    model = load_checkpoint(folder).model
    seconds = time.perf_counter() - begin
    total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
    assert total == total, "the weights are numbers"
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 2**20
    return {
        "peak_mb": peak_mb() - base,
        "base_mb": base,
        "weights_mb": weights,
        "seconds": seconds,
        "touch_seconds": time.perf_counter() - begin - seconds,
    }


if __name__ == "__main__":
    task, kind, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    print(json.dumps(_write(kind, folder) if task == "write" else _read(folder)))
