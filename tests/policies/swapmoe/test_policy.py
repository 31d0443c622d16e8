"""SwapMoE: which experts are swapped, in which order, and how fast; worked by hand, on a desk."""

from typing import Any

import numpy as np

from policies.api import Setup, Signal
from policies.swapmoe import SwapMoE
from sim.check.synthetic import FlatCosts
from tests.policies.desk import Desk

SIZE = 12
PLAIN: dict[str, Any] = {"planner": "uniform", "start": "index", "unit": "pass"}


class OnDesk(Desk[SwapMoE]):
    """3 layers and 4 experts, top-1."""

    def __init__(self, room: int = 7, **params: Any) -> None:
        setup = Setup(3, 4, 1, (SIZE,) * 3, 1, room * SIZE, FlatCosts(copy=120, expert=35, launch_ns=5))
        super().__init__(SwapMoE(setup, **{**PLAIN, **params}))

    def computed(self, x: int) -> None:
        """As the core does when an expert has been computed."""
        self.pinned.discard(x)
        if not self.policy.keep(x):
            self.policy.actions.evict(x)

    def serve(self, *layers: dict[int, float], request: int = 0) -> list[Any]:
        """One pass, a token for each expert of each layer's {expert: weight}; the routings."""
        self.step(request)
        routings = []
        for layer, chosen in enumerate(layers):
            n = len(chosen)
            signals = {
                "expert_ids": [[x] for x in chosen],
                "expert_weights": [[w] for w in chosen.values()],
                "router_probs": np.tile([0.4, 0.3, 0.2, 0.1], (n, 1)),
                "hidden": np.arange(1, n + 1)[:, None],  # norms 1, 2, ...
            }
            event = self.event(layer, [4 * layer + x for x in chosen], requests=(request,), **signals)
            routings.append(self.policy.route(event))
        return routings

    def virtual(self) -> list[list[int]]:
        return [np.nonzero(row)[0].tolist() for row in self.policy.virtual]


def test_at_first_each_layer_loads_all_of_its_virtual_experts() -> None:
    desk = OnDesk()  # 7 slots: 1 for swaps, 2 in each layer
    first = desk.serve({0: 0.5}, {3: 0.5}, {1: 0.25, 2: 0.5})
    # 3 is masked: its token goes to 0, which is likelier than 1. Who has no token is fetched with 0 of them.
    assert [r.demand for r in first] == [[0, 1], [4, 5], [9, 8]]
    assert [r.tokens for r in first] == [[1, 0], [1, 0], [1, 1]]
    assert [(r.kept_mass, r.gate_mass, r.substituted) for r in first] == [(0.5, 0.5, 0), (0, 0.5, 1), (0.25, 0.75, 1)]
    assert [r.demand for r in desk.serve({0: 0.5}, {3: 0.5}, {1: 0.5})] == [[0], [4], [9]]
    assert desk.prefetched == [5 + 2]  # of layer 1's window, as is due


def test_the_swaps_by_hand() -> None:
    """Two passes to an update; 2 of 4 in each layer, {0, 1} at first; a copy is 120 ns, a token computes 120."""
    desk = OnDesk(frequency=2, swaps_per_step=2)
    desk.serve({2: 0.5, 1: 0.25}, {3: 1.0}, {0: 0.5})
    desk.serve({3: 0.375}, {3: 0.5}, {1: 0.25})
    assert desk.prefetched == []
    # Layer 0: I = 0, .25, .5, .375: target {2, 3}, for 0, the least important, and then 1.
    # Layer 1: I = 0, 0, 0, 1.5: target {3} and of the equals the one ranked higher, 0; 1 goes. Layer 2: as it is.
    # Most important first: 7 (1.5) for 5, then 2 (.5) for 0, then 3 (.375) for 1; one at a time, two in a pass.
    desk.serve({0: 1.0}, {0: 1.0}, {0: 1.0})
    assert desk.prefetched == [7]
    assert desk.virtual() == [[0, 1], [0, 1], [0, 1]]  # a copy under way stands in for nobody yet
    desk.policy.on_complete(7)
    assert (desk.evicted, desk.prefetched) == ([5], [7, 2])
    assert desk.virtual() == [[0, 1], [0, 3], [0, 1]]
    desk.policy.on_complete(2)
    assert (desk.evicted, desk.prefetched) == ([5, 0], [7, 2])  # two in this pass
    assert desk.serve({0: 1.0}, {0: 1.0}, {0: 1.0})[0].demand == [1]  # 0 is masked, and 1 likelier than 2
    assert desk.prefetched == [7, 2, 3]


def test_the_window_is_that_since_the_last_update() -> None:
    desk = OnDesk(frequency=1, swaps_per_step=9)
    desk.serve({2: 1.0}, {0: 1.0}, {0: 1.0})
    desk.serve({0: 0.5}, {0: 1.0}, {0: 1.0})  # 2 was important: for 1, as 0 ranks higher
    assert desk.prefetched == [2]
    desk.policy.on_complete(2)
    desk.serve({3: 0.25}, {0: 1.0}, {0: 1.0})  # then 0 alone, and 2 still ranks next: target {0, 2}
    assert desk.prefetched == [2]
    desk.serve({3: 0.25}, {0: 1.0}, {0: 1.0})  # then 3 alone, and 0 ranks next, for all that 2 once was: 3 for 2
    assert desk.prefetched == [2, 3]
    desk.policy.on_complete(3)
    assert desk.virtual()[0] == [0, 3]


def test_an_update_leaves_swaps_under_way_alone() -> None:
    desk = OnDesk(frequency=1, swaps_per_step=9)
    desk.serve({2: 1.0}, {0: 1.0}, {0: 1.0})
    desk.serve({2: 1.0, 3: 0.5}, {0: 1.0}, {0: 1.0})  # 2 for 1 begins
    desk.serve({0: 1.0}, {0: 1.0}, {0: 1.0})  # target {2, 3}: 2 is coming, so 3 for 0
    assert desk.prefetched == [2]
    desk.serve({0: 1.0}, {0: 1.0}, {0: 1.0})  # target {0, 2}: nothing to do once 2 has come; 3 was not begun
    desk.policy.on_complete(2)
    assert (desk.prefetched, desk.evicted) == ([2], [1])
    assert desk.virtual()[0] == [0, 2]


def test_who_is_being_computed_leaves_when_it_has_been() -> None:
    desk = OnDesk(frequency=1, swaps_per_step=9)
    desk.serve({2: 1.0, 3: 0.5}, {0: 1.0}, {0: 1.0})
    desk.serve({1: 1.0}, {0: 1.0}, {0: 1.0})
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
    desk = OnDesk(room=9, outstanding=2, frequency=1, swaps_per_step=9)
    assert desk.virtual()[0] == [0, 1, 2]
    desk.serve({3: 1.0}, {3: 0.5}, {2: 0.375, 3: 0.25})
    desk.serve({2: 1.0}, {0: 1.0}, {0: 1.0})
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
        desk = OnDesk(frequency=1, unit=unit)
        for request, swaps in zip((0, 0, 0, 5, 0), begun, strict=True):  # the last: with the first again, in a batch
            desk.serve(*one, request=request)
            assert len(desk.prefetched) == swaps
    desk = OnDesk(frequency=2, unit="request")
    for request, swaps in ((0, 0), (1, 0), (1, 0), (2, 1)):
        desk.serve(*one, request=request)
        assert len(desk.prefetched) == swaps


def test_token_norms_count_if_asked_for() -> None:
    """Tokens of norms 1 and 2: 2 gets .5 x 1, 3 gets .375 x 2; without norms 2 is the more important."""
    for norms, first in (("one", 2), ("hidden", 3)):
        desk = OnDesk(frequency=1, norms=norms)
        desk.serve({2: 0.5, 3: 0.375}, {0: 1.0}, {0: 1.0})
        desk.serve({0: 1.0}, {0: 1.0}, {0: 1.0})
        assert desk.prefetched == [first]
    assert SwapMoE(desk.policy.setup).needs() == {Signal.ROUTER_PROBS, Signal.WEIGHTS}
    assert SwapMoE(desk.policy.setup, norms="hidden").needs() == {Signal.ROUTER_PROBS, Signal.WEIGHTS, Signal.HIDDEN}
