"""Requests as lanes of a timeline: what happened to each, to the nanosecond and to the token."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest

from sim.experiment.cell import make_cell, make_policy
from sim.experiment.compose import read_config
from sim.experiment.run import simulate
from sim.results.document import Outcome
from sim.results.serving.lanes import FIRST, requests_as_lanes

BUSY = ("workload=online", "workload.rate=20", "workload.count=6", "kv=140MB", "budget=4GB", "bounds=false")


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """Six requests for whose KV cache there is not room at once."""
    cell = make_cell(read_config(BUSY))
    return simulate(cell, make_policy(cell), shown=True)


def ns(event: dict[str, Any]) -> tuple[int, int]:
    begin = round(event["ts"] * 1000)
    return begin, begin + round(event["dur"] * 1000)


def test_what_happened_to_each_request_fills_its_lane_and_adds_up(outcome: Outcome) -> None:
    assert outcome.serving is not None
    assert outcome.timeline is not None
    slices = [event for event in requests_as_lanes(outcome.serving, outcome.timeline) if event["ph"] == "X"]
    whole = {event["name"]: event for event in slices if event["cat"] == "request"}
    assert [*whole] == sorted(whole)
    of_lane = defaultdict[int, list[tuple[int, int]]](list)
    for event in whole.values():
        of_lane[event["tid"]].append(ns(event))
    for spans in of_lane.values():
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert min(of_lane) == FIRST
    served, start = outcome.serving.ledger.served, outcome.serving.start or 0
    seen = 0
    for number, one in served.items():
        event = whole[f"request {number}"]
        begin, end = ns(event)
        assert (begin, end) == (start + one.arrival.time_ns, start + one.end_ns)
        parts = [it for it in slices if it["tid"] == event["tid"] and it is not event and begin <= ns(it)[0] < end]
        by: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for part in parts:
            by[part["name"]].append(part)
        spans = [ns(part) for part in parts]
        assert all(a[1] <= b[0] for a, b in pairwise(spans)), "one thing at a time"
        assert spans[-1][1] == end
        assert sum(ns(it)[1] - ns(it)[0] for it in by["wait"]) == one.first_ns - one.arrival.time_ns
        computed = sum(it["args"]["tokens"] for it in [*by["prompt"], *by["decode"]])
        assert computed == one.arrival.tokens + one.recomputed
        assert len(by["preempted"]) == one.preemptions == event["args"]["preemptions"]
        seen += one.preemptions
    assert seen > 0, "nobody lost its place"
    kinds = {ns(it) for it in slices if it["name"] == "prompt"}
    passes = {(begin, end) for begin, end, *_ in zip(*[iter(outcome.timeline.steps)] * 4, strict=True)}
    assert kinds <= passes
