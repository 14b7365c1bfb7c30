"""The page about all model types: which it takes, and how it sorts them."""

from __future__ import annotations

import pytest
import transformers

from lengthwise.check.survey import HALVES, NOT_CAUSAL, model_types, page, survey


def test_model_types_are_decoders() -> None:
    types = model_types()
    assert {"llama", "mamba", "jamba", "recurrent_gemma", "rwkv"} <= set(types)
    assert not {"bert", "bart"} & set(types)
    assert len(types) > 100
    names = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert set(NOT_CAUSAL + HALVES) <= set(names), "a model type that the library no longer has"


@pytest.mark.skipif(not transformers.__version__.startswith("5.23."), reason="faults of transformers 5.23")
def test_the_page_sorts_models_by_what_was_found() -> None:
    text = page(survey(["mamba", "mistral", "openai-gpt", "reformer"]))
    assert f"transformers {transformers.__version__}, torch" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| `"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "`mamba`"
    assert cells[1].startswith("**0.")
    assert cells[3] == "ok"
    assert "not read by calls of several tokens" in cells[-1]
    assert "Wrong only in what follows a text padded on the right (1): `mistral`." in text
    assert "Right in everything they offer (1): `openai-gpt`." in text
    assert "could be built from the default configuration (1): `reformer`." in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120
