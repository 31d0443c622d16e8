"""fMoE's store is filled from the train requests, and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.api import Setup
from policies.fmoe import FMoE
from sim.workload.history import TrainRequests
from tests.sim.small_trace import Plan, write
from traces import Trace

L, E, K = 3, 6, 2
PLANS = [Plan((2,), 2, split="train"), Plan((3,), 2, split="test"), Plan((1,), 2, split="train")]
TEST_ROWS = slice(4, 9)


def trace_of(path: Path, test_rows: int) -> Trace:
    """A trace; ``test_rows``: the seed of all that its test request shows."""
    rng, other = np.random.default_rng(0), np.random.default_rng(test_rows)
    n = sum(plan.rows for plan in PLANS)
    signals = {"router_probs": rng.random((n, L, E)), "embedding": rng.random((n, 5))}
    ids = rng.permuted(np.tile(np.arange(E), (n, L, 1)), axis=-1)
    if test_rows:
        for array in (*signals.values(), ids):
            array[TEST_ROWS] = other.permuted(array[TEST_ROWS], axis=-1)
    return write(path, PLANS, ids[..., :K], n_experts=E, signals=signals)


def fitted(trace: Trace, requests: Sequence[int] = (0, 2), **params: Any) -> FMoE:
    costs: Any = None
    policy = FMoE(Setup(L, E, K, (12,) * L, 1, 1000, costs), distance=1, capacity=5, **params)
    policy.fit(TrainRequests(trace, requests, policy.needs()))
    return policy


@pytest.mark.parametrize("params", [{}, {"prefill": "unpredicted"}, {"prefill": "last"}, {"maps": "choices"}])
def test_no_bit_of_the_store_is_from_a_test_request(tmp_path: Path, params: dict[str, Any]) -> None:
    one, two = trace_of(tmp_path / "one", 0), trace_of(tmp_path / "two", 1)
    assert (one.router_probs[TEST_ROWS] != two.router_probs[TEST_ROWS]).any()
    a, b = fitted(one, **params).store, fitted(two, **params).store
    assert a.size == b.size == 5
    for name in ("maps", "lengths", "embeddings", "embedding_lengths"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_planted_leak_is_caught(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="request 1 is none to learn from"):
        fitted(trace_of(tmp_path / "one", 0), (0, 1, 2))
