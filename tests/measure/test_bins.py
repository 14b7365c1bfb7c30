"""Log bins: edges, widths, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from lengthwise.errors import InputError
from lengthwise.measure.bins import log_bins


def test_edges_by_hand() -> None:
    # Below 64: 45 leaves 19 positions, 32 would leave 13, 23 leaves 22, 16 leaves 7. Above: every half octave.
    assert log_bins(256, 64).tolist() == [0, 23, 45, 64, 91, 128, 181, 256]
    assert log_bins(256, 64, per_octave=1).tolist() == [0, 16, 32, 64, 128, 256]


@pytest.mark.parametrize("context", [1, 3, 16, 17, 64, 100, 2048])
@pytest.mark.parametrize("factor", [1.01, 1.3, 2, 7.7, 64])
@pytest.mark.parametrize("per_octave", [1, 2, 4])
def test_every_bin_is_wide_enough_and_the_context_is_an_edge(context: int, factor: float, per_octave: int) -> None:
    length = max(context + 1, int(context * factor))
    edges = log_bins(length, context, per_octave=per_octave)
    widths = np.diff(edges)
    assert edges[0] == 0
    assert edges[-1] == length
    assert context in edges
    assert (widths > 0).all()
    inside, beyond = widths[edges[:-1] < context], widths[edges[:-1] >= context]
    assert len(inside) == 1 or inside.min() >= 16
    assert len(beyond) == 1 or beyond.min() >= 16


def test_short_rest_joins_the_bin_before_it() -> None:
    assert log_bins(130, 64, per_octave=1).tolist() == [0, 16, 32, 64, 130]
    assert log_bins(200, 64, per_octave=1).tolist() == [0, 16, 32, 64, 128, 200]


@pytest.mark.parametrize(
    ("length", "context", "text"),
    [
        (64, 64, "a length above the training context 64; got 64; in length"),
        (10, 64, "for instance 4096: nothing beyond the context is measured here"),
        (0, 64, "a length of at least 1 token; got 0"),
        (64, 0, "a training context of at least 1 token; got 0"),
    ],
)
def test_refused_lengths(length: int, context: int, text: str) -> None:
    with pytest.raises(InputError) as raised:
        log_bins(length, context)
    assert text in str(raised.value)


def test_refused_resolution() -> None:
    with pytest.raises(InputError, match="per_octave=0, min_width=16; in log_bins"):
        log_bins(128, 64, per_octave=0)
