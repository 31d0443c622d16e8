"""MoE-Infinity, worked by hand: what is matched with what, when, and what that takes."""

import pytest

from tests.policies.moe_infinity.desk import MIXED, Past, at_gate_0, decoded, on_a_desk, queued

NEAR = pytest.approx


def test_requests_are_collected_as_they_end_and_matched_within_their_phase() -> None:
    for online in (True, False):
        desk = on_a_desk(filled=False, online=online)
        for layer, expert in enumerate((0, 5, 10)):
            if layer == 0:
                desk.step(7, prefill=True)
            desk.gate(layer, [expert], requests=(7,), prefill=True)
        desk.step(7)
        desk.gate(0, [0], requests=(7,))
        assert desk.prefetched == []  # its own prefill is not over with; it is another phase besides
        desk.gate(1, [6], requests=(7,))
        desk.step(8, prefill=True)
        desk.gate(0, [0], requests=(8,), prefill=True)
        assert desk.prefetched == ([5] if online else [])
        desk.step(8)
        desk.gate(0, [0], requests=(8,))
        assert desk.prefetched == ([5, 6] if online else [])


def test_in_a_batch_each_request_is_matched_and_all_are_summed() -> None:
    """One is like the first request (2 tokens), one like the second (1): layer 1 has shares 2/3 and 1/3."""
    desk = on_a_desk()
    desk.step(3, 4)
    desk.gate(0, [0, 3], requests=(3, 4), expert_ids=[[0], [3]])
    assert set(queued(desk)) == {5, 7, 10, 11}
    assert desk.priorities[5] == NEAR(2 / 3 * 2 / 3)
    assert desk.priorities[7] == NEAR(1 / 3 * 2 / 3)
    assert desk.priorities[11] == NEAR(1 / 3 * 1 / 3)


def test_a_prediction_takes_what_matching_takes() -> None:
    """Appendix B.1: 21 us for 1,000 matrices; 120 take 2.52."""
    for capacity, ns in ((120, 2520), (1000, 21_000), (10_000, 210_000)):
        desk = at_gate_0(capacity=capacity, latency_us=None)
        assert desk.asked == [(1, ns, False)]
        assert desk.prefetched == []
        desk.policy.on_prediction(1)
        assert desk.prefetched == [5]
    desk = at_gate_0(latency_us=1.5, blocking=True)
    assert desk.asked == [(1, 1500, True)]
    desk = on_a_desk(latency_us=1.5)  # three searches, one after the other
    desk.step(3, 4, 5)
    desk.gate(0, [0, 3], requests=(3, 4, 5), expert_ids=[[0], [3], [0]])
    assert desk.asked == [(1, 4500, False)]


def test_a_late_prediction_serves_the_layers_still_to_come() -> None:
    """Asked at gate 0, it comes after gate 1: layer 2's expert, weighed from layer 1. Then gate 1 is asked about."""
    desk = at_gate_0(latency_us=1.0)
    desk.gate(1, [7])  # only the second request has that; the question of gate 0 is still open
    assert len(desk.asked) == 1
    desk.policy.on_prediction(1)
    assert desk.prefetched == [10]
    assert desk.priorities[10] == NEAR(2 / 3)
    assert [tag for tag, _, _ in desk.asked] == [1, 2]
    desk.step(0)
    assert desk.cancelled == [10]
    desk.policy.on_prediction(2)  # its step is over
    desk.gate(0, [0])
    desk.policy.on_prediction(2)
    assert desk.prefetched == [10]
    desk.policy.on_prediction(3)
    assert desk.prefetched == [10, 5]


def test_the_last_prediction_stands_until_the_next_is_there() -> None:
    desk = at_gate_0(MIXED, latency_us=1.0)
    desk.policy.on_prediction(1)
    desk.arrive(5)
    assert desk.prefetched == [5, 10]
    assert desk.expected == [[], [4, 5]]
    desk.gate(1, [5])
    assert desk.expected == [[], [4, 5], [10]]  # it spoke of layer 2, too
    desk.policy.on_prediction(2)
    assert desk.expected == [[], [4, 5], [10], []]  # nothing new
    assert (desk.prefetched, desk.cancelled) == ([5, 10, 10], [])  # with the priority of now
    assert desk.priorities[10] == NEAR(2 / 3)


def test_what_was_predicted_in_one_pass_is_none_of_the_next() -> None:
    """The first pass leaves 10 and 4 in its plan, and layer 1 predicted; the next one's prediction is still to come."""
    desk = at_gate_0(MIXED, latency_us=1.0)
    desk.policy.on_prediction(1)
    assert (desk.prefetched, desk.expected[-1]) == ([5], [4, 5])
    for _ in range(2):  # the second time, its layers would have come by
        desk.step(0)
        before = len(desk.expected)
        desk.gate(0, [0])
        assert desk.prefetched == [5]
        assert not any(desk.expected[before:])


def test_experts_of_the_same_index_are_declared_layer_by_layer() -> None:
    desk = at_gate_0(Past(decoded([0, 1, 1])))
    desk.gate(1, [5])
    assert desk.expected == [[5], [9]]


def test_what_stood_for_a_passed_layer_is_not_prefetched_any_more() -> None:
    """The plan is 5, 10, 4; gate 1 runs before its prediction is there: 10 alone is left."""
    desk = at_gate_0(MIXED, latency_us=1.0)
    desk.policy.on_prediction(1)
    desk.gate(1, [6])
    desk.arrive(10)
    assert (desk.cancelled, desk.prefetched) == ([5], [5, 10])


def test_a_load_that_was_evicted_is_outstanding_no_more() -> None:
    """Layer 2 has shares 2/3 and 1/3: 10 is on its way, and another takes its slot; then 11 may come."""
    desk = at_gate_0(Past(decoded([0, 1, 2], [0, 1, 2], [0, 1, 3])), latency_us=1.0)
    desk.policy.on_prediction(1)
    desk.arrive(5)
    desk.slot(10)
    desk.gone(10)
    desk.gate(1, [5])
    assert desk.prefetched == [5, 10, 11]
