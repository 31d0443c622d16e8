"""When ProMoE's predictions are made, and what becomes of them; see promoe_desk."""

from tests.policies.promoe.desk import RIGHT, OnDesk, foretold, go, script
from tests.policies.scripted import sums


def test_a_prediction_takes_its_time_on_a_thread() -> None:
    # Asked at 10, known at 210: behind the demand of gate 1, 180-240; copied to 300, before gate 2 at 350.
    assert sums(go(RIGHT, 60, latency_us=0.2)) == ([1, 0, 0, 0, 0], [120, 0, 0, 0, 0], 450)
    # Known at 410, when gate 2 has run without it, at 350: nothing is predicted, nothing issued.
    late = go(RIGHT, 60, latency_us=0.4)
    assert sums(late) == ([0] * 5, [180, 0, 0, 0, 0], 510)
    assert foretold(late) == (0, 0, 0)
    # What is known too late is not mistaken for a prediction of the next step.
    twice = script([[[0], [1], [2]]] * 2, [[[2], [], []]] * 2)
    assert foretold(go(twice, 60, latency_us=0.4)) == (0, 0, 0)


def test_a_synchronous_prediction_stops_the_gpu() -> None:
    """Gate 0 at 10 computes from 210 on; known then, copied to 270. Gate 1 at 320 foretells nothing: no layer 3."""
    done = go(RIGHT, 60, latency_us=0.2, blocking=True)
    assert sums(done) == ([1, 0, 0, 0, 0], [60, 0, 0, 200, 0], 330 + 60 + 200)


def test_what_was_asked_in_the_step_before_is_of_no_use() -> None:
    desk = OnDesk(latency_us=0.1)
    desk.says(0, [0], [[3]])
    desk.policy.on_step(None)  # type: ignore[arg-type]
    desk.says(0, [0], [[2]])
    assert len(desk.asked) == 1  # the thread is still at it
    desk.done()
    assert desk.expected == []
    desk.done()
    assert desk.expected == [[10]]


def test_leftovers_of_layers_without_a_gate_go_with_the_step() -> None:
    for preemption, dropped in ((True, [8]), (False, [])):
        desk = OnDesk(preemption=preemption)
        desk.says(0, [0], [[0]])
        desk.policy.on_step(None)  # type: ignore[arg-type]
        assert desk.cancelled == dropped


def test_a_queued_prediction_keeps_its_place() -> None:
    desk = OnDesk(preemption=False)
    desk.says(0, [0], [[0, 1]])
    desk.says(0, [0], [[1, 2]])
    assert desk.prefetched == [8, 9, 10]
    desk.policy.on_complete(9)
    desk.says(2, [8], [])  # demanded: no longer one of the speculative
    desk.says(0, [0], [[0, 1]])
    assert desk.prefetched == [8, 9, 10, 8, 9]


def test_what_was_evicted_half_way_is_queued_again() -> None:
    desk = OnDesk(preemption=False)
    desk.says(0, [0], [[0, 1]])
    desk.policy.on_slot(8)
    desk.policy.on_evict(8)
    desk.says(0, [0], [[0, 1]])
    assert desk.prefetched == [8, 9, 8]
