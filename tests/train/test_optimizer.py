import itertools
import math

import pytest
import torch
from tests.train.tiny import MODEL, tiny_config

from lengthwise.models.lm import LanguageModel
from lengthwise.train.optimizer import build_optimizer, learning_rate


def test_warm_up_peak_and_floor() -> None:
    config = tiny_config(steps=101, peak_lr=1e-2, min_lr=1e-4, warmup_frac=0.1)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([1e-3 * (step + 1) for step in range(10)])
    assert rates[9] == rates[10] == max(rates) == 1e-2
    assert rates[55] == pytest.approx(1e-4 + 0.5 * (1e-2 - 1e-4))  # half way down the cosine
    assert rates[100] == pytest.approx(1e-4)
    assert all(late <= early for early, late in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 1.0), (2, 0.5), (5, 1.0)])
def test_short_schedules_stay_between_floor_and_peak(steps: int, warmup: float) -> None:
    config = tiny_config(steps=steps, warmup_frac=warmup)
    rates = [learning_rate(step, config) for step in range(steps)]
    assert all(math.isfinite(rate) and config.min_lr <= rate <= config.peak_lr for rate in rates)


def test_decay_touches_matrices_only() -> None:
    model = LanguageModel(MODEL)
    optimizer = build_optimizer(model, tiny_config())
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert len(decay) == len(by_name)
    for name, value in by_name.items():
        exempt = name.endswith(("A_log", ".D", "dt_bias", ".bias", "norm.weight", "norm_f.weight"))
        assert value == (0.0 if exempt else 0.01), name
    assert by_name["backbone.embedding.weight"] == 0.01
    assert by_name["backbone.layers.0.mixer.in_proj.weight"] == 0.01


def test_decay_is_decoupled_and_scaled_by_the_learning_rate() -> None:
    model = LanguageModel(MODEL)
    optimizer = build_optimizer(model, tiny_config(weight_decay=0.5))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name], rtol=1e-6, atol=0)
