"""Tiny models as fixtures, for the tests of models and of the collector. Torch is imported inside them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FAMILIES = ("olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v2_greedy", "deepseek_v3")
FAMILIES += ("gpt_oss", "phimoe", "granitemoe", "glm4_moe")
MORE = ("afmoe", "deepseek_v4", "ernie4_5_moe", "gemma4", "hy_v3", "llama4", "longcat_flash", "minimax_m2")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices: a second thread only waits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """The name of each family's tiny model."""
    return str(request.param)


@pytest.fixture
def model(family: str) -> Any:
    """A tiny random model of each family."""
    from tests.traces.models.tiny import tiny

    return tiny(family)


@pytest.fixture(params=[*FAMILIES, *MORE])
def any_model(request: pytest.FixtureRequest) -> Any:
    """A tiny random model of each family that has sums done by hand."""
    from tests.traces.models.every_family import there
    from tests.traces.models.tiny import tiny

    return tiny(there(request.param))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny OLMoE on disk, with its tokenizer."""
    from tests.traces.models.tiny import save_with_tokenizer, tiny

    return save_with_tokenizer(tiny("olmoe"), tmp_path_factory.mktemp("models") / "tiny-olmoe")
