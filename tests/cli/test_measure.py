"""`lengthwise measure`: what it prints, and what is wrong with its input."""

import json
from pathlib import Path

import pytest
from tests.cli.conftest import CONTEXT

from lengthwise.cli import measure as verb
from lengthwise.cli.measure import SETTINGS, Options
from lengthwise.measure.config import MeasureConfig


@pytest.fixture
def quick(corpus: Path) -> list[object]:
    """Options of a measurement that takes a second."""
    return ["--data", corpus, "--length", 256, "--num-sequences", 2, "--metrics", "perplexity", "restart"]


def test_prints_verdicts_and_perplexity(lengthwise, tiny_model: Path, quick) -> None:
    done = lengthwise("measure", tiny_model, *quick, "--out", "run")
    assert done.code == 0, done.err
    assert "trained on 32 tokens at a time, measured on 2 texts of 256 tokens" in done.out
    assert "\n* " in done.out
    assert "128 to 181" in done.out
    assert "run folder: run" in done.out


@pytest.mark.parametrize(
    ("controlled", "column"),
    [(True, "ratio to best inside, difficulty of text taken out"), (False, "ratio to best inside")],
)
def test_the_column_of_ratios_says_what_they_are(
    monkeypatch: pytest.MonkeyPatch, controlled: bool, column: str
) -> None:
    tables: list[tuple[str, ...]] = []
    monkeypatch.setattr(verb, "print_table", lambda title, columns, rows: tables.append(columns))
    each = {"start": 0, "end": 64, "perplexity": 3.0, "low": 2.9, "high": 3.1, "bits_per_byte": 1.0}
    summary = {"label": None, "model": "m", "context_length": 64, "num_sequences": 2, "length": 128}
    summary |= {"perplexity": {"bins": [each]}, "verdicts": {"definition": {"ratios": [], "controlled": controlled}}}
    verb.print_summary("out", summary)
    assert tables == [("tokens read", "perplexity", "low", "high", column, "bits per byte")]


def test_json_is_the_summary(lengthwise, tiny_model: Path, quick) -> None:
    found = lengthwise("measure", tiny_model, *quick, "--out", "run", "--json").json
    assert found.pop("run") == "run"
    assert found == json.loads(Path("run/summary.json").read_text())
    assert found["verdicts"]["definition"]["verdict"] in ("pass", "fail", "undecided")


def test_default_folder_is_named_after_the_model(lengthwise, tiny_model: Path, quick) -> None:
    assert lengthwise("measure", tiny_model, *quick, "--json").json["run"] == "runs/measure-tiny"


def test_dry_run_says_what_would_be_read(lengthwise, tiny_model: Path) -> None:
    plan = lengthwise("measure", tiny_model, "--num-sequences", 4, "--dry-run", "--json").json
    assert plan["length"] == 64 * CONTEXT
    assert plan["tokens_read"]["stream"] == 4 * 64 * CONTEXT
    # Restarts every half context from the first context on.
    assert plan["tokens_read"]["restart"] == 4 * 63 * 2 * CONTEXT
    assert plan["memory_bytes"]["all"] > plan["memory_bytes"]["weights"] > 0
    assert not Path("runs").exists()


def test_repeats_a_run_from_its_folder(lengthwise, tiny_model: Path, quick) -> None:
    first = lengthwise("measure", tiny_model, *quick, "--out", "first", "--json").json
    again = lengthwise("measure", "--config", "first", "--out", "again", "--json").json
    assert again["perplexity"] == first["perplexity"]
    other = lengthwise("measure", "--config", "first", "--seed", 7, "--out", "other", "--json").json
    assert other["perplexity"] != first["perplexity"]


def test_settings_from_a_file_reach_the_measurement(lengthwise, tiny_model: Path, quick) -> None:
    Path("settings.json").write_text('{"bins_per_octave": 1}')
    few = lengthwise("measure", tiny_model, *quick, "--config", "settings.json", "--out", "few", "--json").json
    many = lengthwise("measure", tiny_model, *quick, "--out", "many", "--json").json
    assert len(few["perplexity"]["bins"]) < len(many["perplexity"]["bins"])


def test_every_setting_option_is_a_field_of_the_config() -> None:
    fields = MeasureConfig.__dataclass_fields__
    assert set(SETTINGS) <= set(fields)
    assert set(Options.__dataclass_fields__) - set(SETTINGS) == {"config", "out", "resume", "dry_run", "json"}


def test_no_model(lengthwise) -> None:
    done = lengthwise("measure")
    assert done.code == 2
    assert done.part("expected") == "a model to measure"


def test_missing_checkpoint(lengthwise) -> None:
    done = lengthwise("measure", "./models/none")
    assert done.code == 2
    assert done.part("expected").startswith("a folder, the name of a shipped model or preset, owner/name on the hub")
    assert "'./models/none'" in done.part("got")


def test_truncated_checkpoint(lengthwise, tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    weights = (tiny_model / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    done = lengthwise("measure", broken)
    assert done.code == 2
    assert done.part("in").endswith("broken/model.safetensors")


@pytest.mark.parametrize("option", ["--length", "--num-sequences", "--batch-size", "--chunk", "--context-length"])
def test_zero_is_refused(lengthwise, tiny_model: Path, option: str) -> None:
    done = lengthwise("measure", tiny_model, option, 0)
    assert done.code == 2
    assert done.part("expected") == "a whole number of at least 1"
    assert done.part("got") == "0"
    assert done.part("in") == "MeasureConfig." + option[2:].replace("-", "_")


def test_length_within_the_context(lengthwise, tiny_model: Path, corpus: Path) -> None:
    done = lengthwise("measure", tiny_model, "--data", corpus, "--length", CONTEXT)
    assert done.code == 2
    assert done.part("expected") == f"a length above the training context {CONTEXT}"


def test_too_few_documents(lengthwise, tiny_model: Path, corpus: Path) -> None:
    done = lengthwise("measure", tiny_model, "--data", corpus, "--length", "64k", "--num-sequences", 3)
    assert done.code == 2
    assert "3 sequences of 65537 tokens" in done.part("expected")
    assert "--num-sequences" in done.part("try")


def test_empty_corpus(lengthwise, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert lengthwise("measure", tiny_model, "--data", "empty").code == 2


def test_text_that_is_not_utf8(lengthwise, tiny_model: Path) -> None:
    Path("latin.txt").write_bytes("Länge ".encode("latin-1") * 100)
    done = lengthwise("measure", tiny_model, "--data", "latin.txt")
    assert done.code == 2
    assert "UTF-8" in done.part("expected") + done.part("got")


def test_misspelled_metric(lengthwise, tiny_model: Path) -> None:
    done = lengthwise("measure", tiny_model, "--metrics", "perplexty")
    assert done.code == 2
    assert done.part("try") == "did you mean 'perplexity'?"


def test_folder_that_holds_another_run(lengthwise, tiny_model: Path, recipe, quick) -> None:
    assert lengthwise("train", recipe(), "--out", "run").code == 0
    done = lengthwise("measure", tiny_model, *quick, "--out", "run")
    assert done.code == 2
    assert "a 'train' run" in done.part("got")


def test_config_of_another_kind_of_run(lengthwise, recipe) -> None:
    assert lengthwise("train", recipe(), "--out", "run").code == 0
    done = lengthwise("measure", "--config", "run")
    assert done.code == 2
    assert done.part("got") == "a 'train' run"


def test_unknown_setting_in_a_file(lengthwise, tiny_model: Path) -> None:
    Path("settings.json").write_text('{"lenght": 64}')
    done = lengthwise("measure", tiny_model, "--config", "settings.json")
    assert done.code == 2
    assert "'length'" in done.part("try")


def test_full_disk_keeps_what_was_finished(lengthwise, tiny_model: Path, quick, monkeypatch) -> None:
    import errno

    from lengthwise import runs

    calls = []
    append = runs.RunFolder.append_metrics

    def full(self, record):
        if calls:
            raise runs.write_failure(OSError(errno.ENOSPC, "No space left on device"), self.path / "metrics.jsonl", 9)
        calls.append(record)
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(runs.RunFolder, "append_metrics", full)
        done = lengthwise("measure", tiny_model, *quick, "--batch-size", 1, "--out", "run")
    assert done.code == 1
    assert done.part("got").startswith("no space left on the device")
    assert "--resume" in done.part("try")
    resumed = lengthwise("measure", tiny_model, *quick, "--batch-size", 1, "--out", "run", "--resume", "--json")
    whole = lengthwise("measure", tiny_model, *quick, "--batch-size", 1, "--out", "whole", "--json")
    assert resumed.code == whole.code == 0
    assert resumed.json["perplexity"] == whole.json["perplexity"]


def test_interrupted_run_resumes(lengthwise, tiny_model: Path, quick, monkeypatch) -> None:
    from lengthwise import runs

    append = runs.RunFolder.append_metrics

    def interrupt(self, record):
        append(self, record)
        raise KeyboardInterrupt

    words = ["measure", tiny_model, *quick, "--batch-size", 1, "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(runs.RunFolder, "append_metrics", interrupt)
        stopped = lengthwise(*words)
    assert stopped.code == 130
    assert stopped.err.rstrip().endswith("--out run --resume")
    assert lengthwise(*words).code == 2
    assert lengthwise(*words, "--resume").code == 0


def test_a_model_of_transformers_is_measured_with_a_warning(lengthwise, tmp_path: Path, quick) -> None:
    from tests.engines.models import save_byte_model

    folder = save_byte_model(tmp_path / "mamba", "mamba")
    words = [
        folder,
        "--engine",
        "transformers",
        *quick[:2],
        "--length",
        100,
        "--num-sequences",
        2,
        "--context-length",
        32,
        "--tokenizer",
        "bytes",
    ]
    done = lengthwise("measure", *words, "--out", "run")
    assert done.code == 0
    assert (
        "! MambaForCausalLM of transformers, read in one pass per text, without its cache: reading 64 tokens"
        in done.out
    )
    assert "! No states: the model's state is not carried" in done.out
    plan = lengthwise("measure", *words, "--dry-run", "--json").json
    assert (plan["engine"], plan["reading"], plan["length"]) == ("transformers", "one-shot", 100)
    assert plan["metrics"] == ["perplexity", "restart", "remembrance"]
    assert plan["memory_bytes"]["activations"] > plan["memory_bytes"]["weights"] > 0
    page = lengthwise("report", "run")
    assert page.code == 0
    assert "was read in one pass per text, because its state cannot be carried" in page.out


def test_context_and_tokenizer_beside_a_model_of_transformers(lengthwise, tmp_path: Path, quick) -> None:
    from tests.engines.models import save_byte_model, save_byte_tokenizer

    folder = save_byte_model(tmp_path / "llama", "llama")
    save_byte_tokenizer(folder)
    done = lengthwise("measure", folder, "--engine", "transformers", *quick, "--out", "run")
    assert done.code == 0
    assert "! LlamaForCausalLM of transformers, streamed with its cache carried" in done.out
    assert "! The training context is max_position_embeddings of its configuration" in done.out
    assert "trained on 64 tokens at a time" in done.out
