"""Does every architecture stream at a constant price? 65,536 tokens against 4,096, state carried from piece to piece.

A model of each family (d 256, 4 layers) reads random bytes in pieces of 1,024 tokens. A recurrent model must take as
long for the last token as for the first, and no more memory. Attention grows with what it keeps, so attention layers
get a budget of tokens, which is their window; the bytes that their keys and values hold at the end must be those that
follow from it. The short text is read before and after every long one, in the same process; memory is the state's own
size at both lengths, and the highest resident memory of a process of its own.

    python -m benchmarks stream-all
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

from benchmarks._common import THREADS, child, clock, peak_mb

SHORT, LONG, PIECE, BUDGET, ROUNDS = 4096, 65536, 1024, 1024, 2
TIME_BAR, MEMORY_BAR_MB = 1.15, 20.0
FAMILIES = ("mamba1", "mamba2", "gla", "rwkv6", "griffin", "transformer", "mamba2-attention")


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Every family: time per token and memory, long over short."""
    found: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        times = child("stream_all", "time", family, rounds)
        peak = {length: child("stream_all", "memory", family, length)["peak_mb"] for length in (SHORT, LONG)}
        found[family] = {
            **times,
            "peak_mb": {str(length): value for length, value in peak.items()},
            "more_memory_mb": peak[LONG] - peak[SHORT],
        }
        print(
            f"{family:>17}: {times['time_ratio']:.2f}x the time per token, "
            f"{found[family]['more_memory_mb']:+.0f} MB, state {times['state_bytes'] / 1e6:.2f} MB",
            flush=True,
        )
    worst = max(found, key=lambda family: found[family]["time_ratio"])
    memory = max(found, key=lambda family: found[family]["more_memory_mb"])
    constant = all(each["state_bytes"] == each["state_bytes_short"] for each in found.values())
    within = all(each["attention_bytes"] == each["attention_budget_bytes"] for each in found.values())
    ratio, more = found[worst]["time_ratio"], found[memory]["more_memory_mb"]
    return {
        "line": f"at most {ratio:.2f}x the time per token ({worst}), bar {TIME_BAR}x; "
        f"at most {more:+.0f} MB ({memory}), bar +{MEMORY_BAR_MB:.0f} MB; "
        f"states {'of constant size' if constant else 'GROW'}, "
        f"attention {'at its budget' if within else 'NOT AT ITS BUDGET'}",
        "time_bar": TIME_BAR,
        "memory_bar_mb": MEMORY_BAR_MB,
        "holds": ratio <= TIME_BAR and more <= MEMORY_BAR_MB and constant and within,
        "families": found,
        "setting": {
            "sizes": "d 256, 4 layers, bytes, random weights, one row, float32",
            "piece": PIECE,
            "attention_budget": BUDGET,
            "lengths": [SHORT, LONG],
            "statistic": "median over pieces and rounds; the short text before and after every long one",
            "threads": THREADS,
        },
    }


def _model(family: str) -> Any:
    import torch

    from lengthwise.models.config import (
        AttentionConfig,
        GatedMLPConfig,
        GLAConfig,
        Mamba1Config,
        Mamba2Config,
        ModelConfig,
        RGLRUConfig,
        RWKV6ChannelMixConfig,
        RWKV6Config,
    )
    from lengthwise.models.lm import LanguageModel

    torch.set_num_threads(THREADS)
    size: dict[str, Any] = {"d_model": 256, "num_layers": 4, "vocab_size": 256}
    local = AttentionConfig(num_heads=4, num_kv_heads=1, rotary_dim=32, window=BUDGET, window_reaches=True)
    configs = {
        "mamba1": ModelConfig(**size, mixer=Mamba1Config()),
        "mamba2": ModelConfig(**size, mixer=Mamba2Config(d_state=64)),
        "gla": ModelConfig(**size, mixer=GLAConfig(num_heads=4), mlp=GatedMLPConfig(width=512)),
        "rwkv6": ModelConfig(
            **size,
            mixer=RWKV6Config(head_size=64),
            mlp=RWKV6ChannelMixConfig(width=512),
            norm="layer",
            embedding_norm=True,
        ),
        "griffin": ModelConfig(
            **size,
            mixer=RGLRUConfig(num_heads=4),
            other_mixers=((2, local),),
            mlp=GatedMLPConfig(width=512, activation="gelu_tanh"),
        ),
        "transformer": ModelConfig(**size, mixer=AttentionConfig(num_heads=4), mlp=GatedMLPConfig(width=512)),
        "mamba2-attention": ModelConfig(
            **size, mixer=Mamba2Config(d_state=64), other_mixers=((2, AttentionConfig(num_heads=4, d_conv=4)),)
        ),
    }
    model = LanguageModel(configs[family]).eval()
    model.set_attention_budget(BUDGET)
    return model


def _stream(model: Any, length: int) -> tuple[list[float], Any]:
    """Seconds of each piece, and the state at the end."""
    import torch

    random = torch.Generator().manual_seed(0)
    state, seconds = None, []
    with torch.inference_mode():
        for _ in range(length // PIECE):
            tokens = torch.randint(0, 256, (1, PIECE), generator=random)
            begin = clock()
            state = model(tokens, state, logits="last").state
            seconds.append(clock() - begin)
    return seconds, state


def _time(family: str, rounds: int) -> dict[str, Any]:
    model = _model(family)
    _stream(model, SHORT)
    short: list[float] = []
    long: list[float] = []
    for _ in range(rounds):
        short += _stream(model, SHORT)[0]
        seconds, state = _stream(model, LONG)
        # Until a window is full attention has less to do; the long text is judged by where it ends.
        long += seconds[LONG // PIECE // 2 :]
        again, small = _stream(model, SHORT)
        short += again
    keys = sum(tensor.nbytes for _, tensor in state.named_tensors("attention"))
    return {
        "time_ratio": statistics.median(long) / statistics.median(short),
        "microseconds_per_token": {
            "short": 1e6 * statistics.median(short) / PIECE,
            "long": 1e6 * statistics.median(long) / PIECE,
        },
        "state_bytes": state.nbytes,
        "state_bytes_short": small.nbytes,
        "attention_bytes": keys,
        "attention_budget_bytes": model.attention_state_bytes(LONG),
    }


def _memory(family: str, length: int) -> dict[str, float]:
    _stream(_model(family), length)
    return {"peak_mb": peak_mb()}


if __name__ == "__main__":
    what, family, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    print(json.dumps(_time(family, number) if what == "time" else _memory(family, number)))
