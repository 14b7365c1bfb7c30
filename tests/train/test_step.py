import pytest
import torch
from tests.helpers import assert_close
from tests.train.tiny import MODEL, tiny_config

from lengthwise.data.readers import Batch
from lengthwise.errors import RunFailure
from lengthwise.interventions import InterventionConfig, build_intervention
from lengthwise.models.lm import LanguageModel
from lengthwise.state import State
from lengthwise.train.config import TrainConfig
from lengthwise.train.optimizer import build_optimizer
from lengthwise.train.step import train_step


class Fixed:
    """The same rows at every call, or a piece of one long row per call."""

    def __init__(self, tokens: torch.Tensor, context_length: int | None = None) -> None:
        self.tokens, self.context_length, self.calls = tokens, context_length, 0

    def next_batch(self) -> Batch:
        start = 0 if self.context_length is None else self.calls * self.context_length
        width = self.tokens.shape[1] if self.context_length is None else self.context_length + 1
        self.calls += 1
        rows = self.tokens.shape[0]
        return Batch(self.tokens[:, start : start + width], torch.full((rows,), self.calls == 1))


def rows(count: int, length: int) -> torch.Tensor:
    return torch.randint(97, 107, (count, length + 1), generator=torch.Generator().manual_seed(0))


def run(config: TrainConfig, reader: Fixed, steps: int) -> tuple[LanguageModel, list[float]]:
    model = LanguageModel(MODEL, seed=1)
    optimizer = build_optimizer(model, config)
    intervention = build_intervention(config.intervention, model, config.seed, slots=config.grad_accum)
    losses = [train_step(model, optimizer, intervention, reader, config, step).loss for step in range(steps)]
    return model, losses


def test_the_loss_is_the_mean_over_tokens_and_the_update_is_adamw() -> None:
    config = tiny_config(grad_clip=1e9, steps=20)
    reader = Fixed(rows(4, 16))
    model, losses = run(config, reader, 1)
    reference = LanguageModel(MODEL, seed=1)
    logits = reference(reader.tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), reader.tokens[:, 1:].flatten())
    assert losses[0] == pytest.approx(float(loss.detach()), rel=1e-6)
    loss.backward()
    for (name, p), after in zip(reference.named_parameters(), model.parameters(), strict=True):
        assert p.grad is not None
        lr = config.peak_lr / 2  # the first of two warm-up steps
        decay = config.weight_decay if p.ndim > 1 else 0.0
        # Adam's first step: the bias-corrected moments are the gradient and its square.
        expected = p.detach() * (1 - lr * decay) - lr * p.grad / (p.grad.abs() + 1e-8)
        assert_close(name, after.detach(), expected, rel_rms=1e-5)


def test_training_learns() -> None:
    _, losses = run(tiny_config(steps=40, peak_lr=1e-2), Fixed(rows(8, 16)), 40)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("kind", ["zero", "tbtt"])
def test_accumulation_changes_nothing_but_rounding(kind: str) -> None:
    whole, losses = run(tiny_config(kind), Fixed(rows(8, 48), 16), 3)
    parts, again = run(tiny_config(kind, grad_accum=4), Fixed(rows(8, 48), 16), 3)
    assert again == pytest.approx(losses, rel=1e-6)
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert_close(name, b.detach(), a.detach(), rel_rms=1e-4)


def test_tbtt_over_pieces_sees_the_loss_of_the_whole_row() -> None:
    """With weights that do not move, the mean over carried pieces is the loss of one pass over the whole row."""
    config = tiny_config("tbtt", peak_lr=1e-30, min_lr=0.0)
    tokens = rows(4, 48)
    _, losses = run(config, Fixed(tokens, 16), 3)
    whole, _ = LanguageModel(MODEL, seed=1).nll(tokens)
    assert losses == pytest.approx(whole.view(4, 3, 16).mean(dim=(0, 2)).tolist(), rel=1e-5)


def test_state_passing_hands_the_model_the_final_states_of_the_batch_before() -> None:
    seen: list[State | None] = []

    class Spy(LanguageModel):
        def nll(self, tokens: torch.Tensor, state: State | None = None, **options: int) -> tuple[torch.Tensor, State]:
            seen.append(state)
            result = super().nll(tokens, state, **options)
            finals.append(result[1])
            return result

    finals: list[State] = []
    config = tiny_config(intervention=InterventionConfig(kind="state-passing", zero_prob=0.0))
    model = Spy(MODEL, seed=1)
    optimizer = build_optimizer(model, config)
    intervention = build_intervention(config.intervention, model, 0)
    for step in range(3):
        train_step(model, optimizer, intervention, Fixed(rows(4, 16)), config, step)
    assert seen[0] is None
    for step in (1, 2):
        state = seen[step]
        assert state is not None
        for (name, got), (_, want) in zip(
            state.named_tensors("recurrent"), finals[step - 1].named_tensors("recurrent"), strict=True
        ):
            assert torch.equal(got, want.detach()), name
            assert not got.requires_grad
        assert all(not tensor.any() for _, tensor in state.named_tensors("short"))


@pytest.mark.parametrize("kind", ["state-passing", "tbtt", "fitted-noise"])
def test_bfloat16_autocast_keeps_weights_and_states_in_float32(kind: str) -> None:
    config = tiny_config(kind, dtype="bfloat16", steps=30, peak_lr=1e-2)
    model = LanguageModel(MODEL, seed=1)
    optimizer = build_optimizer(model, config)
    intervention = build_intervention(config.intervention, model, 0)
    reader = Fixed(rows(8, 16))
    losses = [train_step(model, optimizer, intervention, reader, config, step).loss for step in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    state = intervention.initial_state(30, reader.next_batch())
    assert state is not None
    assert {tensor.dtype for _, tensor in state.named_tensors("recurrent")} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched() -> None:
    config = tiny_config()
    model = LanguageModel(MODEL, seed=1)
    optimizer = build_optimizer(model, config)
    intervention = build_intervention(config.intervention, model, 0)
    with torch.no_grad():
        model.backbone.norm_f.weight[0] = float("nan")
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RunFailure) as failure:
        train_step(model, optimizer, intervention, Fixed(rows(4, 16)), config, 4)
    assert str(failure.value) == (
        "expected a finite loss and a finite gradient; got loss nan, gradient norm nan; in training step 5, "
        "learning rate 0.00151; start a new run with a lower peak_lr or a longer warm-up, from the last checkpoint "
        "if you like (init_from); that checkpoint was kept"
    )
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old.nan_to_num(9.0), new.detach().nan_to_num(9.0))
    for step in (0, config.checkpoint_every - 1):  # no checkpoint was written yet
        with pytest.raises(RunFailure) as failure:
            train_step(model, optimizer, intervention, Fixed(rows(4, 16)), config, step)
        assert failure.value.fix == "start a new run with a lower peak_lr or a longer warm-up"
