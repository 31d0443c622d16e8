"""The contracts on policies that break them: by a peek into what comes later, or by computing something else."""

from typing import Any

import pytest

from policies import api, registry
from policies.api import LayerEvent, Policy, Schedule, Setup
from policies.lfu import LFU, LFUInCache
from policies.lru import LRU
from policies.parts.pools import Ranking
from sim.check.caches import assert_orders_hold
from sim.check.laws import assert_causal, everything, ready, run
from sim.check.synthetic import Routing, draw, setup_of
from sim.core.state import CoreError


class PeeksAtTheRoute(LRU):
    """Planted: computes what the layer's next token chooses."""

    lossless = False

    def route(self, event: LayerEvent) -> api.Routing | None:
        same_layer = [x for x in self.later() if self.setup.layer_of(x) == event.layer] or event.demand
        return api.Routing(same_layer, [1] * len(same_layer))


class PeeksAtTheOrder(LRU):
    """Planted: copies first what the next token needs, too."""

    def schedule(self, event: LayerEvent) -> Schedule | None:
        later = self.later()
        return Schedule(sorted(event.demand, key=lambda x: x not in later))


class PeeksAtWhatToBegin(LRU):
    """Planted: the host begins what the next layer's gate will choose."""

    lossless = False

    def precompute(self, event: LayerEvent) -> dict[int, int]:
        return {x: 1 for x in self.later(1) if self.setup.layer_of(x) == event.layer + 1}


class Prefetches(LRU):
    """Planted: prefetches what comes next."""

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        for x in self.later(1):
            self.actions.prefetch(x, 0.0)


class Schemes(LRU):
    """Planted: evicts what is not needed any more, without any prefetch."""

    def victim(self, incoming: int, speculative: bool) -> int | None:
        able = filter(self.view.evictable, self.pools[incoming // self.span])
        return min(able, key=[x for event in self.demand for x in event].count, default=None)


@pytest.mark.parametrize("kind", [PeeksAtTheRoute, PeeksAtTheOrder, PeeksAtWhatToBegin, Prefetches, Schemes])
def test_the_law_of_causality_catches_who_peeks(kind: Any) -> None:
    class Peeks(kind):
        """It was given the demand of the whole run."""

        now = -1

        def later(self, events: int | None = None) -> list[int]:
            """What is demanded so many events on; if not said, at the same layer of the next pass."""
            self.now += 1
            return self.demand[min(self.now + (events or self.setup.n_layers), len(self.demand) - 1)]

    def make(setup: Setup, routing: Routing) -> Policy:
        policy = Peeks(setup)
        policy.demand = [d for p in routing.passes() for d in p.demand]
        return policy

    for seed in range(4):
        with pytest.raises(AssertionError, match="with knowledge of later"):
            assert_causal(make, seed)


def test_the_law_of_causality_catches_the_clairvoyant() -> None:
    def make(setup: Setup, routing: Routing) -> Policy:
        return ready(registry.build("perfect_next_layer", setup, {}), routing)

    with pytest.raises(AssertionError, match="with knowledge of later"):
        assert_causal(make, 1)


class Pretender(LRU):
    """Planted: it leaves an expert out, and says that nothing is lost."""

    name = "pretender"

    def route(self, event: LayerEvent) -> api.Routing | None:
        return api.Routing(event.demand[1:], event.tokens[1:]) if len(event.demand) > 1 else None


def test_a_lossless_policy_that_is_not_does_not_run() -> None:
    routing, setup = everything(1)
    with pytest.raises(CoreError, match="is lossless"):
        run(Pretender(setup), routing)


def test_what_is_learnt_from_is_what_was_asked_for() -> None:
    """The lab gives a history to who wants one, and to nobody else."""
    routing = draw(0)
    for wants in (True, False):
        policy: Any = registry.build("static", setup_of(routing, 1000), {})
        policy.wants_history = lambda wants=wants: wants
        assert (ready(policy, routing).kept is not None) is wants


class Claims(LFUInCache):
    """Planted: an eviction changes what it goes by, which it denies."""

    def orders(self, n: int) -> list[Ranking]:
        return [Ranking(self.ranks.__getitem__) for _ in range(n)]


def test_who_goes_by_what_is_there_has_no_orders() -> None:
    routing, setup = everything(0)
    assert_orders_hold(LFU, routing, setup)
    with pytest.raises(AssertionError, match="evict otherwise"):
        assert_orders_hold(Claims, routing, setup)
