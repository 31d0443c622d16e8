"""A trace of many short requests whose topics come in runs, for statistics of requests."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from sim.experiment.cell import make_cell, make_policy
from sim.experiment.run import run_config, simulate
from sim.workload.passes import select
from tests.sim.small_trace import SIZE, Plan, config, one_layer
from traces import Trace

EXPERTS = 16
DECODE = 8


def topical(path: Path, n: int = 36, seed: int = 0) -> Trace:
    """n requests of one prompt row and DECODE decode rows; each topic, of some four requests, has its experts."""
    rng = np.random.default_rng(seed)
    rows, liked = [], rng.permutation(EXPERTS)
    for _ in range(n):
        if rng.random() < 0.25:
            liked = rng.permutation(EXPERTS)
        ranks = np.minimum(rng.geometric(0.35, size=1 + DECODE) - 1, EXPERTS - 1)
        rows += list(liked[ranks])
    return one_layer(path, [Plan((1,), DECODE)] * n, rows, n_experts=EXPERTS)


def grid(
    trace: Trace,
    out: Path,
    policies: tuple[str, ...],
    budgets: tuple[int, ...],
    seeds: tuple[int, ...],
    **changes: object,
) -> Path:
    """Run policies x budgets (in experts) x seeds into a folder."""
    for policy in policies:
        for budget in budgets:
            for seed in seeds:
                run_config(config(trace, budget * SIZE, policy=policy, seed=seed, **changes), out)
    return out


def under_seeds(trace: Trace, seeds: range, policy: str = "lru", budget: int = 5) -> Iterator[pd.Series]:
    """TPOT in ns by request, of a policy under each seed."""
    cell = make_cell(config(trace, budget * SIZE, policy=policy))
    for seed in seeds:
        cell = replace(cell, selection=select(trace, seed=seed))
        timings = simulate(cell, make_policy(cell)).timings.requests
        yield pd.Series({request: t.tpot_ns for request, t in timings.items()}).sort_index()
