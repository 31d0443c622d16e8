"""Laws of requests that arrive: against a closed loop, against a queue's own arithmetic, and of the accounts."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.lru import LRU
from sim.core.log import replay
from sim.experiment.cell import make_cell, make_core, make_policy
from sim.experiment.compose import read_config
from sim.experiment.run import run, run_config, simulate
from sim.results.document import Outcome
from tests.sim.experiment.serving import served, serving
from tests.sim.small_trace import MACHINE, Plan, config, one_layer, write
from traces import Trace
from traces.kit.errors import UserError

HARDWARE = {**MACHINE, "software": {"layer_overhead_us": 0.002}}
PLANS = [Plan((4,), 3), Plan((2, 3), 5), Plan((1,)), Plan((7,), 2)]
LONG = 10**9
"""Requests per second of so many ns apart: time in these tests is in ns."""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Four requests on three layers of eight experts, of which a token chooses two."""
    rng = np.random.default_rng(11)
    rows = sum(plan.rows for plan in PLANS)
    ids = np.argsort(rng.random((rows, 3, 8)) ** 3, axis=-1)[..., :2]
    ahead = np.roll(ids, -1, axis=1)[:, :, None]
    ahead[:, -1] = 255
    return write(tmp_path_factory.mktemp("serving") / "t", PLANS, ids, n_experts=8, signals={"gate_ahead": ahead})


def times(outcome: Outcome) -> list[tuple[int | None, int, int]]:
    found = outcome.timings.requests.values()
    return [(one.ttft_ns, one.end - one.admitted, one.decode_steps) for one in found]


@pytest.mark.parametrize("policy", ["lru", "lfu", "on_demand", "random"])
def test_one_at_a_time_is_a_closed_loop_to_the_nanosecond(trace: Trace, policy: str) -> None:
    """Arrivals so far apart that each finds nobody, of policies that have nothing queued when a request ends."""
    cell = make_cell(config(trace, 9 * 12, policy=policy, hardware=HARDWARE))
    whole = replace(cell, config=replace(cell.config, workload={**cell.config.workload, "prefill_chunk": 100}))
    closed = simulate(whole, make_policy(whole))  # a scheduler knows nothing of the chunks that were recorded
    _, online = served(serving(trace, 9 * 12, policy=policy, hardware=HARDWARE, workload={"rate": 1}))
    assert times(online) == times(closed)
    assert online.core.digest() == closed.core.digest()
    ours, theirs = online.accounts, closed.accounts
    assert (ours.hits, ours.stall_ns, ours.compute_ns) == (theirs.hits, theirs.stall_ns, theirs.compute_ns)
    assert ours.wall_ns == ours.idle_ns + theirs.wall_ns == ours.idle_ns + sum(ours.pass_ns)
    assert ours.idle_ns > 3 * LONG


@pytest.mark.parametrize("policy", ["lru", "gate_ahead"])
def test_one_at_a_time_layer_by_layer_is_a_closed_loop_too(trace: Trace, policy: str) -> None:
    """A budget of three tokens is a closed loop's chunks of three; and all that is computed is what chunks that are
    passes of their own take, of which each copies its experts anew."""
    cell = make_cell(config(trace, 9 * 12, policy=policy, hardware=HARDWARE))
    workload = {**cell.config.workload, "prefill_chunk": 3, "prefill_order": "layer_major"}
    whole = replace(cell, config=replace(cell.config, workload=workload))
    closed = simulate(whole, make_policy(whole))
    given = {"rate": 1, "max_num_seqs": 1, "max_num_batched_tokens": 3}
    by_layer, by_chunk = (
        served(serving(trace, 9 * 12, policy=policy, hardware=HARDWARE, workload=given | {"prefill_order": order}))[1]
        for order in ("layer_major", "chunk_major")
    )
    if policy == "lru":  # the other has copies under way when a request ends
        assert (times(by_layer), by_layer.core.digest()) == (times(closed), closed.core.digest())
    ours, theirs = by_layer.accounts, by_chunk.accounts
    assert ours.compute_ns == theirs.compute_ns == closed.accounts.compute_ns
    assert sum(row[0] for row in ours.hits[0]) < sum(row[0] for row in theirs.hits[0])


def waits(service_ns: int, arrivals: Sequence[int]) -> list[int]:
    """Of a queue with one server: Lindley's recursion."""
    found = [0]
    for before, now in pairwise(arrivals):
        found.append(max(0, found[-1] + service_ns - (now - before)))
    return found


def test_one_server_is_the_queue_m_d_1(tmp_path: Path) -> None:
    """One prompt that is there when it is asked for takes the same time each time: waits are those of the recursion,
    and on average of Pollaczek and Khinchine."""
    trace = one_layer(tmp_path / "t", [Plan((2,), split="train"), Plan((2,))], [0, 1, 0, 1])
    workload: dict[str, Any] = {"arrivals": "poisson", "count": 4000, "max_num_seqs": 1}
    probe = served(serving(trace, 48, warmup=1, workload=workload | {"rate": 1, "count": 1}))[1]
    service = sum(probe.accounts.pass_ns)
    load = 0.6
    cell, outcome = served(serving(trace, 48, warmup=1, workload=workload | {"rate": load * LONG / service}))
    assert cell.traffic is not None
    assert outcome.serving is not None
    found = [it.first_ns - it.arrival.time_ns for it in outcome.serving.ledger.served.values()]
    assert found == waits(service, [it.time_ns for it in cell.traffic.arrivals])
    assert np.mean(found) == pytest.approx(service * load / (2 * (1 - load)), rel=0.15)
    assert outcome.accounts.demand_bytes == 0, "it was not warm"


BUSY: dict[str, dict[str, Any]] = {
    "chunks": {"rate": 20_000_000, "max_num_seqs": 3, "max_num_batched_tokens": 3, "count": 9},
    "few blocks": {"rate": 50_000_000, "max_num_seqs": 4, "max_num_batched_tokens": 6, "count": 9, "block_size": 2},
    "layer by layer": {
        "rate": 20_000_000,
        "max_num_seqs": 3,
        "max_num_batched_tokens": 3,
        "count": 9,
        "prefill_order": "layer_major",
    },
    "prompts first": {"rate": 20_000_000, "discipline": "prefill_first", "max_num_seqs": 3, "count": 9},
}


@pytest.mark.parametrize("policy", ["lru", "gate_ahead", "moe_infinity"])
@pytest.mark.parametrize("workload", BUSY.values(), ids=BUSY)
def test_accounts_add_up_and_the_log_decides_the_same(trace: Trace, workload: dict[str, Any], policy: str) -> None:
    given: dict[str, Any] = {"hardware": HARDWARE, "policy": policy, "workload": workload}
    if policy == "moe_infinity":
        given["policy"] = "lru"
    config_ = serving(trace, 9 * 12, **given)
    if policy == "moe_infinity":
        config_ = replace(config_, policy={"name": policy, "filled": False})
    if "block_size" in workload:
        config_ = replace(config_, model={**config_.model}, kv=None)
    cell, outcome = served(config_, record=True)
    accounts = outcome.accounts
    accounts.check()
    assert accounts.wall_ns == accounts.compute_ns + sum(accounts.stall_row()) + accounts.idle_ns
    assert accounts.wall_ns == sum(accounts.pass_ns) + accounts.idle_ns
    assert accounts.pass_ns[2] > 0 or workload.get("discipline") == "prefill_first"
    assert replay(outcome.core.log, make_core(cell, make_policy(cell))) == outcome.core.digest()
    again = served(config_)[1]
    assert (again.accounts, times(again)) == (accounts, times(outcome))
    assert again.serving is not None
    assert outcome.serving is not None
    assert again.serving.digest() == outcome.serving.digest()
    again_ = sum(it.recomputed for it in outcome.serving.ledger.served.values())
    assert again_ == outcome.serving.rows_computed - sum(it.tokens for it in outcome.serving.traffic.arrivals)
    lookups = sum(len(d) for step in rebuilt(cell) for d in step.demand)
    assert lookups == sum(row[0] for of_class in accounts.hits for row in of_class)


def rebuilt(cell: Any) -> Any:
    """The passes of a run, made anew from its batches."""
    found = simulate(replace(cell, config=replace(cell.config, bounds=True)), make_policy(cell)).serving
    assert found is not None
    return found.passes_again()


class Ahead(LRU):
    """When the last layer's gate has run, all of the first layer is prefetched."""

    def on_gate(self, event: Any) -> None:
        super().on_gate(event)
        if event.layer + 1 == self.setup.n_layers:
            for x in self.setup.experts_of(0):
                self.actions.prefetch(x, 0.0)


def test_copies_go_on_while_nobody_is_there(trace: Trace) -> None:
    """At 12 ns each all eight of the first layer are there long before the next request."""
    cell = make_cell(serving(trace, 20 * 12, hardware=HARDWARE, workload={"rate": 1}))
    outcome = simulate(cell, Ahead(cell.setup))
    ideal = make_cell(serving(trace, 20 * 12, hardware=HARDWARE, workload={"rate": 1}, limit=1))
    first = simulate(ideal, Ahead(ideal.setup)).accounts.hits[0][0]
    lookups, _, _, complete, *_ = outcome.accounts.hits[0][0]
    assert complete == lookups - first[0], "only the first request can lack what the others find"


def test_several_gpus_idle_together(tmp_path: Path) -> None:
    """Of each, compute, stalls, ways and idle time are all of it, as the accounts check; and it has a bound."""
    words = ("workload=online", "workload.rate=1", "workload.count=3", "hardware=rtx_3090_x2", "budget=8GB")
    found = run(*words, out=tmp_path).document
    assert found["totals"]["idle_ns"] > 0
    assert (
        found["totals"]["wall_ns"]
        == sum(it["ns"] for it in found["serving"]["passes"].values()) + found["totals"]["idle_ns"]
    )
    assert found["serving"]["bounds"]["time_lower_bound"]["gap"] >= 1


@pytest.mark.parametrize("workload", ["chunks", "layer by layer"])
def test_a_document_says_all_of_it(trace: Trace, tmp_path: Path, workload: str) -> None:
    given = serving(trace, 9 * 12, hardware=HARDWARE, bounds=True, workload=BUSY[workload] | {"slo": "ttft<=1us"})
    found = run_config(given, tmp_path).document
    own, totals = found["serving"], found["totals"]
    assert totals["wall_ns"] == sum(it["ns"] for it in own["passes"].values()) + own["idle_ns"]
    assert sum(it["stall_ns"] for it in own["passes"].values()) == sum(totals["stall_ns"].values())
    assert own["arrivals"]["replays"] == {"most": 3, "mean": 9 / 4}
    assert own["latency_ms"]["ttft"] == found["latency_ms"]["ttft"]
    assert own["latency_ms"]["request"] == found["latency_ms"]["request"]
    assert own["latency_ms"]["tpot"]["mean"] == pytest.approx(found["latency_ms"]["tpot"]["mean"])
    assert 0 <= own["good_share"] <= 1
    assert found["bounds"] is found["reference"] is None
    assert "as they happened" in found["nulls"]["bounds"]
    assert own["bounds"]["time_lower_bound"]["gap"] >= 1 <= own["bounds"]["belady_bypass"]["gap"]
    assert own["bounds"]["time_lower_bound"]["compute_ms"] * 1e6 == pytest.approx(totals["compute_ns"])
    assert "memorised" not in found["provenance"]
    assert run_config(given, tmp_path).cached


@pytest.mark.parametrize(("count", "ranked"), [(4, True), (5, False)])
def test_who_remembers_requests_is_not_ranked_where_one_arrived_again(trace: Trace, count: int, ranked: bool) -> None:
    from sim.experiment.provenance import memorised

    given = serving(trace, 9 * 12, hardware=HARDWARE, workload={"count": count})
    cell = make_cell(replace(given, policy={"name": "moe_infinity", "filled": False}))
    assert (memorised(cell, make_policy(cell)) == {}) == ranked
    assert memorised(cell, LRU(cell.setup)) == {}


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        ({"prefill_order": "by_layer"}, ["workload.prefill_order", "by_layer", "layer_major"]),
        (
            {"prefill_order": "layer_major", "discipline": "decode_first_round_robin"},
            ["workload.prefill_order=layer_major: allowed: chunk_major, as discipline=", "discipline=fcfs,"],
        ),
        ({"rate": None}, ["workload.rate", "null", "requests per second"]),
        ({"rate": 0}, ["workload.rate", "0"]),
        ({"discipline": "fifo"}, ["workload.discipline", "fifo", "fcfs"]),
        ({"slo": "ttft<1s"}, ["slo", "ttft<=2s"]),
        ({"batch": 2}, ["workload.batch"]),
    ],
)
def test_a_mistake_is_one_line(trace: Trace, workload: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        make_cell(serving(trace, 9 * 12, workload=workload))
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in said), str(caught.value)


@pytest.mark.parametrize(
    ("kv", "said"),
    [
        ("1MB", "block"),
        ("3MB", "^kv=3MB: has 1 block of .* allowed: at least [0-9]+ bytes"),
        ("23GB", "budget=4GB"),
        ("60GB", "kv=60GB: 23.* GB are there"),
    ],
)
def test_a_kv_cache_that_cannot_be_is_one_line(kv: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        make_cell(read_config(("workload=online", "workload.rate=1", "budget=4GB", f"kv={kv}")))
    assert "\n" not in str(caught.value)


def test_a_trace_without_prompts_is_refused_by_name(tmp_path: Path) -> None:
    alone = one_layer(tmp_path / "t", [Plan((), 2, prompt=3)], [0, 1])
    with pytest.raises(UserError, match="prefill"):
        make_cell(serving(alone, 24, workload={"rate": 1}))
