"""MoE-Infinity in batches: whoever joins or leaves, a request leaves one whole matrix of its decode steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.experiment.cell import make_cell, make_policy
from sim.experiment.run import simulate
from tests.sim.small_trace import SIZE, Plan, config, write

PLANS = [Plan((2, 1), 3), Plan((1,), 7), Plan((3,), 2), Plan((1,), 0), Plan((2,), 5), Plan((1,), 1), Plan((1,), 4)]


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_every_request_that_has_ended_left_its_own_matrices(batch: int, tmp_path: Path) -> None:
    rows = sum(plan.rows for plan in PLANS)
    rng = np.random.default_rng(batch)
    ids = np.argsort(rng.random((rows, 2, 4)), axis=-1)[..., :2]
    trace = write(tmp_path / "t", PLANS, ids, n_experts=4)
    given = config(trace, 8 * SIZE, batch=batch)
    cell = make_cell(replace(given, policy={"name": "moe_infinity", "filled": False}))
    policy: Any = simulate(cell, make_policy(cell)).policy
    policy.requests.close(False)  # the last have ended, and nothing came after them
    policy.requests.close(True)
    first, whole = 0, {False: [], True: []}  # type: ignore[var-annotated]
    for plan in PLANS:
        for prefill, n in ((True, sum(plan.prefill)), (False, plan.decode)):
            flat = (ids[first : first + n] + np.array([[0], [4]])).ravel()
            if n:
                whole[prefill].append(np.bincount(flat, minlength=8).tolist())
            first += n
    for prefill, collection in enumerate(policy.requests.collections):
        stored = collection.counts[:, : collection.size].T.tolist()
        assert sorted(stored) == sorted(whole[bool(prefill)])
