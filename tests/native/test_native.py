"""The ground under the kernels in C: compiling, numbers, threads, and what happens without a compiler."""

import ctypes
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lengthwise.errors import InputError
from lengthwise.native import compiler as building
from lengthwise.native import load, parallel, resolve_backend

POINTER, INT = ctypes.c_void_p, ctypes.c_int64
PROBE = Path(__file__).with_name("probe.c")
FUNCTIONS = {
    "probe_exp": [POINTER, POINTER, INT],
    "probe_silu": [POINTER, POINTER, POINTER, INT],
    "probe_product": [INT, INT, INT, POINTER, INT, INT, POINTER, POINTER, INT],
    "probe_transpose": [INT, INT, POINTER, POINTER],
    "probe_fill": [INT, INT, POINTER],
}


@pytest.fixture(scope="module")
def probe():
    library = load(PROBE, FUNCTIONS)
    if library is None:
        pytest.skip("no C compiler on this machine")
    return library


def test_exponential_is_within_two_units_of_the_last_place(probe):
    x = torch.linspace(-86.9, 87.9, 2_000_001)
    y = torch.empty_like(x)
    probe.probe_exp(x.data_ptr(), y.data_ptr(), len(x))
    exact = x.double().exp()
    assert float(((y.double() - exact) / exact).abs().max()) < 2 * 2**-23


def test_exponential_at_its_ends(probe):
    x = torch.tensor([0.0, -0.0, -87.5, -1e4, float("-inf"), 88.0, 1e4])
    y = torch.empty_like(x)
    probe.probe_exp(x.data_ptr(), y.data_ptr(), len(x))
    assert y[:2].tolist() == [1.0, 1.0]
    assert y[2:5].tolist() == [0.0, 0.0, 0.0]
    assert torch.isfinite(y[5:]).all()


def test_silu_and_its_slope(probe):
    x = torch.linspace(-30, 30, 10_001)
    y, slope = torch.empty_like(x), torch.empty_like(x)
    probe.probe_silu(x.data_ptr(), y.data_ptr(), slope.data_ptr(), len(x))
    leaf = x.double().requires_grad_()
    expected = torch.nn.functional.silu(leaf)
    expected.sum().backward()
    assert float((y - expected.detach()).abs().max()) < 1e-5
    assert float((slope - leaf.grad).abs().max()) < 1e-6


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("add", [0, 1])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (6, 64, 64), (7, 65, 3), (64, 64, 64), (13, 31, 5), (5, 17, 0)])
def test_product_of_any_size(probe, m, n, k, add, turned):
    random = np.random.default_rng(m * 100 + n)
    a = torch.from_numpy(random.normal(size=(k, m) if turned else (m, k)).astype(np.float32))
    b = torch.from_numpy(random.normal(size=(k, n)).astype(np.float32))
    c = torch.from_numpy(random.normal(size=(m, n)).astype(np.float32))
    expected = (a.mT if turned else a).double() @ b.double() + add * c.double()
    strides = (1, m) if turned else (k, 1)
    probe.probe_product(m, n, k, a.data_ptr(), *strides, b.data_ptr(), c.data_ptr(), add)
    assert torch.allclose(c.double(), expected, atol=1e-5)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (8, 8), (64, 64), (5, 19), (17, 3)])
def test_transpose_of_any_size(probe, m, n):
    given = torch.randn(m, n)
    turned = torch.full((n, m), float("nan"))
    probe.probe_transpose(m, n, given.data_ptr(), turned.data_ptr())
    assert torch.equal(turned, given.T)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_every_part_of_the_work_is_done_once(probe, threads, count):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        to = torch.zeros(count)
        parallel(lambda begin, end: probe.probe_fill(begin, end, to.data_ptr()), count)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(to, torch.arange(count, dtype=torch.float32))


def test_a_failure_in_another_thread_is_not_lost():
    def task(begin, end):
        if begin > 0:
            raise ValueError("part failed")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="part failed"):
            parallel(task, 2)
    finally:
        torch.set_num_threads(before)


def test_a_kernel_is_compiled_once(probe, tmp_path, monkeypatch):
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path))
    assert load(PROBE, FUNCTIONS) is not None
    (compiled,) = (tmp_path / "native").iterdir()
    first = compiled.stat().st_mtime_ns
    assert load(PROBE, FUNCTIONS) is not None
    assert [path.stat().st_mtime_ns for path in (tmp_path / "native").iterdir()] == [first]


def test_a_file_that_does_not_compile_warns_and_says_why(probe, tmp_path):
    broken = tmp_path / "broken.c"
    broken.write_text("int broken(void) { return nothing; }\n")
    with pytest.warns(UserWarning, match=r"(?s)broken\.c could not be compiled.*nothing"):
        assert load(broken, {"broken": []}) is None


def test_without_a_compiler_torch_is_used(monkeypatch):
    monkeypatch.delenv("LENGTHWISE_BACKEND", raising=False)
    monkeypatch.setattr("lengthwise.native.backend.compiler", lambda: None)
    assert resolve_backend("auto", torch.device("cpu")) == "torch"
    with pytest.raises(InputError, match=r"expected a CPU.*got no C compiler.*install gcc or clang"):
        resolve_backend("native", torch.device("cpu"))


def test_no_compiler_is_found_where_none_works(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    building.compiler.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert building.compiler() is None
            assert load(PROBE, FUNCTIONS) is None
    finally:
        building.compiler.cache_clear()


def test_the_choice_of_the_backend(probe, monkeypatch):
    monkeypatch.delenv("LENGTHWISE_BACKEND", raising=False)
    cpu = torch.device("cpu")
    assert resolve_backend("auto", cpu) == "native"
    assert resolve_backend("auto", cpu, torch.float64) == "torch"
    assert resolve_backend("auto", torch.device("meta")) == "torch"
    assert resolve_backend("torch", cpu) == "torch"
    monkeypatch.setenv("LENGTHWISE_BACKEND", "torch")
    assert resolve_backend("auto", cpu) == "torch"
    assert resolve_backend("native", cpu) == "native"
    monkeypatch.setenv("LENGTHWISE_BACKEND", "fast")
    with pytest.raises(InputError, match=r"got 'fast'; in LENGTHWISE_BACKEND"):
        resolve_backend("auto", cpu)
    with pytest.raises(InputError, match="float64"):
        resolve_backend("native", cpu, torch.float64)
