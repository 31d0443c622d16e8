"""Requests that arrive at a device: nobody is lost, tokens are those of a request alone, who is served when is as the
simulator says by the same clock, and the simulator has the device's hits over the device's batches."""

from __future__ import annotations

import json

import pytest

from real.serving.apart import apart
from real.serving.beside import predict
from real.serving.given import read, written
from sim.core.log import replay
from sim.experiment.cell import make_core, make_policy
from sim.experiment.provenance import result_of
from sim.workload.online.schedule import Batch, Share
from tests.real.serving.cases import TIGHT, Kept, alone, arriving, blocks, on_device, simulated
from traces.kit.errors import UserError

KINDS = {
    "fcfs, chunks, preempted": ("fcfs", 20, TIGHT),
    "prefill_first, preempted": ("prefill_first", 20, ("workload.block_size=1",)),
    "static, warmed up": ("static", None, ("workload.max_num_seqs=3", "warmup=1")),
    "priority": ("priority", None, ("workload.priority_classes=3", "workload.max_num_seqs=2")),
    "decode_first_round_robin": ("decode_first_round_robin", None, TIGHT),
}
SLOW = list(KINDS)[3:]


@pytest.mark.parametrize("kind", [pytest.param(it, marks=[pytest.mark.ci] * (it in SLOW)) for it in KINDS])
def test_by_the_same_clock_the_device_serves_whom_the_simulator_serves(kind: str) -> None:
    discipline, kv, words = KINDS[kind]
    with blocks(kv):
        cell = arriving(f"workload.discipline={discipline}", *words)
        theirs = simulated(cell)
        run, said = on_device(cell, clock=Kept(theirs.ends))
    ours = run.outcome.serving
    assert ours is not None
    assert ours.digest() == theirs.digest()
    assert [one.token_ns for one in ours.ledger.served.values()] == [
        one.token_ns for one in theirs.ledger.served.values()
    ]
    assert ours.passes[2] == 0 < min(ours.passes[:2]), "a pass is mixed"
    assert (ours.scheduler.preemptions > 0) == ("preempted" in kind)
    assert cell.traffic is not None
    for arrival in cell.traffic.arrivals:
        assert said[arrival.id] == alone()[arrival.request][: arrival.output_tokens]
    assert sum(map(len, said.values())) == sum(arrival.output_tokens for arrival in cell.traffic.arrivals)
    core = make_core(cell, make_policy(cell))
    assert replay(run.core.log, core) == run.core.digest()


def test_on_the_wall_nobody_is_served_before_he_comes_and_all_time_is_accounted_for() -> None:
    with blocks(20):
        cell = arriving(*TIGHT, rate=100)
        run, _ = on_device(cell)
        policy = make_policy(cell)
        serving, accounts = run.outcome.serving, run.outcome.accounts
        assert serving is not None
        both = predict(cell, json.loads(json.dumps(written(serving.batches()))), make_policy(cell), policy)  # type: ignore[attr-defined]
    accounts.check()
    assert accounts.wall_ns == sum(accounts.pass_ns) + accounts.idle_ns
    assert accounts.idle_ns > 0
    for one in serving.ledger.served.values():
        assert one.ended
        assert one.arrival.time_ns <= one.first_ns < one.token_ns[0]
        assert list(one.token_ns) == sorted(set(one.token_ns))
    assert max(one.end_ns for one in serving.ledger.served.values()) == accounts.wall_ns
    measured, given = (result_of(cell, outcome, None) for outcome in (run.outcome, both.given))
    assert given["hit_rate"]["complete"] == measured["hit_rate"]["complete"]
    assert given["totals"]["lookups"] == measured["totals"]["lookups"]
    assert given["totals"]["demand_bytes"] == measured["totals"]["demand_bytes"]
    for key in ("schedule_digest", "preemptions", "recomputed_tokens"):
        assert given["serving"][key] == measured["serving"][key]
    assert both.given.serving is not None
    waited = [one.first_ns - one.arrival.time_ns for one in both.given.serving.ledger.served.values()]
    assert len(waited) == 6
    assert min(waited) >= 0


def test_a_batch_is_cut_by_kind_and_nothing_of_it_is_lost() -> None:
    again = Share(3, 0, 7, 6, True)  # it was preempted: six rows again, and its last output token
    batch = Batch((Share(1, 9, 1, 0, True), again, Share(2, 4, 3, 3, False)), (3, 2), (3,))
    assert list(apart(batch)) == [
        Batch((Share(3, 0, 6, 6, False),), (3,), (3,)),
        Batch((Share(2, 4, 3, 3, False),), (2,)),
        Batch((Share(1, 9, 1, 0, True), Share(3, 6, 1, 0, True))),
    ]
    only = Batch((Share(1, 0, 5, 5, True),), (1,))
    assert list(apart(only)) == [only]
    assert read(written([batch, only])) == [batch, only]
    with pytest.raises(UserError, match="batches of a run are damaged"):
        read([[[[1, 2]], [], []]])  # type: ignore[list-item]
