"""One server as a queue, against Pollaczek and Khinchine; and what a faster machine can make worse."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sim.results.document import Outcome
from sim.workload.online.ledger import Served
from tests.sim.experiment.serving import served, serving
from tests.sim.small_trace import MACHINE, Plan, one_layer

NS = 10**9
BATCHES = 20
"""Of so many stretches of consecutive requests the means are as good as independent: their spread is the error."""


def instances(outcome: Outcome) -> list[Served]:
    assert outcome.serving is not None
    return list(outcome.serving.ledger.served.values())


def test_one_server_is_the_queue_m_g_1(tmp_path: Path) -> None:
    """Requests drawn one by one, of one pass or of 21, all in memory: each wait is that of Lindley's recursion, and
    their mean within four standard errors of rate x E[S^2] / (2 (1 - load)); one of these is below a sixth of it."""
    n, load, often = 1000, 0.4, 0.9
    more = np.where(np.random.default_rng(2).random(n) < often, 0, 20).tolist()
    plans = [Plan((2,), split="train"), *(Plan((2,), decode, split="test") for decode in more)]
    trace = one_layer(tmp_path / "t", plans, (np.arange(sum(plan.rows for plan in plans)) % 2).tolist())
    pass_ns = 8  # two experts at 4
    mean = pass_ns * (1 + 20 * (1 - often))
    workload: dict[str, Any] = {"arrivals": "poisson", "max_num_seqs": 1, "rate": load * NS / mean}
    found = instances(served(serving(trace, 48, warmup=1, workload=workload))[1])
    waits = np.array([it.first_ns - it.arrival.time_ns for it in found])
    services = np.array([it.end_ns - it.first_ns for it in found])
    assert len(set(services.tolist())) == 2, "it was not warm"

    expected = [0]
    for (before, now), service in zip(pairwise(found), services.tolist(), strict=False):
        expected.append(max(0, expected[-1] + service - (now.arrival.time_ns - before.arrival.time_ns)))
    assert waits.tolist() == expected

    rate = n / found[-1].arrival.time_ns
    theory = rate * np.square(services).mean() / (2 * (1 - rate * services.mean()))
    error = np.array([part.mean() for part in np.array_split(waits, BATCHES)]).std(ddof=1) / BATCHES**0.5
    assert abs(waits.mean() - theory) < 4 * error
    assert error < theory / 6
    by_mean = rate * services.mean() ** 2 / (2 * (1 - rate * services.mean()))
    assert abs(waits.mean() - by_mean) > 4 * error, "as if all took as long (M/D/1): nothing was tried"


def test_a_slower_machine_can_meet_what_a_faster_one_misses(tmp_path: Path) -> None:
    """So none is a bound of the other. On the faster one the second request finds the machine free and the third just
    misses it, to copy the same ten experts again; on the slower one both wait for the first, and share a pass."""
    same = list(range(2, 12))
    trace = one_layer(tmp_path / "t", [Plan((2,)), Plan((10,)), Plan((10,))], [0, 1, *same, *same], n_experts=12)
    log = tmp_path / "log.jsonl"
    rows = [{"timestamp": ms, "input_length": 2, "output_length": 1} for ms in (0, 27, 28)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    workload = {"arrivals": "mooncake", "path": str(log), "rate": None, "scale": 1e-6}  # from ms to ns
    ttft = {}
    for gb_per_s in (1.0, 1.1):
        machine = {**MACHINE, "link": {**MACHINE["link"], "h2d_gb_per_s": gb_per_s}}
        outcome = served(serving(trace, 144, policy="on_demand", hardware=machine, workload=workload))[1]
        ttft[gb_per_s] = [it.token_ns[0] - it.arrival.time_ns for it in instances(outcome)]
        assert outcome.serving is not None
        assert sum(outcome.serving.passes) == (2 if gb_per_s == 1 else 3)
    slow, fast = ttft[1.0], ttft[1.1]
    assert fast[0] < slow[0]
    assert max(slow) < 150 < max(fast), "ttft<=150ns is met by the slower one alone"
