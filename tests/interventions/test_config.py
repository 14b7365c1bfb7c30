import subprocess
import sys

import pytest

from lengthwise.errors import InputError
from lengthwise.interventions import InterventionConfig


def test_defaults_of_each_kind_are_filled_in() -> None:
    assert InterventionConfig(kind="state-passing").to_dict() == {
        "kind": "state-passing",
        "zero_prob": 0.1,
        "carry_short": False,
        "permute": False,
    }
    assert InterventionConfig(kind="tbtt").to_dict() == {"kind": "tbtt", "zero_prob": 0.0, "carry_short": True}
    assert InterventionConfig(kind="fitted-noise").beta == 0.1
    assert InterventionConfig(kind="random-noise").to_dict()["sigma_relative"] == 1.0
    assert InterventionConfig(kind="random-noise", sigma=0.5).sigma_relative is None
    assert InterventionConfig() == InterventionConfig(kind="zero")


@pytest.mark.parametrize("kind", ["zero", "random-noise", "fitted-noise", "state-passing", "tbtt"])
def test_a_config_survives_the_round_trip(kind: str) -> None:
    config = InterventionConfig.from_dict({"kind": kind})
    assert InterventionConfig.from_dict(config.to_dict()) == config


def test_an_unknown_kind_names_its_neighbour(unchecked: None) -> None:
    with pytest.raises(InputError, match="did you mean 'state-passing'"):
        InterventionConfig(kind="state_passing")  # type: ignore[arg-type]


def test_an_unknown_key_names_its_neighbour() -> None:
    with pytest.raises(InputError, match=r"got 'sigma_relativ'.*did you mean 'sigma_relative'"):
        InterventionConfig.from_dict({"kind": "random-noise", "sigma_relativ": 1.0})


def test_an_option_without_effect_is_refused() -> None:
    with pytest.raises(InputError, match=r"options that zero reads \(none\); got sigma=1.0"):
        InterventionConfig(kind="zero", sigma=1.0)
    with pytest.raises(InputError, match="got permute=True"):
        InterventionConfig(kind="tbtt", permute=True)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"a number in \[0, 1\]; got zero_prob=1.5"):
        InterventionConfig(kind="state-passing", zero_prob=1.5)
    with pytest.raises(InputError, match=r"a number in \[0, 1\); got beta=1.0"):
        InterventionConfig(kind="fitted-noise", beta=1.0)
    with pytest.raises(InputError, match=r"a number in \[0, inf\); got sigma=-1.0"):
        InterventionConfig(kind="random-noise", sigma=-1.0)
    with pytest.raises(InputError, match="got sigma=inf"):
        InterventionConfig(kind="random-noise", sigma=float("inf"))


def test_two_sigmas_are_one_too_many() -> None:
    with pytest.raises(InputError, match="either sigma or sigma_relative"):
        InterventionConfig(kind="random-noise", sigma=1.0, sigma_relative=1.0)


def test_statistics_of_zero_starts_need_zero_starts() -> None:
    with pytest.raises(InputError, match="zero_prob above 0"):
        InterventionConfig(kind="fitted-noise", zero_start_statistics=True)
    assert InterventionConfig(kind="fitted-noise", zero_start_statistics=True, zero_prob=0.1).zero_start_statistics


def test_configs_do_not_import_torch() -> None:
    code = (
        "import sys; from lengthwise.interventions import InterventionConfig; from lengthwise.train import TrainConfig;"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
