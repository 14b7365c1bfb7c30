"""A Mamba-2 training step against transformers' Mamba2: tokens a second and peak memory.

Forward, loss and backward of the same sizes on the same tokens; the optimizer step is left out on both sides. The
peer runs at the best of several chunk sizes. Sides take turns in one process; peak memory is taken in a process for
each side, less what importing costs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks._common import THREADS, child, interleave, peak_mb, spread

WIDTH, LAYERS, STATE, HEAD, VOCAB = 256, 4, 64, 64, 256
BATCH, TIME = 8, 512
PEER_CHUNKS = (32, 64, 128, 256)
ROUNDS = 6
FP32_BAR, BF16_BAR, MEMORY_BAR = 2.0, 3.0, 0.5


def _tokens() -> Any:
    import torch

    return torch.randint(0, VOCAB, (BATCH, TIME + 1), generator=torch.Generator().manual_seed(0))


def our_step(bf16: bool = False, backend: str = "auto") -> Callable[[], object]:
    """Our training step."""
    import torch

    from lengthwise.models.config import Mamba2Config, ModelConfig
    from lengthwise.models.lm import LanguageModel

    mixer = Mamba2Config(d_state=STATE, headdim=HEAD)
    model = LanguageModel(ModelConfig(d_model=WIDTH, num_layers=LAYERS, vocab_size=VOCAB, mixer=mixer))
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = backend  # type: ignore[assignment]
    tokens = _tokens()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            nll, _ = model.nll(tokens)
        nll.float().mean().backward()

    return step


def peer_step(chunk: int) -> Callable[[], object]:
    """The same step by transformers, in float32."""
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    config = transformers.Mamba2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        vocab_size=VOCAB,
        state_size=STATE,
        head_dim=HEAD,
        num_heads=2 * WIDTH // HEAD,
        n_groups=1,
        chunk_size=chunk,
        tie_word_embeddings=True,
    )
    model = transformers.Mamba2ForCausalLM(config).train()
    tokens = _tokens()[:, :TIME]

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(tokens, labels=tokens, use_cache=False).loss.backward()

    return step


def _compare(bf16: bool, bar: float) -> dict[str, Any]:
    import torch

    torch.set_num_threads(THREADS)
    sides = {"ours": our_step(bf16), **{f"peer, chunk {chunk}": peer_step(chunk) for chunk in PEER_CHUNKS}}
    seconds = interleave(sides, rounds=ROUNDS)
    best = min((name for name in seconds if name != "ours"), key=lambda name: min(seconds[name]))
    ratio = min(seconds[best]) / min(seconds["ours"])
    result = {
        "ratio": ratio,
        "bar": bar,
        "best_peer": best,
        "tokens_per_second": {name: BATCH * TIME / min(values) for name, values in seconds.items()},
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "setting": {
            "sizes": f"d {WIDTH}, {LAYERS} layers, N {STATE}, head {HEAD}, vocabulary {VOCAB}",
            "batch": f"{BATCH} x {TIME}",
            "step": "forward, loss, backward; no optimizer",
            "dtype": "ours bfloat16 autocast, peer float32" if bf16 else "float32",
            "statistic": f"least of {ROUNDS} interleaved steps",
        },
    }
    return result


def run_fp32() -> dict[str, Any]:
    """Float32 against float32, and peak memory."""
    result = _compare(False, FP32_BAR)
    chunk = result["best_peer"].rsplit(" ", 1)[1]
    ours, peer = child("ssd_train", "ours"), child("ssd_train", "peer", chunk)
    memory = (ours["peak_mb"] - ours["base_mb"]) / (peer["peak_mb"] - peer["base_mb"])
    whole = ours["peak_mb"] / peer["peak_mb"]
    result |= {"memory": {"ours": ours, "peer": peer}, "memory_ratio": memory, "memory_ratio_whole_process": whole}
    result["holds"] = result["ratio"] >= FP32_BAR and memory <= MEMORY_BAR
    result["line"] = (
        f"{result['ratio']:.2f}x the tokens/s of transformers ({result['best_peer']}), at least {FP32_BAR}x; "
        f"{memory:.2f} of its peak memory above imports ({whole:.2f} of the whole process), at most {MEMORY_BAR}"
    )
    return result


def run_bf16() -> dict[str, Any]:
    """Ours in bfloat16 autocast against the peer in float32, and what bfloat16 products gain on this machine at all."""
    result = _compare(True, BF16_BAR)
    gain = _bf16_gain()
    result["bf16_product_gain"] = gain
    result["holds"] = result["ratio"] >= BF16_BAR
    result["line"] = (
        f"{result['ratio']:.2f}x the tokens/s of transformers ({result['best_peer']}), at least {BF16_BAR}x; "
        f"this machine's own bfloat16 products run at {gain:.2f}x its float32 rate"
    )
    return result


def _bf16_gain() -> float:
    """Rate of a 2048 x 2048 x 2048 product in bfloat16 over that in float32, the two taking turns."""
    import torch

    a = torch.randn(2048, 2048)
    b = a.bfloat16()
    seconds = interleave({"float32": lambda: a @ a, "bfloat16": lambda: b @ b}, rounds=8)
    return min(seconds["float32"]) / min(seconds["bfloat16"])


def _memory(side: str, chunk: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(THREADS)
    step = our_step() if side == "ours" else peer_step(chunk)
    base = peak_mb()
    for _ in range(3):
        step()
    return {"base_mb": base, "peak_mb": peak_mb()}


if __name__ == "__main__":
    print(json.dumps(_memory(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 64)))
