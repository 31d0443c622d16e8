"""Fixtures of the collector's tests. Torch is imported inside them: without it their tests are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices: a second thread only waits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["gpt_oss", "mixtral", "olmoe"])
def model(request: pytest.FixtureRequest) -> Any:
    """A tiny random model of each family."""
    from tiny_models import tiny

    return tiny(request.param)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny OLMoE on disk, with its tokenizer."""
    from tiny_models import save_with_tokenizer, tiny

    return save_with_tokenizer(tiny("olmoe"), tmp_path_factory.mktemp("models") / "tiny-olmoe")
