"""The language model: against transformers on the same weights, and the invariants of a carried state."""

import pytest
import torch
from tests.helpers import assert_close

from lengthwise.errors import InputError
from lengthwise.models.config import Mamba2Config, ModelConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.models.presets import PRESETS, get_preset

CONFIG = ModelConfig(
    d_model=32,
    num_layers=3,
    vocab_size=50,
    mixer=Mamba2Config(d_state=12, headdim=8, ngroups=2, chunk_size=8),
    pad_vocab_size_multiple=16,
)


def small_model(seed: int = 0, config: ModelConfig = CONFIG, dtype: torch.dtype = torch.float64) -> LanguageModel:
    model = LanguageModel(config, seed=seed)
    with torch.no_grad():
        # The official embeddings are tiny; larger ones make the tests see every part of the model.
        model.backbone.embedding.weight.mul_(20)
    return model.to(dtype)


def tokens(batch: int, time: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, CONFIG.vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("ngroups", "chunk"), [(1, 16), (2, 64), (4, 7)])
def test_equals_transformers(ngroups: int, chunk: int) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = ModelConfig(
        d_model=48,
        num_layers=3,
        vocab_size=80,
        mixer=Mamba2Config(d_state=24, headdim=12, ngroups=ngroups, chunk_size=chunk),
    )
    ours = small_model(3, config, torch.float32)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.endswith(("norm.weight", "norm_f.weight", "mixer.D")):
                parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    peer = transformers.Mamba2ForCausalLM(
        transformers.Mamba2Config(
            hidden_size=48,
            num_hidden_layers=3,
            vocab_size=80,
            state_size=24,
            head_dim=12,
            num_heads=8,
            n_groups=ngroups,
            chunk_size=16,
            expand=2,
            tie_word_embeddings=True,
            use_bias=False,
            layer_norm_epsilon=1e-5,
            residual_in_fp32=True,
            time_step_limit=(0.0, float("inf")),
        )
    ).eval()
    renamed = {k.replace("backbone.embedding.", "backbone.embeddings."): v for k, v in ours.state_dict().items()}
    missing, unexpected = peer.load_state_dict(renamed, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    peer.tie_weights()
    batch = torch.randint(0, 80, (2, 61), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = peer(batch, use_cache=False).logits
    assert_close("logits", ours(batch).logits[..., :80], expected, 1e-5)


@pytest.mark.parametrize("pieces", [[20, 1], [1, 20], [8, 13], [7, 7, 7], [1] * 21, [2, 1, 18]])
def test_pieces_equal_the_whole_in_values_and_gradients(pieces: list[int]) -> None:
    model = small_model()
    batch = tokens(2, 21)
    whole = model(batch)
    start, state, outputs = 0, None, []
    for length in pieces:
        output = model(batch[:, start : start + length], state)
        outputs.append(output.hidden)
        start, state = start + length, output.state
    assert_close("hidden", torch.cat(outputs, dim=1), whole.hidden, 1e-12)
    for (name, actual), (_, expected) in zip(state.named_tensors(), whole.state.named_tensors(), strict=True):
        assert_close(name, actual, expected, 1e-12)
    parameters = list(model.parameters())
    loss = [torch.cat(outputs, dim=1).square().mean(), whole.hidden.square().mean()]
    actual_grads, expected_grads = (torch.autograd.grad(value, parameters) for value in loss)
    for (name, _), actual, expected in zip(model.named_parameters(), actual_grads, expected_grads, strict=True):
        assert_close(f"gradient of {name}", actual, expected, 1e-10)


def test_gradient_flows_through_the_state() -> None:
    model = small_model()
    batch = tokens(2, 14)
    whole = model(batch).hidden[:, 9:].square().sum()
    first = model(batch[:, :9], logits="none")
    second = model(batch[:, 9:], first.state).hidden.square().sum()
    for expected, actual, (name, _) in zip(
        torch.autograd.grad(whole, list(model.parameters())),
        torch.autograd.grad(second, list(model.parameters())),
        model.named_parameters(),
        strict=True,
    ):
        assert_close(f"gradient of {name}", actual, expected, 1e-10)


def test_detached_state_cuts_the_gradient() -> None:
    model = small_model()
    batch = tokens(2, 14)
    state = model(batch[:, :9]).state
    assert any(tensor.requires_grad for _, tensor in state.named_tensors())
    assert not any(tensor.requires_grad for _, tensor in state.detach().named_tensors())


@pytest.mark.parametrize("padding", ["right", "left"])
def test_padding_changes_nothing(padding: str) -> None:
    model = small_model()
    lengths = torch.tensor([9, 1, 17])
    rows = [tokens(1, int(length), seed=int(length)) for length in lengths]
    state = model(tokens(3, 5, seed=9)).state
    padded = torch.full((3, 17), 7)
    for index, row in enumerate(rows):
        width = row.shape[1]
        padded[index, slice(0, width) if padding == "right" else slice(17 - width, 17)] = row
    output = model(padded, state, lengths=lengths, padding=padding, logits="all")
    last = model(padded, state, lengths=lengths, padding=padding, logits="last").logits
    for index, row in enumerate(rows):
        width = row.shape[1]
        alone = model(row, state.rows(torch.tensor([index])))
        place = slice(0, width) if padding == "right" else slice(17 - width, 17)
        assert_close(f"row {index}", output.hidden[index, place], alone.hidden[0], 1e-12)
        assert_close(f"last logits {index}", last[index, 0, :50], alone.logits[0, -1, :50], 1e-12)
        for (name, actual), (_, expected) in zip(
            output.state.rows(torch.tensor([index])).named_tensors(), alone.state.named_tensors(), strict=True
        ):
            assert_close(f"{name} of row {index}", actual, expected, 1e-12)


def test_causality() -> None:
    model = small_model()
    batch = tokens(1, 20)
    changed = batch.clone()
    changed[0, 12] = (changed[0, 12] + 1) % CONFIG.vocab_size
    before, after = model(batch).hidden, model(changed).hidden
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_padded_vocabulary_is_masked() -> None:
    model = small_model()
    logits = model(tokens(1, 4)).logits
    assert logits.shape[-1] == 64
    assert torch.isneginf(logits[..., 50:]).all()
    assert torch.isfinite(logits[..., :50]).all()
    assert (logits.softmax(-1)[..., 50:] == 0).all()


def test_nll_is_the_cross_entropy_however_it_is_cut() -> None:
    model = small_model()
    batch = tokens(2, 30)
    nll, state = model.nll(batch)
    logits = model(batch[:, :-1]).logits
    expected = -logits.log_softmax(-1).gather(-1, batch[:, 1:, None])[..., 0]
    assert_close("nll", nll, expected, 1e-12)
    cut, cut_state = model.nll(batch, max_logits=300)
    assert_close("nll in pieces", cut, expected, 1e-12)
    assert_close("state", cut_state.layers[0].ssm, state.layers[0].ssm, 1e-12)
    for (name, _), a, b in zip(
        model.named_parameters(),
        torch.autograd.grad(cut.mean(), list(model.parameters())),
        torch.autograd.grad(expected.mean(), list(model.parameters())),
        strict=True,
    ):
        assert_close(f"gradient of {name}", a, b, 1e-10)


def test_zero_state_equals_none() -> None:
    model = small_model()
    batch = tokens(2, 11)
    assert_close("hidden", model(batch, model.init_state(2)).hidden, model(batch).hidden, 1e-12)


@torch.no_grad()
def test_official_initialisation() -> None:
    config = ModelConfig(d_model=256, num_layers=4, vocab_size=1000)
    model = LanguageModel(config, seed=1)
    mixer = model.backbone.layers[0].mixer
    assert abs(float(model.backbone.embedding.weight.std()) - 0.02) < 5e-4
    rates = mixer.A_log.exp()
    assert float(rates.min()) >= 1
    assert float(rates.max()) <= 16
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    assert float(dt.min()) >= 0.99e-3
    assert float(dt.max()) <= 0.101
    assert abs(float(mixer.out_proj.weight.abs().max()) - 512**-0.5 / 2) < 1e-3
    again, other = LanguageModel(config, seed=1), LanguageModel(config, seed=2)
    assert torch.equal(again.backbone.layers[3].mixer.A_log, model.backbone.layers[3].mixer.A_log)
    assert not torch.equal(other.backbone.layers[3].mixer.A_log, model.backbone.layers[3].mixer.A_log)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("mamba2-130m", 128.99), ("mamba2-2.7b", 2702.6), ("table2-mamba2-45m", 46.3), ("table2-mamba2-85m", 84.0)],
)
def test_preset_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = LanguageModel(get_preset(name))
    assert abs(model.num_parameters() / 1e6 / millions - 1) < 0.01


def test_state_size_of_the_largest_preset() -> None:
    with torch.device("meta"):
        state = LanguageModel(get_preset("mamba2-2.7b")).init_state(1)
    assert sum(tensor.numel() for _, tensor in state.named_tensors()) == 64 * 671_488


def test_errors(unchecked: None) -> None:
    with pytest.raises(InputError, match="did you mean 'mamba2-130m'"):
        get_preset("mamba2-130")
    model = small_model()
    with pytest.raises(InputError, match=r"ids 0\.\.50"):
        model(torch.tensor([[0, 50]]))
    with pytest.raises(InputError, match="2 rows for 3 rows"):
        model(tokens(3, 4), model.init_state(2))
    with pytest.raises(InputError, match="float"):
        model(torch.zeros(1, 3))
    with pytest.raises(InputError, match="one token more"):
        model.nll(tokens(2, 1))
    with pytest.raises(InputError, match=r"d_modle.*d_model"):
        ModelConfig.from_dict({"d_modle": 3})
    with pytest.raises(InputError, match="headdim"):
        ModelConfig(d_model=30, num_layers=1, vocab_size=5)
    assert ModelConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert all(preset.note for preset in PRESETS.values())
