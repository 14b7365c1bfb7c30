"""Mamba-1 against transformers' Mamba: a training step, and reading a long text.

Forward, loss and backward of the same sizes on the same tokens; the optimizer step is left out on both sides. The
peer's step grows with the square of the length (each token's slice sends its gradient through a tensor of all tokens),
so at 8 x 512 it takes minutes. It runs in a process of its own, is held every few seconds while our steps are timed,
and is given up when it has run for so long that the bar is proven: the ratio printed is then a lower bound, and says
so. At 8 x 64 both sides finish and take turns as usual.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks._common import THREADS, interleave, spread

WIDTH, LAYERS, STATE, VOCAB = 256, 4, 16, 256
BATCH, TIME, SHORT, LONG = 8, 512, 64, 4096
ROUNDS = 6
TRAIN_BAR, FORWARD_BAR = 50.0, 5.0
GIVE_UP_AT = 100.0
"""The peer's step is given up when it has run for this many of ours."""
TURN = 5.0
"""Seconds the peer runs between two of our steps."""


def _tokens(batch: int, length: int) -> Any:
    import torch

    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


def _ours(backend: str) -> Any:
    from lengthwise.models.config import Mamba1Config, ModelConfig
    from lengthwise.models.lm import LanguageModel

    mixer = Mamba1Config(d_state=STATE)
    model = LanguageModel(ModelConfig(d_model=WIDTH, num_layers=LAYERS, vocab_size=VOCAB, mixer=mixer))
    model.set_backend(backend)  # type: ignore[arg-type]
    return model


def _peer() -> Any:
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    config = transformers.MambaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        vocab_size=VOCAB,
        state_size=STATE,
        tie_word_embeddings=True,
    )
    return transformers.MambaForCausalLM(config)


def our_step(backend: str, length: int) -> Callable[[], object]:
    """Our training step."""
    model, tokens = _ours(backend), _tokens(BATCH, length + 1)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model.nll(tokens)[0].mean().backward()

    return step


def peer_step(length: int) -> Callable[[], object]:
    """The same step by transformers."""
    model, tokens = _peer().train(), _tokens(BATCH, length)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(tokens, labels=tokens, use_cache=False).loss.backward()

    return step


def run_train() -> dict[str, Any]:
    """A training step at 8 x 512, and at 8 x 64."""
    import torch

    torch.set_num_threads(THREADS)
    ours = {form: our_step(form, TIME) for form in ("auto", "torch")}
    peer, finished, seconds = _take_turns(ours)
    ratios = {form: peer / statistics.median(values) for form, values in seconds.items()}
    short = interleave({**{form: our_step(form, SHORT) for form in ours}, "peer": peer_step(SHORT)}, rounds=2)
    at_short = min(short["peer"]) / min(short["auto"])
    how = "took one step in" if finished else "did not finish a step in"
    bound = "" if finished else "at least "
    return {
        "ratio": ratios["auto"],
        "ratio_is_lower_bound": not finished,
        "ratio_torch_form": ratios["torch"],
        "bar": TRAIN_BAR,
        "holds": ratios["auto"] >= TRAIN_BAR,
        "line": (
            f"{bound}{ratios['auto']:.0f}x the tokens/s of transformers, which {how} {peer:.0f} s "
            f"({bound}{ratios['torch']:.0f}x without a C compiler); bar {TRAIN_BAR:.0f}x; "
            f"at {BATCH} x {SHORT}, in turns, {at_short:.0f}x"
        ),
        "peer_seconds": peer,
        "seconds": {form: spread(values) for form, values in seconds.items()},
        "tokens_per_second": {form: BATCH * TIME / min(values) for form, values in seconds.items()},
        "short": {"ratio": at_short, "seconds": {name: spread(values) for name, values in short.items()}},
        "setting": {
            "sizes": f"d {WIDTH}, {LAYERS} layers, N {STATE}, vocabulary {VOCAB}",
            "batch": f"{BATCH} x {TIME}; short: {BATCH} x {SHORT}",
            "step": "forward, loss, backward; no optimizer",
            "dtype": "float32",
            "statistic": f"one step of the peer, held every {TURN:.0f} s for one of ours and given up at "
            f"{GIVE_UP_AT:.0f} of ours, over the median of ours; short: least of 2 interleaved steps",
        },
    }


def run_forward() -> dict[str, Any]:
    """Reading 1 x 4096 tokens without gradients."""
    import torch

    torch.set_num_threads(THREADS)
    models, tokens = {form: _ours(form) for form in ("auto", "torch")}, _tokens(1, LONG)
    peer = _peer().eval()
    sides: dict[str, Callable[[], object]] = {form: partial(model, tokens) for form, model in models.items()}
    sides["peer"] = partial(peer, tokens, use_cache=False)
    with torch.no_grad():
        seconds = interleave(sides, rounds=ROUNDS)
    ratios = {form: min(seconds["peer"]) / min(seconds[form]) for form in models}
    return {
        "ratio": ratios["auto"],
        "ratio_torch_form": ratios["torch"],
        "bar": FORWARD_BAR,
        "holds": ratios["auto"] >= FORWARD_BAR,
        "line": (
            f"{ratios['auto']:.1f}x the tokens/s of transformers ({ratios['torch']:.1f}x without a C compiler); "
            f"bar {FORWARD_BAR:.0f}x"
        ),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "tokens_per_second": {name: LONG / min(values) for name, values in seconds.items()},
        "setting": {
            "sizes": f"d {WIDTH}, {LAYERS} layers, N {STATE}, vocabulary {VOCAB}",
            "batch": f"1 x {LONG}, all logits, no gradient",
            "dtype": "float32",
            "statistic": f"least of {ROUNDS} interleaved calls",
        },
    }


def _take_turns(ours: dict[str, Callable[[], object]]) -> tuple[float, bool, dict[str, list[float]]]:
    """Seconds one step of the peer ran, whether it came to its end, and seconds of our steps in between."""
    interleave(ours, rounds=0)
    seconds: dict[str, list[float]] = {form: [] for form in ours}
    command = [sys.executable, "-m", "benchmarks.mamba1", str(TIME)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "begin\n":  # the model is there and the step begins
            raise SystemExit(f"{' '.join(command)} failed with exit code {process.wait()}")
        ran, finished = 0.0, False
        while not finished:
            begin = time.perf_counter()
            try:
                finished = process.wait(TURN) == 0
                if not finished:
                    raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGSTOP)
            ran += time.perf_counter() - begin
            for form, values in interleave(ours, rounds=1, warmup=0).items():
                seconds[form] += values
            if not finished and ran >= GIVE_UP_AT * statistics.median(seconds["auto"]):
                process.kill()
                break
            process.send_signal(signal.SIGCONT)
    return ran, finished, seconds


def _one_peer_step(length: int) -> None:
    import torch

    torch.set_num_threads(THREADS)
    step = peer_step(length)
    print("begin", flush=True)
    step()


if __name__ == "__main__":
    _one_peer_step(int(sys.argv[1]))
