"""Set-up of the whole suite: shapes are checked while tests run, and torch uses one thread per worker."""

import os
import sys
from collections.abc import Iterator

import pytest

# Set before torch is imported: two workers with two threads each would slow one another down on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when the hub's client is imported: no test may reach for the network because a name looks like one of the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

# Every annotated call in the package is checked against its jaxtyping shapes and its types. `LENGTHWISE_SHAPES=0`
# leaves the check out, to tell a slow test from a slow check.
if os.environ.get("LENGTHWISE_SHAPES", "1") == "1":
    from jaxtyping import install_import_hook

    assert not any(name.startswith("lengthwise.") for name in sys.modules), "imported before the hook was in place"
    install_import_hook("lengthwise", "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests, with the reason, where there is no GPU."""
    if not any("gpu" in item.keywords for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the shape check off: for tests that hand wrong shapes or types in, to see the package's own message."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tokenized corpora of the tests stay out of the user's cache."""
    os.environ["LENGTHWISE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
