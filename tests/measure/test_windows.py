"""Shorter windows of the same text: exact sums and counts, by brute force."""

import itertools

import numpy as np

from lengthwise.measure.bins import log_bins
from lengthwise.measure.evaluate import evaluate_length
from lengthwise.measure.perplexity import LossTable
from lengthwise.measure.stream import as_rows, device_of, full_history_sums
from lengthwise.measure.windows import cut, join, window_lengths, window_sums
from lengthwise.models.config import Mamba2Config, ModelConfig
from lengthwise.models.lm import LanguageModel

CONTEXT = 32
CONFIG = ModelConfig(d_model=16, num_layers=2, vocab_size=11, mixer=Mamba2Config(d_state=4, headdim=8))


def rows(count: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 11, (count, length + 1))


def test_lengths_fit_at_least_twice() -> None:
    assert window_lengths(64 * CONTEXT, CONTEXT) == (64, 256)
    assert window_lengths(16 * CONTEXT - 1, CONTEXT) == (64,)
    assert window_lengths(3 * CONTEXT, CONTEXT) == ()


def test_windows_hold_every_target_once() -> None:
    tokens = np.arange(2 * 21).reshape(2, 21)
    pieces = cut(tokens, 8)
    assert pieces.shape == (4, 9)
    assert pieces[:, 1:].reshape(2, 16).tolist() == tokens[:, 1:17].tolist()
    assert (pieces[:, 0] == tokens[:, [0, 8]].reshape(-1)).all()


def test_sums_and_counts_equal_one_forward_pass_a_window() -> None:
    model = LanguageModel(CONFIG, seed=1).eval()
    tokens, documents, window = rows(3, 200), np.array([5, 7, 5]), 2 * CONTEXT
    sizes = np.arange(1, 12)
    edges = log_bins(200, CONTEXT)
    sums = window_sums(model, tokens, edges, window, chunk=24, batch_size=2)
    whole = LossTable.build(edges, np.zeros((3, len(edges) - 1)), tokens, documents, sizes)
    table = join(whole, sums, tokens, documents, window, sizes)
    expected = np.zeros((2, len(edges) - 1))
    count, num_bytes = whole.tokens.copy(), whole.num_bytes.copy()
    for row, document in zip(tokens, (0, 1, 0), strict=True):
        for start in range(0, 200 - window + 1, window):
            piece = row[None, start : start + window + 1]
            nll = model.nll(as_rows(piece, device_of(model)))[0][0].detach().double().numpy()
            for i, (a, b) in enumerate(itertools.pairwise(edges)):
                if b <= window:
                    expected[document, i] += nll[a:b].sum()
                    count[document, i] += b - a
                    num_bytes[document, i] += sizes[piece[0, 1 + a : 1 + b]].sum()
    np.testing.assert_allclose(table.sums, expected, rtol=1e-6)
    np.testing.assert_array_equal(table.tokens, count)
    np.testing.assert_array_equal(table.num_bytes, num_bytes)
    assert (table.tokens[:, -1] == whole.tokens[:, -1]).all()


def test_bytes_where_the_last_bin_ends_before_the_window() -> None:
    # Context 10: the bins end at 10 and at 28, and a window holds 20 positions, of which 10 lie in a bin.
    tokens, edges = np.arange(61)[None] % 11, log_bins(60, 10)
    assert edges[:3].tolist() == [0, 10, 28]
    whole = LossTable.build(edges, np.zeros((1, len(edges) - 1)), tokens, np.array([0]), np.arange(11))
    table = join(whole, np.zeros((1, 1)), tokens, np.array([0]), 20, np.arange(11))
    expected = sum(int(tokens[0, start + 1 : start + 11].sum()) for start in (0, 20, 40))
    assert table.num_bytes is not None
    assert whole.num_bytes is not None
    assert table.num_bytes[0, 0] - whole.num_bytes[0, 0] == expected
    np.testing.assert_array_equal(table.num_bytes[0, 1:], whole.num_bytes[0, 1:])


def test_windows_narrow_the_early_bins_and_leave_the_overall_figure() -> None:
    model = LanguageModel(CONFIG, seed=1)
    tokens = rows(6, 16 * CONTEXT)
    found = evaluate_length(model, tokens, CONTEXT, chunk=64, batch_size=4)
    edges = log_bins(16 * CONTEXT, CONTEXT)
    whole = full_history_sums(model, tokens, edges, chunk=64).sum() / tokens[:, 1:].size
    assert abs(found.perplexity.overall.nll - whole) < 1e-6
    assert found.perplexity.overall.tokens == tokens[:, 1:].size
    first, last = found.perplexity.bins[0], found.perplexity.bins[-1]
    # 1 window of 512, 8 of 64 and 2 of 256 tokens a sequence.
    assert first.tokens == 6 * (first.end - first.start) * (1 + 8 + 2)
    assert last.tokens == 6 * (last.end - last.start)
