"""`lengthwise models`."""

import pytest
from tests.checkpoints.published import LAYOUTS, write_folder

from lengthwise.models.presets import PRESETS


def test_lists_every_preset(lengthwise) -> None:
    done = lengthwise("models")
    assert done.code == 0
    for name in PRESETS:
        assert name in done.out
    for family in ("Mamba-1", "Mamba-2", "Mamba-2 + attention", "Transformer", "Griffin", "RWKV-6", "GLA"):
        assert f"\n{family}" in f"\n{done.out}"


def test_json_has_parameters_and_state(lengthwise) -> None:
    found = lengthwise("models", "--json").json
    released = found["mamba2-130m"]
    assert released["parameters"] == 128_989_632
    # 24 layers of 24 heads x 64 x 128 floats, and 3 inputs of the convolution over 1536 + 2 x 128 channels.
    assert released["state_bytes_per_sequence"] == 24 * 4 * (24 * 64 * 128 + 3 * (1536 + 256))
    assert released["state_bytes_per_token"] == 0
    # Six layers of attention with 30 heads of 128 keep keys and values of every token.
    assert found["mamba2attn-2.7b"]["state_bytes_per_token"] == 46_080 * 4
    assert found["sheared-llama-2.7b"]["state_bytes_per_token"] == 163_840 * 4
    # Eight windows of 2048 keys and values of one head of 256, beside 18 recurrent layers.
    griffin = found["recurrentgemma-2b"]
    assert griffin["state_bytes_per_token"] == 0
    assert griffin["state_bytes_per_sequence"] == pytest.approx(4 * (18 * 10_240 + 8 * 2 * 2048 * 256), rel=1e-4)


def test_one_name(lengthwise) -> None:
    done = lengthwise("models", "table2-mamba2-45m")
    assert done.code == 0
    assert "Table 2 of arXiv 2507.02782" in done.out
    assert "config.at 9, 18, 27, 36, 45, 56.kind" in lengthwise("models", "mamba2attn-2.7b").out


def test_a_folder(lengthwise, tmp_path) -> None:
    layout = LAYOUTS["transformers mamba-2"]
    folder = write_folder(tmp_path / "model", layout, layout.tensors())
    found = lengthwise("models", str(folder), "--json").json
    assert (found["kind"], found["format"], found["family"]) == ("checkpoint", "transformers/mamba2", "Mamba-2")
    assert (found["read_from"], found["stored_as"]) == (str(folder), "safetensors, float32")
    assert found["parameters"] == sum(tensor.numel() for tensor in layout.tensors().values())
    assert lengthwise("models", "mamba2-bytes-t64", "--json").json["kind"] == "shipped"


def test_misspelled_name(lengthwise) -> None:
    done = lengthwise("models", "mamba2-130n")
    assert done.code == 2
    assert done.part("got") == "'mamba2-130n', which is neither"
    assert "did you mean 'mamba2-130m'" in done.part("try")


def test_a_repository_that_cannot_be_asked(lengthwise, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = lengthwise("models", "org/name")
    assert done.code == 2
    assert done.part("expected") == "org/name in the cache, because HF_HUB_OFFLINE is set"
