"""The state as a value."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lengthwise.errors import InputError
from lengthwise.layers.mamba2 import Mamba2State
from lengthwise.state import MixerState, State, tensor_field


def make(rows: int = 3, layers: int = 2, seed: int = 0) -> State:
    random = torch.Generator().manual_seed(seed)
    return State(
        tuple(
            Mamba2State(
                ssm=torch.randn(rows, 2, 3, 4, generator=random), conv=torch.randn(rows, 3, 5, generator=random)
            )
            for _ in range(layers)
        )
    )


def test_kinds_and_names() -> None:
    state = make()
    assert [name for name, _ in state.named_tensors("recurrent")] == ["layers.0.ssm", "layers.1.ssm"]
    assert [name for name, _ in state.named_tensors("short")] == ["layers.0.conv", "layers.1.conv"]
    assert state.batch_size == 3
    assert state.nbytes == 2 * 3 * (24 + 15) * 4


def test_operations_do_not_mutate() -> None:
    state = make()
    copies = {name: tensor.clone() for name, tensor in state.named_tensors()}
    state.map("recurrent", lambda tensor: tensor * 2)
    state.where(torch.tensor([True, False, True]), make(seed=1))
    state.zeros_like()
    state.rows(torch.tensor([0, 0]))
    state.to(dtype=torch.float64)
    assert all(torch.equal(tensor, copies[name]) for name, tensor in state.named_tensors())
    with pytest.raises(AttributeError):
        state.layers = ()  # type: ignore[misc]


def test_map_touches_one_kind_only() -> None:
    state = make()
    doubled = state.map("short", lambda tensor: tensor * 2)
    assert torch.equal(doubled.layers[1].conv, state.layers[1].conv * 2)
    assert doubled.layers[1].ssm is state.layers[1].ssm


def test_rows_where_cat() -> None:
    state, other = make(), make(seed=1)
    picked = state.rows(torch.tensor([2, 0, 2, 1]))
    assert torch.equal(picked.layers[0].ssm[2], state.layers[0].ssm[2])
    assert picked.batch_size == 4
    mixed = state.where(torch.tensor([True, False, True]), other)
    assert torch.equal(mixed.layers[0].conv[1], other.layers[0].conv[1])
    assert torch.equal(mixed.layers[0].conv[0], state.layers[0].conv[0])
    assert torch.equal(State.cat([state, other]).layers[1].ssm[3:], other.layers[1].ssm)


def test_where_does_not_leak_nan_into_the_chosen_rows() -> None:
    state = make()
    broken = state.map(None, lambda tensor: torch.full_like(tensor, float("nan")))
    chosen = state.where(torch.tensor([True, True, False]), broken)
    assert chosen.finite_rows().tolist() == [True, True, False]


def test_detach_and_gradients() -> None:
    state = make().map(None, lambda tensor: tensor.requires_grad_())
    mixed = state.where(torch.tensor([True, False, False]), make(seed=1))
    mixed.layers[0].ssm.sum().backward()
    gradient = state.layers[0].ssm.grad
    assert gradient is not None
    assert torch.equal(gradient[0], torch.ones(2, 3, 4))
    assert not gradient[1:].any()
    assert not state.detach().layers[0].ssm.requires_grad


def test_save_and_load(tmp_path: Path) -> None:
    state = make()
    state.save(tmp_path / "state.safetensors")
    loaded = State.load(tmp_path / "state.safetensors")
    assert isinstance(loaded.layers[0], Mamba2State)
    for (name, tensor), (_, expected) in zip(loaded.named_tensors(), state.named_tensors(), strict=True):
        assert torch.equal(tensor, expected), name


def test_errors(tmp_path: Path, unchecked: None) -> None:
    with pytest.raises(InputError, match="No such file"):
        State.load(tmp_path / "nothing.safetensors")
    make().save(tmp_path / "state.safetensors")
    whole = (tmp_path / "state.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"save the state again"):
        State.load(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="kind of state tensor"):
        make().map("recurent", lambda tensor: tensor)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"rows \[2, 3\]"):
        State((make(2).layers[0], make(3).layers[0]))


def test_load_where_no_layer_was_imported_before(tmp_path: Path) -> None:
    make().save(tmp_path / "state.safetensors")
    program = "import sys; from lengthwise.state import State; print(type(State.load(sys.argv[1]).layers[1]).__name__)"
    command = [sys.executable, "-c", program, str(tmp_path / "state.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "Mamba2State\n", done.stderr


@pytest.mark.parametrize(
    ("records", "changes", "got"),
    [
        ("5", {}, "TypeError"),
        ('["Mamba2State", {}]', {}, "unhashable"),
        ('["Mamba2State", "NoSuchState"]', {}, "no record NoSuchState is defined here; import the module"),
        ('["Mamba2State", "Mamba2State"]', {"layers.1.ssm": torch.zeros(())}, "a tensor without dimensions"),
        ('["Mamba2State", "Mamba2State"]', {"layers.2.ssm": torch.zeros(3)}, "belong to no layer: layers.2.ssm"),
        ('["Mamba2State"]', {}, "belong to no layer: layers.1.conv, layers.1.ssm"),
    ],
)
def test_files_that_hold_no_state(
    unchecked: None, tmp_path: Path, records: str, changes: dict[str, torch.Tensor], got: str
) -> None:
    tensors = {name: tensor.clone() for name, tensor in make().named_tensors()} | changes
    save_file(tensors, tmp_path / "state.safetensors", metadata={"records": records, "channels": "[]"})
    with pytest.raises(InputError) as error:
        State.load(tmp_path / "state.safetensors")
    assert got in error.value.got
    assert error.value.where == str(tmp_path / "state.safetensors")


@dataclass(frozen=True)
class Slots(MixerState):
    keys: torch.Tensor = tensor_field("attention")
    position: torch.Tensor = tensor_field("position")


def slots(count: int, rows: int = 1, fill: float = 1.0) -> State:
    return State((Slots(torch.full((rows, count, 2), fill), torch.full((rows,), count)),))


def test_states_with_different_numbers_of_slots_lie_side_by_side() -> None:
    together = State.cat([slots(3), slots(1, fill=2.0), slots(0)])
    keys = together.layers[0].keys
    assert keys.shape == (3, 3, 2)
    assert keys[1].tolist() == [[0, 0], [0, 0], [2, 2]], "the newest token is the last one"
    assert together.layers[0].position.tolist() == [3, 1, 0]
    chosen = slots(1, rows=2, fill=5.0).where(torch.tensor([True, False]), slots(3, rows=2))
    assert chosen.layers[0].keys[0].tolist() == [[0, 0], [0, 0], [5, 5]]
    assert chosen.layers[0].position.tolist() == [1, 3]


def test_only_some_kinds_are_kept() -> None:
    assert slots(3).only("position").layers[0].keys.shape == (1, 0, 2)
    assert slots(3).only("position").layers[0].position.tolist() == [0], "no slots, nothing to count from"
    assert slots(3).only("attention", "position").layers[0].position.tolist() == [3]


def test_what_mlps_carry_is_part_of_the_state(tmp_path: Path) -> None:
    record = Slots(torch.ones(2, 1, 3), torch.ones(2, dtype=torch.int64))
    state = State((record, record), (None, record))
    assert [name for name, _ in state.named_tensors("attention")] == [
        "layers.0.keys",
        "layers.1.keys",
        "layers.1.channel.keys",
    ]
    doubled = state.map("attention", lambda keys: 2 * keys)
    assert float(doubled.channels[1].keys.sum()) == 12
    assert doubled.channels[0] is None
    assert state.rows(torch.tensor([1])).channels[1].keys.shape == (1, 1, 3)
    state.save(tmp_path / "state.safetensors")
    loaded = State.load(tmp_path / "state.safetensors")
    assert loaded.channels[0] is None
    assert torch.equal(loaded.channels[1].keys, record.keys)
