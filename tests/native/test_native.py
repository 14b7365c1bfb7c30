"""The ground under the kernels in C: compiling, numbers, threads, and what happens without a compiler."""

import ctypes
import gc
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import threads as some_threads

from lengthwise.errors import InputError
from lengthwise.native import Team, load, parallel, resolve_backend, team, threads
from lengthwise.native import compiler as building

POINTER, INT = ctypes.c_void_p, ctypes.c_int64
PROBE = Path(__file__).with_name("probe.c")
FUNCTIONS = {
    "probe_exp": [POINTER, POINTER, INT],
    "probe_silu": [POINTER, POINTER, POINTER, INT],
    "probe_product": [INT, INT, INT, POINTER, INT, INT, POINTER, POINTER, INT],
    "probe_transpose": [INT, INT, POINTER, POINTER],
    "probe_fill": [INT, INT, POINTER],
    "probe_exp_below": [POINTER, POINTER, INT],
    "probe_gates": [POINTER, POINTER, POINTER, INT],
    "probe_dot": [POINTER, POINTER, INT, POINTER],
    "probe_product_part": [INT, INT, INT, INT, POINTER, INT, INT, POINTER, POINTER, INT],
    "probe_rows": [POINTER, INT, INT, INT, INT, POINTER, POINTER],
    "probe_share": [ctypes.POINTER(Team), INT, POINTER],
    "probe_tiny": [ctypes.POINTER(Team), POINTER],
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


def test_exponential_of_negative_numbers(probe):
    x = torch.linspace(-86.9, 0, 2_000_000)
    y = torch.empty_like(x)
    probe.probe_exp_below(x.data_ptr(), y.data_ptr(), len(x))
    exact = x.double().exp()
    assert float(((y.double() - exact) / exact).abs().max()) < 2 * 2**-23
    ends = torch.tensor([0.0, -0.0, -87.5, -1e4, float("-inf")] + [0.0] * 11)
    y = torch.empty_like(ends)
    probe.probe_exp_below(ends.data_ptr(), y.data_ptr(), len(ends))
    assert y[:5].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_sigmoid_and_softplus(probe):
    x = torch.cat([torch.linspace(-60, 60, 100_000), torch.tensor([0.0, -0.0, 1e4, -1e4] * 4)])
    sigmoid, softplus = torch.empty_like(x), torch.empty_like(x)
    probe.probe_gates(x.data_ptr(), sigmoid.data_ptr(), softplus.data_ptr(), len(x))
    for found, exact in ((sigmoid, x.double().sigmoid()), (softplus, torch.log1p(x.double().exp()))):
        exact = torch.where(torch.isinf(exact), x.double(), exact)
        assert float(((found.double() - exact).abs() / exact.clamp(min=1e-25)).max()) < 1e-6


@pytest.mark.parametrize("n", [16, 48, 64, 80, 256])
def test_dot_of_whole_vectors(probe, n):
    a, b, result = torch.randn(n), torch.randn(n), torch.empty(1)
    probe.probe_dot(a.data_ptr(), b.data_ptr(), n, result.data_ptr())
    assert torch.allclose(result.double(), (a.double() @ b.double())[None], atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("add", [0, 1])
@pytest.mark.parametrize(("m", "k"), [(1, 1), (5, 5), (7, 7), (16, 16), (64, 64), (65, 65), (90, 90), (13, 40)])
def test_products_with_a_triangle(probe, m, k, add, turned):
    """Each part against the whole product, with what a part must not use set to NaN."""
    n = 80
    random = torch.Generator().manual_seed(m)
    whole, b, c = (torch.randn(*shape, generator=random) for shape in ((m, k), (k, n), (m, n)))
    row, column = torch.arange(m)[:, None], torch.arange(k)[None, :]
    # Up to five places beyond its triangle a matrix must be zero, further places may be anything.
    below = torch.where(column <= row, whole, torch.where(column <= row + 5, 0.0, float("nan")))
    above = torch.where(column >= row, whole, torch.where(column >= row - 5, 0.0, float("nan")))
    for part, a, exact in (
        (0, whole, whole),
        (1, below, torch.where(column <= row, whole, 0.0)),
        (2, above, torch.where(column >= row, whole, 0.0)),
        (3, whole, whole),
    ):
        given = (a.mT if turned else a).contiguous()
        strides = (1, m) if turned else (k, 1)
        found = c.clone()
        probe.probe_product_part(part, m, n, k, given.data_ptr(), *strides, b.data_ptr(), found.data_ptr(), add)
        expected = exact.double() @ b.double() + add * c.double()
        wanted = torch.arange(n)[None, :] >= row if part == 3 else torch.ones(m, n, dtype=torch.bool)
        assert torch.allclose(found.double()[wanted], expected[wanted], atol=1e-4), part


@pytest.mark.parametrize(("rows", "columns", "row"), [(1, 1, 16), (3, 16, 16), (5, 21, 32)])
def test_rows_are_padded_and_bfloat16_is_rounded_to_the_nearest(probe, rows, columns, row):
    given = torch.randn(rows, columns)
    inside, back = torch.full((rows, row), float("nan")), torch.empty(rows, columns)
    probe.probe_rows(given.data_ptr(), 0, rows, columns, row, inside.data_ptr(), back.data_ptr())
    assert torch.equal(inside, torch.nn.functional.pad(given, (0, row - columns)))
    assert torch.equal(back, given)
    low, back = given.bfloat16(), torch.empty(rows, columns, dtype=torch.bfloat16)
    probe.probe_rows(low.data_ptr(), 1, rows, columns, row, inside.data_ptr(), back.data_ptr())
    assert torch.equal(inside, torch.nn.functional.pad(low.float(), (0, row - columns)))
    assert torch.equal(back, low)


@pytest.mark.parametrize("starter", ["OpenMP", "Python"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("pieces", [0, 1, 2, 7, 1000])
def test_every_piece_of_shared_work_is_done_once(probe, monkeypatch, pieces, count, starter):
    by = _team(monkeypatch, count, starter)
    to = torch.zeros(pieces, 2)
    probe.probe_share(by, pieces, to.data_ptr())
    assert torch.equal(to[:, 0], torch.ones(pieces))
    assert set(to[:, 1].tolist()) <= set(range(count)), "a number of a thread that has no scratch"


@pytest.mark.parametrize("count", [1, 2])
def test_numbers_too_small_count_as_zero_while_a_kernel_runs_and_no_longer(probe, monkeypatch, count):
    to = torch.empty(2)
    probe.probe_tiny(_team(monkeypatch, count, "OpenMP"), to.data_ptr())
    tiny = torch.tensor(1e-30) * 1e-10
    assert to[1] == tiny
    assert to[0] in (0.0, tiny)  # processors that lose no time keep it


def _team(monkeypatch, count, starter):
    if starter == "Python":
        replacement = threads._Start(threads._start_threads)
        monkeypatch.setattr(threads, "_starter", lambda: replacement)
    with some_threads(count):
        return team()


@pytest.mark.parametrize("starter", ["OpenMP", "Python"])
@pytest.mark.parametrize("threads_", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_every_part_of_the_work_is_done_once(probe, monkeypatch, threads_, count, starter):
    _team(monkeypatch, threads_, starter)
    with some_threads(threads_):
        to = torch.zeros(count)
        parallel(lambda begin, end: probe.probe_fill(begin, end, to.data_ptr()), count)
    assert torch.equal(to, torch.arange(count, dtype=torch.float32))


@pytest.mark.parametrize("failure", [ValueError, IndexError])
def test_a_failure_in_another_thread_is_not_lost(failure):
    def task(begin, end):
        if begin > 0:
            raise failure("part failed")

    with some_threads(2), pytest.raises(failure, match="part failed"):
        parallel(task, 2)


def test_what_a_task_holds_is_let_go_at_once():
    """Not when the garbage collector comes by: by then a few hundred megabytes of tensors may have gathered."""

    class Held:
        def __init__(self) -> None:
            self.ran: list[int] = []

    def work() -> weakref.ref:
        held = Held()
        with some_threads(2):
            parallel(lambda begin, end: held.ran.append(begin), 8)
        return weakref.ref(held)

    gc.disable()
    try:
        assert work()() is None
    finally:
        gc.enable()


def test_a_kernel_is_compiled_once(probe, tmp_path, monkeypatch):
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path))
    assert load(PROBE, FUNCTIONS) is not None
    (compiled,) = (tmp_path / "native").iterdir()
    first = compiled.stat().st_mtime_ns
    assert load(PROBE, FUNCTIONS) is not None
    assert [path.stat().st_mtime_ns for path in (tmp_path / "native").iterdir()] == [first]


def test_a_header_that_changes_is_compiled_anew(probe, tmp_path, monkeypatch):
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path / "cache"))
    for folder in ("kernel", "shared"):
        (tmp_path / folder).mkdir()
    header, source = tmp_path / "shared" / "value.h", tmp_path / "kernel" / "source.c"
    (tmp_path / "shared" / "between.h").write_text('#include "value.h"\n')
    source.write_text('#include "../shared/between.h"\nvoid give(float *to) { *to = VALUE; }\n')
    for value in (1.0, 2.0):
        header.write_text(f"#define VALUE {value}f\n")
        library, to = load(source, {"give": [POINTER]}), torch.empty(1)
        library.give(to.data_ptr())
        assert to.item() == value


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
