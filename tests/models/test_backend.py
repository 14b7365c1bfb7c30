"""The form in which a model runs: what was asked for reaches every part, and what is said is what runs."""

from __future__ import annotations

import pytest
import torch
from tests.helpers import need_form
from tests.models.families import FAMILIES, small_model, tokens

from lengthwise.errors import InputError
from lengthwise.layers.norms import RMSNorm, RMSNormPlusOne
from lengthwise.models.reading import advance_and_predict

CPU = torch.device("cpu")
# What gives the compiled kernels, by the files that ask for them.
KERNELS = (
    "layers.linear._library",
    "layers.norms._library",
    "layers.mamba2.library",
    "ops.rglru.native.library",
    "ops.selective_scan.scan.library",
    "ops._vector_decay.native.library",
    "ops.conv.depthwise.library",
    "ops.ssd.chunked.library",
)
ATTENTION_ALONE, WITH_ATTENTION = {"transformer"}, {"griffin", "mamba2-attention", "everything"}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def chosen_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    need_form("native")
    monkeypatch.delenv("LENGTHWISE_BACKEND", raising=False)


def test_a_model_set_to_torch_asks_for_no_kernel(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(family, dtype=torch.float32)
    model.set_backend("torch")

    def unwanted() -> None:
        raise AssertionError("a kernel was asked for")

    for name in KERNELS:
        monkeypatch.setattr(f"lengthwise.{name}", unwanted)
    assert model.backend_on(CPU) == "torch"
    state = model(tokens(2, 5)).state
    model(tokens(2, 70), state)
    for time in (2, 70):  # of two kinds of reading, where Mamba-2 has both
        advance_and_predict(model, tokens(1, time), state)


def test_every_part_with_a_choice_takes_it(family: str) -> None:
    model = small_model(family)
    model.set_backend("torch")
    assert {module.backend for module in model.modules() if hasattr(module, "backend")} == {"torch"}
    for module in model.modules():
        assert hasattr(module, "backend") or not isinstance(module, RMSNorm | RMSNormPlusOne)


@pytest.mark.usefixtures("chosen_by_nobody")
@pytest.mark.parametrize("asked", ["auto", "native"])
def test_kernels_run_where_they_can(family: str, asked: str) -> None:
    model = small_model(family, dtype=torch.float32)
    model.set_backend(asked)  # type: ignore[arg-type]
    expected = "torch" if family in ATTENTION_ALONE else "native+torch" if family in WITH_ATTENTION else "native"
    assert model.backend_on(CPU) == expected
    assert model.bfloat16().backend_on(CPU) == expected


@pytest.mark.usefixtures("chosen_by_nobody")
def test_float64_and_other_devices_are_for_torch(family: str) -> None:
    assert small_model(family).backend_on(CPU) == "torch"
    assert small_model(family, dtype=torch.float32).backend_on(torch.device("meta")) == "torch"


@pytest.mark.usefixtures("chosen_by_nobody")
def test_mixers_of_which_one_is_set_apart() -> None:
    model = small_model("rwkv6", dtype=torch.float32)
    model.blocks()[1].mixer.backend = "torch"
    assert model.backend_on(CPU) == "native+torch"


@pytest.mark.usefixtures("chosen_by_nobody")
def test_a_kernel_that_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.layers.gla.library", lambda: None)
    model = small_model("gla", dtype=torch.float32)
    assert model.backend_on(CPU) == "torch"
    model.set_backend("native")
    with pytest.raises(InputError, match=r"^expected a kernel that compiles"):
        model.backend_on(CPU)


@pytest.mark.usefixtures("chosen_by_nobody")
def test_the_environment_names_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENGTHWISE_BACKEND", "torch")
    assert small_model("mamba1", dtype=torch.float32).backend_on(CPU) == "torch"
