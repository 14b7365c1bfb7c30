"""Griffin against transformers' RecurrentGemma: a forward pass and a training step.

The same sizes, the same window, the same tokens, float32; sides take turns. The step is forward, loss and backward,
without the optimizer. Two more figures tell where a ratio comes from: the same for one recurrent block alone, and the
time of the linear layers, which both sides must spend and which bounds what any recurrence could gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmarks._common import THREADS, interleave, spread

WIDTH, LAYERS, HEADS, MLP, VOCAB, WINDOW = 256, 4, 4, 768, 256, 128
BATCH, TIME, ROUNDS, BAR = 4, 512, 6, 4.0


def _tokens() -> Any:
    import torch

    return torch.randint(0, VOCAB, (BATCH, TIME + 1), generator=torch.Generator().manual_seed(0))


def our_model() -> Any:
    """Blocks R, R, A, R with Griffin's norms, scale and cap; the window as transformers reads it."""
    import torch

    from lengthwise.models.config import AttentionConfig, GatedMLPConfig, ModelConfig, RGLRUConfig
    from lengthwise.models.lm import LanguageModel

    local = AttentionConfig(
        num_heads=HEADS, num_kv_heads=1, rotary_dim=WIDTH // HEADS // 2, window=WINDOW, out_bias=True
    )
    return LanguageModel(
        ModelConfig(
            d_model=WIDTH,
            num_layers=LAYERS,
            vocab_size=VOCAB,
            mixer=RGLRUConfig(num_heads=HEADS),
            other_mixers=((2, local),),
            mlp=GatedMLPConfig(width=MLP, activation="gelu_tanh", bias=True),
            norm="rms-plus-one",
            norm_eps=1e-6,
            embedding_scale=float(torch.tensor(math.sqrt(WIDTH), dtype=torch.bfloat16)),
            logit_softcap=30.0,
        )
    )


def peer_model() -> Any:
    """The same by transformers, whose `intermediate_size` is twice the width of the MLP."""
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    return transformers.RecurrentGemmaForCausalLM(
        transformers.RecurrentGemmaConfig(
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            vocab_size=VOCAB,
            intermediate_size=2 * MLP,
            num_attention_heads=HEADS,
            num_key_value_heads=1,
            lru_width=WIDTH,
            attention_window_size=WINDOW,
            block_types=["recurrent", "recurrent", "attention"],
        )
    )


def _sides() -> dict[str, Callable[[], object]]:
    import torch
    import torch.nn.functional as F

    ours, peer, tokens = our_model(), peer_model().train(), _tokens()
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()
    assert ours.num_parameters() == sum(parameter.numel() for parameter in peer.parameters())

    @torch.no_grad()
    def our_forward() -> None:
        ours(inputs)

    @torch.no_grad()
    def peer_forward() -> None:
        peer(inputs, use_cache=False)

    def our_step() -> None:
        ours.zero_grad(set_to_none=True)
        nll, _ = ours.nll(tokens)
        nll.mean().backward()

    def peer_step() -> None:
        peer.zero_grad(set_to_none=True)
        F.cross_entropy(peer(inputs, use_cache=False).logits.flatten(0, 1), targets).backward()

    @torch.no_grad()
    def products() -> None:
        # One projection of each shape, as often as the models make it.
        for weight in weights:
            x[: weight.shape[1]].t() @ weight.t()

    our_block, peer_block = ours.blocks()[0].mixer, peer.model.layers[0].temporal_block
    u, positions = torch.randn(BATCH, TIME, WIDTH, requires_grad=True), torch.arange(TIME)[None]

    def our_block_step() -> None:
        our_block(u)[0].sum().backward()

    def peer_block_step() -> None:
        peer_block(u, positions, None, use_cache=False)[0].sum().backward()

    @torch.no_grad()
    def our_block_forward() -> None:
        our_block(u)

    @torch.no_grad()
    def peer_block_forward() -> None:
        peer_block(u, positions, None, use_cache=False)

    weights = [parameter.detach() for parameter in ours.parameters() if parameter.ndim == 2]
    x = torch.randn(max(weight.shape[1] for weight in weights), BATCH * TIME)
    return {
        "ours, forward": our_forward,
        "peer, forward": peer_forward,
        "ours, step": our_step,
        "peer, step": peer_step,
        "ours, block forward": our_block_forward,
        "peer, block forward": peer_block_forward,
        "ours, block step": our_block_step,
        "peer, block step": peer_block_step,
        "products of a forward pass": products,
    }


def run() -> dict[str, Any]:
    """Both ratios; the bar applies to the smaller."""
    import torch

    torch.set_num_threads(THREADS)
    seconds = interleave(_sides(), rounds=ROUNDS)
    least = {name: min(values) for name, values in seconds.items()}
    names = ("forward", "step", "block forward", "block step")
    ratio = {name: least[f"peer, {name}"] / least[f"ours, {name}"] for name in names}
    # A backward pass makes two products for each of the forward pass.
    products = least["products of a forward pass"]
    bounds = {"forward": least["peer, forward"] / products, "step": least["peer, step"] / (3 * products)}
    return {
        "ratios": ratio,
        "bar": BAR,
        "bounds_by_linear_layers": bounds,
        "holds": min(ratio["forward"], ratio["step"]) >= BAR,
        "line": (
            f"forward {ratio['forward']:.2f}x and training step {ratio['step']:.2f}x the tokens/s of transformers, "
            f"both at least {BAR}x; the linear layers alone bound them at {bounds['forward']:.2f}x and "
            f"{bounds['step']:.2f}x; the recurrent block alone {ratio['block forward']:.2f}x and "
            f"{ratio['block step']:.2f}x"
        ),
        "tokens_per_second": {name: BATCH * TIME / value for name, value in least.items()},
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "setting": {
            "sizes": f"d {WIDTH}, {LAYERS} layers R R A R, {HEADS} heads, MLP {MLP}, window {WINDOW}, vocab {VOCAB}",
            "batch": f"{BATCH} x {TIME}",
            "step": "forward, loss, backward; no optimizer",
            "dtype": "float32",
            "statistic": f"least of {ROUNDS} interleaved",
        },
    }
