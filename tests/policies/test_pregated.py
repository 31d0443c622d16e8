"""Pre-gated MoE, worked by hand and against closed forms: copies of 60 ns, dense part 10 ns, expert 100 ns."""

from itertools import pairwise
from typing import Any

import pytest

from policies import registry
from policies.api import LayerEvent
from policies.lru import LRUCopyFirst
from policies.pregated import Pregated
from sim.check.laws import Witness, run
from sim.check.synthetic import FlatCosts, draw, setup_of
from tests.policies.scripted import SIZE, as_shipped, costs, go, held, script, sums
from traces.kit.errors import UserError

TWICE = script([[[3, 1], [2, 0], [1, 3]]] * 2, n_experts=4)


class OnDemand(LRUCopyFirst):
    """The same engine without a pre-gate and without a cache."""

    def keep(self, expert: int) -> bool:
        return False


def test_the_next_layer_comes_while_this_one_computes() -> None:
    """Step 1: gate 0 at 10; 1, 3 by index to 70, 130; layer 1 (4, 6) to 190, 250; computed from 130 to 330.

    Gate 1 at 340: all is there, 540; layer 2 to 400, 460, gate 2 at 550, to 750. Step 2 begins with a gate at 760.
    """
    done = go("pregated", TWICE, 60, room=4)
    assert sums(done) == ([8, 0, 0, 0, 0], [2 * 120, 0, 0, 0, 0], 2 * 750)
    assert done.accounts.demand_bytes == 4 * SIZE
    assert done.accounts.hit_row()[:4] == [12, 8, 8, 8]
    assert held(done) == [9, 11], "the half of the last layer"


def test_a_slow_link_is_waited_for_and_nothing_computes_before_all_is_there() -> None:
    """Copies of 150: layer 0 at 310, computed to 510; gate 1 at 520, layer 1 comes at 460 and 610: 610 to 810.

    Its first expert, there at the gate, has waited: 6 is late, and layer 2 comes from 610 on, to 910, gate 2 at 820.
    """
    done = go("pregated", TWICE, 150, room=4)
    assert sums(done) == ([4, 4, 0, 0, 0], [2 * 300, 2 * (90 + 90), 0, 0, 0], 2 * (910 + 200))


@pytest.mark.parametrize(("copy", "expert", "dense"), [(60, 100, 10), (300, 100, 10), (110, 100, 10), (7, 0, 0)])
def test_the_time_of_a_step_in_closed_form(copy: int, expert: int, dense: int) -> None:
    """One expert a layer: the first is fetched, then each layer takes its compute or its copy, whichever is longer."""
    prices = FlatCosts(copy=copy, expert=expert, launch_ns=0, dense=dense, head=0, layer_overhead_ns=0)
    routing = draw(5, n_layers=6, k=1, decode=9, prompts=1)
    routing.steps[0] = (False, *routing.steps[0][1:])  # a pass of several tokens at once has several experts a layer
    routing.steps = routing.steps[1:]
    setup = setup_of(routing, 2 * SIZE, costs=prices)
    ours = run(registry.build("pregated", setup, {}), routing)
    theirs = run(registry.build("on_demand", setup, {}), routing)
    step = dense + copy + 5 * max(dense + expert, copy) + expert
    assert sums(ours)[2] == 9 * step
    assert sums(theirs)[2] == 9 * 6 * (dense + copy + expert)


@pytest.mark.parametrize("seed", range(6))
def test_it_copies_just_what_is_demanded_one_layer_at_a_time(seed: int) -> None:
    """And so two layers' experts are in use at most, and it never ends later than without a pre-gate."""
    routing = draw(seed, n_layers=3 + seed % 2, k=2 + seed % 2, decode=8)
    setup = setup_of(routing, 1000 * SIZE, chunks=1 + seed % 3, costs=costs(20 * (1 + 4 * seed)))
    done = run(registry.build("pregated", setup, {}), routing)
    accounts, passes = done.accounts, routing.passes()
    demanded = [[len(layer) for layer in step.demand] for step in passes]
    assert accounts.fates[2:] == [0, 0, 0], "nothing is copied in vain"
    assert accounts.demand_bytes + sum(accounts.fate_bytes) == SIZE * sum(map(sum, demanded))
    foretold = sum(sum(layers[1:]) for layers, step in zip(demanded, passes, strict=True) if not step.prefill)
    assert accounts.issued == sum(accounts.fates) == accounts.hit_row()[1] == foretold
    decode = [layers for layers, step in zip(demanded, passes, strict=True) if not step.prefill]
    two = [a + b for layers in decode for a, b in pairwise(layers)]
    assert done.core.state.peak == SIZE * max(*two, *(n for layers in demanded for n in layers))
    assert sums(done)[2] <= sums(run(OnDemand(setup), routing))[2]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_coming_is_not_given_up_where_room_is_short(seed: int) -> None:
    """Nothing that was copied ahead is copied again, if there is room for more than one expert or for no more."""
    routing = draw(seed, n_layers=4, k=2 + seed % 3, decode=10)
    for room in (1, 2, 3, 5):
        setup = setup_of(routing, room * SIZE, chunks=1 + seed % 2, costs=costs(30))
        done = run(registry.build("pregated", setup, {}), routing)
        assert done.accounts.fates[2:] == [0, 0, 0]
        assert done.accounts.demand_bytes + sum(done.accounts.fate_bytes) == SIZE * done.lookups


def test_what_is_coming_and_was_there_already_goes_where_nothing_else_can() -> None:
    """Room for one: when step 2 begins, it is that of layer 1's, which comes again."""
    done = go("pregated", script([[[0], [0]]] * 2, n_experts=4), 60, room=1)
    assert (done.accounts.demand_bytes + sum(done.accounts.fate_bytes), done.hits) == (4 * SIZE, 0)


def test_copies_go_by_index() -> None:
    class Notes(Pregated):
        def on_slot(self, expert: int) -> None:
            super().on_slot(expert)
            slots.append(expert)

    slots: list[int] = []
    run(Notes(setup_of(TWICE, 12 * SIZE, costs=costs(60))), TWICE)
    assert slots == [1, 3, 4, 6, 9, 11] * 2


def test_prefill_is_on_demand() -> None:
    routing = draw(2, n_layers=4, k=2, decode=0)
    done = run(registry.build("pregated", setup_of(routing, 40 * SIZE, costs=costs(60)), {}), routing)
    assert (done.accounts.issued, done.hits) == (0, 0)
    assert not done.accounts.predicts


# -- the cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache", "of_layer_0", "kept"),
    [
        # Three are kept beside the buffers, number 4 of layer 1 in them: when 3 has come, one of 0, 1 and 2 goes.
        ("lru", [0, 0, 1, 2, 3, 3], [1, 2, 3, 4]),  # the least recent
        ("lru", [0, 1, 0, 2, 3, 3], [0, 2, 3, 4]),  # which is not the first that came
        ("lfu", [0, 0, 1, 2, 3, 3], [0, 2, 3, 4]),  # the less frequent, and of these the less recent
        ("lifo", [0, 0, 1, 2, 3, 3], [0, 1, 3, 4]),  # the last that came
        # Two: 1 goes for 2, 2 for 1 and 1 for 2, each anew with a count of one below that of 0.
        ("lfu", [0, 0, 1, 2, 1, 2], [0, 2, 4]),
    ],
)
def test_what_the_cache_drops(cache: str, of_layer_0: list[int], kept: list[int]) -> None:
    routing, share = script([[[x], [0]] for x in of_layer_0], n_experts=4), (len(kept) - 1) / 8
    assert held(go("pregated", routing, 60, room=6, cache_share=share, cache=cache)) == kept


@pytest.mark.parametrize("cache", ["lru", "lfu", "lifo"])
@pytest.mark.parametrize("seed", range(3))
def test_the_cache_keeps_within_its_share(cache: str, seed: int) -> None:
    routing = draw(seed, n_layers=4, k=2, decode=12)
    setup = setup_of(routing, 20 * SIZE, chunks=1 + seed % 2, costs=costs(60))
    policy: Any = registry.build("pregated", setup, {"cache_share": 0.2, "cache": cache})
    share, kept = int(0.2 * 32), []

    class Looks(Witness):
        def gate(self, *told: Any) -> LayerEvent:
            event = super().gate(*told)
            kept.append(sum(self.state.slot[x] for x in range(32) if x not in policy.buffered))
            return event

    done = run(policy, routing, core_type=Looks)
    assert max(kept) == share
    assert done.hits > run(registry.build("pregated", setup, {}), routing).hits


def test_all_that_is_kept_is_never_copied_again() -> None:
    """A share and a budget for everything: each expert is copied once."""
    routing = draw(1, n_layers=4, k=1, decode=9, prompts=1)
    demanded = {x for step in routing.passes() for layer in step.demand for x in layer}
    assert len(demanded) <= int(0.9 * 32)
    done = run(registry.build("pregated", setup_of(routing, 64 * SIZE), {"cache_share": 0.9}), routing)
    assert done.core.state.used == SIZE * len(demanded)
    assert done.accounts.demand_bytes + sum(done.accounts.fate_bytes) == SIZE * len(demanded)


def test_the_share_is_one_and_counts() -> None:
    setup = setup_of(TWICE, 4 * SIZE)
    with pytest.raises(UserError, match=r"policy.cache_share=0.95: allowed: 0 to 0.9"):
        registry.build("pregated", setup, {"cache_share": 0.95})
    with pytest.raises(UserError, match=f"too small for policy=pregated, .*at least {(6 + 1) * SIZE} bytes"):
        registry.build("pregated", setup, {"cache_share": 0.5})
    assert as_shipped("pregated_cached") == {"cache_share": 0.2}
