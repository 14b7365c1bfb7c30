"""Is `measure` bounded by the text and not by its length? 131,072 tokens against 8,192.

Both lengths run the whole verb (sampling from a token store, perplexity, restarts, states, run folder) with the same
model and the same number of sequences, each in a process of its own so that peak memory is its own. The short side runs
before and after every long one. Figures: seconds per token of text, long over short (medians), and difference of peak
memory.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._common import THREADS, child, clock, peak_mb

SHORT, LONG = 8192, 131072
CONTEXT, NUM_SEQUENCES, ROUNDS = 512, 2, 3
TIME_BAR, MEMORY_BAR_MB = 1.15, 50.0


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Both sides, interleaved; figures, bars and setting."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        _write_corpus(corpus)
        found: dict[int, list[dict[str, float]]] = {SHORT: [], LONG: []}
        for index in range(rounds):
            for length in (SHORT, LONG, SHORT):
                out = Path(folder) / f"run-{index}-{length}-{len(found[length])}"
                found[length].append(_child(length, corpus, out))
    per_token = {length: statistics.median(r["seconds"] for r in runs) / length for length, runs in found.items()}
    peak = {length: statistics.median(r["peak_mb"] for r in runs) for length, runs in found.items()}
    ratio, more = per_token[LONG] / per_token[SHORT], peak[LONG] - peak[SHORT]
    return {
        "line": f"{ratio:.2f}x the time per token, at most {TIME_BAR}x; "
        f"{more:+.0f} MB, at most +{MEMORY_BAR_MB:.0f} MB",
        "time_ratio": ratio,
        "time_bar": TIME_BAR,
        "more_memory_mb": more,
        "memory_bar_mb": MEMORY_BAR_MB,
        "holds": ratio <= TIME_BAR and more <= MEMORY_BAR_MB,
        "microseconds_per_token": {str(length): 1e6 * value / NUM_SEQUENCES for length, value in per_token.items()},
        "peak_mb": {str(length): value for length, value in peak.items()},
        "setting": {
            "model": "Mamba-2, d 128, 2 layers, N 64, bytes, random weights",
            "context_length": CONTEXT,
            "num_sequences": NUM_SEQUENCES,
            "metrics": "perplexity, restart, states",
            "threads": THREADS,
            "rounds": rounds,
        },
    }


def _write_corpus(out: Path) -> None:
    """Random bytes as documents a little longer than the long side needs."""
    import numpy as np

    from lengthwise.data import ByteTokenizer, prepare_corpus

    source = out.with_name("text")
    source.mkdir()
    random = np.random.default_rng(0)
    for index in range(NUM_SEQUENCES):
        letters = random.integers(97, 123, LONG + 1000, dtype=np.uint8).tobytes()
        (source / f"{index}.txt").write_bytes(letters)
    prepare_corpus(source, ByteTokenizer(), out=out, val_frac=1.0)


def _child(length: int, corpus: Path, out: Path) -> dict[str, float]:
    """One measurement in a process of its own."""
    return child("measure_stream", length, corpus, out)


def _measure(length: int, corpus: Path, out: Path) -> dict[str, float]:
    import torch

    from lengthwise.checkpoints import Checkpoint
    from lengthwise.measure import MeasureConfig, measure
    from lengthwise.models.config import Mamba2Config, ModelConfig
    from lengthwise.models.lm import LanguageModel

    torch.set_num_threads(THREADS)
    sizes = ModelConfig(d_model=128, num_layers=2, vocab_size=256, mixer=Mamba2Config(d_state=64))
    checkpoint = Checkpoint(
        model=LanguageModel(sizes).eval(), config=sizes, tokenizer_spec="bytes", context_length=CONTEXT
    )
    config = MeasureConfig(
        model="random",
        data=str(corpus),
        length=length,
        num_sequences=NUM_SEQUENCES,
        # Both sides then fill their forward passes alike, also where a row is cut into many windows.
        batch_size=NUM_SEQUENCES,
        metrics=("perplexity", "restart", "states"),
    )
    begin = clock()
    measure(config, out, checkpoint=checkpoint, progress=False)
    seconds = clock() - begin
    return {"seconds": seconds, "peak_mb": peak_mb()}


if __name__ == "__main__":
    print(json.dumps(_measure(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))))
