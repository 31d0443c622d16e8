"""When fMoE searches and prefetches: one at a time, nothing that is passed, nothing beside a miss. By hand."""

import pytest

from tests.policies.fmoe.desk import EAST, NORTH, A, OnDesk


def test_a_miss_pauses_prefetching() -> None:
    """The next is chosen when what was demanded has arrived."""
    desk = OnDesk(distance=2).begin(EAST)
    desk.arrive(0)
    desk.arrive(5).said()
    assert desk.shows(0, A[0], demand=[1, 2], there=False).said("prefetch") == []
    desk.slot(1, 2)
    assert desk.arrive(1).said("prefetch") == []
    assert desk.arrive(2).said("prefetch") == [("prefetch", 10, 0.25)]


def test_what_is_passed_is_dropped() -> None:
    desk = OnDesk(distance=2, outstanding=2)
    assert desk.begin(EAST).said("prefetch") == [("prefetch", 0, 0.5), ("prefetch", 5, 0.25)]
    assert desk.shows(0, A[0], demand=[1]).said("cancel", "prefetch") == [("cancel", 0), ("prefetch", 10, 0.25)]
    assert desk.begin(EAST).said("cancel") == [("cancel", 5), ("cancel", 10)]


def test_a_search_takes_its_time_on_the_predictor() -> None:
    """One search at a time; its answer counts for the layers that are still to come."""
    desk = OnDesk(distance=2, search_us=7.0, outstanding=9)
    assert desk.begin(EAST).said() == [("predict", 0, 7000, False)]
    assert desk.shows(0, A[0], demand=[1]).said() == []  # the searcher is busy, and has no answer yet
    desk.answer()  # layer 0 is passed: layer 1 alone; then the next search
    assert desk.said() == [("expect", 5), ("predict", 0, 7000, False), ("prefetch", 5, 0.5)]
    assert desk.begin(EAST).said() == [("cancel", 5)]  # the answer for layer 2 comes too late for its iteration
    assert desk.answer().said() == [("predict", 0, 7000, False)]
    desk.shows(0, A[0])
    desk.shows(1, A[1]).said()
    desk.answer()
    assert desk.said() == [("predict", 0, 7000, False)]  # all that embedding predicts is passed, layer 2 is not
    desk.shows(2, A[2])
    assert desk.answer().said() == []


def test_a_search_that_is_overtaken_is_not_begun() -> None:
    desk = OnDesk(search_us=7.0).begin(EAST)
    for layer in (0, 1):
        desk.shows(layer, A[layer])
    desk.said()
    assert desk.answer().said() == [("predict", 0, 7000, False)]  # in line: layer 1, which is passed, and layer 2
    assert desk.answer().said("expect") == [("expect", 10)]


def test_what_is_in_line_does_not_outlive_its_iteration() -> None:
    desk = OnDesk(search_us=7.0).begin(EAST)
    desk.shows(0, A[0])  # layer 1 is in line
    desk.begin(NORTH).said()
    desk.answer()  # of no use any more
    assert desk.answer().said("predict", 0, "expect") == [("predict", 0, 7000, False), ("expect", 3)]


def test_a_search_may_block_and_costs_by_request() -> None:
    desk = OnDesk(search_us=7.0, blocking=True)
    assert desk.begin(EAST, NORTH).said() == [("predict", 0, 14000, True)]


@pytest.mark.parametrize("completes", [True, False])
def test_one_copy_at_a_time_also_when_it_is_of_no_use(completes: bool) -> None:
    """A copy on the link cannot be recalled: the next load is chosen when it has arrived, or was dropped in between."""
    desk = OnDesk(distance=2).begin(EAST)
    desk.slot(0)
    assert desk.shows(0, A[0], demand=[1]).said("cancel", "prefetch") == [("prefetch", 0, 0.5), ("cancel", 0)]
    assert desk.shows(1, A[1], demand=[2]).said("cancel", "prefetch") == []  # 5, which would have been next, is passed
    if completes:
        desk.arrive(0)
    else:
        desk.resident.remove(0)
        desk.policy.on_evict(0)
    assert desk.said("prefetch") == [("prefetch", 10, 0.5)]
