"""Where a compiler fails for one kernel: an explicit choice is refused, "auto" gives what torch gives, to the bit."""

import importlib

import pytest
import torch
from tests.helpers import need_form

from lengthwise.errors import InputError
from lengthwise.layers.configs import Mamba2Config
from lengthwise.layers.linear import FEWEST_ROWS, linear
from lengthwise.layers.mamba2 import Mamba2
from lengthwise.layers.norms import rms_norm
from lengthwise.native import usable
from lengthwise.ops.conv import causal_conv
from lengthwise.ops.gla import gla
from lengthwise.ops.rglru import rglru
from lengthwise.ops.rwkv6 import rwkv6
from lengthwise.ops.selective_scan import selective_scan
from lengthwise.ops.ssd import ssd

CPU = torch.device("cpu")


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def run_ssd(backend):
    keys = numbers(1, 5, 1, 4)
    return ssd(numbers(1, 5, 2, 3), numbers(1, 5, 2).exp(), -torch.ones(2), keys, keys, backend=backend)


def run_selective_scan(backend):
    x, keys = numbers(1, 5, 3), numbers(1, 5, 4)
    return selective_scan(x, x.exp(), -torch.ones(3, 4), keys, keys, backend=backend)


def run_rglru(backend):
    return rglru(numbers(1, 5, 3), numbers(1, 5, 3), numbers(1, 5, 3), torch.zeros(3), backend=backend)


def run_gla(backend):
    q = numbers(1, 5, 2, 3)
    return gla(q, q, q, -q.exp(), backend=backend)


def run_rwkv6(backend):
    r = numbers(1, 5, 2, 3)
    return rwkv6(r, r, r, -r.exp(), numbers(2, 3), backend=backend)


def run_conv(backend):
    return causal_conv(numbers(1, 5, 3), numbers(3, 4), backend=backend)


def run_linear(backend):
    return (linear(numbers(FEWEST_ROWS, 3), numbers(4, 3), backend=backend),)


def run_norm(backend):
    return (rms_norm(numbers(5, 3), numbers(3), 1e-5, backend=backend),)


def run_mamba2(backend):
    mixer = Mamba2(4, Mamba2Config(d_state=4, headdim=4))
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.fill_(0.25)
    for part in (mixer, mixer.in_proj, mixer.out_proj):
        part.backend = backend
    y, state = mixer(numbers(1, 5, 4))
    return y.detach(), state.ssm.detach(), state.conv.detach()


# The file that has the kernel, the function in it that gives the kernel, and what runs it. A name is looked up where it
# is used: files that import `library` by its name are stubbed themselves.
PLACES = {
    "ssd": ("ops.ssd.chunked", "library", run_ssd),
    "selective_scan": ("ops.selective_scan.scan", "library", run_selective_scan),
    "rglru": ("ops.rglru.native", "library", run_rglru),
    "gla": ("ops._vector_decay.native", "library", run_gla),
    "rwkv6": ("ops._vector_decay.native", "library", run_rwkv6),
    "conv": ("ops.conv.depthwise", "library", run_conv),
    "linear": ("layers.linear", "_library", run_linear),
    "norm": ("layers.norms", "_library", run_norm),
    "mamba2": ("layers.mamba2", "library", run_mamba2),
}


@pytest.fixture(params=PLACES)
def place(request, monkeypatch):
    """What runs one of the kernels, whose file does not compile."""
    need_form("native")
    file, name, run = PLACES[request.param]
    monkeypatch.setattr(importlib.import_module(f"lengthwise.{file}"), name, lambda: None)
    if request.param == "linear":  # its product is torch's on other processors, whatever was asked for
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return run


def test_an_explicit_choice_is_refused(place):
    with pytest.raises(InputError) as caught:
        place("native")
    error = caught.value
    assert error.expected == "a kernel that compiles, for the native backend"
    assert error.got == "a C compiler that fails for it"
    assert error.where == f"backend, {__name__}"  # of the stub; that of a kernel names its file
    assert error.fix == "see the warning with the compiler's words, or use backend auto or torch"


def test_auto_falls_back_to_torch(place, monkeypatch):
    monkeypatch.delenv("LENGTHWISE_BACKEND", raising=False)
    for found, expected in zip(place("auto"), place("torch"), strict=True):
        assert torch.equal(found, expected)


def test_the_environment_asks_and_does_not_insist(place, monkeypatch):
    monkeypatch.setenv("LENGTHWISE_BACKEND", "native")
    for found, expected in zip(place("auto"), place("torch"), strict=True):
        assert torch.equal(found, expected)


def test_usable_asks_for_the_kernel_only_where_one_could_run(monkeypatch):
    monkeypatch.delenv("LENGTHWISE_BACKEND", raising=False)
    monkeypatch.setattr("lengthwise.native.backend.compiler", lambda: ("cc",))

    def unwanted():
        raise AssertionError("nobody needs it")

    assert not usable("torch", CPU, torch.float32, unwanted)
    assert not usable("auto", CPU, torch.float64, unwanted)
    assert not usable("auto", torch.device("meta"), torch.float32, unwanted)
    with pytest.raises(InputError, match="float64"):
        usable("native", CPU, torch.float64, unwanted)


def test_usable_where_the_kernel_compiles(monkeypatch):
    monkeypatch.delenv("LENGTHWISE_BACKEND", raising=False)
    monkeypatch.setattr("lengthwise.native.backend.compiler", lambda: ("cc",))
    kernel = object()
    assert usable("auto", CPU, torch.float32, lambda: kernel)
    assert usable("native", CPU, torch.bfloat16, lambda: kernel)
