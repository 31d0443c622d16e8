"""A tiny trace with train and test requests, and runs of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sim.small_trace import Plan, write


@pytest.fixture(scope="package")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Keyword arguments of a cheap run: 8 test requests, 2 layers of 8 experts."""
    folder = tmp_path_factory.mktemp("api") / "trace"
    plans = [Plan((3,), 4, split="train" if i % 3 == 0 else "test") for i in range(12)]
    rows = sum(plan.rows for plan in plans)
    ids = np.random.default_rng(5).random((rows, 2, 8)).argsort(-1)[..., :2]
    write(folder, plans, ids.astype(np.uint8), n_experts=8)
    return {"trace": folder, "model": "as_traced", "budget": "50%", "bounds": False}


@pytest.fixture(scope="package")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api") / "outputs"
