"""Training on rows that tasks make: which predictions count, and that nothing else differs from a corpus."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import assert_close
from tests.train.runs import assert_same_bits, metrics_of
from tests.train.tiny import MODEL, tiny_config

from lengthwise.checkpoints import load_checkpoint
from lengthwise.data.readers import Batch
from lengthwise.data.tokenizers import CopyTokenizer
from lengthwise.distributed import World
from lengthwise.errors import InputError
from lengthwise.interventions import build_intervention
from lengthwise.models import Mamba2Config, ModelConfig
from lengthwise.models.config import AttentionConfig, GatedMLPConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.plan import train_plan
from lengthwise.runs import RunFolder
from lengthwise.tasks.copying import CopyingConfig, CopyingTask
from lengthwise.tasks.reader import TaskRows
from lengthwise.tasks.registry import make_tasks
from lengthwise.train import TrainConfig, train
from lengthwise.train.optimizer import build_optimizer
from lengthwise.train.step import train_step

COPY = CopyTokenizer()
MAMBA2 = Mamba2Config(d_state=8, headdim=8, chunk_size=16)
TRANSFORMER = ModelConfig(
    d_model=16, num_layers=2, vocab_size=30, mixer=AttentionConfig(num_heads=2), mlp=GatedMLPConfig(width=24)
)
HYBRID = ModelConfig(
    d_model=16, num_layers=2, vocab_size=30, mixer=MAMBA2, other_mixers=((1, AttentionConfig(num_heads=2)),)
)
RECURRENT = ModelConfig(d_model=16, num_layers=2, vocab_size=30, mixer=MAMBA2)


def copying_config(kind: str = "zero", **changes: Any) -> TrainConfig:
    """Copying, of which a row of 203 tokens is the least."""
    settings = {"model": RECURRENT, "tokenizer": "copy", "tasks": ("copying",), "context_length": 210, "batch_size": 4}
    return tiny_config(kind, **{**settings, **changes})


def reader(tasks: tuple[str, ...] = ("copying",), rows: int = 4, **more: Any) -> TaskRows:
    return TaskRows(make_tasks(tasks), COPY, 210, rows, 3, **more)


# Rows


def test_a_batch_is_the_rows_of_the_task_in_order() -> None:
    read = reader()
    batches = [read.next_batch() for _ in range(3)]
    tokens, mask = CopyingTask().rows(12, 210, COPY, 3)
    assert torch.equal(torch.cat([batch.tokens for batch in batches]), torch.from_numpy(tokens))
    counted = torch.cat([batch.counted for batch in batches if batch.counted is not None])
    assert torch.equal(counted, torch.from_numpy(mask))
    assert all(batch.reset.all() for batch in batches)


def test_several_tasks_take_turns_by_chance_and_a_row_does_not_depend_on_the_batch() -> None:
    names = ("copying", "copying:letters=3")
    large = reader(names, rows=60).next_batch().tokens
    small, numbers = reader(names, rows=1), []
    for row in large:
        assert torch.equal(small.next_batch().tokens[0], row)
        numbers.append(int(row[row < 26].max()))
    few = sum(number < 3 for number in numbers)
    assert 20 <= few <= 40


def test_processes_share_the_rows_of_a_batch() -> None:
    whole = reader(rows=4)
    ranks = [reader(rows=2, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(2):
        batch = whole.next_batch()
        assert torch.equal(torch.cat([rank.next_batch().tokens for rank in ranks]), batch.tokens)


def test_a_saved_position_belongs_to_its_tasks() -> None:
    read = reader()
    read.next_batch()
    saved = read.state_dict()
    expected = read.next_batch().tokens
    again = reader()
    again.load_state_dict(saved)
    assert torch.equal(again.next_batch().tokens, expected)
    for other in (reader(("copying:letters=5",)), reader(all_tokens=True)):
        with pytest.raises(InputError, match=r"a reader position with tasks = .*resume with the tasks"):
            other.load_state_dict(saved)


@pytest.mark.parametrize("all_tokens", [False, True])
def test_texts_of_all_lengths_are_filled_up_with_their_own_beginning(all_tokens: bool) -> None:
    """Strings of one letter: texts of 6 to 31 tokens, each a row of its own length and then that row again."""
    task = CopyingTask(CopyingConfig(shortest=1, longest=1))
    read = TaskRows([task], COPY, 30, 80, 3, vary_length=True, all_tokens=all_tokens)
    batch = read.next_batch()
    assert batch.counted is not None
    lengths = set()
    for number, (tokens, counted) in enumerate(zip(batch.tokens.numpy(), batch.counted.numpy(), strict=True)):
        fits = []
        for length in range(5, 31):
            row, mask = task.rows([number], length, COPY, 3, all_tokens=all_tokens)
            filled = np.resize(row[0], 31)  # repeats it
            fits += [length] * int(
                np.array_equal(filled, tokens)
                and np.array_equal(mask[0], counted[: length + 1])
                and not counted[length + 1 :].any()
            )
        assert fits, "the row of some length"
        lengths.add(fits[0])
    assert len(lengths) > 15
    assert min(lengths) >= 5
    again = TaskRows([task], COPY, 30, 1, 3, vary_length=True, all_tokens=all_tokens)
    for row in batch.tokens[:5]:
        assert torch.equal(again.next_batch().tokens[0], row)
    with pytest.raises(InputError, match="a reader position with tasks"):
        TaskRows([task], COPY, 30, 1, 3, all_tokens=all_tokens).load_state_dict(again.state_dict())


def test_a_task_without_rows_is_refused(unchecked: None) -> None:
    class Silent:
        name, version, floor, binary = "silent", 1, None, True

        def parameters(self) -> dict[str, Any]:
            return {}

    with pytest.raises(InputError, match="tasks that make rows to train on; got silent, which makes samples only"):
        TaskRows([Silent()], COPY, 210, 1, 0)  # type: ignore[list-item]


# The loss


class Fixed:
    """One batch for ever."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def next_batch(self) -> Batch:
        return self.batch


def fixed_batch(rows: int = 4) -> Batch:
    """Rows with different numbers of counted predictions."""
    batch = reader(rows=rows).next_batch()
    assert batch.counted is not None
    for row in range(rows):
        batch.counted[row, 40 + 30 * row :] = False
        batch.counted[row, 10] = True
    return batch


def one_step(model: LanguageModel, batch: Batch, **changes: Any) -> float:
    """The loss of a step; its gradient stays with the weights."""
    config = copying_config(model=model.config, grad_clip=1e9, **changes)
    intervention = build_intervention(config.intervention, model, 0, slots=config.grad_accum)
    return train_step(model, build_optimizer(model, config), intervention, Fixed(batch), config, 0).loss


def gradients(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("sizes", [RECURRENT, TRANSFORMER, HYBRID], ids=["mamba2", "transformer", "hybrid"])
def test_the_loss_is_the_mean_over_what_counts_and_so_is_its_gradient(sizes: ModelConfig) -> None:
    batch = fixed_batch()
    assert batch.counted is not None
    reference = LanguageModel(sizes, seed=1)
    scores = reference(batch.tokens[:, :-1]).logits
    assert scores is not None
    chosen = batch.counted[:, 1:]
    loss = torch.nn.functional.cross_entropy(scores[chosen], batch.tokens[:, 1:][chosen])
    loss.backward()
    for accum in (1, 2):
        model = LanguageModel(sizes, seed=1)
        assert one_step(model, batch, grad_accum=accum) == pytest.approx(float(loss.detach()), rel=1e-5)
        assert len(gradients(model)) == len(list(model.parameters()))
        for name, expected in gradients(reference).items():
            assert_close(name, gradients(model)[name], expected, rel_rms=1e-4)


def test_where_everything_counts_the_step_is_that_of_a_corpus() -> None:
    tokens = fixed_batch().tokens
    everything = torch.ones(tokens.shape, dtype=torch.bool)
    everything[:, 0] = False
    one, other = LanguageModel(RECURRENT, seed=1), LanguageModel(RECURRENT, seed=1)
    reset = torch.ones(4, dtype=torch.bool)
    assert one_step(one, Batch(tokens, reset)) == pytest.approx(one_step(other, Batch(tokens, reset, everything)))
    for name, expected in gradients(one).items():
        assert_close(name, gradients(other)[name], expected, rel_rms=1e-4)


def test_ranks_with_unlike_numbers_of_counted_predictions_weigh_them_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, one after the other in this process: the mean of their gradients is that of one process."""
    batch = fixed_batch()
    assert batch.counted is not None
    halves = [Batch(batch.tokens[i : i + 2], batch.reset[i : i + 2], batch.counted[i : i + 2]) for i in (0, 2)]
    counts = [float(half.counted.sum()) for half in halves if half.counted is not None]
    assert counts[0] != counts[1]

    def average(self: World, tensors: Any) -> None:
        if len(tensors) == 1:  # the count; gradients are averaged below
            tensors[0].fill_(sum(counts) / 2)

    monkeypatch.setattr(World, "average", average)
    whole, *parts = (LanguageModel(RECURRENT, seed=1) for _ in range(3))
    with monkeypatch.context() as patch:
        patch.setattr(World, "average", lambda self, tensors: None)
        loss = one_step(whole, batch)
    losses = [one_step(part, half, batch_size=2) for part, half in zip(parts, halves, strict=True)]
    assert sum(losses) / 2 == pytest.approx(loss, rel=1e-6)
    for name, expected in gradients(whole).items():
        assert_close(name, sum(gradients(part)[name] for part in parts) / 2, expected, rel_rms=1e-4)


# Runs


@pytest.mark.parametrize(
    "changes", [{"kind": "zero"}, {"kind": "state-passing", "grad_accum": 2}, {"kind": "fitted-noise"}]
)
def test_a_run_on_tasks_resumes_with_the_same_bits(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copying_config(**changes, tasks=("copying", "copying:letters=3"), steps=5)
    train(config, tmp_path / "whole", progress=False)
    read = TaskRows.next_batch

    def stop(self: TaskRows) -> Batch:
        if self.state_dict()["index"] == 4 * config.batch_size:
            raise OSError("power cut")
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(TaskRows, "next_batch", stop)
        with pytest.raises(OSError, match="power cut"):
            train(config, tmp_path / "cut", progress=False)
    train(config, tmp_path / "cut", resume=True, progress=False)
    assert_same_bits(tmp_path / "cut", tmp_path / "whole")
    manifest = RunFolder.open(tmp_path / "cut").manifest
    assert manifest["data_hashes"] == {"train": TaskRows(make_tasks(config.tasks), COPY, 210, 1, 0).fingerprint}
    checkpoint = load_checkpoint(tmp_path / "cut/checkpoint")
    assert checkpoint.tokenizer_spec == "copy"
    assert checkpoint.extra["pre_training"]["data"] == "tasks copying, copying:letters=3"


def test_training_on_a_task_learns_it(tmp_path: Path) -> None:
    """Which letters there are is learned in a few steps: 3 of 30."""
    config = copying_config(tasks=("copying:letters=3",), steps=30, peak_lr=1e-2, log_every=1, model=TRANSFORMER)
    train(config, tmp_path / "run", progress=False)
    losses = [record["loss"] for record in metrics_of(tmp_path / "run")]
    assert losses[0] > 3.0
    assert losses[-1] < 1.5


def test_a_plan_names_the_tasks_and_what_counts() -> None:
    plan = train_plan(copying_config())
    assert (plan["data"], plan["loss_on"]) == ("tasks copying", "answers")
    assert train_plan(copying_config(loss_on="all"))["loss_on"] == "all"
    assert train_plan(tiny_config())["data"] == "python"


# Settings


def test_settings_of_tasks_survive_json_and_have_defaults() -> None:
    import json

    config = copying_config("state-passing", loss_on="all", vary_length=True)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert (copying_config().data, copying_config().loss_on) == (None, "answers")
    assert (tiny_config().data, tiny_config().loss_on, tiny_config().tasks) == ("python", "all", ())
    old = {
        name: value
        for name, value in tiny_config().to_dict().items()
        if name not in ("tasks", "loss_on", "vary_length")
    }
    assert TrainConfig.from_dict(old) == tiny_config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "python"}, r"either a corpus \(data\) or tasks; got data 'python' and tasks copying.*leave one"),
        ({"kind": "tbtt"}, r"a corpus where row i.*got tasks copying, whose rows have nothing.*use state-passing"),
        ({"reader": "lanes"}, r"a corpus where row i.*got tasks copying"),
        ({"tasks": (), "vary_length": True}, r"vary_length: False for a corpus, which is cut into windows"),
        ({"tasks": (), "loss_on": "answers"}, r"loss_on: all \(or None\) for a corpus, which has no answers"),
    ],
)
def test_settings_that_exclude_one_another_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        copying_config(**changes)


def test_a_misspelt_choice_names_its_neighbour(unchecked: None) -> None:
    with pytest.raises(InputError, match="did you mean 'answers'"):
        copying_config(loss_on="answer")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("copyin",)}, r"the name of a task or group; got 'copyin'.*did you mean 'copying'"),
        ({"context_length": 202}, r"at least 203 tokens for strings of 100 letters; got 202"),
        ({"tasks": ("passkey",)}, r"the vocabulary of the copying task; got the character"),
        ({"tokenizer": "bytes", "model": MODEL, "tasks": ("niah",)}, r"a context length of at least .* got 210"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(copying_config(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
