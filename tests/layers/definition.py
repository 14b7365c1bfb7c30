"""A mixer against its definition in naive operations: outputs, next state, and every gradient."""

import torch
from tests.helpers import assert_close

from lengthwise.seeds import generator

WIDTH = 12
TOLERANCE = 1e-11


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed, "inputs"), dtype=torch.float32).to(dtype)


def fill(mixer, dtype):
    """The mixer with parameters of which none hides behind a one, a zero, or a small number."""
    random = generator(1, "test")
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=random))
    return mixer.to(dtype)


def random_state(mixer, batch):
    zero = mixer.init_state(batch)
    return zero.with_tensors(**{name: normal(*t.shape, seed=5, dtype=t.dtype) for name, _, t in zero.tensors()})


def run(function, mixer, x, state, lengths, through):
    """Results, and gradients of a fixed random functional of those named in `through`, of all where it is None."""
    x = x.clone().requires_grad_()
    if state is not None:
        state = state.with_tensors(**{name: t.clone().requires_grad_() for name, _, t in state.tensors()})
    y, new = function(x, state, lengths)
    if lengths is not None:
        y = y * (torch.arange(x.shape[1]) < lengths[:, None])[..., None]
    tensors = new if isinstance(new, dict) else {name: t for name, _, t in new.tensors()}
    results = {"y": y, **tensors}
    mixer.zero_grad()
    chosen = [name for name in results if through is None or name in through]
    sum((results[name] * normal(*results[name].shape, seed=9)).sum() for name in chosen).backward()
    gradients = {name: parameter.grad for name, parameter in mixer.named_parameters()}
    gradients |= {"x": x.grad}
    if state is not None:
        gradients |= {f"state.{name}": t.grad for name, _, t in state.tensors()}
    return results, gradients


def compare_with(defined, mixer, batch=3, time=11, *, state=True, lengths=None, through=None, tolerance=TOLERANCE):
    """``defined(mixer, x, state, lengths)`` gives outputs and the tensors of the next state by their names."""
    x = normal(batch, time, WIDTH, seed=2, dtype=next(mixer.parameters()).dtype)
    carried = random_state(mixer, batch) if state else None
    expected, expected_gradients = run(lambda *a: defined(mixer, *a), mixer, x, carried, lengths, through)
    actual, gradients = run(mixer, mixer, x, carried, lengths, through)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert_close(name, actual[name], value, tolerance)
    for name, value in expected_gradients.items():
        if value is None or not value.any():
            assert gradients[name] is None or not gradients[name].any(), f"{name}: a gradient where none should be"
        else:
            assert gradients[name] is not None, f"{name}: no gradient"
            assert_close(f"gradient of {name}", gradients[name], value, tolerance)
