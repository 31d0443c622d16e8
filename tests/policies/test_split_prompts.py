"""How FreeToken's split copies a prompt's experts, worked by hand.

Three layers of four experts of 12 bytes; unless said otherwise copies of 60 ns. Dense part 10 ns, an expert 100 ns.
"""

from dataclasses import replace

import numpy as np
import pytest

from policies import registry
from sim.check.laws import run
from sim.check.synthetic import Routing, draw, setup_of
from sim.core.accounts import COMPLETE
from tests.policies.desk import Desk
from tests.policies.scripted import SIZE, held, sums
from tests.policies.test_split import go, host_of, made


def passes(*prefill: bool) -> Routing:
    """Passes of one token, which choose 0, 3, 2 of three layers of four."""
    ids = np.array([[[0], [3], [2]]] * len(prefill), np.uint8)
    return Routing(ids, [(it, i, 1) for i, it in enumerate(prefill)], 4, {"expert_ids": ids})


def test_a_prompt_streams_layers_and_the_next_comes_while_one_computes() -> None:
    """Copies from 0 on: layer 0 until 240, its expert 0 computes 60-160. Gate 1 at 250; layer 1 until 480, expert 3
    last: 480-580. Gate 2 at 590, with 8 there since 540; 10 until 660 and computed until 760, 11 until 720."""
    done = go(passes(True), 8, backend="cpu")
    assert sums(done) == ([1, 11, 0, 0, 0], [0, 50 + 80 + 230 + 70, 0, 0, 0], 760)
    assert (done.accounts.host_lookups, done.accounts.predicts) == (0, False)
    assert held(done) == [8, 9, 10, 11]


def test_the_buffers_are_taken_from_the_cache_and_leave_nothing_in_it() -> None:
    """A token has 0, 7 and 10 fetched; then a prompt copies 1 to 3 and 4 to 6 while expert 0 computes.

    There is room in 9. In 8 there is, for two layers and no more: 10 goes, as it is of neither, and is copied again
    with layer 2, for which 0 goes.
    """
    for room, copied, kept in ((9, 9, [0, 7, 10]), (8, 10, [7])):
        done = go(passes(False, True), room, copy=10, backend="offload")
        a = done.accounts
        assert a.speculative_bytes + a.demand_bytes == (3 + copied) * SIZE
        assert held(done) == sorted({*kept, 8, 9, 10, 11})
        after = go(passes(False, True, False), room, copy=10, backend="offload").accounts
        assert sum(row[COMPLETE] for row in after.hits[1]) == len(kept)  # of the second token's lookups
        missed = go(passes(False, True, False), room, copy=10, backend="cpu")
        assert (held(missed), sum(row[COMPLETE] for row in missed.accounts.hits[1])) == ([], 0)


@pytest.mark.parametrize("seed", range(3))
def test_after_a_prompt_the_cache_is_as_it_would_be_without(seed: int) -> None:
    routing = draw(seed, k=4, n_experts=10, prompts=1)
    tokens = replace(routing, steps=routing.steps[1:])
    done, lru = go(routing, 20, backend="offload"), run(registry.build("lru", setup_of(tokens, 20 * SIZE), {}), tokens)
    assert done.accounts.hits[1] == lru.accounts.hits[1]


def test_a_prompt_may_be_split_too_or_copied_on_demand() -> None:
    done = go(passes(True), 8, prefill="split", phi=0.0)
    assert (done.accounts.host_lookups, held(done)) == (3, [])
    done = go(passes(True), 8, prefill="demand", phi=0.0)
    assert (done.accounts.host_lookups, held(done)) == (0, [0, 7, 10])


def test_it_needs_two_layers_or_an_expert() -> None:
    setup = replace(setup_of(draw(0, n_layers=3), 10_000), expert_bytes=(12, 5, 30))
    assert registry.build("split", setup, {}).min_budget() == 8 * (30 + 12)
    assert registry.build("split", setup, {"prefill": "demand"}).min_budget() == 30
    assert registry.build("split", setup, {"prefill": "split"}).min_budget() == 30


def test_what_was_to_come_for_a_layer_that_no_token_saw_is_dropped() -> None:
    """Layer 0 is passed by while 1 is on the link, and layer 2 comes for no one: 8 is on the link as the pass ends."""
    policy = made(passes(True), 8, host_of(), phi=0.5)
    desk = Desk(policy)

    def step(prefill: bool) -> None:
        desk.log.clear()
        desk.step(0, prefill=prefill)

    step(True)
    assert desk.prefetched == [0, 1, 2, 3]
    desk.arrive(0)
    desk.slot(1)
    desk.pinned.add(1)
    desk.log.clear()
    desk.gate(1, [4, 5, 6, 7], prefill=True)
    assert desk.said() == [
        *(("cancel", x) for x in range(4)),
        ("evict", 0),
        *(("prefetch", x, 0.0) for x in range(8, 12)),
    ]
    desk.gone(1)
    desk.arrive(4, 5, 6, 7)
    desk.slot(8)
    desk.pinned.add(8)
    step(False)
    assert (desk.cancelled, desk.evicted, desk.prefetched) == ([8, 9, 10, 11], [4, 5, 6, 7], [])
    assert list(policy.place(desk.event(2, [8, 9, 10]))) == [9, 10]  # 8 is demanded before it is dropped
    desk.gate(2, [8, 9, 10])
    desk.pinned.clear()
    desk.arrive(8)
    step(True)
    assert desk.evicted == []  # and is the cache's now
