"""The Mamba-1 language model against transformers on the same weights: logits, and gradients of the loss."""

import pytest
import torch
from tests.helpers import assert_close

from lengthwise.models.config import Mamba1Config, ModelConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.ops.selective_scan.native import library

# Both sides in float32: sums of some hundred terms, through three layers.
TOLERANCE = 1e-5


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize(("d_state", "rank", "bias"), [(16, None, False), (5, 7, True)])
def test_equals_transformers(d_state: int, rank: int | None, bias: bool, backend: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if backend == "native" and library() is None:
        pytest.skip("no C compiler found")
    mixer = Mamba1Config(d_state=d_state, dt_rank=rank, bias=bias)
    ours = LanguageModel(ModelConfig(d_model=48, num_layers=3, vocab_size=80, mixer=mixer), seed=3)
    ours.set_backend(backend)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        ours.backbone.embedding.weight.mul_(20)  # the official ones are so small that the mixers would not be seen
        for name, parameter in ours.named_parameters():
            if name.endswith(("norm.weight", "norm_f.weight", "mixer.D")):
                parameter.uniform_(0.5, 1.5, generator=random)
            elif name.endswith(("A_log", "proj.bias")):
                parameter += 0.2 * torch.randn(parameter.shape, generator=random)
    peer = transformers.MambaForCausalLM(
        transformers.MambaConfig(
            hidden_size=48,
            num_hidden_layers=3,
            vocab_size=80,
            state_size=d_state,
            expand=2,
            conv_kernel=4,
            time_step_rank=rank or "auto",
            use_bias=bias,
            layer_norm_epsilon=1e-5,
            residual_in_fp32=True,
            tie_word_embeddings=True,
        )
    ).eval()
    renamed = {k.replace("backbone.embedding.", "backbone.embeddings."): v for k, v in ours.state_dict().items()}
    missing, unexpected = peer.load_state_dict(renamed, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    peer.tie_weights()
    batch = torch.randint(0, 80, (2, 45), generator=random)
    output = peer(batch, labels=batch, use_cache=False)
    assert_close("logits", ours(batch).logits[..., :80], output.logits, TOLERANCE)
    output.loss.backward()
    loss = ours.nll(batch)[0].mean()
    assert_close("loss", loss, output.loss, TOLERANCE)
    loss.backward()
    expected = {k.replace("embeddings", "embedding"): parameter.grad for k, parameter in peer.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert_close(f"gradient of {name}", parameter.grad, expected[name], TOLERANCE)
