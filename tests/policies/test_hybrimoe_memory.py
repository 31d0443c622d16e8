"""What HybriMoE keeps, streams and prefetches, on cases worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from policies import registry
from policies.hybrimoe import HybriMoE
from policies.signals import Signal
from sim.check.laws import run
from sim.check.synthetic import FlatHost, Routing, draw, setup_of
from sim.workload.passes import Pass
from tests.policies.hybrimoe_by_hand import go, policy_of, routing
from tests.policies.scripted import SIZE, costs, held
from traces.kit.errors import UserError

# -- the cache --------------------------------------------------------------------------------------------------

SCORES = [[[0.5, 0.25, 0.125, 0.125]], [[0.125, 0.125, 0.25, 0.5]]]


# By hand, with the two largest of K = 1: (0.5, 0.25, 0, 0) / 2, then half of it and (0, 0, 0.25, 0.5) / 2. With
# alpha 0.25: (0.125, 0.0625, 0, 0), then three quarters of it and (0, 0, 0.0625, 0.125).
@pytest.mark.parametrize(
    ("alpha", "wanted"), [(0.5, [0.125, 0.0625, 0.125, 0.25]), (0.25, [0.09375, 0.046875, 0.0625, 0.125])]
)
def test_what_an_expert_is_worth(alpha: float, wanted: list[float]) -> None:
    trace = routing([[[0]], [[3]]], n_experts=4, probs=SCORES)
    assert policy_of(go(trace, 2, copy=50, host=50, alpha=alpha)).worth.tolist() == wanted


# Both tokens at once: the mean of (0.5, 0.25, 0, 0) and (0, 0, 0.25, 0.5), halved. Equals of the last count, too.
def test_of_several_tokens_and_of_equal_scores() -> None:
    trace = routing([[[0]], [[3]]], prompt=2, n_experts=4, probs=SCORES)
    assert policy_of(go(trace, 2, copy=50, host=50)).worth.tolist() == [0.125, 0.0625, 0.0625, 0.125]
    trace = routing([[[0]]], n_experts=4, probs=[[[0.4375, 0.25, 0.25, 0.0625]]])
    assert policy_of(go(trace, 2, copy=50, host=50)).worth.tolist() == [0.21875, 0.125, 0.125, 0]


# 0 is worth the most when 2 comes, and 1, the more recent, goes; with the scores turned round 0 goes.
@pytest.mark.parametrize(("scores", "stay"), [([0.75, 0.125, 0.125, 0], [0, 2]), ([0, 0.5, 0.25, 0.25], [1, 2])])
def test_what_is_worth_the_least_goes(scores: list[float], stay: list[int]) -> None:
    trace = routing([[[0]], [[1]], [[2]]], n_experts=4, probs=[[scores]] * 3)
    finished = go(trace, 2, copy=1, host=10**6)
    assert held(finished) == stay
    assert policy_of(finished).held == [2 * SIZE]


# 1 goes for 2; then a token is for 2, and 0, which was worth more, goes for 3.
def test_what_it_is_worth_now() -> None:
    before, after = [0.625, 0, 0.375, 0], [0, 0, 0.875, 0.125]
    trace = routing([[[0]], [[1]], [[2]], [[3]]], n_experts=4, probs=[*[[before]] * 3, [after]])
    assert held(go(trace, 2, copy=1, host=10**6)) == [2, 3]


# Four misses and one slot: they wait in the buffer, each for its turn, and the one that is worth the most stays.
def test_more_than_a_layer_s_slots_at_once() -> None:
    trace = routing([[[0, 1, 2, 3]], [[0, 1, 2, 3]]], probs=[[[0.125, 0.125, 0.5, 0.125, 0.125, 0, 0, 0]]] * 2)
    finished = go(trace, 1, copy=1, host=10**6)
    assert held(finished) == [2]
    assert finished.accounts.demand_bytes == (4 + 3) * SIZE


# -- prompts ----------------------------------------------------------------------------------------------------


# A fast link: the first layer is waited for, every later one is there, and what it does not need has gone.
@pytest.mark.parametrize("slots", [1, 2, 7])
def test_a_prompt_is_the_gpu_s_and_the_next_layer_comes_whole(slots: int) -> None:
    trace = routing([[[0, 1], [6, 7], [3, 4]], [[2, 3], [5, 6], [4, 5]]], prompt=2)
    finished = go(trace, slots, copy=4, host=1)
    hits = finished.accounts.hits[0]
    assert finished.accounts.host_lookups == 0
    assert [row[3] for row in hits] == [0, 3, 3]  # complete
    assert finished.accounts.issued == 2 * 8
    assert finished.accounts.demand_bytes == 4 * SIZE
    # The first layer keeps what it demanded first, the others what came first, as far as there is room.
    room = [min(slots, 4), slots, slots]
    assert held(finished) == [8 * layer + x for layer, n in enumerate(room) for x in range(n)]
    assert not policy_of(finished).buffered


# A slow link: what the next layer does not need is dropped when its gate has run, what it needs is not copied twice.
def test_what_the_next_layer_does_not_need_is_dropped() -> None:
    trace = routing([[[0], [7]], [[1], [7]]], prompt=2)
    finished = go(trace, 1, copy=1000, host=1)
    # Two loads of the first layer; of the next 0, which is on the link and has the slot, and 7; six are not begun.
    assert finished.accounts.demand_bytes == 3 * SIZE
    assert finished.accounts.fates == [0, 1, 1, 6, 0]
    assert finished.accounts.host_lookups == 0


# Copies of 60 ns, four tokens of 100: 0 to 5 of the second layer are there when its gate runs at 480, and go; 6 is on
# the link until 490, and goes then. 7 is late. What stays are the layers' first, in their shares.
def test_what_is_on_the_link_goes_when_it_has_come() -> None:
    finished = go(routing([[[0], [7]]] * 4, prompt=4), 1, copy=60, host=1)
    assert held(finished) == [0, 8]
    assert finished.accounts.fates == [0, 1, 7, 0, 0]


class Blind(Routing):
    """A routing whose prompts no expert of the last layer sees."""

    def passes(self) -> list[Pass]:
        return [replace(p, demand=[*p.demand[:-1], []]) if p.prefill else p for p in super().passes()]


# The first layer's expert comes at 70 and takes until 170; the second's 0 comes at 130, 1 at 190. The next pass begins
# at 180, without the second layer's gate: what is queued then is dropped.
def test_what_was_streamed_for_a_layer_without_tokens_is_dropped() -> None:
    told = routing([[[0], [7]]] * 2, prompt=1)
    trace = Blind(told.ids, told.steps, told.n_experts, told.signals)
    finished = go(trace, 1, copy=60, host=10**6)
    assert finished.accounts.speculative_bytes == 2 * SIZE


# A second prompt finds its experts there. Two others of the second layer are on the link from the first gate on, and
# still are, and have their places, when the third layer's gate runs: of its seven that lack one was not queued, and
# never is. The first prompt has all sixteen queued.
def test_what_has_no_place_in_time_is_not_loaded_later() -> None:
    trace = routing([[[0]] * 3] * 8, prompt=1)
    trace.steps[1] = (True, 1, 1)
    setup = replace(setup_of(trace, (3 + 8) * SIZE, costs=costs(500)), host=FlatHost(10**6, None))
    done = run(registry.build("hybrimoe", setup, {}), trace, depth=2)
    assert done.accounts.issued == 16 + 7 + 6


# Never more than a layer beyond the shares, at whatever price.
@pytest.mark.parametrize("copy", [3, 90, 2000])
def test_the_buffer_holds_one_layer(copy: int) -> None:
    trace = draw(4, n_layers=4, decode=6, prompts=4)
    setup = replace(setup_of(trace, (4 * 2 + 8) * SIZE, costs=costs(copy)), host=FlatHost(300, None))
    policy = registry.build("hybrimoe", setup, {"prefetch_size": 2})
    assert isinstance(policy, HybriMoE)
    most = 0
    heard = policy.on_slot

    def watched(expert: int) -> None:
        nonlocal most
        heard(expert)
        most = max(most, len(policy.buffered) + len(policy.coming))
        assert all(n <= 2 * SIZE for n in policy.held) or not policy.prefill

    policy.on_slot = watched  # type: ignore[method-assign]
    run(policy, trace)
    assert 6 <= most <= 8


# -- prefetching ------------------------------------------------------------------------------------------------

TWO = [[0.5, 0.25, 0.125, 0.125], [0.125, 0.125, 0.25, 0.5]]
"""Scores of two layers: 0 and 1 are the best of the first, 3 and 2 of the second."""


# At the first layer's gate the second's best are loaded, of the step before: 3 and then 2; no more than it has slots.
@pytest.mark.parametrize(
    ("size", "slots", "loaded", "there"),
    [(0, 2, [], []), (1, 2, [3], [0, 3]), (2, 2, [3, 2], [2, 3]), (2, 1, [3], [3]), (9, 2, [3, 2], [2, 3])],
)
def test_the_next_layer_s_best_are_loaded(size: int, slots: int, loaded: list[int], there: list[int]) -> None:
    trace = routing([[[0], [1]]] * 2, n_experts=4, probs=[TWO, TWO])
    policy = policy_of(go(trace, slots, copy=0, host=0, prefetch_size=size))
    asked: list[int] = []
    fresh = registry.build("hybrimoe", policy.setup, {"prefetch_size": size})
    assert isinstance(fresh, HybriMoE)
    forward = fresh._prefetch

    def watched(layer: int) -> None:
        forward(layer)
        asked.append(layer)
        asked.extend(x - 4 for x in fresh.prefetched)

    fresh._prefetch = watched  # type: ignore[method-assign]
    finished = run(fresh, trace)
    nothing_known = [0, 1, 2, 3][: len(loaded)]
    assert asked == ([1, *nothing_known, 1, *loaded] if size else [])
    assert finished.accounts.predicts == bool(size)
    assert held(finished) == [4 + x for x in there]


# The second layer's 0 is prefetched, and 3 is wanted: 0 goes when the gate runs, but for a chunk that is under way.
def test_what_was_prefetched_in_vain_is_dropped() -> None:
    finished = go(routing([[[5], [3]]] * 2, n_experts=8), 1, copy=3000, host=700, chunks=3, prefetch_size=1)
    assert finished.accounts.host_lookups == 4
    assert finished.accounts.issued == 2
    assert finished.accounts.fates == [0, 0, 0, 2, 0]


# With alpha = 0 nobody is worth anything, and 0 is the best of equals: it takes the only slot, and not its own.
def test_what_is_prefetched_does_not_go_for_itself() -> None:
    finished = go(routing([[[5], [3]]] * 2), 1, copy=30, host=10**6, prefetch_size=1, alpha=0.0)
    assert finished.accounts.fates == [0, 0, 2, 0, 0]
    assert finished.accounts.demand_bytes == (1 + 2) * SIZE  # 5 stays, 3 has gone when it is wanted again


# -- what it wants ----------------------------------------------------------------------------------------------


def test_what_it_needs_and_states() -> None:
    setup = setup_of(routing([[[0]]] * 2), 100 * SIZE)
    policy = registry.build("hybrimoe", setup, {})
    assert policy.needs() == {Signal.ROUTER_PROBS}
    assert not policy.without
    assert policy.min_budget() == (8 + 1) * SIZE
    least = registry.build("hybrimoe", replace(setup, budget=(8 + 3) * SIZE + 5), {})
    assert least.decided() == {"slots_per_layer": [3]}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prefetch_size": -1}, r"policy\.prefetch_size=-1: allowed: at least 0 "),
        ({"alpha": 1.5}, r"policy\.alpha=1\.5: allowed: 0 to 1 "),
        ({"prices": "paper"}, r"policy\.prices='paper': allowed: machine, code"),
    ],
)
def test_a_slip_is_one_line(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        registry.build("hybrimoe", setup_of(routing([[[0]]]), 100 * SIZE), params)
    assert "\n" not in str(error.value)
