"""Tests of the runtime: tiny models, policies and machines are those of the other folders' tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for _other in ("collect", "engine", "policies", "sim"):
    sys.path.append(str(Path(__file__).parents[1] / _other))

FAMILIES = ("olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v2_greedy", "deepseek_v3")
FAMILIES += ("gpt_oss", "phimoe", "granitemoe", "glm4_moe")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny matrices: a second thread of torch only waits. The machine's own threads take turns quickly."""
    import torch

    from real.runtime.behind import SWITCH_S

    threads, interval = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_S)
    yield
    torch.set_num_threads(threads)
    sys.setswitchinterval(interval)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """The name of each family's tiny model."""
    return str(request.param)
