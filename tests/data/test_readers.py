"""Windows and lanes: coverage, borders, order, shards and exact positions.

The token ids of these stores are their places in the store, so a row says where it was read.
"""

import itertools
import json
from collections.abc import Callable

import pytest
import torch

from lengthwise.data import Batch, Lanes, ShuffledWindows, TokenStore
from lengthwise.errors import InputError

MakeStore = Callable[[list[int]], TokenStore]
LENGTHS = [40, 3, 9, 8, 27, 100, 0, 10]
T = 8


def document_of(store: TokenStore, row: torch.Tensor) -> int:
    """The document a row lies in; fails where it leaves one."""
    first, last = int(row[0]), int(row[-1])
    assert row.tolist() == list(range(first, last + 1)), "a row is not one piece of the store"
    index = int((store.offsets <= first).sum()) - 1
    assert last < store.offsets[index + 1], "a row crosses the border of a document"
    return index


def epoch_of(reader: ShuffledWindows) -> list[int]:
    """Starts of all windows of the reader's next epoch, one row a batch."""
    assert reader.batch_size == 1
    return [int(reader.next_batch().tokens[0, 0]) for _ in range(reader.num_windows)]


def equal(left: Batch, right: Batch) -> bool:
    return torch.equal(left.tokens, right.tokens) and torch.equal(left.reset, right.reset)


def test_an_epoch_holds_every_window_once(counting_store: MakeStore) -> None:
    store = counting_store(LENGTHS)
    reader = ShuffledWindows(store, T, 1, seed=0)
    assert reader.num_skipped == 3  # 3, 8 and 0 tokens; T + 1 = 9 just fits
    for _ in range(3):
        starts = epoch_of(reader)
        assert len(set(starts)) == len(starts)
        for index in (0, 2, 4, 5, 7):
            begin, end = int(store.offsets[index]), int(store.offsets[index + 1])
            mine = sorted(start for start in starts if begin <= start < end)
            assert begin <= mine[0] < begin + T
            assert [b - a for a, b in itertools.pairwise(mine)] == [T] * (len(mine) - 1)
            assert mine[-1] + T < end <= mine[-1] + 2 * T  # the last fits, one more would not


def test_rows_stay_in_documents_and_are_fresh(counting_store: MakeStore) -> None:
    store = counting_store(LENGTHS)
    reader = ShuffledWindows(store, T, 5, seed=1)
    for _ in range(20):
        batch = reader.next_batch()
        assert batch.tokens.shape == (5, T + 1)
        assert batch.tokens.dtype == torch.int64
        assert batch.reset.all()
        for row in batch.tokens:
            document_of(store, row)


def test_epochs_differ_in_order_and_offsets(counting_store: MakeStore) -> None:
    reader = ShuffledWindows(counting_store(LENGTHS), T, 1, seed=0)
    first, second = epoch_of(reader), epoch_of(reader)
    assert first != second
    assert set(first) != set(second), "offsets are the same in every epoch"
    assert first != sorted(first)


def test_order_is_a_function_of_the_seed(counting_store: MakeStore) -> None:
    store = counting_store(LENGTHS)
    assert epoch_of(ShuffledWindows(store, T, 1, seed=3)) == epoch_of(ShuffledWindows(store, T, 1, seed=3))
    assert epoch_of(ShuffledWindows(store, T, 1, seed=3)) != epoch_of(ShuffledWindows(store, T, 1, seed=4))


def test_batches_straddle_epochs_without_loss(counting_store: MakeStore) -> None:
    store = counting_store([30, 20])
    single = ShuffledWindows(store, T, 1, seed=0)
    expected = epoch_of(single) + epoch_of(single) + epoch_of(single)
    wide = ShuffledWindows(store, T, 7, seed=0)  # more rows than an epoch has windows
    found = torch.cat([wide.next_batch().tokens[:, 0] for _ in range(2)]).tolist()
    assert found[: len(expected)] == expected[: len(found)]
    assert len(found) == 14 > 2 * 6


@pytest.mark.parametrize("kind", [ShuffledWindows, Lanes])
@pytest.mark.parametrize("calls", [0, 1, 4, 13])
def test_a_saved_position_gives_the_same_batches(
    counting_store: MakeStore, kind: type[ShuffledWindows] | type[Lanes], calls: int
) -> None:
    store = counting_store(LENGTHS)
    reader = kind(store, T, 3, 5)
    for _ in range(calls):
        reader.next_batch()
    saved = json.loads(json.dumps(reader.state_dict()))
    expected = [reader.next_batch() for _ in range(12)]
    restored = kind(TokenStore.open(store.path), T, 3, 5)
    restored.load_state_dict(saved)
    assert all(equal(batch, restored.next_batch()) for batch in expected)


def test_a_position_goes_back_as_well(counting_store: MakeStore) -> None:
    reader = ShuffledWindows(counting_store(LENGTHS), T, 3, seed=5)
    start = reader.state_dict()
    first = [reader.next_batch() for _ in range(15)]
    reader.load_state_dict(start)
    assert all(equal(batch, reader.next_batch()) for batch in first)


def test_windows_go_on_under_another_number_of_processes(counting_store: MakeStore) -> None:
    store = counting_store(LENGTHS)
    reader = ShuffledWindows(store, T, 6, seed=5)
    reader.next_batch()
    saved = reader.state_dict()
    expected = reader.next_batch().tokens
    halves = [ShuffledWindows(store, T, 3, seed=5, rank=rank, world_size=2) for rank in range(2)]
    for half in halves:
        half.load_state_dict(saved)
    assert torch.equal(torch.cat([half.next_batch().tokens for half in halves]), expected)


@pytest.mark.parametrize("kind", [ShuffledWindows, Lanes])
def test_ranks_share_the_global_batch(counting_store: MakeStore, kind: type[ShuffledWindows] | type[Lanes]) -> None:
    store = counting_store(LENGTHS)
    whole = kind(store, T, 4, 2)
    parts = [kind(store, T, 2, 2, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(10):
        expected = whole.next_batch()
        batches = [part.next_batch() for part in parts]
        assert torch.equal(torch.cat([batch.tokens for batch in batches]), expected.tokens)
        assert torch.equal(torch.cat([batch.reset for batch in batches]), expected.reset)


def test_lanes_run_on_and_reset_at_documents(counting_store: MakeStore) -> None:
    store = counting_store([400, 50, 9, 130, 7])
    reader = Lanes(store, T, 3, seed=1)
    resets = 0
    for _ in range(3):
        before: Batch | None = None
        for call in range(reader.windows_per_lane):
            batch = reader.next_batch()
            for row in range(3):
                document = document_of(store, batch.tokens[row])
                if batch.reset[row]:
                    resets += 1
                    # A document begins within its first T tokens; only a lane may begin later, at its first call.
                    assert call == 0 or batch.tokens[row, 0] < store.offsets[document] + T
                else:
                    assert before is not None
                    assert batch.tokens[row, 0] == before.tokens[row, -1], "a lane does not run on"
            before = batch
    assert resets > 3 * 3, "no document began inside a lane"


def test_lanes_of_an_epoch_repeat_no_target(counting_store: MakeStore) -> None:
    reader = Lanes(counting_store([400, 50, 9, 130, 7]), T, 3, seed=1)
    targets = torch.cat([reader.next_batch().tokens[:, 1:].flatten() for _ in range(reader.windows_per_lane)])
    assert len(targets.unique()) == len(targets)
    assert len(targets) == 3 * T * reader.windows_per_lane
    # 49 + 6 + 1 + 16 windows over three lanes
    assert reader.windows_per_lane == 24


def test_lanes_begin_anew_every_epoch(counting_store: MakeStore) -> None:
    reader = Lanes(counting_store([100, 90, 80]), T, 2, seed=0)
    epochs = [[reader.next_batch() for _ in range(reader.windows_per_lane)] for _ in range(2)]
    assert epochs[0][0].reset.all()
    assert epochs[1][0].reset.all()
    assert not torch.equal(torch.cat([b.tokens for b in epochs[0]]), torch.cat([b.tokens for b in epochs[1]]))


def test_short_documents_are_refused_with_the_longest(counting_store: MakeStore) -> None:
    with pytest.raises(InputError) as caught:
        ShuffledWindows(counting_store([5, 8]), T, 1, seed=0)
    assert caught.value.expected == "a document of 9 tokens or more (context length and one target)"
    assert caught.value.got == "2 documents, the longest of 8 tokens"
    with pytest.raises(InputError, match="got 0 documents, the longest of 0 tokens"):
        ShuffledWindows(counting_store([]), T, 1, seed=0)


def test_more_lanes_than_windows(counting_store: MakeStore) -> None:
    with pytest.raises(InputError, match="at least 4 windows of 9 tokens, one for each lane; got 3 windows in 1 doc"):
        Lanes(counting_store([25]), T, 4, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 0), "a context length of at least 1; got 0"),
        ((8, 0, 0), "a batch size of at least 1; got 0"),
        ((8, 1, 0, 0, 0), "a world size of at least 1; got 0"),
        ((8, 1, 0, 2, 2), "a rank 0..1; got 2"),
    ],
)
def test_sizes_of_zero(counting_store: MakeStore, arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ShuffledWindows(counting_store([100]), *arguments)


def test_positions_of_another_run_are_refused(counting_store: MakeStore) -> None:
    store, other = counting_store([100]), counting_store([101])
    saved = ShuffledWindows(store, T, 2, seed=0).state_dict()
    for reader, key in (
        (ShuffledWindows(other, T, 2, seed=0), "store"),
        (ShuffledWindows(store, T + 1, 2, seed=0), "context_length"),
        (ShuffledWindows(store, T, 2, seed=1), "seed"),
        (Lanes(store, T, 2, seed=0), "reader"),
    ):
        with pytest.raises(InputError, match=f"expected a reader position with {key} = "):
            reader.load_state_dict(saved)
    lanes = Lanes(store, T, 2, seed=0).state_dict()
    with pytest.raises(InputError, match="expected a reader position with batch_size = 3; got batch_size = 2"):
        Lanes(store, T, 3, seed=0).load_state_dict(lanes)


@pytest.mark.parametrize("kind", [ShuffledWindows, Lanes])
def test_a_position_outside_the_epoch_is_refused(
    counting_store: MakeStore, kind: type[ShuffledWindows] | type[Lanes]
) -> None:
    reader = kind(counting_store([100]), T, 2, seed=0)
    saved = reader.state_dict()
    size = reader.num_windows if isinstance(reader, ShuffledWindows) else reader.windows_per_lane
    for index in (size + 1, 10**9, -1):
        with pytest.raises(InputError) as caught:
            reader.load_state_dict({**saved, "index": index})
        assert caught.value.expected == f"an index 0..{size} in epoch 0"
        assert caught.value.got == f"epoch 0, index {index}"
        assert caught.value.where == f"the saved position of {kind.__name__}"
        assert caught.value.fix.startswith("resume from another checkpoint")
    with pytest.raises(InputError, match="expected an epoch from 0 on; got epoch -1, index 0"):
        reader.load_state_dict({**saved, "epoch": -1})
    assert reader.state_dict() == saved
    reader.load_state_dict({**saved, "index": size})  # the end of an epoch is the beginning of the next
    assert reader.next_batch().tokens.shape == (2, T + 1)
