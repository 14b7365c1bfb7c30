"""`lengthwise models`."""

from lengthwise.models.presets import PRESETS


def test_lists_every_preset(lengthwise) -> None:
    done = lengthwise("models")
    assert done.code == 0
    for name in PRESETS:
        assert name in done.out


def test_json_has_parameters_and_state(lengthwise) -> None:
    found = lengthwise("models", "--json").json
    released = found["mamba2-130m"]
    assert released["parameters"] == 128_989_632
    # 24 layers of 24 heads x 64 x 128 floats, and 3 inputs of the convolution over 1536 + 2 x 128 channels.
    assert released["state_bytes_per_sequence"] == 24 * 4 * (24 * 64 * 128 + 3 * (1536 + 256))


def test_one_name(lengthwise) -> None:
    done = lengthwise("models", "table2-mamba2-45m")
    assert done.code == 0
    assert "Table 2 of arXiv 2507.02782" in done.out


def test_misspelled_name(lengthwise) -> None:
    done = lengthwise("models", "mamba2-130n")
    assert done.code == 2
    assert done.part("got") == "'mamba2-130n'"
    assert done.part("try").startswith("did you mean 'mamba2-130m'")
