"""Whole layers, worked by hand.

Unless said otherwise: 3 layers of 4 experts, 1 per token, copies of 60 ns; dense part 10 ns, expert 100 ns.
"""

from dataclasses import replace
from typing import Any

import pytest

from policies import registry
from sim.check.laws import run
from sim.check.synthetic import draw, setup_of
from tests.policies.desk import Desk
from tests.policies.scripted import SIZE, go, held, script, sums

ONCE = script([[[0], [3], [2]]], n_experts=4)
TWICE = script([[[0], [3], [2]]] * 2, n_experts=4)


def test_a_whole_layer_is_copied_when_it_is_reached() -> None:
    """Gate 0 at 10, copies to 70, 130, 190, 250; expert 0 computes 70-170, the layer ends with its last copy.

    Gate 1 at 260, copies to 500, expert 3 comes last: 500-600. Gate 2 at 610, copies to 850; expert 2, third: 790-890.
    """
    done = go("deepspeed", ONCE, 60, room=12)
    waits = (60 + 80) + 240 + 180
    assert sums(done) == ([0] * 5, [waits, 0, 0, 0, 0], 890)
    assert done.accounts.demand_bytes == 12 * SIZE
    assert done.accounts.hit_row()[:4] == [3, 0, 0, 0]  # what no gate chose is no lookup
    assert not done.accounts.predicts


def test_the_most_recent_goes_first_if_one_asks_for_it() -> None:
    """Room for 8. Step 1: layers 0 and 1 fill it; layer 2 evicts 7, 6, 5, 4, the most recent of other layers.

    Step 2: layer 0 is there; layer 1 evicts 3, 2, 1, 0; layer 2 is there. LRU would have found nothing.
    """
    done = go("deepspeed", TWICE, 60, room=8, cache="mru")
    assert done.hits == 2
    assert done.accounts.demand_bytes == (12 + 4) * SIZE
    assert held(done) == list(range(4, 12))


def test_lru_over_whole_layers_hits_nothing_a_layer_below_the_model() -> None:
    for seed in range(4):
        routing = draw(seed, n_layers=4, n_experts=8, k=3)
        for room in (8, 13, 24):
            setup = setup_of(routing, room * SIZE, chunks=1 + seed % 3)
            assert run(registry.build("deepspeed", setup, {}), routing).hits == 0
        done = run(registry.build("deepspeed", setup_of(routing, 32 * SIZE), {}), routing)
        assert done.hits == done.lookups - sum(map(len, routing.passes()[0].demand))
        assert done.accounts.demand_bytes == 32 * SIZE


def test_a_layer_keeps_its_slots_until_the_next_gate() -> None:
    done = go("deepspeed", TWICE, 60, room=12, cache="none")
    assert (held(done), done.core.state.peak) == ([8, 9, 10, 11], 4 * SIZE)
    assert done.accounts.demand_bytes == 24 * SIZE


def test_the_next_layer_comes_while_this_one_computes() -> None:
    """Layer 0 as above, to 250; then layer 1 without a pause, to 310, 370, 430, 490, its gate at 260.

    Expert 3 computes 490-590, while layer 2 comes: 550, 610, 670, 730. Gate 2 at 600 finds one of it complete; expert
    2 computes 670-770. Layer 0 of the next step follows from 730 on: 790, and so on.
    """
    done = go("deepspeed", ONCE, 60, room=8, fetch="next_layer", cache="none")
    assert sums(done) == ([1, 7, 0, 0, 4], [60 + 80, (490 - 260) + (670 - 600), 0, 0, 0], 770)
    assert done.accounts.hit_row()[:2] == [3, 2]  # all of a layer is predicted, but for the first
    twice = go("deepspeed", TWICE, 60, room=8, fetch="next_layer", cache="none")
    # Gate 0 at 780, expert 0 at 790-890, layer 0 to 970; gate 1 at 980; layer 1 to 1210, then as before.
    assert sums(twice)[2] == 1210 + 100 + 10 + (770 - 600)
    assert twice.accounts.hit_row()[:2] == [6, 5]
    fast = go("deepspeed", ONCE, 10, room=8, fetch="next_layer", cache="none")
    assert fast.core.state.peak == 8 * SIZE  # this layer and the next


def test_what_is_coming_is_no_victim_of_a_prefetch() -> None:
    policy: Any = registry.build("deepspeed", setup_of(ONCE, 12 * SIZE), {"fetch": "next_layer"})
    policy.view = type("View", (), {"evictable": staticmethod(lambda x: True)})
    policy.current, policy.coming = 0, 1
    for x in (4, 5):
        policy.on_slot(x)
    assert policy.victim(6, True) is None
    assert policy.victim(0, False) == 4  # demand may take it
    policy.on_slot(9)
    assert policy.victim(6, True) == policy.victim(0, False) == 9


def test_what_was_to_come_for_a_layer_that_no_token_saw_is_dropped() -> None:
    """Layer 1 is asked for at gate 0 and 5 has come when gate 2 runs; step 2 goes on as ever."""
    policy: Any = registry.build("deepspeed", setup_of(ONCE, 12 * SIZE), {"fetch": "next_layer", "cache": "none"})
    desk = Desk(policy)
    desk.arrive(0, 1, 2, 3)
    desk.gate(0, [0, 1, 2, 3])
    assert (desk.prefetched, desk.cancelled) == ([4, 5, 6, 7], [])
    desk.arrive(5)
    desk.gate(2, [8, 9, 10, 11])
    assert desk.cancelled == [4, 5, 6, 7]  # of no effect on 5
    assert (desk.evicted, desk.prefetched) == ([0, 1, 2, 3, 5], [4, 5, 6, 7, 0, 1, 2, 3])
    desk.gate(0, [0, 1, 2, 3])
    assert desk.cancelled == [4, 5, 6, 7]


def test_a_model_of_one_layer_needs_room_for_one() -> None:
    routing = script([[[0]], [[1]]], n_experts=4)
    done = go("deepspeed", routing, 60, room=4, fetch="next_layer", cache="none")
    assert (sums(done), done.hits) == (([0] * 5, [60 + 80, 0, 0, 0, 0], 250 + 110), 1)


@pytest.mark.parametrize(("cache", "same"), [("none", "on_demand"), ("lru", "lru")])
def test_active_on_demand_decides_as_the_plain_cache_does(cache: str, same: str) -> None:
    for seed in range(4):
        routing = draw(seed, k=3)
        setup = setup_of(routing, 9 * SIZE, chunks=1 + seed % 2)
        one = run(registry.build("deepspeed", setup, {"fetch": "active", "cache": cache}), routing)
        other = run(registry.build(same, setup, {}), routing)
        assert one.core.digest() == other.core.digest()
        assert one.accounts == other.accounts


def test_it_needs_a_layer_or_two() -> None:
    setup = replace(setup_of(draw(0, n_layers=3), 10_000), expert_bytes=(12, 5, 30))

    def least(fetch: str) -> int:
        return registry.build("deepspeed", setup, {"fetch": fetch}).min_budget()

    assert [least("active"), least("whole_layer"), least("next_layer")] == [30, 8 * 30, 8 * (30 + 12)]
