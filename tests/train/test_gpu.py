from pathlib import Path

import pytest
from tests.train.runs import metrics_of
from tests.train.tiny import tiny_config, tiny_store

from lengthwise.train import train


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["zero", "random-noise", "fitted-noise", "state-passing", "tbtt"])
def test_training_on_a_gpu_follows_training_on_the_cpu(tmp_path: Path, kind: str) -> None:
    store = tiny_store(tmp_path / "store")
    for device in ("cpu", "cuda"):
        train(tiny_config(kind, device=device), tmp_path / device, store=store, progress=False)
    pairs = zip(metrics_of(tmp_path / "cpu"), metrics_of(tmp_path / "cuda"), strict=True)
    # Noise is drawn by the device's own generator, so the two runs are alike and not equal.
    tolerance = 0.02 if kind.endswith("noise") else 1e-3
    for cpu, gpu in pairs:
        assert gpu["loss"] == pytest.approx(cpu["loss"], rel=tolerance)
