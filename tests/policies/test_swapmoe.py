"""SwapMoE: which experts are swapped, in which order, and how fast; worked by hand, on a desk."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from policies.api import Actions, LayerEvent, Setup, Signal, Step
from policies.swapmoe import SwapMoE
from tests.policies.lab import FakeSignals, FlatCosts

SIZE = 12
PLAIN: dict[str, Any] = {"planner": "uniform", "start": "index", "unit": "pass"}


class Desk:
    """A policy on a desk, of 3 layers and 4 experts, top-1: its facts are told by hand, its actions written down."""

    def __init__(self, room: int = 7, **params: Any) -> None:
        setup = Setup(3, 4, 1, (SIZE,) * 3, 1, room * SIZE, FlatCosts(copy=120, expert=35, launch_ns=5))
        self.policy = SwapMoE(setup, **{**PLAIN, **params})
        self.prefetched: list[int] = []
        self.evicted: list[int] = []
        self.pinned: set[int] = set()
        no: Any = SimpleNamespace()
        self.policy.attach(
            no, Actions(lambda x, _: not self.prefetched.append(x), no, no, no, evict=lambda x: self.evict(x))
        )
        self.steps = 0

    def evict(self, x: int) -> bool:
        if x in self.pinned:
            return False
        self.evicted.append(x)
        self.policy.on_evict(x)
        return True

    def computed(self, x: int) -> None:
        """As the core does when an expert has been computed."""
        self.pinned.discard(x)
        if not self.policy.keep(x):
            self.evict(x)

    def step(self, *layers: dict[int, float], request: int = 0) -> list[Any]:
        """One pass, a token for each expert of each layer's {expert: weight}; the routings."""
        signals: Any = FakeSignals({})
        self.steps += 1
        self.policy.on_step(Step(self.steps, False, 1, (request,), (1,), signals))
        routings = []
        for layer, chosen in enumerate(layers):
            ids, n = np.array([[x] for x in chosen], np.uint8), len(chosen)
            arrays = {
                "expert_ids": ids,
                "expert_weights": np.array([[w] for w in chosen.values()], np.float16),
                "router_probs": np.tile(np.array([0.4, 0.3, 0.2, 0.1], np.float16), (n, 1)),
                "hidden": np.arange(1, n + 1, dtype=np.float16)[:, None],  # norms 1, 2, ...
            }
            signals = FakeSignals({name: a[:, None].repeat(3, 1) for name, a in arrays.items()})
            signals.enter([(0, n)])
            signals.layer = layer
            event = LayerEvent(layer, False, [4 * layer + x for x in chosen], [1] * n, (request,), (n,), signals)
            routings.append(self.policy.route(event))
        return routings

    def virtual(self) -> list[list[int]]:
        return [np.nonzero(row)[0].tolist() for row in self.policy.virtual]


def test_at_first_each_layer_loads_all_of_its_virtual_experts() -> None:
    desk = Desk()  # 7 slots: 1 for swaps, 2 in each layer
    first = desk.step({0: 0.5}, {3: 0.5}, {1: 0.25, 2: 0.5})
    # 3 is masked: its token goes to 0, which is likelier than 1. Who has no token is fetched with 0 of them.
    assert [r.demand for r in first] == [[0, 1], [4, 5], [9, 8]]
    assert [r.tokens for r in first] == [[1, 0], [1, 0], [1, 1]]
    assert [(r.kept_mass, r.gate_mass, r.substituted) for r in first] == [(0.5, 0.5, 0), (0, 0.5, 1), (0.25, 0.75, 1)]
    assert [r.demand for r in desk.step({0: 0.5}, {3: 0.5}, {1: 0.5})] == [[0], [4], [9]]
    assert desk.prefetched == [5 + 2]  # of layer 1's window, as is due


def test_the_swaps_by_hand() -> None:
    """Two passes to an update; 2 of 4 in each layer, {0, 1} at first; a copy is 120 ns, a token computes 120."""
    desk = Desk(frequency=2, swaps_per_step=2)
    desk.step({2: 0.5, 1: 0.25}, {3: 1.0}, {0: 0.5})
    desk.step({3: 0.375}, {3: 0.5}, {1: 0.25})
    assert desk.prefetched == []
    # Layer 0: I = 0, .25, .5, .375: target {2, 3}, for 0, the least important, and then 1.
    # Layer 1: I = 0, 0, 0, 1.5: target {3} and of the equals the one ranked higher, 0; 1 goes. Layer 2: as it is.
    # Most important first: 7 (1.5) for 5, then 2 (.5) for 0, then 3 (.375) for 1; one at a time, two in a pass.
    desk.step({0: 1.0}, {0: 1.0}, {0: 1.0})
    assert desk.prefetched == [7]
    assert desk.virtual() == [[0, 1], [0, 1], [0, 1]]  # a copy under way stands in for nobody yet
    desk.policy.on_complete(7)
    assert (desk.evicted, desk.prefetched) == ([5], [7, 2])
    assert desk.virtual() == [[0, 1], [0, 3], [0, 1]]
    desk.policy.on_complete(2)
    assert (desk.evicted, desk.prefetched) == ([5, 0], [7, 2])  # two in this pass
    assert desk.step({0: 1.0}, {0: 1.0}, {0: 1.0})[0].demand == [1]  # 0 is masked, and 1 likelier than 2
    assert desk.prefetched == [7, 2, 3]


def test_the_window_is_that_since_the_last_update() -> None:
    desk = Desk(frequency=1, swaps_per_step=9)
    desk.step({2: 1.0}, {0: 1.0}, {0: 1.0})
    desk.step({0: 0.5}, {0: 1.0}, {0: 1.0})  # 2 was important: for 1, as 0 ranks higher
    assert desk.prefetched == [2]
    desk.policy.on_complete(2)
    desk.step({3: 0.25}, {0: 1.0}, {0: 1.0})  # then 0 alone, and 2 still ranks next: target {0, 2}
    assert desk.prefetched == [2]
    desk.step({3: 0.25}, {0: 1.0}, {0: 1.0})  # then 3 alone, and 0 ranks next, for all that 2 once was: 3 for 2
    assert desk.prefetched == [2, 3]
    desk.policy.on_complete(3)
    assert desk.virtual()[0] == [0, 3]


def test_an_update_leaves_swaps_under_way_alone() -> None:
    desk = Desk(frequency=1, swaps_per_step=9)
    desk.step({2: 1.0}, {0: 1.0}, {0: 1.0})
    desk.step({2: 1.0, 3: 0.5}, {0: 1.0}, {0: 1.0})  # 2 for 1 begins
    desk.step({0: 1.0}, {0: 1.0}, {0: 1.0})  # target {2, 3}: 2 is coming, so 3 for 0
    assert desk.prefetched == [2]
    desk.step({0: 1.0}, {0: 1.0}, {0: 1.0})  # target {0, 2}: nothing to do once 2 has come; 3 was not begun
    desk.policy.on_complete(2)
    assert (desk.prefetched, desk.evicted) == ([2], [1])
    assert desk.virtual()[0] == [0, 2]


def test_who_is_being_computed_leaves_when_it_has_been() -> None:
    desk = Desk(frequency=1, swaps_per_step=9)
    desk.step({2: 1.0, 3: 0.5}, {0: 1.0}, {0: 1.0})
    desk.step({1: 1.0}, {0: 1.0}, {0: 1.0})
    assert desk.prefetched == [2]
    desk.pinned = {0, 1}
    desk.policy.on_complete(2)  # for 1
    assert (desk.evicted, desk.prefetched) == ([], [2])  # no slot is free yet for the next
    assert desk.virtual()[0] == [0, 2]
    desk.computed(0)
    assert desk.evicted == []
    desk.computed(1)
    assert (desk.evicted, desk.prefetched) == ([1], [2, 3])


def test_a_slot_that_is_still_being_read_is_not_free() -> None:
    """Two slots for swaps, four swaps: layer 0's incoming is complete, and what it replaces is being computed."""
    desk = Desk(room=9, outstanding=2, frequency=1, swaps_per_step=9)
    assert desk.virtual()[0] == [0, 1, 2]
    desk.step({3: 1.0}, {3: 0.5}, {2: 0.375, 3: 0.25})
    desk.step({2: 1.0}, {0: 1.0}, {0: 1.0})
    assert desk.prefetched == [3, 7]
    desk.pinned = {2}
    desk.policy.on_complete(3)
    assert desk.prefetched == [3, 7]
    desk.policy.on_complete(7)  # one slot is free again, the other is not
    assert desk.prefetched == [3, 7, 10]
    desk.computed(2)
    assert desk.prefetched == [3, 7, 10, 11]


def test_an_input_is_a_request_or_a_pass() -> None:
    one = {2: 1.0}, {0: 1.0}, {0: 1.0}
    for unit, begun in (("pass", [0, 1, 1, 1, 1]), ("request", [0, 0, 0, 1, 1])):
        desk = Desk(frequency=1, unit=unit)
        for request, swaps in zip((0, 0, 0, 5, 0), begun, strict=True):  # the last: with the first again, in a batch
            desk.step(*one, request=request)
            assert len(desk.prefetched) == swaps
    desk = Desk(frequency=2, unit="request")
    for request, swaps in ((0, 0), (1, 0), (1, 0), (2, 1)):
        desk.step(*one, request=request)
        assert len(desk.prefetched) == swaps


def test_token_norms_count_if_asked_for() -> None:
    """Tokens of norms 1 and 2: 2 gets .5 x 1, 3 gets .375 x 2; without norms 2 is the more important."""
    for norms, first in (("one", 2), ("hidden", 3)):
        desk = Desk(frequency=1, norms=norms)
        desk.step({2: 0.5, 3: 0.375}, {0: 1.0}, {0: 1.0})
        desk.step({0: 1.0}, {0: 1.0}, {0: 1.0})
        assert desk.prefetched == [first]
    assert SwapMoE(desk.policy.setup).needs() == {Signal.ROUTER_PROBS, Signal.WEIGHTS}
    assert SwapMoE(desk.policy.setup, norms="hidden").needs() == {Signal.ROUTER_PROBS, Signal.WEIGHTS, Signal.HIDDEN}


def test_the_bounded_rate_comes_from_the_bandwidth() -> None:
    assert Desk().policy.swaps_per_step == 1  # 3 x (35 + 5) ns of compute, 120 a copy
    assert Desk(swaps_per_step=5).policy.swaps_per_step == 5
