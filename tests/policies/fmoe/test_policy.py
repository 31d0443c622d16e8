"""fMoE as its paper states it, on 3 layers of 4 experts, worked by hand; what is stored: map A (east) and B (north)."""

from math import sqrt

import numpy as np
import pytest

from policies.api import Signal
from tests.policies.fmoe.desk import EAST, NORTH, A, B, OnDesk, Past
from traces.kit.errors import UserError


def test_the_embedding_predicts_the_first_d_layers() -> None:
    """At the start, of the map with the most similar embedding, layers 0 to d - 1; the likeliest expert of each."""
    for d, expected in ((1, [("expect", 3)]), (2, [("expect", 3), ("expect", 4)])):
        desk = OnDesk(distance=d).begin([0.25, 0.5])  # nearer to north: B, with expert 3 in layer 0 and 0 in layer 1
        assert desk.said("expect") == expected


def test_gate_l_predicts_layer_l_plus_d_by_trajectory() -> None:
    """The embedding says B, the gates say A: from then on it is A's map, one layer at each gate."""
    desk = OnDesk()
    assert desk.begin(NORTH).said("expect") == [("expect", 3)]
    assert desk.shows(0, A[0]).said("expect") == [("expect", 4 + 1)]
    desk.shows(1, B[1])  # so far (A0, B1): with A .34375 + .1875, with B .1875 + .34375: a tie, the first place
    assert desk.said("expect") == [("expect", 8 + 2)]
    assert desk.shows(2, A[2]).said("expect") == []  # there is no layer 3
    far = OnDesk(distance=2).begin(NORTH)
    far.said()
    assert far.shows(0, A[0]).said("expect") == [("expect", 8 + 2)]
    assert far.shows(1, A[1]).said("expect") == []


def test_what_is_there_is_expected_and_not_prefetched() -> None:
    desk = OnDesk()
    desk.arrive(0)
    assert desk.begin(EAST).said("expect", "prefetch") == [("expect", 0)]


@pytest.mark.parametrize("protect", [True, False])
def test_what_was_prefetched_is_protected_from_speculation_until_it_is_passed(protect: bool) -> None:
    desk = OnDesk(distance=2, protect=protect, outstanding=9).begin(EAST)  # 0 and 5
    desk.arrive(0, 5, 7)  # 7 on demand, some time ago
    assert desk.policy.victim(9, False) == 0  # never demanded, all worth nothing: it yields to demand
    assert desk.policy.victim(9, True) == (7 if protect else 0)
    desk.shows(0, A[0])
    assert desk.policy.victim(9, True) == (7 if protect else 5)  # 0 was used
    desk.policy.on_evict(7)
    desk.resident.remove(7)
    assert desk.policy.victim(9, True) == (0 if protect else 5)
    desk.pinned.add(0)
    assert desk.policy.victim(9, True) == (None if protect else 5)
    desk.shows(1, A[1], demand=[3])  # passed, and not used
    assert desk.policy.victim(9, True) == 5


def test_protection_ends_with_the_iteration() -> None:
    desk = OnDesk(distance=2, outstanding=9).begin(EAST)
    desk.arrive(0, 5)
    assert desk.policy.victim(9, True) is None
    desk.begin(NORTH)
    assert desk.policy.victim(9, True) == 0


def test_a_batch_takes_the_largest_p_and_the_union() -> None:
    """One request like A, one like B: layer 0 has p .5, .25, .25, .5, and 0 and 3 are chosen."""
    desk = OnDesk(outstanding=9)
    assert desk.begin(EAST, NORTH).said() == [("expect", 0, 3), ("prefetch", 0, 0.5), ("prefetch", 3, 0.5)]
    assert desk.policy.worth.p[0].tolist() == [0.5, 0.25, 0.25, 0.5]
    assert desk.shows(0, A[0], B[0]).said("expect") == [("expect", 4 + 0, 4 + 1)]
    assert desk.shows(1, B[1], A[1]).said("expect") == [("expect", 10)]  # a tie for both, the first place: A


def test_each_request_of_a_batch_has_its_own_threshold() -> None:
    """The first is like A (delta 0: K experts of each layer), the second like nothing (delta 1: all)."""
    desk = OnDesk(distance=2, selection="threshold")
    assert desk.begin(EAST, [0, -1]).said("expect") == [("expect", 0, 1, 2, 3), ("expect", 5, 6, 4, 7)]


def test_the_passes_of_several_tokens() -> None:
    """A prefill is one iteration: the mean of its tokens' embeddings, or the last one's; the mean of its scores."""
    for prefill, expected in (("mean", 3), ("last", 0)):
        desk = OnDesk(prefill=prefill)
        assert desk.begin(NORTH, NORTH, EAST, prefill=True, counts=[3]).said("expect") == [("expect", expected)]
        desk.shows(0, B[0], B[0], A[0])  # the mean (.25, .167, .208, .375): of lengths 1 it is nearer to B
        assert desk.said("expect") == [("expect", 4)]
    past = Past([[(A, EAST), (B, NORTH)]])
    desk = OnDesk(past)
    assert desk.policy.store.size == 1
    assert desk.policy.store.maps[0, 0].tolist() == [0.3125, 0.1875, 0.1875, 0.3125]
    assert desk.policy.store.embeddings[0] == pytest.approx(np.array([sqrt(0.5)] * 2), abs=1e-3)


def test_p_of_what_no_search_has_found() -> None:
    """``last``: as it was found last, 1 / E before; ``uniform``: 1 / E in each new iteration."""
    for unsearched, then in (("last", A[1]), ("uniform", [0.25] * 4)):
        desk = OnDesk(unsearched=unsearched).begin(EAST)
        assert desk.policy.worth.p.tolist() == [A[0], [0.25] * 4, [0.25] * 4]
        desk.shows(0, A[0])
        assert desk.policy.worth.p.tolist() == [A[0], A[1], [0.25] * 4]
        desk.begin(NORTH)
        assert desk.policy.worth.p.tolist() == [B[0], then, [0.25] * 4]


def test_one_search_or_the_other() -> None:
    """By trajectory alone the first d layers have no prediction; by embedding alone its map serves every layer."""
    desk = OnDesk(search="trajectory")
    assert desk.begin(NORTH).said() == []
    assert desk.shows(0, A[0]).said("expect") == [("expect", 5)]
    assert desk.policy.needs() == {Signal.ROUTER_PROBS}
    for search_us in (0.0, 7.0):
        desk = OnDesk(search="semantic", search_us=search_us).begin(NORTH)
        if search_us:
            desk.answer()
        desk.shows(0, A[0])
        desk.shows(1, A[1])
        said = desk.said("expect", "predict")
        assert said == [("predict", 0, 7000, False)] * bool(search_us) + [("expect", 3), ("expect", 4), ("expect", 9)]
    late = OnDesk(search="semantic", search_us=7.0).begin(NORTH)
    late.shows(0, A[0])
    assert late.answer().said("expect") == [("expect", 4)]  # what gate 0 would have planned


def test_a_history_without_passes() -> None:
    with pytest.raises(UserError, match=r"no forward pass; allowed: store=online"):
        OnDesk(Past([]))


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
