"""From a config to an intervention."""

from __future__ import annotations

from lengthwise.errors import InputError
from lengthwise.interventions.base import Intervention
from lengthwise.interventions.config import InterventionConfig
from lengthwise.interventions.noise import FittedNoise, RandomNoise, Zero
from lengthwise.interventions.passing import TBTT, StatePassing
from lengthwise.models.lm import LanguageModel

_CLASSES = {
    "zero": Zero,
    "random-noise": RandomNoise,
    "fitted-noise": FittedNoise,
    "state-passing": StatePassing,
    "tbtt": TBTT,
}


def build_intervention(
    config: InterventionConfig, model: LanguageModel, seed: int, *, slots: int = 1, rank: int = 0
) -> Intervention:
    """The intervention that `config` describes.

    config: kind and options. model: gives the shapes and the device of its states. seed: root of all draws.
    slots: micro-batches per optimizer step, each with its own carried states. rank: this process among those of a
    distributed run; ranks draw different numbers.

    Raises InputError where the model has no recurrent state, for every intervention but zero.
    """
    if config.kind != "zero" and not model.config.is_recurrent:
        raise InputError(
            expected="a model with a recurrent state",
            got=f"a Transformer ({model.config.num_layers} layers of attention), which starts every text from nothing",
            where=f"intervention {config.kind}",
            fix="train it with the intervention zero, or choose a recurrent or hybrid model",
        )
    options = config.to_dict()
    return _CLASSES[options.pop("kind")](model.init_state, seed=seed, slots=slots, rank=rank, **options)
