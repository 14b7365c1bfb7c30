"""Griffin as a language model: against transformers' RecurrentGemma on the same weights."""

import math

import pytest
import torch
from tests.helpers import assert_close, relative_rms

from lengthwise.models.config import AttentionConfig, GatedMLPConfig, ModelConfig, RGLRUConfig
from lengthwise.models.lm import LanguageModel

WIDTH, HEADS, VOCAB, WINDOW = 48, 3, 70, 9


def config(window_reaches: bool) -> ModelConfig:
    local = AttentionConfig(
        num_heads=HEADS, num_kv_heads=1, rotary_dim=8, window=WINDOW, window_reaches=window_reaches, out_bias=True
    )
    return ModelConfig(
        d_model=WIDTH,
        num_layers=5,
        vocab_size=VOCAB,
        mixer=RGLRUConfig(num_heads=HEADS),
        other_mixers=((2, local),),
        mlp=GatedMLPConfig(width=64, activation="gelu_tanh", bias=True),
        pad_vocab_size_multiple=1,
        norm="rms-plus-one",
        norm_eps=1e-6,
        embedding_scale=float(torch.tensor(math.sqrt(WIDTH), dtype=torch.bfloat16)),
        logit_softcap=30.0,
    )


@pytest.fixture(scope="module")
def peer():
    """transformers' model with weights in which nothing is zero, one or too small to be seen."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    model = transformers.RecurrentGemmaForCausalLM(
        transformers.RecurrentGemmaConfig(
            hidden_size=WIDTH,
            num_hidden_layers=5,
            vocab_size=VOCAB,
            intermediate_size=128,  # twice the width of the MLP
            num_attention_heads=HEADS,
            num_key_value_heads=1,
            lru_width=WIDTH,
            attention_window_size=WINDOW,
            block_types=["recurrent", "recurrent", "attention"],
        )
    ).eval()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            parameter.copy_(parameter + 0.3 * noise if parameter.ndim < 2 else noise / parameter.shape[-1] ** 0.5)
            if name.endswith("embed_tokens.weight"):
                parameter.mul_(2)
    return model


def converted(model, window_reaches: bool) -> LanguageModel:
    """Our model with the peer's weights, by a renaming written here and not in the package."""
    weights = {}
    for name, value in model.state_dict().items():
        name = name.replace("model.layers.", "backbone.layers.").replace("model.embed_tokens", "backbone.embedding")
        name = name.replace("model.final_norm", "backbone.norm_f").replace("temporal_pre_norm", "norm")
        name = name.replace("channel_pre_norm", "norm2").replace("temporal_block", "mixer").replace("mlp_block", "mlp")
        weights[name.replace("o_proj", "out_proj")] = value
    del weights["lm_head.weight"]  # tied
    for name in [name for name in weights if name.endswith(".q_proj.weight")]:
        parts = [weights.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        weights[name.replace("q_proj", "in_proj")] = torch.cat(parts)
    ours = LanguageModel(config(window_reaches)).eval()
    ours.load_state_dict(weights)
    return ours


def tokens(time: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (2, time), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("time", [1, WINDOW, WINDOW + 1, 61])
def test_equals_transformers(peer, time: int, backend: str) -> None:
    ours = converted(peer, window_reaches=False)
    ours.set_backend(backend)
    with torch.no_grad():
        expected = peer(tokens(time), use_cache=False).logits
        assert_close("logits", ours(tokens(time)).logits, expected, 1e-5)


def test_gradients_equal_those_of_transformers(peer) -> None:
    ours, batch = converted(peer, window_reaches=False), tokens(37)
    loss = torch.nn.functional.cross_entropy(
        peer(batch, use_cache=False).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten()
    )
    layer, mine = peer.model.layers[0].temporal_block, ours.backbone.layers[0].mixer
    names = [name for name, _ in layer.named_parameters()]
    expected = torch.autograd.grad(loss, [dict(layer.named_parameters())[name] for name in names])
    nll, _ = ours.nll(batch)
    actual = torch.autograd.grad(nll.mean(), [dict(mine.named_parameters())[name] for name in names])
    for name, a, e in zip(names, actual, expected, strict=True):
        assert_close(name, a, e, 1e-4)  # the peer has 1 - a^2 by a difference, which loses digits where a is close to 1


def test_the_two_readings_of_the_window_differ_from_the_window_on(peer) -> None:
    with torch.no_grad():
        theirs, griffins = (converted(peer, reaches)(tokens(30)).logits for reaches in (False, True))
    assert_close("inside the window", griffins[:, :WINDOW], theirs[:, :WINDOW], 1e-6)
    assert relative_rms(griffins[:, WINDOW], theirs[:, WINDOW]) > 1e-3


def test_pieces_equal_the_peers_one_pass(peer) -> None:
    # The peer itself, given pieces, restarts its convolution; its one pass is right.
    ours, batch, state, logits = converted(peer, window_reaches=False), tokens(40), None, []
    with torch.no_grad():
        for piece in batch.split([7, 1, 16, 3, 13], dim=1):
            output = ours(piece, state)
            state, logits = output.state, [*logits, output.logits]
        assert_close("logits", torch.cat(logits, dim=1), peer(batch, use_cache=False).logits, 1e-5)


def test_documents_packed_behind_a_passed_state_equal_separate_ones() -> None:
    # What State Passing hands on: the recurrent state and the position, no keys.
    model, batch = LanguageModel(config(window_reaches=True), seed=3).double().eval(), tokens(20)
    resets = torch.zeros(2, 20, dtype=torch.bool)
    resets[0, 3], resets[1, 15] = True, True
    with torch.no_grad():
        passed = model(tokens(30)).state.only("recurrent", "position")
        packed = model(batch, passed, resets=resets)
        for row, cut in enumerate((3, 15)):
            own = passed.rows(torch.tensor([row]))
            begun, fresh = model(batch[row : row + 1, :cut], own), model(batch[row : row + 1, cut:])
            assert_close("continued", packed.hidden[row, :cut], begun.hidden[0], 1e-11)
            assert_close("fresh", packed.hidden[row, cut:], fresh.hidden[0], 1e-11)
        forgetful = passed.map("position", torch.zeros_like)
        assert relative_rms(model(batch, forgetful).hidden, model(batch).hidden) == 0, "reset at position 0"
        assert relative_rms(model(batch, passed).hidden, model(batch).hidden) > 1e-3
