"""Caches against other people's caches, and against themselves written naively."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import libcachesim as lcs
import numpy as np
import pytest

from policies import registry
from policies.api import LayerEvent, Policy, Setup
from policies.random import Random
from sim.check.laws import run
from sim.check.synthetic import FREE, FakeSignals, FlatCosts, Routing, draw, setup_of
from sim.core.core import Core
from sim.machine.machine import Machine

SIZE = 12


class HitCore(Core):
    """Remembers each event's hits."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[int] = []

    def gate(self, layer: int, demand: Sequence[int], *rest: Any) -> Any:
        self.seen.append(sum(map(self.state.view().complete, demand)))
        return super().gate(layer, demand, *rest)


def hits_of(policy: Policy, routing: Routing) -> list[int]:
    core = run(policy, routing, core_type=HitCore).core
    return core.seen  # type: ignore[attr-defined,no-any-return]


def one_at_a_time(seed: int, n_layers: int, n_experts: int, length: int, skew: float) -> tuple[Routing, list[int]]:
    """Decode steps of one expert per layer, by Zipf; and the expert numbers in order."""
    rng = np.random.default_rng(seed)
    weight = 1.0 / np.arange(1, n_experts + 1) ** skew
    p = [rng.permutation(weight / weight.sum()) for _ in range(n_layers)]
    ids = np.stack([rng.choice(n_experts, length, p=q) for q in p], axis=1).astype(np.uint8)[..., None]
    steps = [(False, i, 1) for i in range(length)]
    flat = ids[..., 0].astype(int) + n_experts * np.arange(n_layers)
    return Routing(ids, steps, n_experts), flat.ravel().tolist()


SHAPES = [(1, 64, 500, 0.8), (1, 200, 500, 1.1), (4, 24, 150, 0.6)]


@pytest.mark.parametrize("capacity", [1, 2, 7, 20, 45])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "theirs"), [("lru", lcs.LRU), ("fifo", lcs.FIFO), ("lfu_incache", lcs.LFU)])
def test_libcachesim_agrees_to_the_last_hit(name: str, theirs: type, shape: Any, capacity: int) -> None:
    routing, flat = one_at_a_time(capacity, *shape)
    cache = theirs(cache_size=capacity * SIZE, hashpower=12)
    expected = [cache.get(lcs.Request(obj_id=x, obj_size=SIZE)) for x in flat]
    policy = registry.build(name, setup_of(routing, capacity * SIZE, costs=FREE), {})
    assert hits_of(policy, routing) == expected
    assert sum(expected) or capacity <= shape[0]


class Naive(Policy):
    """The definitions, in exact fractions, over whole demand sets: scans all residents for each victim."""

    name = "naive"

    def __init__(self, setup: Setup, what: str, by_layer: bool) -> None:
        super().__init__(setup)
        self.what, self.by_layer = what, by_layer
        n = setup.n_layers * setup.n_experts
        self.count, self.last, self.entered = [0] * n, [0] * n, [0] * n
        self.event_of = [0] * n
        self.residents: set[int] = set()
        self.time = self.events = 0

    def layer_budgets(self) -> list[int] | None:
        return self.setup.layer_budgets() if self.by_layer else None

    def on_gate(self, event: LayerEvent) -> None:
        self.events += 1
        for x in event.demand:
            self.time += 1
            self.count[x] += 1
            self.last[x] = self.time
            self.event_of[x] = self.events

    def on_slot(self, expert: int) -> None:
        self.time += 1
        self.entered[expert] = self.time
        self.residents.add(expert)

    def on_evict(self, expert: int) -> None:
        self.residents.remove(expert)
        if self.what == "lfu_incache":
            self.count[expert] = 0

    def score(self, x: int) -> Any:
        lfu = self.count[x], self.last[x], x
        lfru = Fraction(self.count[x], self.events + 1 - self.event_of[x]), x
        known = {"lru": self.last[x], "fifo": self.entered[x], "lfu": lfu, "lfu_incache": lfu, "lfru": lfru}
        return known[self.what]

    def victim(self, incoming: int, speculative: bool) -> int | None:
        able = filter(self.view.evictable, self.residents)
        pool = self.setup.experts_of(self.setup.layer_of(incoming)) if self.by_layer else self.residents
        return min((x for x in able if x in pool), key=self.score, default=None)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", ["lru", "fifo", "lfu", "lfu_incache", "lfru"])
def test_whole_demand_sets_are_decided_as_a_scan_would(name: str, scope: str) -> None:
    for seed in range(8):
        routing = draw(seed, n_layers=4, n_experts=8, k=3, decode=12)
        budget = SIZE * (4, 6, 9, 14, 20, 26, 31, 12)[seed]
        setup = setup_of(routing, budget, chunks=1 + seed % 3, costs=FlatCosts(copy=(30, 200)[seed % 2]))
        done = run(registry.build(name, setup, {"scope": scope}), routing, depth=1 + seed % 2)
        naive = run(Naive(setup, name, scope == "layer"), routing, depth=1 + seed % 2)
        assert done.core.digest() == naive.core.digest()
        assert done.accounts == naive.accounts


def test_the_event_atomic_toy_trace() -> None:
    """moe-cache-eval, event-atomic-toy-trace-v1: 3 layers of 4 experts, room for 2 per layer, 5 steps."""
    second = (1, 2, 1, 3, 1)
    ids = np.array([[[0, x]] * 3 for x in second], np.uint8)
    routing = Routing(ids, [(False, i, 1) for i in range(5)], 4)
    policy = registry.build("lru", setup_of(routing, 6 * SIZE, costs=FREE), {"scope": "layer"})
    core = HitCore(policy, policy.setup, FakeSignals({}))
    accounts = Machine(core, FREE).run((), routing.passes())  # type: ignore[arg-type]
    assert core.seen == [0] * 3 + [1] * 12
    assert accounts.hit_row()[0] == 30
    assert accounts.demand_bytes == 18 * SIZE


def test_nothing_is_kept_on_demand() -> None:
    routing = draw(1)
    done = run(registry.build("on_demand", setup_of(routing, 1000), {}), routing)
    assert (done.hits, done.accounts.demand_bytes) == (0, done.lookups * SIZE)


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("staging", [1, 3])
def test_static_keeps_its_set_and_lets_the_rest_through(staging: int, preload: bool) -> None:
    routing = draw(2, prompts=3)
    setup = setup_of(routing, 9 * SIZE, chunks=2, costs=FlatCosts(copy=20))
    params = {"staging": staging, "preload": preload}
    done = run(registry.build("static", setup, params), routing)
    n = setup.n_layers * setup.n_experts
    counts = np.random.default_rng(99).integers(0, 40, n).tolist()  # as Recorded
    kept = set(sorted(range(n), key=lambda x: (-counts[x], x))[: 9 - staging])
    lookups = [x for p in routing.passes() for d in p.demand for x in d]
    through = sum(x not in kept for x in lookups) * SIZE
    if preload:
        assert done.accounts.demand_bytes + done.accounts.speculative_bytes == through + len(kept) * SIZE
        assert done.accounts.issued == len(kept)
        assert done.accounts.fates[0] > 0
    else:
        assert done.accounts.demand_bytes == through + len(kept & set(lookups)) * SIZE
    assert {x for x in range(n) if done.core.state.slot[x]} == (kept if preload else kept & set(lookups))


def test_static_measures_its_set_in_bytes() -> None:
    class History:
        def popularity(self) -> Any:
            return np.array([5, 0, 0, 9, 7, 7])

    sizes = replace(setup_of(draw(0), 1), n_layers=3, n_experts=2, expert_bytes=(10, 40, 20), budget=100)
    policy: Any = registry.build("static", sizes, {"staging": 1})
    policy.fit(History())
    assert list(policy.kept) == [3, 4]  # 40 of 60 bytes, then 20; nothing is left for another


def test_static_wants_to_be_fitted() -> None:
    routing = draw(0)
    policy: Any = registry.build("static", setup_of(routing, 1000), {})
    policy.wants_history = lambda: False
    with pytest.raises(RuntimeError, match="not fitted"):
        run(policy, routing)


def test_random_draws_evenly_and_only_where_there_is_a_choice() -> None:
    policy = Random(setup_of(draw(0), 1000))
    policy.view = SimpleNamespace(evictable={1, 2, 5}.__contains__)
    state = policy.pools[0].draw.__self__.getstate()  # type: ignore[attr-defined]
    policy.on_slot(2)
    assert policy.victim(7, False) == 2
    assert policy.pools[0].draw.__self__.getstate() == state  # type: ignore[attr-defined]
    for x in (0, 1, 5, 3, 4):
        policy.on_slot(x)
    chosen = [policy.victim(7, False) for _ in range(3000)]
    assert set(chosen) == {1, 2, 5}
    assert all(900 < chosen.count(x) < 1100 for x in (1, 2, 5))
    policy.on_evict(5)
    policy.on_evict(1)
    assert {policy.victim(7, False) for _ in range(20)} == {2}
    policy.view = SimpleNamespace(evictable=lambda _: False)
    assert policy.victim(7, False) is None
