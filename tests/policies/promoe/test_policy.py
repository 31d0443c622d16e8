"""ProMoE worked by hand from SYSTEMS 2.1 (arXiv 2410.22134, section 4), on small traces written out, and on a desk.

3 layers of 4 experts, so that layer 1 has the expert numbers 4 to 7 and layer 2 has 8 to 11; dense part 10 ns, expert
100 ns, no overheads; predictions at once; room for everything.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from policies import registry
from policies.api import Predictor, Schedule, Setup, Signal
from policies.promoe.policy import ProMoE, fitted_name
from sim.check.laws import Run, run
from sim.check.synthetic import ABSENT, Routing, setup_of
from sim.core.accounts import FETCHED, PREDICTED, RECALL
from tests.policies import scripted
from tests.policies.desk import Desk
from tests.policies.scripted import SIZE, as_shipped, costs, sums
from traces.kit.errors import UserError

E = 4


script = partial(scripted.script, n_experts=E, signal="predicted/promoe", distance=2)


def go(routing: Routing, copy: int, **given: Any) -> Run:
    return scripted.go("promoe", routing, copy, **{"room": 12, "latency_us": 0.0} | given)


def foretold(done: Any) -> tuple[int, int, int]:
    """Predicted, used, complete at the gate."""
    row = done.accounts.hit_row()
    return row[PREDICTED], row[RECALL], row[FETCHED]


RIGHT = script([[[0], [1], [2]]], [[[2], [], []]])
WRONG = script([[[0, 1], [0, 1], [2, 3]]], [[[0, 1], [], []]])


class OnDesk(Desk[ProMoE]):
    """In three chunks; what it is told to foretell with is what a gate says of layer l + stride."""

    def __init__(self, **params: Any) -> None:
        self.fitted = params.get("fitted", "promoe")
        predictor = Predictor(self.fitted, params.get("stride", 2), 2, {"input": "hidden"})
        costs_: Any = costs(60)
        setup = Setup(3, E, 1, (SIZE,) * 3, 3, 12 * SIZE, costs_, 0, {self.fitted: predictor})
        super().__init__(ProMoE(setup, **{"latency_us": 0.0} | params))

    def says(self, layer: int, demand: list[int], said: list[list[int]]) -> None:
        self.gate(layer, demand, **{f"predicted/{self.fitted}": said or [[ABSENT]]})


def test_gate_l_speaks_of_layer_l_plus_2() -> None:
    """Demand copy 10-70, then expert 2 of layer 2 to 130; gate 1 at 180 waits to 240; gate 2 at 350 finds it there."""
    done = go(RIGHT, 60)
    assert sums(done) == ([1, 0, 0, 0, 0], [120, 0, 0, 0, 0], 450)
    assert foretold(done) == (1, 1, 1)


def test_what_is_demanded_while_it_loads_is_not_copied_twice() -> None:
    """Copies of 200: 10-210, 10 from 210; gate 1 at 320 waits for it, 410 to 610; gate 2 at 720 finds it there."""
    assert sums(go(RIGHT, 200)) == ([1, 0, 0, 0, 0], [400, 0, 90, 0, 0], 330 + 490)
    done = go(RIGHT, 600, chunks=3)
    # Chunks of 200. Demand 10-610; 10 from 610: gate 1 at 720 lets the chunk finish, 810; its demand to 1410; the
    # second chunk 1410-1610; gate 2 at 1520: the rest of it and the third are awaited, to 1810: late.
    assert sums(done) == ([0, 1, 0, 0, 0], [600 + 600, 290, 90, 0, 0], 330 + 1580)
    assert done.accounts.demand_bytes == 2 * SIZE + SIZE // 3  # the third chunk was copied on demand
    assert foretold(done) == (1, 1, 0)


def test_early_preemption() -> None:
    """Both predictions are wrong; copies of 240 in three chunks of 80.

    Demand 10-250-490, computed 250-350 and 490-590. 8 from 490: gate 1 at 600 waits for its second chunk, 650; demand
    to 890 and 1130, computed to 990 and 1230. 8's third chunk to 1210; 9's first to 1290. Gate 2 at 1240 drops 9 and
    waits for that chunk; demand to 1530 and 1770, computed to 1870.
    """
    done = go(WRONG, 240, chunks=3)
    assert sums(done) == ([0, 0, 1, 1, 0], [240 + 140 + 240 + 140 + 240 + 140, 0, 50 + 50, 0, 0], 1870)
    assert done.accounts.fate_bytes == [0, 0, SIZE, SIZE // 3, 0]
    assert foretold(done) == (2, 0, 1)  # FetchRate counts what was fetched in vain, too


def test_without_preemption_each_miss_waits_for_its_turn_and_stale_predictions_stay() -> None:
    """The same, fixed order. 0 to 250, computed to 350; meanwhile 8, two chunks to 410; 1 to 650, computed to 750.

    8's third to 730, 9's first to 810, awaited by gate 1 at 760; 4 to 1050, computed to 1150; 9 to 1210; 5 to 1450,
    computed to 1550. Gate 2 at 1560: 10 to 1800, computed to 1900; only then 11 to 2140, computed to 2240.
    """
    done = go(WRONG, 240, chunks=3, preemption=False, reordering=False)
    assert sums(done) == ([0, 0, 2, 0, 0], [6 * 240, 0, 60 + 50 + 60, 0, 0], 2240)


def test_without_preemption_a_passed_layer_is_not_cancelled() -> None:
    """Copies of 1000: of 8 one or two chunks are there when gate 2 runs, and 9 is still queued."""
    assert go(WRONG, 1000, chunks=3).accounts.fates == [0, 0, 0, 2, 0]
    assert go(WRONG, 1000, chunks=3, preemption=False).accounts.fates[3] == 0


def test_reordering() -> None:
    desk = OnDesk()
    desk.chunks.update({4: 0, 5: 3, 6: 1, 7: 2})
    desk.complete.add(5)
    event = desk.event(1, [4, 5, 6, 7])
    assert desk.policy.schedule(event) == Schedule(copy=[7, 6, 4])  # what is there runs first, as it is complete
    desk.chunks.update({6: 2})
    assert desk.policy.schedule(event) == Schedule(copy=[6, 7, 4])  # among equals, in token order
    fixed = OnDesk(reordering=False)
    fixed.chunks.update(desk.chunks)
    assert fixed.policy.schedule(desk.event(1, [7, 4, 6, 5])) == Schedule(compute=[4, 5, 6, 7])
    each = OnDesk(preemption=False)
    each.chunks.update({4: 0, 5: 3, 6: 1, 7: 2})
    assert each.policy.schedule(event) == Schedule(compute=[5, 7, 6, 4], ahead=0)
    none = OnDesk(preemption=False, reordering=False)
    assert none.policy.schedule(desk.event(1, [7, 4])) == Schedule(compute=[4, 7], ahead=0)


def test_a_predicted_resident_expert_is_refreshed() -> None:
    desk = OnDesk()
    for x in (8, 9, 10):
        desk.policy.on_slot(x)
    desk.resident.update((8, 9, 10))
    assert desk.policy.victim(11, True) == 8
    desk.says(0, [0], [[0, 3]])  # 8 and 11 in layer 2
    assert desk.expected == [[8, 11]]
    assert desk.prefetched == [8, 11]  # the core says no to the one that is complete
    assert desk.policy.victim(11, True) == 9
    desk.says(2, [9], [])
    assert desk.policy.victim(11, True) == 10


def test_a_full_layer_makes_room_for_what_is_predicted() -> None:
    """One slot per layer. In step 2 gate 0 says what layer 2 will use; it takes the slot when its copy begins."""
    routing = script([[[0], [0], [1]], [[0], [0], [2]]], [[[], [], []], [[2], [], []]])
    done = go(routing, 60, room=3)
    # Step 1: 3 copies. Step 2 is hit, hit, and the copy under gate 0's compute.
    assert sums(done) == ([1, 0, 0, 0, 0], [180, 0, 0, 0, 0], 6 * 110 + 180)


def test_a_prediction_that_comes_too_late_predicts_nothing() -> None:
    """Asked at 10, known at 410: gate 2 has run without it, at 350; nor is it taken for one of the next step."""
    done = go(script([[[0], [1], [2]]] * 2, [[[2], [], []]] * 2), 60, latency_us=0.4)
    assert (foretold(done), done.accounts.issued) == ((0, 0, 0), 0)


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


FITTED = {
    "promoe": Predictor("promoe", 2, 3, {"input": "hidden"}),
    "promoe_routing": Predictor("promoe_routing", 2, 3, {"input": "routing"}),
}


def test_as_in_finemoe_reuses_the_gate_two_layers_on() -> None:
    """Gate 0's second entry of gate_ahead speaks of layer 2; no fitted predictor is read."""
    routing = script([[[0], [1], [2]]], [[[2], [], []]], signal="gate_ahead")
    policy = ProMoE(setup_of(routing, 12 * SIZE, costs=costs(60)), **as_shipped("promoe_as_in_finemoe"))
    assert policy.needs() == {Signal.GATE_AHEAD}
    assert policy.predictors() == frozenset()
    policy.line.latency_ns = 200
    # Synchronous: as above, the GPU waits for 200 ns at gate 0.
    assert sums(run(policy, routing)) == ([1, 0, 0, 0, 0], [60, 0, 0, 200, 0], 330 + 60 + 200)


def test_the_other_predictor_is_an_explicit_choice() -> None:
    setup = setup_of(RIGHT, 12 * SIZE)
    assert ProMoE(setup).needs() == frozenset()
    assert ProMoE(setup).predictors() == {"promoe"}
    assert ProMoE(setup, predictor="routing").predictors() == {"promoe_routing"}
    assert fitted_name("hidden", 1) == "promoe_stride1"
    assert fitted_name("routing", 3) == "promoe_routing_stride3"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"predictor": "gate_ahead", "fitted": "promoe"}, r"^policy.fitted=promoe: allowed with .*gate_ahead: null"),
        ({"fitted": "promoe_routing"}, r"^policy.fitted=promoe_routing: was fitted on routing; allowed with .*=hidden"),
        ({"fitted": "promoe", "stride": 1}, r"^policy.stride=1: allowed with policy.fitted=promoe: 2"),
    ],
)
def test_wrong_parameters_stop(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        registry.build("promoe", replace(setup_of(RIGHT, 12 * SIZE), predictors=FITTED), params)
    assert "\n" not in str(caught.value)
