"""Effective Remembrance, the whole surface in one pass, against one forward pass per start, one after the other.

32 starts x 16 ends over 8,192 tokens. The other side is the plain way at its best: a forward pass over x[t..], hidden
states only, and logits at the ends alone. Both sides run in turn; the figure is the ratio of their median times. That
both give the same surface (to 1e-5) is checked here too. Memory: peak of the one-pass side at 8,192 and at 32,768
tokens, each in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

from benchmarks._common import THREADS, child, clock, peak_mb

LENGTH, LONGER, CONTEXT = 8192, 32768, 2048
ROUNDS = 7
TIME_BAR, MEMORY_BAR_MB = 1.5, 32.0  # four times the text may cost a twelfth of the process


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Both sides, interleaved; figures, bars and setting."""
    import numpy as np
    import torch

    from lengthwise.measure.remembrance import DISTANCES, remembrance_ends, remembrance_starts, remembrance_surface

    torch.set_num_threads(THREADS)
    model, text = _model(), _text(LENGTH)
    starts, ends = remembrance_starts(LENGTH, CONTEXT), remembrance_ends(LENGTH, CONTEXT)
    seconds: dict[str, list[float]] = {"one pass": [], "one after the other": []}
    largest = 0.0
    for _ in range(rounds):
        begin = clock()
        expected = _one_after_the_other(model, text, starts, ends)
        middle = clock()
        surface = remembrance_surface(model, text, starts, ends)
        seconds["one after the other"].append(middle - begin)
        seconds["one pass"].append(clock() - middle)
        largest = max(largest, *(float(np.nanmax(np.abs(surface[n][0] - expected[n]))) for n in DISTANCES))
    median = {side: statistics.median(values) for side, values in seconds.items()}
    ratio = median["one after the other"] / median["one pass"]
    peak = {length: _child(length) for length in (LENGTH, LONGER)}
    more = peak[LONGER] - peak[LENGTH]
    return {
        "line": f"{ratio:.2f}x faster, at least {TIME_BAR}x; {more:+.0f} MB at four times the length, at most "
        f"+{MEMORY_BAR_MB:.0f} MB; largest difference {largest:.1g}, at most 1e-5",
        "speedup": ratio,
        "time_bar": TIME_BAR,
        "more_memory_mb": more,
        "memory_bar_mb": MEMORY_BAR_MB,
        "largest_difference": largest,
        "holds": ratio >= TIME_BAR and more <= MEMORY_BAR_MB and largest <= 1e-5,
        "seconds": median,
        "peak_mb": {str(length): value for length, value in peak.items()},
        "setting": {
            "model": "Mamba-2, d 256, 4 layers, N 64, bytes, random weights",
            "starts": len(starts),
            "ends": len(ends),
            "length": LENGTH,
            "threads": THREADS,
            "rounds": rounds,
        },
    }


def _one_after_the_other(model: Any, text: Any, starts: list[int], ends: list[int]) -> dict[str, Any]:
    import numpy as np
    import torch

    from lengthwise.measure.remembrance import DISTANCES, distances

    found = {name: np.full((len(starts), len(ends)), np.nan) for name in DISTANCES}
    whole = None
    for row, start in enumerate(starts):
        reached = [column for column, end in enumerate(ends) if end >= start]
        with torch.inference_mode():
            hidden = model(torch.from_numpy(text[:, start:]), logits="none").hidden
            places = torch.tensor([ends[column] - start for column in reached])
            chances = torch.softmax(model.head(hidden[:, places])[0].double(), dim=-1)
            whole = chances if whole is None else whole
            values = distances(whole[len(ends) - len(reached) :], chances[None])
        for name in DISTANCES:
            found[name][row, reached] = values[name][0].numpy()
    return found


def _model() -> Any:
    import torch

    from lengthwise.models.config import Mamba2Config, ModelConfig
    from lengthwise.models.lm import LanguageModel

    sizes = ModelConfig(d_model=256, num_layers=4, vocab_size=256, mixer=Mamba2Config(d_state=64))
    model = LanguageModel(sizes).eval()
    with torch.no_grad():
        # As initialised, predictions hardly depend on the text and all distances would be near zero.
        model.backbone.embedding.weight.mul_(4)
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.sub_(2)
    return model


def _text(length: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (1, length + 1))


def _child(length: int) -> float:
    """Peak memory in MB of the one-pass side at this length, in a process of its own."""
    return float(child("remembrance", length)["peak_mb"])


def _peak(length: int) -> float:
    import torch

    from lengthwise.measure.remembrance import remembrance_ends, remembrance_starts, remembrance_surface

    torch.set_num_threads(THREADS)
    remembrance_surface(_model(), _text(length), remembrance_starts(length, CONTEXT), remembrance_ends(length, CONTEXT))
    return peak_mb()


if __name__ == "__main__":
    print(json.dumps({"peak_mb": _peak(int(sys.argv[1]))}))
