"""Comparing what two training runs left behind."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lengthwise.runs import RunFolder
from lengthwise.train.snapshots import list_snapshots


def tensors_of(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file."""
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata().get("facts", "{}"))  # noqa: SIM118


def assert_same_bits(run: Path, other: Path) -> None:
    """Equal bits in weights, moments and carried states; equal readers and metrics, apart from times."""
    assert metrics_of(run) == metrics_of(other)
    newest, other_newest = list_snapshots(run)[-1], list_snapshots(other)[-1]
    assert newest.name == other_newest.name
    pairs = [(newest / name, other_newest / name) for name in ("model.safetensors", "optimizer.safetensors")]
    pairs += [(newest / "rank-0000.safetensors", other_newest / "rank-0000.safetensors")]
    pairs += [(run / "checkpoint/model.safetensors", other / "checkpoint/model.safetensors")]
    for mine, theirs in pairs:
        tensors, facts = tensors_of(mine)
        other_tensors, other_facts = tensors_of(theirs)
        assert tensors.keys() == other_tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other_tensors[name]), f"{mine.name}: {name}"
        for some in (facts, other_facts):
            some.get("progress", {}).pop("seconds", None)
        assert facts == other_facts


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without its times; every line must be whole."""
    text = (run / "metrics.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert records == RunFolder.open(run).read_metrics()
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]
