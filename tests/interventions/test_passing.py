import pytest
import torch
from tests.interventions.toy import batch_of, is_zero, random_state, same, zero_state

from lengthwise.errors import InputError
from lengthwise.interventions import TBTT, StatePassing


def recurrent_only(state: object) -> object:
    return state.map("short", torch.zeros_like)  # type: ignore[attr-defined]


def test_the_first_batch_starts_from_zero_and_row_i_is_passed_to_row_i() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.0)
    assert passing.initial_state(0, batch_of(4)) is None
    final = random_state(4, 1)
    passing.observe(final)
    state = passing.initial_state(1, batch_of(4))
    assert state is not None
    assert same(state, recurrent_only(final))  # type: ignore[arg-type]


def test_the_short_part_is_carried_on_request() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.0, carry_short=True)
    final = random_state(4, 1)
    passing.observe(final)
    state = passing.initial_state(1, batch_of(4))
    assert state is not None
    assert same(state, final)


def test_carried_states_are_detached_float32_and_not_views_of_large_blocks() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.0)
    block = torch.randn(2, 10, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    passing.observe(zero_state(2).map("recurrent", lambda t: block[:, 7]))
    narrow = torch.randn(2, 10, 3, 4, 5, requires_grad=True)
    for source in (block, narrow):
        passing.observe(zero_state(2).map("recurrent", lambda t, source=source: (source * 1)[:, 7]))
        state = passing.initial_state(1, batch_of(2))
        assert state is not None
        for _, tensor in state.named_tensors("recurrent"):
            assert not tensor.requires_grad
            assert tensor.dtype == torch.float32
            assert tensor.untyped_storage().nbytes() == tensor.numel() * 4
            torch.testing.assert_close(tensor, source.detach()[:, 7].float(), rtol=0, atol=0)


def test_one_coin_zeroes_a_sequence_in_all_layers_with_the_asked_probability() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.1, carry_short=True)
    passing.observe(random_state(4000, 1))
    state = passing.initial_state(1, batch_of(4000))
    assert state is not None
    per_tensor = [t.flatten(1).eq(0).all(1) for _, t in state.named_tensors()]
    for zeroed in per_tensor[1:]:
        assert torch.equal(zeroed, per_tensor[0])
    # Standard error of the share is 0.47 %; the bounds are four of them.
    assert float(per_tensor[0].float().mean()) == pytest.approx(0.1, abs=0.019)
    assert passing.stats()["zeroed_rows"] == int(per_tensor[0].sum())


def test_zeroing_does_not_change_what_is_carried() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.5)
    final = random_state(8, 1)
    before = final.map(None, torch.clone)
    passing.observe(final)
    first = passing.initial_state(1, batch_of(8))
    assert first is not None
    assert any(is_zero(first))
    assert same(final, before)
    again = passing.initial_state(1, batch_of(8))
    assert again is not None
    assert same(first, again)


def test_another_batch_size_takes_rows_that_exist_with_replacement() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.0)
    final = random_state(3, 1)
    passing.observe(final)
    state = passing.initial_state(1, batch_of(50))
    assert state is not None
    given = final.named_tensors("recurrent")[0][1]
    taken = state.named_tensors("recurrent")[0][1]
    source = [next(i for i in range(3) if torch.equal(row, given[i])) for row in taken]
    assert set(source) == {0, 1, 2}
    smaller = passing.initial_state(2, batch_of(2))
    assert smaller is not None
    assert smaller.batch_size == 2


def test_permute_gives_every_row_once_in_another_order() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.0, permute=True)
    final = random_state(32, 1)
    passing.observe(final)
    state = passing.initial_state(1, batch_of(32))
    assert state is not None
    given = final.named_tensors("recurrent")[1][1].flatten(1)
    taken = state.named_tensors("recurrent")[1][1].flatten(1)
    assert not torch.equal(given, taken)
    assert torch.equal(given[:, 0].sort().values, taken[:, 0].sort().values)


def test_rows_that_are_not_finite_become_zero_in_all_layers_and_are_counted() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.0)
    final = random_state(5, 1)
    broken = final.map_named(
        "recurrent", lambda name, t: t.index_fill(0, torch.tensor([3]), float("nan")) if "layers.1" in name else t
    )
    broken = broken.map_named(
        "recurrent", lambda name, t: t.index_fill(0, torch.tensor([0]), float("-inf")) if "layers.0" in name else t
    )
    passing.observe(broken)
    state = passing.initial_state(1, batch_of(5))
    assert state is not None
    assert is_zero(state) == [True, False, False, True, False]
    assert passing.stats()["nonfinite_rows"] == 2


def test_large_finite_rows_are_kept_although_their_sum_overflows() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.0)
    passing.observe(zero_state(2).map("recurrent", lambda t: t + 3e38))
    state = passing.initial_state(1, batch_of(2))
    assert state is not None
    assert is_zero(state) == [False, False]
    assert passing.stats()["nonfinite_rows"] == 0


def test_a_short_part_that_is_not_carried_cannot_spoil_a_row() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.0)
    passing.observe(random_state(2, 1).map("short", lambda t: t * float("nan")))
    assert passing.stats()["nonfinite_rows"] == 0


def test_each_micro_batch_slot_keeps_its_own_states() -> None:
    passing = StatePassing(zero_state, seed=0, zero_prob=0.0, slots=2)
    finals = [recurrent_only(random_state(4, seed)) for seed in range(2)]
    for slot in range(2):
        assert passing.initial_state(slot, batch_of(4)) is None
        passing.observe(finals[slot])  # type: ignore[arg-type]
    for slot in range(2):
        state = passing.initial_state(2 + slot, batch_of(4))
        assert state is not None
        assert same(state, finals[slot])  # type: ignore[arg-type]


def test_tbtt_carries_everything_and_resets_where_documents_start() -> None:
    tbtt = TBTT(zero_state, seed=0)
    assert tbtt.initial_state(0, batch_of(4, [True] * 4)) is None
    final = random_state(4, 1)
    tbtt.observe(final)
    state = tbtt.initial_state(1, batch_of(4, [False, True, False, False]))
    assert state is not None
    assert is_zero(state) == [False, True, False, False]
    kept = torch.tensor([0, 2, 3])
    assert same(state.rows(kept), final.rows(kept))
    assert tbtt.stats()["zeroed_rows"] == 1


def test_tbtt_refuses_another_number_of_lanes() -> None:
    tbtt = TBTT(zero_state, seed=0)
    tbtt.observe(random_state(4, 1))
    with pytest.raises(InputError, match=r"expected 4 rows.*got 3 rows.*use state-passing"):
        tbtt.initial_state(1, batch_of(3))


@pytest.mark.parametrize("kind", [StatePassing, TBTT])
def test_a_restored_intervention_continues_with_the_same_bits(kind: type[StatePassing]) -> None:
    first, second = (kind(zero_state, seed=3, zero_prob=0.3, slots=2) for _ in range(2))
    for step in range(4):
        first.initial_state(step, batch_of(4, [False] * 4))
        first.observe(random_state(4, step))
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for step in range(4, 8):
        a = first.initial_state(step, batch_of(4, [False] * 4))
        b = second.initial_state(step, batch_of(4, [False] * 4))
        assert a is not None
        assert b is not None
        assert same(a, b)
        first.observe(random_state(4, step))
        second.observe(random_state(4, step))
    assert first.stats() == second.stats()


def test_a_saved_state_that_does_not_fit_is_refused() -> None:
    passing = StatePassing(zero_state, seed=0)
    passing.observe(random_state(2, 1))
    saved = passing.state_dict()
    with pytest.raises(InputError, match="an entry 'zeroed_rows'"):
        StatePassing(zero_state, seed=0).load_state_dict({"nonfinite_rows": torch.tensor(0)})
    with pytest.raises(InputError, match=r"shape \[2, 3, 4, 5\].*got \[2, 7\]"):
        StatePassing(zero_state, seed=0).load_state_dict({**saved, "slots.0.layers.0.matrix": torch.zeros(2, 7)})
    del saved["slots.0.layers.1.buffer"]
    with pytest.raises(InputError, match=r"an entry 'layers.1.buffer'"):
        StatePassing(zero_state, seed=0).load_state_dict(saved)
