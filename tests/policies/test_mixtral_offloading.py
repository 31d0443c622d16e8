"""Mixtral-Offloading, worked by hand.

Unless said otherwise: 1 expert per token of 4 per layer, copies of 60 ns; dense part 10 ns, expert 100 ns.
"""

from dataclasses import replace
from typing import Any

import pytest

from policies import registry
from policies.mixtral_offloading import MixtralOffloading
from sim.check.laws import Witness, run
from sim.check.synthetic import ABSENT, FlatCosts, draw, setup_of
from tests.policies.desk import Desk
from tests.policies.scripted import SIZE, go, held, script, sums

SWAPS = script(
    [[[0], [1], [2]], [[0], [3], [2]], [[0], [3], [2]]], [[[1], [2], []], [[3], [2], []], [[0], [2], []]], n_experts=4
)


def on_a_desk(**params: Any) -> Desk:
    """3 layers of 8 experts, with room for all of them."""
    return Desk(MixtralOffloading(setup_of(draw(0, n_layers=3), 10_000), **params))


def test_a_used_speculation_takes_the_place_of_the_least_recently_used() -> None:
    """One slot per layer and one buffer. Step 1: gate 0 at 10, demand to 70, expert 1 of layer 1 to 130; gate 1 at 180.

    It is used, and cached; layer 2's comes at 180-240, gate 2 at 290. Step 2: expert 3 of layer 1 comes at 400-460, is
    used at 510, and the other one goes. Step 3: expert 0 of layer 1 comes at 730-790 for nothing: 3 was cached, and is.
    """
    done = go("mixtral_offloading", SWAPS, 60, room=4, buffers=1, speculated=1)
    assert sums(done) == ([3, 0, 1, 0, 0], [60, 0, 0, 0, 0], 9 * 110 + 60)
    assert held(done) == [0, 4 + 3, 8 + 2]


def test_without_buffers_a_wrong_speculation_evicts_what_was_cached() -> None:
    """As above, but expert 0 of layer 1 takes the place of 3, which gate 1 wants: 60 ns more."""
    done = go("mixtral_offloading", SWAPS, 60, room=3, buffers=0, speculated=1)
    assert sums(done) == ([3, 0, 1, 0, 0], [120, 0, 0, 0, 0], 9 * 110 + 120)
    assert held(done) == [0, 4 + 3, 8 + 2]


def test_only_the_likeliest_are_speculated() -> None:
    ahead = [[3, 1], [6, 1], [ABSENT, 3], [5, ABSENT]]  # most tokens first, then first come: 3, 1, 6, 5
    for speculated, experts in ((1, [11]), (2, [11, 9]), (None, [11, 9, 14, 13])):
        desk = on_a_desk(speculated=speculated)
        desk.complete.add(0)
        desk.gate(0, [0], ahead)
        assert desk.prefetched == experts
        assert desk.expected == [experts]
    desk.gate(2, [16], [[1, 2]])
    assert len(desk.expected) == 1  # there is no layer 3


def test_the_layers_own_experts_are_loaded_first() -> None:
    desk = on_a_desk()
    desk.gate(0, [0, 1], [[3, 1]])
    assert desk.prefetched == []
    desk.arrive(0)
    assert desk.prefetched == []
    desk.arrive(1)
    assert desk.prefetched == [11, 9]


def test_no_more_is_speculated_than_fits_the_buffers() -> None:
    desk = on_a_desk(speculated=4, buffers=2)
    desk.complete.add(0)
    desk.gate(0, [0], [[1, 2, 3, 4]])
    assert desk.prefetched == [9, 10]
    desk.arrive(9, 10)
    assert desk.prefetched == [9, 10]  # the buffers are full
    assert desk.policy.victim(11, True) is None  # and nothing is evicted for a speculative load
    desk.pinned.add(9)
    desk.gate(1, [9], [[1, 2, 3, 4]])
    assert desk.evicted == [10]  # not wanted
    assert desk.prefetched == [9, 10, 17, 18]  # both buffers are free again


def test_what_has_not_found_its_place_yet_keeps_its_buffer() -> None:
    """One slot per layer, one buffer: layer 1 demands what it caches and what is buffered."""
    desk = Desk(MixtralOffloading(setup_of(draw(0, n_layers=3), 4 * SIZE), speculated=1, buffers=1))
    desk.gate(1, [9], [[ABSENT]])
    desk.arrive(9)
    desk.complete.add(0)
    desk.gate(0, [0], [[2]])
    desk.arrive(10)
    desk.pinned.update((9, 10))
    desk.gate(1, [9, 10], [[5]])
    assert (desk.evicted, desk.prefetched) == ([], [10])
    desk.pinned.remove(9)
    desk.policy.keep(9)
    assert (desk.evicted, desk.prefetched) == ([9], [10, 21])


def test_what_arrives_too_late_to_be_stopped_leaves_its_buffer() -> None:
    desk = on_a_desk()
    desk.complete.update((0, 8))
    desk.gate(0, [0], [[1]])
    desk.slot(9)
    desk.pinned.add(9)  # its chunk is on the link
    desk.gate(1, [8], [[ABSENT]])
    assert (desk.cancelled, desk.evicted) == ([9], [])
    desk.pinned.clear()
    desk.arrive(9)
    assert desk.evicted == [9]


def test_a_layer_streams_what_it_demands_through_its_own_slots() -> None:
    """Two layers of 3 experts, whatever else is free. One slot: 60 + 100 for each in turn, 10 + 480 per layer.

    Two slots: copies to 70 and 130, computed 70-170 and 170-270; the third is copied in the place of the first, from
    170 to 230, and computed 270-370. Layer 1's gate is at 380.
    """
    wide = script([[[0, 1, 2], [0, 1, 2]]], n_experts=4)
    for slots, wall in ((1, 2 * 490), (2, 2 * 370), (3, 2 * (10 + 60 + 300))):
        done = go("mixtral_offloading", wide, 60, room=2 * slots + 1, buffers=1)
        assert sums(done)[2] == wall
        assert [len([x for x in held(done) if x // 4 == layer]) for layer in (0, 1)] == [slots, slots]


def test_what_is_there_is_computed_before_what_is_missing() -> None:
    """Two slots: 1 and 2 are left by the first step. The second computes them in 200 ns, and 0 comes under the latter.

    In token order it would wait for 0 in between: 100, 60 + 100, 100.
    """
    for steps in (1, 2):
        wide = script([[[0, 1, 2], [0, 1, 2]]] * steps, n_experts=4)
        done = go("mixtral_offloading", wide, 60, room=5, buffers=1)
        assert sums(done)[2] == 2 * 370 + (steps - 1) * 2 * 310


def test_the_buffer_of_what_is_used_is_free_at_the_gate() -> None:
    """Step 2: gate 1 at 510 caches 7 in the place of 5, so that layer 2's comes at 510-570, before gate 2."""
    routing = script([[[0], [1], [2]], [[0], [3], [3]]], [[[1], [2], []], [[3], [3], []]], n_experts=4)
    done = go("mixtral_offloading", routing, 60, room=4, buffers=1, speculated=1)
    assert sums(done) == ([4, 0, 0, 0, 0], [60, 0, 0, 0, 0], 6 * 110 + 60)


class Shares(Witness):
    """At every answer: a layer is above its share only by what is pinned, and this and the buffered fit the buffers."""

    def next_chunk(self) -> int:
        answer = super().next_chunk()
        policy: Any = self.policy
        state, evictable = self.state, self.state.view().evictable
        above = 0
        for pool, share in enumerate(policy.shares):
            members = range(pool * policy.span, (pool + 1) * policy.span)
            cached = [x for x in members if state.slot[x] and x not in policy.buffered]
            excess = sum(state.size[x] for x in cached) - share
            assert excess <= 0 or not any(map(evictable, cached))
            above += max(0, excess)
        assert above + sum(state.size[x] for x in policy.buffered) <= policy.buffer_bytes
        return answer


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_layers_keep_to_their_shares_but_for_the_buffers(scope: str) -> None:
    for seed in range(12):
        routing = draw(seed, n_layers=3, n_experts=8, k=3, decode=6, recall=0.9)
        costs = FlatCosts(copy=(20, 60, 200)[seed % 3], expert=60)
        buffers, slots = 1 + seed % 3, 1 + seed // 3 % 3
        setup = setup_of(routing, (3 * slots + buffers) * SIZE, chunks=1 + seed % 4, costs=costs)
        params = {"buffers": buffers, "speculated": 1 + seed % 4, "scope": scope}
        done = run(registry.build("mixtral_offloading", setup, params), routing, depth=1 + seed % 2, core_type=Shares)
        assert done.accounts.fates[0] + done.accounts.fates[1] > 0


def test_it_needs_the_buffers_and_one_slot_per_layer() -> None:
    setup = replace(setup_of(draw(0, n_layers=3), 10_000), expert_bytes=(12, 5, 30))

    def least(**params: Any) -> int:
        return registry.build("mixtral_offloading", setup, params).min_budget()

    assert [least(), least(buffers=1), least(buffers=0)] == [4 * 30 + 47, 30 + 47, 47]
    given = replace(setup, budget=4 * 30 + 47 + 12 + 5)  # one expert each, and one more for the lowest two
    assert MixtralOffloading(given).decided() == {"slots_per_layer": [2, 2, 1]}
    assert MixtralOffloading(given, scope="global").decided() == {}
    assert [least(scope="global"), least(scope="global", buffers=0)] == [5 * 30, 30]
