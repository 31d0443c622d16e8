"""Many caches that hear of the same gates hold, after each event, what each alone would hold."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policies.api import LayerEvent, Policy, Setup
from policies.lfu import LFRU, LFU, LFUInCache
from policies.lru import FIFO, LRU
from sim.check.synthetic import draw, setup_of
from sim.core.caches import Caches
from sim.core.state import CoreError
from sim.core.whole import PrefetchingError, WholeCore

L, E, SIZE = 2, 6, 12


def signals() -> Any:
    return SimpleNamespace(layer=-1, enter=lambda parts: None, shown=lambda: None)


def setup(slots: int = L * E) -> Setup:
    return setup_of(draw(0, n_layers=L, n_experts=E), slots * SIZE + 5)


def caches(policy: Policy, slots: list[int]) -> Caches:
    orders = policy.orders(len(slots))
    assert orders is not None
    return Caches(policy, policy.setup, signals(), orders, slots)


# Copies that outlast all compute, that are outlasted by it, and ends that coincide; demand that no cache holds.
@pytest.mark.parametrize("kind", [LFU, LFRU, FIFO])
@pytest.mark.parametrize("longest", [1, 3, 12])
def test_each_holds_what_it_would_alone(kind: type[Policy], longest: int) -> None:
    rng, slots = np.random.default_rng(longest), [1, 2, 3, 4, 5, 7, 9, 11, L * E]
    together = caches(kind(setup()), slots)
    alone = [WholeCore(policy := kind(setup(n)), policy.setup, signals()) for n in slots]
    cores: list[Any] = [together, *alone]
    streamed = 0
    for number in range(1, 60):
        prefill = number % 5 == 0
        if number == 20:
            for core in cores:
                core.measure_from(0)
        for core in cores:
            core.step_begin(number, prefill, (0,), [(number, 1)], 0)
        for layer in range(L):
            demand = (layer * E + rng.permutation(E)[: rng.integers(1, E + 1)]).tolist()
            prices = dict(zip(demand, rng.integers(1, longest + 1, len(demand)).tolist(), strict=True))
            told: Any = longest if number % 2 else lambda prices=prices: prices
            event = layer, demand, [1] * len(demand), 6, told, int(rng.integers(0, 3))
            together.gate_at_once(*event)
            for core, cache in zip(alone, together._caches, strict=True):
                streamed += len(demand) > cache.left + sum(cache.there)
                core.gate_at_once(*event)
                assert cache.there == core.state.slot
    assert streamed
    hits = [[[row[3] for row in phase] for phase in core.accounts.hits[:2]] for core in alone]
    assert together.hits().tolist() == hits
    assert together.lookups == [row[0] for phase in alone[0].accounts.hits[:2] for row in phase]


class Looks(LFU):
    """It knows what is there, so that its gates are not those of another cache."""

    name = "looks"

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self.seen = self.view.residents()


def test_who_may_see_a_cache_has_none_beside_it() -> None:
    watched = LFU(setup())
    vars(watched)["on_evict"] = print
    told = LFRU(setup())
    vars(told)["on_gate"] = print
    for policy in (Looks(setup()), LFUInCache(setup()), LRU(setup()), LFU(setup(), scope="layer"), watched, told):
        assert policy.orders(2) is None


def test_what_prefetches_or_keeps_is_refused() -> None:
    class Keeps(LFU):
        name = "keeps"

        def keep(self, expert: int) -> bool:
            return False

    with pytest.raises(CoreError, match="does not see the same"):
        Caches(Keeps(setup()), setup(), signals(), LFU(setup()).orders(1) or (), [1])
    eager = LFU(setup())
    core = caches(eager, [3])
    eager.actions.prefetch(0, 0.0)
    core.step_begin(1, False, (0,), [(0, 1)], 0)
    with pytest.raises(PrefetchingError):
        core.gate_at_once(0, [1], [1], 6, 1)


def test_orders_are_as_many_as_were_asked_for() -> None:
    policy = LFU(setup())
    orders = policy.orders(3)
    assert orders is not None
    with pytest.raises(CoreError, match="lfu has 3 orders for 2 caches"):
        Caches(policy, policy.setup, signals(), orders, [4, 5])
