"""ProMoE, worked by hand from SYSTEMS 2.1 (arXiv 2410.22134, section 4).

Unless said otherwise: 3 layers of 4 experts, so that layer 1 has the flat numbers 4 to 7 and layer 2 has 8 to 11;
dense part 10 ns, expert 100 ns, no overheads; predictions at once; room for everything.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from lab import ABSENT, FakeSignals, FlatCosts, Routing, run, setup_of

from policies import registry
from policies.api import Actions, LayerEvent, Predictor, Schedule, Setup, Signal
from policies.promoe import ProMoE, fitted_name, union
from sim.core.accounts import FETCHED, PREDICTED, RECALL
from traces.errors import UserError

SIZE, E = 12, 4
CONF = Path(__file__).parents[2] / "conf" / "policy"


def costs(copy: int) -> FlatCosts:
    return FlatCosts(copy=copy, expert=100, launch_ns=0, dense=10, head=0, layer_overhead_ns=0)


def script(demand: list[list[list[int]]], said: list[list[list[int]]], signal: str = "predicted/promoe") -> Routing:
    """Decode steps: demand [step][layer], and what is said at each gate [step][layer], [] if nothing."""
    ids = np.array(demand, np.uint8)
    n, n_layers, k = ids.shape
    shape = (n, n_layers, k) if signal.startswith("predicted") else (n, n_layers, 2, k)
    guess = np.full(shape, ABSENT, np.uint8)
    for step, layers in enumerate(said):
        for layer, experts in enumerate(layers):
            guess[(step, layer, *[1] * (len(shape) - 3))][: len(experts)] = experts
    return Routing(ids, [(False, i, 1) for i in range(n)], E, {signal: guess})


def go(routing: Routing, copy: int, *, room: int = 12, chunks: int = 1, **params: Any) -> Any:
    setup = setup_of(routing, room * SIZE, chunks=chunks, costs=costs(copy))
    return run(registry.build("promoe", setup, {"latency_us": 0.0} | params), routing)


def sums(done: Any) -> tuple[list[int], list[int], int]:
    """Fates (useful, late, useless, cancelled, in flight), stalls (demand, late, queueing, predictor, CPU), wall."""
    a = done.accounts
    return a.fates, a.stall_row(), a.end_ns - a.start_ns


def foretold(done: Any) -> tuple[int, int, int]:
    """Predicted, used, complete at the gate."""
    row = done.accounts.hit_row()
    return row[PREDICTED], row[RECALL], row[FETCHED]


RIGHT = script([[[0], [1], [2]]], [[[2], [], []]])
WRONG = script([[[0, 1], [0, 1], [2, 3]]], [[[0, 1], [], []]])


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
    desk = Desk()
    desk.chunks.update({4: 0, 5: 3, 6: 1, 7: 2})
    event = desk.event(1, [4, 5, 6, 7])
    assert desk.policy.schedule(event) == Schedule(copy=[7, 6, 4])  # what is there runs first, as it is complete
    desk.chunks.update({6: 2})
    assert desk.policy.schedule(event) == Schedule(copy=[6, 7, 4])  # among equals, in token order
    fixed = Desk(reordering=False)
    fixed.chunks.update(desk.chunks)
    assert fixed.policy.schedule(desk.event(1, [7, 4, 6, 5])) == Schedule(compute=[4, 5, 6, 7])
    each = Desk(preemption=False)
    each.chunks.update({4: 0, 5: 3, 6: 1, 7: 2})
    assert each.policy.schedule(event) == Schedule(compute=[5, 7, 6, 4], ahead=0)
    none = Desk(preemption=False, reordering=False)
    assert none.policy.schedule(desk.event(1, [7, 4])) == Schedule(compute=[4, 7], ahead=0)


def test_what_is_there_is_computed_while_the_rest_arrives() -> None:
    """Step 2 has expert 1 in layer 0 from step 1; 0 is copied in 60 of its 100 ns. In fixed order 0 comes first."""
    routing = script([[[1, 2], [0, 1], [0, 1]], [[0, 1], [0, 1], [0, 1]]], [])
    wall = [sums(go(routing, 60, reordering=ordered))[2] for ordered in (True, False)]
    assert wall[1] - wall[0] == 60


# -- the cache --------------------------------------------------------------------------------------------------


def test_a_predicted_resident_expert_is_refreshed() -> None:
    desk = Desk()
    for x in (8, 9, 10):
        desk.policy.on_slot(x)
    desk.resident.update((8, 9, 10))
    assert desk.policy.victim(11, True) == 8
    desk.gate(0, [0], [[0, 3]])  # 8 and 11 in layer 2
    assert desk.expected == [[8, 11]]
    assert desk.prefetched == [8, 11]  # the core says no to the one that is complete
    assert desk.policy.victim(11, True) == 9
    desk.gate(2, [9], [])
    assert desk.policy.victim(11, True) == 10


def test_each_layer_has_its_own_list() -> None:
    setup = setup_of(RIGHT, 7 * SIZE)
    assert ProMoE(setup).layer_budgets() == [3 * SIZE, 2 * SIZE, 2 * SIZE]
    assert ProMoE(setup, scope="global").layer_budgets() is None
    desk, everywhere = Desk(), Desk(scope="global")
    for each in (desk, everywhere):
        each.policy.on_slot(0)
        each.policy.on_slot(8)
    assert desk.policy.victim(9, True) == 8
    assert everywhere.policy.victim(9, True) == 0


def test_a_full_layer_makes_room_for_what_is_predicted() -> None:
    """One slot per layer. In step 2 gate 0 says what layer 2 will use; it takes the slot when its copy begins."""
    routing = script([[[0], [0], [1]], [[0], [0], [2]]], [[[], [], []], [[2], [], []]])
    done = go(routing, 60, room=3)
    # Step 1: 3 copies. Step 2 is hit, hit, and the copy under gate 0's compute.
    assert sums(done) == ([1, 0, 0, 0, 0], [180, 0, 0, 0, 0], 6 * 110 + 180)


# -- predictions ------------------------------------------------------------------------------------------------


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


def test_one_at_a_time_and_stale_inputs_are_dropped() -> None:
    desk = Desk(latency_us=0.1, stride=1, fitted="stride1")
    desk.gate(0, [0], [[1]])
    assert desk.asked == [100]
    desk.gate(1, [4], [[2]])  # waits for the first, whose own layer has been passed
    assert desk.asked == [100]
    desk.policy.on_prediction(0)
    assert desk.expected == []
    assert desk.asked == [100, 100]
    desk.policy.on_prediction(0)
    assert desk.expected == [[10]]
    desk.policy.on_step(None)  # type: ignore[arg-type]
    desk.gate(0, [0], [[1]])
    desk.gate(1, [4], [[2]])
    desk.gate(2, [8], [])  # both have been passed: one is under way, the other is never begun
    desk.policy.on_prediction(0)
    assert desk.expected == [[10]]
    assert len(desk.asked) == 3


def test_what_was_asked_in_the_step_before_is_of_no_use() -> None:
    desk = Desk(latency_us=0.1)
    desk.gate(0, [0], [[3]])
    desk.policy.on_step(None)  # type: ignore[arg-type]
    desk.policy.on_prediction(0)
    assert desk.expected == []
    desk.gate(0, [0], [[2]])
    desk.policy.on_prediction(0)
    assert desk.expected == [[10]]


def test_leftovers_of_layers_without_a_gate_go_with_the_step() -> None:
    for preemption, dropped in ((True, [8]), (False, [])):
        desk = Desk(preemption=preemption)
        desk.gate(0, [0], [[0]])
        desk.policy.on_step(None)  # type: ignore[arg-type]
        assert desk.cancelled == dropped


def test_a_queued_prediction_keeps_its_place() -> None:
    desk = Desk(preemption=False)
    desk.gate(0, [0], [[0, 1]])
    desk.gate(0, [0], [[1, 2]])
    assert desk.prefetched == [8, 9, 10]
    desk.policy.on_complete(9)
    desk.gate(2, [8], [])  # demanded: no longer one of the speculative
    desk.gate(0, [0], [[0, 1]])
    assert desk.prefetched == [8, 9, 10, 8, 9]


def test_the_union_comes_most_tokens_first_then_first_come() -> None:
    assert union(np.array([[3, 1], [2, 3], [ABSENT, 3], [0, ABSENT], [1, ABSENT]], np.uint8), 4) == [3, 1, 2, 0]
    assert union(np.array([[2, 0, ABSENT]], np.uint8), 4) == [2, 0]  # one token: the likeliest first
    assert union(np.full((2, 2), 65535, np.uint16), 4) == []
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = np.argsort(rng.random((int(rng.integers(2, 9)), 9)), axis=1)[:, :3].astype(np.uint8)
        named = ids.ravel().tolist()
        assert union(ids, 9) == sorted(dict.fromkeys(named), key=lambda x: -named.count(x))


# -- variants ---------------------------------------------------------------------------------------------------


def built(stem: str, setup: Setup) -> ProMoE:
    given = yaml.safe_load((CONF / f"{stem}.yaml").read_text())
    policy = registry.build(given.pop("name"), setup, given)
    assert isinstance(policy, ProMoE)
    return policy


def test_as_in_finemoe_reuses_the_gate_two_layers_on() -> None:
    """Gate 0's second entry of gate_ahead speaks of layer 2; no fitted predictor is read."""
    routing = script([[[0], [1], [2]]], [[[2], [], []]], "gate_ahead")
    policy = built("promoe_as_in_finemoe", setup_of(routing, 12 * SIZE, costs=costs(60)))
    assert policy.needs() == {Signal.GATE_AHEAD}
    assert policy.predictors() == frozenset()
    policy.latency_ns = 200
    # Synchronous: as above, the GPU waits for 200 ns at gate 0.
    assert sums(run(policy, routing)) == ([1, 0, 0, 0, 0], [60, 0, 0, 200, 0], 330 + 60 + 200)


def test_the_variants_differ_where_the_sources_do() -> None:
    setup = setup_of(RIGHT, 12 * SIZE)
    paper, other = built("promoe", setup), built("promoe_as_in_finemoe", setup)
    assert (paper.source, other.source) == ("hidden", "gate_ahead")  # no trained predictor
    assert (paper.stride, other.stride) == (2, 2)
    assert (paper.preemption, other.preemption) == (True, False)  # no preemption queue
    assert (paper.reordering, other.reordering) == (True, False)
    assert (paper.by_layer, other.by_layer) == (True, False)  # per-layer, global LRU
    assert (paper.blocking, other.blocking) == (False, True)
    assert (paper.latency_ns, other.latency_ns) == (200_000, 30_000)
    assert paper.needs() == frozenset()
    assert paper.predictors() == {"promoe"}


def test_the_other_predictor_is_an_explicit_choice() -> None:
    setup = setup_of(RIGHT, 12 * SIZE)
    assert ProMoE(setup, predictor="routing").predictors() == {"promoe_routing"}
    assert [fitted_name(*given) for given in (("hidden", 2), ("hidden", 1), ("routing", 3))] == [
        "promoe",
        "promoe_stride1",
        "promoe_routing_stride3",
    ]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stride": 0}, r"^policy.stride=0: allowed: at least 1"),
        ({"latency_us": -1.0}, r"^policy.latency_us=-1.0: allowed: at least 0"),
        ({"predictor": "mlp"}, r"^policy.predictor='mlp': allowed: hidden, routing, gate_ahead"),
        ({"predictor": "gate_ahead", "fitted": "promoe"}, r"^policy.fitted=promoe: allowed with .*gate_ahead: null"),
        ({"fitted": "promoe_routing"}, r"^policy.fitted=promoe_routing: was fitted on routing; allowed with .*=hidden"),
        ({"fitted": "promoe", "stride": 1}, r"^policy.stride=1: allowed with policy.fitted=promoe: 2"),
        ({"fitted": "mine"}, r"^policy=promoe needs the predictor mine, which was not fitted .* there are: near, far"),
        ({"stride": 1}, r"needs the predictor promoe_stride1.* python -m policies fit promoe.* or policy.predictor="),
    ],
)
def test_wrong_parameters_stop(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        registry.build("promoe", setup_of(RIGHT, 12 * SIZE), params)
    assert "\n" not in str(caught.value)


class Desk:
    """A policy on a desk: its facts are told by hand, its actions written down."""

    def __init__(self, **params: Any) -> None:
        setup = setup_of(RIGHT, 12 * SIZE, chunks=3, costs=costs(60))
        fitted = params.get("fitted", "promoe")
        predictor = Predictor(fitted, params.get("stride", 2), 2, {"input": "hidden"})
        setup = Setup(3, E, 1, (SIZE,) * 3, 3, setup.budget, setup.costs, 0, {fitted: predictor})
        self.policy = ProMoE(setup, **{"latency_us": 0.0} | params)
        self.signal = f"predicted/{fitted}"
        self.prefetched: list[int] = []
        self.expected: list[list[int]] = []
        self.cancelled: list[int] = []
        self.asked: list[int] = []
        self.resident: set[int] = set()
        self.chunks: dict[int, int] = {}
        view: Any = SimpleNamespace(
            resident=self.resident.__contains__,
            evictable=lambda x: True,
            chunks_done=lambda x: self.chunks.get(x, 0),
            complete=lambda x: self.chunks.get(x, 0) == 3,
        )
        self.policy.attach(
            view,
            Actions(
                prefetch=lambda x, priority: not self.prefetched.append(x),
                cancel=lambda x: not self.cancelled.append(x),
                expect=lambda xs: self.expected.append(list(xs)),
                predict=lambda tag, ns, blocking: self.asked.append(ns),
                evict=lambda x: False,
            ),
        )

    def event(self, layer: int, demand: list[int], said: list[list[int]] | None = None) -> LayerEvent:
        rows = np.array(said or [[ABSENT]], np.uint8)
        signals: Any = FakeSignals({self.signal: rows[:, None].repeat(3, 1)})
        signals.enter([(0, len(rows))])
        signals.layer = layer
        return LayerEvent(layer, False, demand, [1] * len(demand), (0,), (len(rows),), signals)

    def gate(self, layer: int, demand: list[int], said: list[list[int]]) -> None:
        self.policy.on_gate(self.event(layer, demand, said))
