"""SwapMoE on the machine: nobody waits for a swap, the budget holds, and its parameters mean what they say."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies import registry
from policies.swapmoe import SwapMoE
from policies.swapmoe.planner import Replay, TrainInputs
from sim.check.laws import Witness, assert_causal, assert_keeps_the_rules, run
from sim.check.synthetic import FREE, FakeSignals, FlatCosts, Recorded, Routing, draw, setup_of
from sim.check.variants import Variant
from sim.machine.machine import Machine
from tests.policies.swapmoe.test_policy import PLAIN, SIZE
from traces.kit.errors import UserError

BUSY = [
    {**PLAIN, "frequency": 1},
    {**PLAIN, "frequency": 2, "outstanding": 3, "swaps_per_step": 7},
    {"unit": "pass", "frequency": 1, "outstanding": 2, "norms": "hidden", "population": 8, "generations": 2},
    {"unit": "pass", "least": 1, "latency_weight": 0.0, "swaps_per_step": 50, "population": 8, "generations": 4},
]


class Watching(Witness):
    """Watches the swaps under way, those begun in each step, and who is virtual."""

    def __init__(self, policy: Any, *rest: Any) -> None:
        super().__init__(policy, *rest)
        self.begun = 0

    def step_begin(self, *args: Any) -> None:
        self.begun = self.accounts.issued
        super().step_begin(*args)

    def next_chunk(self) -> int:
        answer = super().next_chunk()
        policy: Any = self.policy
        spare = sum(self.state.slot) - sum(policy.plan.experts)
        assert spare <= policy.outstanding
        assert self.accounts.issued - self.begun <= policy.swaps_per_step
        assert policy.virtual.sum(1).tolist() == list(policy.plan.experts)
        for x in np.nonzero(policy.virtual.ravel())[0].tolist():
            assert policy.view.complete(x) or self.number == 1
        return answer


@pytest.mark.parametrize("params", BUSY, ids=str)
@pytest.mark.parametrize("copy", [30, 900])
def test_nothing_waits_after_the_first_pass(params: dict[str, Any], copy: int) -> None:
    issued = 0
    for seed in range(4):
        routing = draw(seed, n_layers=3)
        costs = FlatCosts(copy=copy)
        setup = setup_of(routing, (10 + seed) * SIZE, chunks=1 + seed % 3, costs=costs)
        policy = registry.build("swapmoe", setup, params)
        if policy.wants_history():
            policy.fit(Recorded(draw(seed + 50, n_layers=3, decode=5)))
        core: Any = Watching(policy, setup, FakeSignals(routing.signals))
        passes = routing.passes()
        accounts = Machine(core, costs, depth=1 + seed % 2).run(passes[:1], passes[1:])  # type: ignore[arg-type]
        assert accounts.stall_row() == [0] * 5
        assert accounts.demand_bytes == 0
        row = accounts.hit_row()
        assert row[0] == row[3]  # every lookup is complete
        issued += accounts.issued
    assert issued > 20


def test_the_first_pass_waits_for_the_virtual_experts_alone() -> None:
    routing = draw(1, n_layers=3)
    setup = setup_of(routing, 10 * SIZE, costs=FlatCosts(copy=300))
    done = run(SwapMoE(setup, **PLAIN, frequency=100), routing)
    assert done.accounts.demand_bytes == 9 * SIZE
    assert done.core.state.peak == 9 * SIZE  # the slot for swaps is free
    stalls = done.accounts.stall_row()
    assert stalls[1:] == [0] * 4
    assert 9 * 300 - 9 * 6 * 45 <= stalls[0] <= 9 * 300  # less what is computed meanwhile


@pytest.mark.parametrize("unit", ["pass", "request"])
@pytest.mark.parametrize("frequency", [1, 3])
def test_a_machine_that_swaps_at_once_keeps_what_the_planner_foresees(unit: Any, frequency: int) -> None:
    """The profile's own law: with copies that take no time the mass kept is that of its replay."""
    routing = draw(4, n_layers=3, prompts=4)
    passes = routing.passes()
    request = -1
    for p in passes:  # the lab knows one request
        request += p.prefill
        p.requests = (request,)
    setup = setup_of(routing, (3 * 3 + 20) * SIZE, costs=FREE)
    policy = SwapMoE(setup, unit=unit, frequency=frequency, swaps_per_step=99, outstanding=20, generations=1)
    history = Recorded(routing)
    policy.fit(history)
    assert policy.plan is not None
    core: Any = Witness(policy, setup, FakeSignals(routing.signals))
    replay = Replay(frequency, 3, 8)
    replay.begin(policy.ranking)
    accounts = Machine(core, FREE).run((), passes)  # type: ignore[arg-type]
    train = TrainInputs(history, setup, unit, hidden=False)
    for half in (0, 1):
        for weight, mass in train.served(half):
            replay.serve(weight, mass)
    foreseen = sum(replay.gains[layer, :n].sum() for layer, n in enumerate(policy.plan.experts))
    assert accounts.quality_row()[0] == pytest.approx(foreseen)
    assert 0.2 < foreseen / accounts.quality_row()[1] < 0.95


@pytest.mark.parametrize("params", BUSY, ids=str)
def test_the_contracts_hold_while_it_swaps(params: dict[str, Any]) -> None:
    variant, number = Variant("swapmoe", tuple(params.items())), BUSY.index(params)
    for seed in {number % 3, (number + 1) % 3}:
        assert_causal(lambda setup, _: variant.build(setup), seed)
        assert_keeps_the_rules(variant, seed)


def test_uniform_ranks_by_the_train_requests_or_by_index_and_updates_after_each_input() -> None:
    routing = draw(0, n_layers=3)
    setup = setup_of(routing, 11 * SIZE)
    by_index = SwapMoE(setup, planner="uniform", start="index")
    assert not by_index.wants_history()
    assert by_index.plan is not None
    assert (by_index.plan.frequency, by_index.plan.experts) == (1, (4, 3, 3))
    assert [np.nonzero(v)[0].tolist() for v in by_index.virtual] == [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2]]
    trained = SwapMoE(setup, planner="uniform", frequency=7)
    assert trained.wants_history()
    train = draw(9, n_layers=3)
    trained.fit(Recorded(train))
    assert trained.plan == replace(by_index.plan, frequency=7)
    for layer, n in enumerate((4, 3, 3)):
        mass = np.bincount(train.ids[:, layer].ravel(), train.signals["expert_weights"][:, layer].ravel(), 8)
        assert np.nonzero(trained.virtual[layer])[0].tolist() == sorted(np.argsort(-mass)[:n].tolist())


def test_what_the_genetic_planner_decided_is_told() -> None:
    routing = draw(0, n_layers=3)
    policy = SwapMoE(setup_of(routing, 13 * SIZE), unit="pass", frequency=5)
    policy.fit(Recorded(routing))
    assert policy.plan is not None
    assert sum(policy.plan.experts) == 12
    assert min(policy.plan.experts) >= 2
    assert policy.decided() == {"experts_per_layer": policy.plan.experts, "frequency": 5, "swaps_per_step": 2}


def test_a_budget_below_the_plan_is_refused() -> None:
    """Top-2 in 3 layers and a slot for one swap: 7 experts; with 3 slots for swaps 9; with one expert a layer 4."""
    routing = draw(0, n_layers=3)
    for params, slots in (({}, 7), ({"outstanding": 3}, 9), ({"least": 1}, 4), ({"least": 5}, 16)):
        registry.build("swapmoe", setup_of(routing, slots * SIZE), params)
        with pytest.raises(UserError, match=rf"too small for policy=swapmoe.*at least {slots * SIZE} bytes"):
            registry.build("swapmoe", setup_of(routing, slots * SIZE - 1), params)


def test_it_does_not_run_without_what_it_learns_from() -> None:
    routing = draw(0)
    setup = setup_of(routing, 1000)
    core: Any = Witness(SwapMoE(setup), setup, FakeSignals(routing.signals))
    machine, passes = Machine(core, FREE), routing.passes()  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="was not fitted"):
        machine.run((), passes)
    empty = Routing(np.zeros((0, 4, 2), np.uint8), [], 8, routing.signals)
    with pytest.raises(UserError, match="the train requests demand no expert"):
        SwapMoE(setup).fit(Recorded(empty))
