"""Figures of serving by hand, and their laws on what schedulers did."""

import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from random import Random
from statistics import fmean

import numpy as np
import pytest

from sim.results.serving.metrics import (
    concurrency,
    e2el_ns,
    good,
    in_service,
    in_system,
    itl_ns,
    queueing_ns,
    spread_ms,
    summary,
    tpot_ns,
    ttft_ns,
)
from sim.results.serving.slo import parse_slo
from sim.workload.online import registry
from sim.workload.online.arrivals import Plan, drawn
from sim.workload.online.ledger import Ledger, Served, ended
from sim.workload.online.schedule import Arrival, Batch, Limits, Share
from tests.sim.workload.online.driving import Moment, drive, random_arrivals, random_limits
from traces.kit.errors import UserError


def told(moments: Sequence[Moment]) -> list[Served]:
    ledger = Ledger()
    for moment in moments:
        for arrival in moment.came:
            ledger.arrived(arrival)
        ledger.began(moment.batch, moment.began)
        ledger.ended(moment.batch, moment.ended)
    return ended(ledger.served.values())


def by_hand(ids: Sequence[int] = (0, 1)) -> list[Served]:
    """0 and 1 arrive at 0 and 5; 1 waits while 0 computes, and its prompt takes two passes beside 0's output."""
    ledger = Ledger()
    ledger.arrived(Arrival(0, 0, 0, 4, 4))
    passes = [
        (10, 30, Batch((Share(0, 0, 4, 4, True),), (0,))),
        (30, 34, Batch((Share(0, 4, 1, 0, True),))),
        (34, 44, Batch((Share(0, 5, 1, 0, True), Share(1, 0, 8, 8, False)), (1,))),
        (44, 60, Batch((Share(1, 8, 2, 2, True),))),
        (60, 65, Batch((Share(0, 6, 1, 0, True),))),
    ]
    for began, done, batch in passes:
        if began == 10:
            ledger.arrived(Arrival(1, 5, 0, 10, 1))
        ledger.began(batch, began)
        ledger.ended(batch, done)
    return [ledger.served[i] for i in ids]


def test_latencies_by_hand() -> None:
    zero, one = by_hand()
    assert [list(it.token_ns) for it in (zero, one)] == [[30, 34, 44, 65], [60]]
    assert (queueing_ns(zero), ttft_ns(zero), e2el_ns(zero), tpot_ns(zero)) == (10, 30, 65, 35 / 3)
    assert (queueing_ns(one), ttft_ns(one), e2el_ns(one), tpot_ns(one)) == (29, 55, 55, None)
    assert itl_ns([zero, one]).tolist() == [4, 10, 21]
    assert itl_ns([zero, one], beside=True).tolist() == [10, 21], "also the pass in which 0 had no share"
    assert itl_ns([zero, one], beside=False).tolist() == [4]


def test_what_one_computes_again_is_beside_the_others_and_not_beside_itself() -> None:
    ledger = Ledger()
    for i in range(2):
        ledger.arrived(Arrival(i, 0, 0, 2, 3))
    both = Batch((Share(0, 0, 2, 2, True), Share(1, 0, 2, 2, True)), (0, 1))
    alone = Batch((Share(0, 2, 1, 0, True),), preempted=(1,))
    again = Batch((Share(0, 3, 1, 0, True), Share(1, 0, 3, 2, True)), admitted=(1,))
    last = Batch((Share(1, 3, 1, 0, True),))
    for i, batch in enumerate((both, alone, again, last)):
        ledger.began(batch, 10 * i)
        ledger.ended(batch, 10 * i + 10)
    assert [list(it.beside) for it in ledger.served.values()] == [[0, 0, 1], [0, 0, 0]]
    assert [(it.preemptions, it.recomputed) for it in ledger.served.values()] == [(0, 0), (1, 2)]


def test_a_summary_by_hand() -> None:
    found = summary(by_hand(), 65, {"ttft": 30, "tpot": 12})
    assert found["requests_per_s"] == 2e9 / 65
    assert found["tokens_per_s"] == 5e9 / 65
    assert (found["goodput_per_s"], found["good_share"]) == (1e9 / 65, 0.5)
    assert found["concurrency"] == {"peak": 2, "peak_running": 2, "mean": (65 + 55) / 65}
    assert found["latency_ms"]["tpot"] == dict.fromkeys(("mean", "p50", "p90", "p99"), 35 / 3e6)
    assert found["latency_ms"]["itl_beside_prefill"]["p50"] == 15.5e-6
    nothing = summary([], 0)
    assert nothing["latency_ms"] == dict.fromkeys(found["latency_ms"])
    assert nothing["requests_per_s"] is nothing["goodput_per_s"] is nothing["concurrency"]["mean"] is None


def test_a_single_token_is_good_whatever_the_limit_of_tpot() -> None:
    zero, one = by_hand()
    assert good(one, {"tpot": 1})
    assert not good(zero, {"tpot": 11})
    assert good(zero, {"tpot": 12, "ttft": 30, "e2el": 65})
    assert not good(one, {"e2el": 54})


def test_departures_come_first() -> None:
    assert concurrency([(0, 5), (5, 9), (5, 7)]) == (2, 5 + 4 + 2)
    assert concurrency([]) == (0, 0)


def test_percentiles_lie_between_ranks() -> None:
    spread = spread_ms(np.arange(101) * 10**6)
    assert spread == {"mean": 50, "p50": 50, "p90": 90, "p99": 99}
    assert spread_ms([10**6, 2 * 10**6]) == {"mean": 1.5, "p50": 1.5, "p90": 1.9, "p99": 1.99}


@pytest.mark.parametrize("name", registry.names())
def test_laws(name: str) -> None:
    beside = 0
    for seed in range(8):
        rng = Random(f"metrics of {name} {seed}")
        arrivals = random_arrivals(rng)
        moments = list(drive(registry.build(name, random_limits(rng, arrivals)), arrivals, rng))
        served = told(moments)
        assert [len(it.token_ns) for it in served] == [it.output_tokens for it in arrivals]
        computed = sum(m.batch.tokens for m in moments)
        assert computed == sum(it.tokens for it in arrivals) + sum(it.recomputed for it in served)
        for it in served:
            assert 0 <= queueing_ns(it) < ttft_ns(it) <= e2el_ns(it)
            assert ttft_ns(it) + itl_ns([it]).sum() == e2el_ns(it), "nothing is lost between tokens"
            assert (itl_ns([it]) > 0).all()
        for intervals in (in_system(served), in_service(served)):
            most, area = concurrency(intervals)
            # Little's law, exactly: the area below their number is the sum of their times.
            assert area == sum(until - since for since, until in intervals)
            at_each = [sum(a <= time < b for a, b in intervals) for time, _ in intervals]
            assert most == max(at_each)
        gaps = [set(itl_ns(served, beside=b)) for b in (True, False)]
        assert sum(len(itl_ns(served, beside=b)) for b in (True, False)) == len(itl_ns(served))
        assert is_beside(moments, served) == [list(it.beside) for it in served]
        beside += len(gaps[0])
    assert beside


def is_beside(moments: Sequence[Moment], served: Sequence[Served]) -> list[list[int]]:
    """From the words: was there a pass in the gap, up to and with that of the token, with prompt rows of another?"""
    found = []
    for it in served:
        gaps = [0]
        for since, until in pairwise(it.token_ns):
            within = [m for m in moments if since < m.ended <= until]
            gaps.append(int(any(s.prompt_tokens and s.id != it.arrival.id for m in within for s in m.batch.shares)))
        found.append(gaps)
    return found


def test_waiting_times_are_those_of_a_queue_with_poisson_arrivals_and_one_server() -> None:
    """M/D/1 (Pollaczek and Khinchine): with a load of r the mean wait is r / (2 (1 - r)) services."""
    service, load, n = 1000, 0.5, 5_000
    times = drawn(Plan("poisson", rate=Fraction(load) * 10**9 / service, seed=3), n)
    scheduler, ledger, left, now = registry.build("fcfs", Limits(max_num_seqs=1)), Ledger(), iter(times), 0
    coming = next(left, None)
    while coming is not None or scheduler.waiting:
        while coming is not None and coming <= now:
            ledger.arrived(arrival := Arrival(len(ledger.served), coming, 0, 1, 1))
            scheduler.arrive(arrival, now)
            coming = next(left, None)
        if (batch := scheduler.next_pass(now)) is None:
            assert coming is not None
            now = coming
            continue
        ledger.began(batch, now)
        now += service
        ledger.ended(batch, now)
        scheduler.done(batch, now)
    waits = [queueing_ns(it) for it in ledger.served.values()]
    assert len(waits) == n
    assert fmean(waits) / service == pytest.approx(load / (2 * (1 - load)), rel=0.15)


def test_a_token_takes_at_most_16_bytes() -> None:
    n = 5_000
    ledger = Ledger()
    ledger.arrived(Arrival(0, 0, 0, 1, n))
    batch = Batch((Share(0, 0, 1, 0, True),), (0,))
    tracemalloc.start()
    for i in range(n):
        ledger.ended(batch, i << 20)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 16 * n


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("ttft<=2s,tpot<=100ms", {"ttft": 2 * 10**9, "tpot": 10**8}),
        (" e2el <= 1.5 s ", {"e2el": 1_500_000_000}),
        ("tpot<=0.5us", {"tpot": 500}),
    ],
)
def test_objectives(text: str, limits: dict[str, int]) -> None:
    assert parse_slo(text) == limits


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("ttft<2s", "not understood; allowed: a limit for some of ttft, tpot, e2el in us, ms, s, such as"),
        ("", "not understood"),
        (2, "not understood"),
        ("ttft<=2s,", "not understood"),
        ("ttft<=-2s", "not understood"),
        ("itl<=2s", "itl is no metric; allowed: ttft, tpot, e2el"),
        ("ttft<=2m", "m is no unit; allowed: us, ms, s"),
        ("ttft<=2s,ttft<=3s", "ttft has two limits"),
        ("ttft<=0s", "ttft<=0s; allowed: above 0"),
        ("ttft<=999999999999s", "allowed: above 0, and at most"),
    ],
)
def test_a_slip_in_objectives_is_one_line(value: object, named: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_slo(value, "workload.slo")
    assert str(caught.value).startswith("workload.slo=")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
