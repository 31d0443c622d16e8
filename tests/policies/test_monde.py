"""MoNDE: how many experts go to the GPU, which ones, and what stays there."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest

from policies import registry
from policies.api import LayerEvent
from policies.monde import Monde
from sim.check.laws import Run, run
from sim.check.synthetic import FlatHost, Routing, setup_of
from tests.policies.scripted import SIZE, as_shipped, costs, held, script
from traces.kit.errors import UserError

RATES = (Fraction(32), Fraction(512))  # GB/s of the link and of near-data compute


def go(routing: Routing, *, copy: int = 50, device: int = 60, room: int = 9, **params: Any) -> Run:
    """An expert takes ``copy`` ns to fetch, 100 on the GPU and ``device`` where it lies, each per token."""
    setup = setup_of(routing, room * SIZE, costs=costs(copy))
    setup = replace(setup, host=FlatHost(device, None, workers=1, pair=RATES))
    return run(registry.build("monde", setup, params), routing)


def on_gpu(done: Run, tokens: dict[int, int]) -> list[int]:
    """What the GPU would compute of an event in the state that the run ended with."""
    event = LayerEvent(0, False, list(tokens), list(tokens.values()), (0,), (1,), done.core.step.signals)
    hosted = done.policy.place(event)
    return [x for x in tokens if x not in hosted]


EMPTY = Routing(np.zeros((1, 1, 1), np.uint8), [(False, 0, 1)], 64)


# ceil(0.05882 x active), by hand; 1/17 is 32 / (32 + 512), of which 0.05882 is the rounding.
@pytest.mark.parametrize(
    ("share", "active", "n"),
    [
        *(
            (share, active, n)
            for share in (None, 0.05882)
            for active, n in ((1, 1), (17, 1), (18, 2), (34, 2), (35, 3))
        ),
        (0.05882, 64, 4),  # 3.76
        (0.1, 10, 1),  # as it is written: not a little more
        (0.1, 11, 2),
        (1.0, 10, 10),
        (0.0, 64, 0),
    ],
)
def test_the_share_of_the_active_experts_is_rounded_up(share: float | None, active: int, n: int) -> None:
    done = go(EMPTY, share=share)
    assert on_gpu(done, dict.fromkeys(range(active), 1)) == list(range(n))
    assert done.policy.decided() == {"gpu_share_per_layer": [0.058824 if share is None else share]}


def test_the_hottest_go_to_the_gpu_and_of_equals_the_lower_number() -> None:
    done = go(EMPTY, share=0.4)
    assert on_gpu(done, {7: 2, 3: 2, 5: 9, 1: 1, 4: 2}) == [3, 5]
    event = LayerEvent(0, False, [7, 3, 5, 1, 4], [2, 2, 9, 1, 2], (0,), (1,), done.core.step.signals)
    assert list(done.policy.place(event)) == [4, 7, 1], "the hottest first, as they are computed"


# The same five experts four times: one is fetched each time, and none is there for the next.
def test_by_the_ratio_nothing_is_kept() -> None:
    same = script([[[0, 1, 2, 3, 4]]] * 4)
    done = go(same)
    assert held(done) == []
    assert (done.accounts.demand_bytes, done.hits, done.accounts.host_lookups) == (4 * SIZE, 0, 16)
    near = go(same, **as_shipped("monde_near_data"))
    assert (near.accounts.demand_bytes, near.accounts.host_lookups) == (0, 20)
    setup = near.policy.setup
    split = run(registry.build("static_split", setup, {"host_layers": 1}), same)  # all of its one layer
    assert near.accounts.end_ns == split.accounts.end_ns == 4 * (10 + 5 * 60)


# By hand, at 50 to fetch, 100 on the GPU and 60 in the device: of five experts one is fetched (150 and 240, not 0 and
# 300); two would end at 250. Then one is there: it and one more take 200, the three others 180.
def test_balanced_fetches_as_many_as_end_first_and_keeps_them() -> None:
    done = go(script([[[0, 1, 2, 3, 4]]] * 2), rule="balanced")
    assert held(done) == [0, 1]
    assert done.accounts.end_ns - done.accounts.start_ns == 2 * 10 + 240 + 200
    none = go(script([[[0, 1, 2, 3, 4]]] * 2), rule="balanced", device=30)
    assert (held(none), none.accounts.demand_bytes) == ([], 0), "the forced one would end at 150"
    assert go(script([[[0, 1, 2, 3, 4]]] * 2), device=30).accounts.demand_bytes == 2 * SIZE


# What is there goes before what is hotter and is not: it costs no load.
def test_balanced_takes_what_is_there_first() -> None:
    done = go(script([[[0, 1, 2, 3, 4]]] * 2), rule="balanced", copy=500, device=200)
    assert held(done) == [0, 1], "at 600 and 800, then at 700 and 600"
    done = go(script([[[0, 1, 2, 3, 4]]]), rule="balanced", copy=500, device=200)
    assert held(done) == [0]
    assert on_gpu(done, {5: 2, 0: 1}) == [0], "at 400, not 600 with none or 700 with both"


# Room for two: of three that were fetched one after the other, the one whose demand is the longest ago goes.
def test_balanced_evicts_the_least_recently_used() -> None:
    slow = 10**6  # in the device: everything is fetched
    one = script([[[x]] for x in (0, 1, 0, 2)])
    assert held(go(one, rule="balanced", room=2, device=slow)) == [0, 2]
    assert held(go(script([[[x]] for x in (0, 1, 2)]), rule="balanced", room=2, device=slow)) == [1, 2]


class Noted(Monde):
    """Notes what it foresees of each event, and of every other number of experts."""

    def place(self, event: LayerEvent) -> Sequence[int]:
        found = super().place(event)
        there = [n for x, n in zip(event.demand, event.tokens, strict=True) if self.view.complete(x)]
        others = [n for x, n in zip(event.demand, event.tokens, strict=True) if not self.view.complete(x)]
        order = [(n, True) for n in sorted(there, reverse=True)] + [(n, False) for n in sorted(others, reverse=True)]
        copy = self.setup.costs.copy_ns(SIZE)
        ends = []
        for cut in range(len(order) + 1):
            gpu, copied = 0, 0
            for n, complete in order[:cut]:
                copied += 0 if complete else copy
                gpu = max(gpu, copied) + 100 * n
            assert self.setup.host is not None
            ends.append(max(gpu, sum(self.setup.host.expert_ns(0, n) for n, _ in order[cut:])))
        self.least = [*getattr(self, "least", ()), min(ends)]
        self.chosen = [*getattr(self, "chosen", ()), ends[len(order) - len(found)]]
        assert len(found) == len(order) - ends.index(min(ends)), "of equals the fewest on the GPU"
        return found


# Of every number from none to all, tried here one by one; and the machine takes as long as was foreseen.
def test_no_number_ends_sooner_and_the_machine_ends_when_foreseen() -> None:
    fetched = left = 0
    for seed in range(12):
        rng = Random(seed)
        ids = np.array([[[rng.randrange(8)]] for _ in range(60)], np.uint8)
        routing = Routing(ids, [(True, 6 * i, 6) for i in range(10)], 8)
        setup = setup_of(routing, 8 * SIZE, costs=costs(rng.randrange(1, 300)))
        policy = Noted(replace(setup, host=FlatHost(rng.randrange(1, 400), None, workers=1)), rule="balanced")
        done = run(policy, routing)
        assert policy.chosen == policy.least
        assert done.accounts.end_ns - done.accounts.start_ns == 10 * 10 + sum(policy.least)
        fetched += done.accounts.demand_bytes
        left += done.accounts.host_lookups
    assert fetched
    assert left


# For one event alone; over a run, what balanced keeps and what it does not changes the next ones.
@pytest.mark.parametrize("tokens", [[1] * 5, [9, 3, 1, 1], [40, 1, 1, 1, 1, 1]])
@pytest.mark.parametrize("copy", [0, 60, 4000])
def test_balanced_is_never_behind_the_ratio_or_near_data_compute_alone(tokens: list[int], copy: int) -> None:
    ids = np.array([[[x]] for x, n in enumerate(tokens) for _ in range(n)], np.uint8)
    routing = Routing(ids, [(True, 0, len(ids))], 8)
    balanced, ratio, near = (
        go(routing, copy=copy, **params).accounts.end_ns for params in ({"rule": "balanced"}, {}, {"share": 0.0})
    )
    assert balanced <= min(ratio, near)
    if copy == 4000 and len(tokens) == 5:
        assert ratio > near, "one expert at least, whatever it costs to load"


def test_a_share_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"^policy\.share=1\.5: allowed: 0 to 1"):
        go(EMPTY, share=1.5)
    with pytest.raises(UserError, match=r"^policy\.share=0\.5: allowed: null \(rule=balanced"):
        go(EMPTY, rule="balanced", share=0.5)
