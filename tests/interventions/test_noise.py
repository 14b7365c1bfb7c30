import pytest
import torch
from tests.interventions.toy import HEADS, batch_of, is_zero, random_state, same, zero_state

from lengthwise.interventions import FittedNoise, RandomNoise, Zero


def test_zero_is_no_state_at_all() -> None:
    zero = Zero(zero_state, seed=0)
    zero.observe(random_state(4, 1))
    assert zero.initial_state(7, batch_of(4)) is None


def test_random_noise_has_the_asked_std_in_every_layer_and_head_and_leaves_the_short_part_at_zero() -> None:
    state = RandomNoise(zero_state, seed=0, sigma=0.3).initial_state(0, batch_of(2000))
    assert state is not None
    for _, tensor in state.named_tensors("recurrent"):
        # 40,000 draws per head: the std's own standard error is 0.35 %, the bounds are five of them.
        assert tensor.std(dim=(0, 2, 3)).tolist() == pytest.approx([0.3] * HEADS, rel=0.0175)
        assert tensor.mean().abs() < 0.3 * 5 / 120_000**0.5
    assert all(not tensor.any() for _, tensor in state.named_tensors("short"))


def test_random_noise_is_fresh_for_every_step_row_and_rank_and_repeats_for_the_same_seed() -> None:
    def draw(seed: int, step: int, rank: int = 0) -> torch.Tensor:
        state = RandomNoise(zero_state, seed=seed, sigma=1.0, rank=rank).initial_state(step, batch_of(3))
        assert state is not None
        return state.named_tensors("recurrent")[0][1]

    assert torch.equal(draw(0, 5), draw(0, 5))
    assert not torch.equal(draw(0, 5)[0], draw(0, 5)[1])
    for other in (draw(0, 6), draw(1, 5), draw(0, 5, rank=1)):
        assert not torch.equal(draw(0, 5), other)


def test_relative_sigma_is_measured_once_over_all_layers_of_the_first_batch() -> None:
    noise = RandomNoise(zero_state, seed=0, sigma_relative=2.0)
    assert noise.initial_state(0, batch_of(8)) is None
    final = random_state(8, 1).map("recurrent", lambda t: 3 * t + 1)
    noise.observe(final)
    elements = torch.cat([t.flatten() for _, t in final.named_tensors("recurrent")]).double()
    assert noise.stats()["sigma"] == pytest.approx(2 * float(elements.std(correction=0)), rel=1e-6)
    noise.observe(final.map(None, lambda t: 100 * t))
    assert noise.stats()["sigma"] == pytest.approx(2 * float(elements.std(correction=0)), rel=1e-6)


def test_relative_sigma_waits_for_a_finite_state() -> None:
    noise = RandomNoise(zero_state, seed=0, sigma_relative=1.0)
    noise.observe(zero_state(2).map(None, lambda t: t + float("nan")))
    assert noise.stats() == {"nonfinite_rows": 2}
    assert noise.initial_state(1, batch_of(2)) is None


def test_noise_rows_are_zeroed_with_the_asked_probability() -> None:
    state = RandomNoise(zero_state, seed=0, sigma=1.0, zero_prob=0.25).initial_state(0, batch_of(4000))
    assert state is not None
    # Standard error of the share is 0.7 %; the bounds are four of them.
    assert sum(is_zero(state)) / 4000 == pytest.approx(0.25, abs=0.028)


def moments(state: object, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    tensor = state.named_tensors("recurrent")[layer][1].double()  # type: ignore[attr-defined]
    return tensor.mean(dim=(0, 2, 3)), tensor.var(dim=(0, 2, 3), correction=0)


def fitted(noise: FittedNoise, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    saved = noise.state_dict()
    return saved[f"mean.layers.{layer}.matrix"], saved[f"variance.layers.{layer}.matrix"]


def test_fitted_noise_starts_from_zero_replaces_then_blends_with_beta_on_the_old() -> None:
    noise = FittedNoise(zero_state, seed=0, beta=0.1)
    first = random_state(6, 1).map("recurrent", lambda t: 2 * t + 5)
    second = random_state(6, 2)
    assert noise.initial_state(0, batch_of(6)) is None
    noise.observe(first)
    for layer in range(2):
        for got, want in zip(fitted(noise, layer), moments(first, layer), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    noise.initial_state(1, batch_of(6))
    noise.observe(second)
    for layer in range(2):
        for got, new, old in zip(fitted(noise, layer), moments(second, layer), moments(first, layer), strict=True):
            torch.testing.assert_close(got, 0.9 * new + 0.1 * old, rtol=1e-5, atol=1e-6)


def test_fitted_noise_draws_from_the_distribution_of_each_head() -> None:
    noise = FittedNoise(zero_state, seed=0)
    scale = torch.tensor([0.1, 1.0, 10.0]).view(1, HEADS, 1, 1)
    final = random_state(500, 1).map("recurrent", lambda t: t * scale - 3 * scale)
    noise.observe(final)
    state = noise.initial_state(1, batch_of(2000))
    assert state is not None
    for layer in range(2):
        mean, variance = moments(state, layer)
        assert (mean / scale.flatten()).tolist() == pytest.approx([-3.0] * HEADS, abs=0.05)
        assert (variance.sqrt() / scale.flatten()).tolist() == pytest.approx([1.0] * HEADS, rel=0.03)
    assert all(not tensor.any() for _, tensor in state.named_tensors("short"))


def test_micro_batches_are_pooled_into_one_update() -> None:
    whole, parts = FittedNoise(zero_state, seed=0), FittedNoise(zero_state, seed=0, slots=2)
    for step in range(2):
        final = random_state(8, step)
        whole.initial_state(step, batch_of(8))
        whole.observe(final)
        for slot in range(2):
            parts.initial_state(2 * step + slot, batch_of(4))
            parts.observe(final.rows(torch.arange(4 * slot, 4 * slot + 4)))
    for layer in range(2):
        for got, want in zip(fitted(parts, layer), fitted(whole, layer), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


def test_statistics_from_zero_starts_count_only_those_rows() -> None:
    noise = FittedNoise(zero_state, seed=0, beta=0.0, zero_prob=0.5, zero_start_statistics=True)
    noise.initial_state(0, batch_of(16))
    noise.observe(random_state(16, 1))
    start = noise.initial_state(1, batch_of(16))
    assert start is not None
    zero = torch.tensor(is_zero(start))
    assert 0 < int(zero.sum()) < 16
    final = random_state(16, 2)
    noise.observe(final)
    for got, want in zip(fitted(noise, 0), moments(final.rows(zero.nonzero().squeeze(1)), 0), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_rows_that_are_not_finite_are_left_out_of_the_statistics_and_counted() -> None:
    noise = FittedNoise(zero_state, seed=0)
    final = random_state(6, 1)
    bad = torch.tensor([False, True, False, False, True, False])
    broken = final.where(~bad, final.map(None, lambda t: t * float("inf")))
    noise.observe(broken)
    assert noise.stats()["nonfinite_rows"] == 2
    for got, want in zip(fitted(noise, 1), moments(final.rows((~bad).nonzero().squeeze(1)), 1), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: FittedNoise(zero_state, seed=3), lambda: RandomNoise(zero_state, seed=3, sigma_relative=1.0)]
)
def test_a_restored_noise_continues_with_the_same_bits(make: object) -> None:
    first, second = make(), make()  # type: ignore[operator]
    for step in range(2):
        first.initial_state(step, batch_of(4))
        first.observe(random_state(4, step))
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        a, b = first.initial_state(step, batch_of(4)), second.initial_state(step, batch_of(4))
        assert same(a, b)
        first.observe(random_state(4, step))
        second.observe(random_state(4, step))
    assert first.stats() == second.stats()
