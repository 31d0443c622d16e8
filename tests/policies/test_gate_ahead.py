"""Prefetching by the gate ahead, worked by hand.

Unless said otherwise: 1 expert per token, dense part 10 ns, expert 100 ns, no overheads; a step of 3 layers.
"""

from dataclasses import replace
from typing import Any

import pytest

from policies.gate_ahead import GateAhead
from sim.check.synthetic import ABSENT, FlatCosts, Routing, draw, setup_of
from tests.policies import scripted
from tests.policies.desk import Desk
from tests.policies.scripted import SIZE, costs, script, sums


def go(routing: Routing, copy: int, *, room: int = 24, **params: Any) -> Any:
    return scripted.go("gate_ahead", routing, copy, room=room, **params)


RIGHT, WRONG = (script([[[0], [1], [2]]], [[[said], [2], []]]) for said in (1, 5))


@pytest.mark.parametrize(
    ("routing", "copy", "fates", "stalls", "complete"),
    [
        # Gate 0 at 10, demand copy to 70, then expert 1 of layer 1 to 130 under compute (70 to 170); and so on.
        (RIGHT, 60, [2, 0, 0, 0, 0], [60, 0], [3, 2, 2, 2]),
        # Demand to 160, speculative to 310, gate 1 at 270 waits 40; gate 2 at 420 for 460.
        (RIGHT, 150, [0, 2, 0, 0, 0], [150, 80], [3, 2, 2, 0]),
        # Gate 0 says 5, gate 1 wants 1: what was copied for nothing stays until the end.
        (WRONG, 60, [1, 0, 1, 0, 0], [120, 0], [3, 1, 1, 1]),
    ],
    ids=["useful", "late", "useless"],
)
def test_what_becomes_of_a_load(
    routing: Routing, copy: int, fates: list[int], stalls: list[int], complete: list[int]
) -> None:
    done = go(routing, copy)
    assert sums(done) == (fates, [*stalls, 0, 0, 0], 3 * 110 + sum(stalls))
    assert done.accounts.hit_row()[:4] == complete
    assert done.accounts.demand_bytes + done.accounts.speculative_bytes == SIZE * (3 + fates[2])


def test_what_is_queued_for_a_gate_that_did_not_want_it_is_cancelled() -> None:
    """Two of two wrong, copies of 150: at gate 1 (420), 4 is on the link to 460 and stays; 5 never starts."""
    routing = script([[[0, 1], [2, 3]]], [[[4, 5], []]])
    done = go(routing, 150, outstanding=2)
    # Demand 10-160-310; experts 160-260, 310-410; speculative 310-460 and queued behind it.
    assert done.accounts.issued == 2
    # Demand of layer 1 waits to 460 for the former, then copies to 610 and 760 under one compute of 100.
    assert sums(done) == ([0, 0, 1, 1, 0], [150 + 50 + 150 + 50, 0, 40, 0, 0], 860)


def test_a_partial_load_is_dropped_between_chunks() -> None:
    """The same in three chunks of 50: the chunk on the link at 420 finishes, the other is not copied."""
    done = go(script([[[0, 1], [2, 3]]], [[[4, 5], []]]), 150, chunks=3, outstanding=2)
    # Speculative chunks 310-360-410-460 (complete at 460); the second load never starts: as above.
    assert done.accounts.fates == [0, 0, 1, 1, 0]
    slower = go(script([[[0, 1], [2, 3]]], [[[4, 5], []]]), 240, chunks=3)
    # Demand to 250, 490; compute to 350, 590; gate 1 at 600; chunks of 80 to 570, 650: one on the link, one undone.
    assert slower.accounts.fates == [0, 0, 0, 1, 0]
    assert slower.accounts.fate_bytes == [0, 0, 0, 8, 0]
    assert slower.accounts.stall_row()[2] == 50


def test_overlap_aware_admits_only_what_fits_under_compute() -> None:
    """Step 1 loads everything on demand: window 100 - 60 < 60. In step 2 gate 0 hits: 100 >= 60, one is admitted."""
    routing = script([[[0], [1], [2]], [[0], [4], [2]]], [[[1], [2], []], [[4], [2], []]])
    done = go(routing, 60, overlap_aware=True)
    # Gate 1 of step 2 finds 4 there and predicts 2, which is there too: nothing to copy.
    assert sums(done) == ([1, 0, 0, 0, 0], [180, 0, 0, 0, 0], 6 * 110 + 180)
    assert done.accounts.hit_row()[1] == 4  # recall counts what was predicted, not what was admitted
    assert go(routing, 100, overlap_aware=True).accounts.issued == 1
    assert go(routing, 101, overlap_aware=True).accounts.issued == 0
    assert go(routing, 101).accounts.issued == 3


def test_a_prediction_takes_its_time() -> None:
    # A thread: asked at 10, known at 60, behind the demand copy anyway.
    done = go(RIGHT, 60, latency_us=0.05)
    assert sums(done) == ([2, 0, 0, 0, 0], [60, 0, 0, 0, 0], 390)
    # Known at 210, when gate 1 (at 180) has passed; asked again at 180 for gate 2 (at 350 with the demand copy).
    done = go(RIGHT, 60, latency_us=0.2)
    assert done.accounts.fates == [0, 0, 0, 0, 0]
    assert done.accounts.hit_row()[1] == 0
    assert sums(done)[2] == 330 + 180
    # On the GPU stream: 200 ns at gates 0 and 1, under which the demand copy is hidden.
    done = go(RIGHT, 60, latency_us=0.2, blocking=True)
    assert sums(done) == ([2, 0, 0, 0, 0], [0, 0, 0, 400, 0], 330 + 400)
    # What is known too late is not mistaken for a prediction of the next step.
    twice = script([[[0], [1], [2]]] * 2, [[[1], [2], []]] * 2)
    assert go(twice, 60, latency_us=0.2).accounts.hit_row()[1] == 0


def on_a_desk(prices: FlatCosts | None = None, **params: Any) -> Desk:
    return Desk(GateAhead(setup_of(draw(0, n_layers=4), 10_000, costs=prices or costs(60)), **params))


@pytest.mark.parametrize(
    ("params", "missing", "admitted"),
    [
        ({}, [], 2),  # an expert and its launch take 110 ns, and a copy 55
        ({}, [0], 1),  # the event's own copy comes first
        ({"latency_us": 0.055, "blocking": False}, [], 1),  # known when half of it is over
        ({"latency_us": 0.056, "blocking": False}, [], 0),
        ({"latency_us": 0.055, "blocking": True}, [], 2),  # compute begins when it is known
    ],
)
def test_the_window_that_overlap_aware_fills(params: dict[str, Any], missing: list[int], admitted: int) -> None:
    desk = on_a_desk(FlatCosts(copy=55, expert=100, launch_ns=10), overlap_aware=True, outstanding=9, **params)
    desk.complete.update({0}.difference(missing))
    desk.gate(0, [0], [[1, 2, 3, 4]])
    if params:
        desk.policy.on_prediction(1)
    assert desk.prefetched == [9, 10, 11][:admitted]


# A window whose lanes are counted as one, or added up as if a copy could be spread over them.
@pytest.mark.parametrize(
    ("copy", "chunks", "missing", "by_lanes"),
    [
        (55, 1, [], [2, 4, 6]),  # an event of 110 ns: two on each lane
        (55, 1, [0], [1, 3, 5]),  # one of them is the event's own
        (111, 1, [], [0, 0, 0]),  # too long for any lane, however many there are
        (150, 3, [], [0, 1, 2]),  # chunks of 50: on two lanes to 50, 50, 100; on three to 50, and again to 100
        (150, 3, [0], [0, 0, 1]),
    ],
)
def test_the_window_counts_the_lanes_of_the_link(
    copy: int, chunks: int, missing: list[int], by_lanes: list[int]
) -> None:
    for lanes, admitted in zip((1, 2, 3), by_lanes, strict=True):
        prices = FlatCosts(copy=copy, expert=100, launch_ns=10)
        setup = replace(setup_of(draw(0, n_layers=4), 10_000, costs=prices, chunks=chunks), lanes=lanes)
        desk = Desk(GateAhead(setup, overlap_aware=True, outstanding=9))
        desk.complete.update({0}.difference(missing))
        desk.gate(0, [0], [[1, 2, 3, 4, 5, 6, 7]])
        assert desk.prefetched == [9, 10, 11, 12, 13, 14][:admitted], lanes


def test_the_longest_chunk_of_a_load_counts_not_its_last() -> None:
    """Five chunks of 3, 3, 2, 2 and 2 bytes side by side: 15, 15, 10, 10 and 10 ns."""
    for window, admitted in ((14, []), (15, [9])):
        prices = FlatCosts(copy=60, expert=window, launch_ns=0)
        setup = replace(setup_of(draw(0, n_layers=4), 10_000, costs=prices, chunks=5), lanes=5)
        desk = Desk(GateAhead(setup, overlap_aware=True, outstanding=9))
        desk.complete.add(0)
        desk.gate(0, [0], [[1, 2]])
        assert desk.prefetched == admitted


def test_what_is_admitted_on_several_lanes_has_arrived_when_the_event_ends() -> None:
    """Gate 0 of step 2 hits, and computes for 100 ns; what it says takes three chunks of 50, or 50 on three lanes."""
    routing = script([[[0], [1]], [[0], [2]]], [[[], []], [[2], []]])
    for lanes, issued in ((1, 0), (3, 1)):
        done = go(routing, 150, chunks=3, lanes=lanes, overlap_aware=True)
        assert (done.accounts.issued, done.accounts.fates[0]) == (issued, issued), lanes


def test_what_is_under_way_for_later_layers_takes_of_the_window() -> None:
    for arrived, admitted in (([], 0), ([17], 1), ([17, 18], 2)):
        desk = on_a_desk(FlatCosts(copy=55, expert=100, launch_ns=10), overlap_aware=True, outstanding=9, distance=2)
        desk.complete.update((0, 8))
        desk.gate(0, [0], [[1, 2]])
        desk.arrive(*arrived)
        desk.gate(1, [8], [[3, 4]])
        assert desk.prefetched == [17, 18, 27, 28][: 2 + admitted]


def test_what_is_predicted_is_spared() -> None:
    desk = on_a_desk()
    for x in (9, 1, 11, 2):
        desk.policy.on_slot(x)
    desk.complete.update((9, 1, 11, 2))
    desk.gate(0, [0], [[1, 3]])  # 9 and 11 in layer 1
    assert desk.policy.victim(20, True) == 1
    assert desk.policy.victim(20, False) == 1
    desk.pinned.update((1, 2, 0))
    assert desk.policy.victim(20, True) is None
    assert desk.policy.victim(20, False) == 9  # it yields to demand, the oldest first
    desk.gate(1, [8], [[ABSENT, ABSENT]])
    assert desk.policy.victim(20, True) == 9  # its gate has been passed


def test_the_next_is_issued_when_one_completes_and_leftovers_are_dropped() -> None:
    desk = on_a_desk()
    desk.gate(0, [0], [[1, 2], [3, 1]])
    assert desk.prefetched == [9]
    desk.policy.on_slot(9)
    desk.policy.on_complete(9)
    assert desk.prefetched == [9, 10]
    desk.gate(1, [8], [[4, 4]])
    assert desk.cancelled == [10]  # and 11 is not issued any more
    assert desk.prefetched == [9, 10, 20]
    desk.policy.on_step(None)  # type: ignore[arg-type]
    assert desk.cancelled == [10, 20]
