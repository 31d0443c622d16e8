"""The contracts on policies that route, order, evict and learn, and on such as break them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from policies import api, registry
from policies.api import History, LayerEvent, Policy, Schedule, Setup, Signal, Step
from policies.lru import LRU
from sim.check.lab import ready, run
from sim.check.laws import assert_causal, assert_keeps_the_rules, everything
from sim.check.synthetic import PREDICTORS, Routing, draw, setup_of
from sim.check.variants import Variant
from sim.core.state import CoreError


class Whole(LRU):
    """Whole layers, double buffered, as DeepSpeed fetches them."""

    name = "whole"

    def route(self, event: LayerEvent) -> api.Routing | None:
        return api.Routing.whole(event, self.setup.experts_of(event.layer))

    def schedule(self, event: LayerEvent) -> Schedule | None:
        return Schedule(event.demand, ahead=1)


class Masked(LRU):
    """What is not resident is masked out of the gate, as in SwapMoE, and its tokens go to what is."""

    name = "masked"
    lossless = False
    signals = frozenset({Signal.ROUTER_PROBS})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, scope="layer")

    def route(self, event: LayerEvent) -> api.Routing | None:
        first, n, k = event.layer * self.setup.n_experts, self.setup.n_experts, self.setup.top_k
        probs = event.signals.router_probs().astype(np.float64)
        here = [x for x in range(n) if self.view.complete(first + x)]
        if len(here) < k:
            return None
        ids, all_ids = np.argsort(-probs[:, here], axis=1)[:, :k], np.argsort(-probs, axis=1)[:, :k]
        chosen = np.asarray(here)[ids]
        experts, tokens = np.unique(chosen, return_counts=True)
        rows = np.arange(len(probs))[:, None]
        gone = sum(len(set(a) - set(b)) for a, b in zip(all_ids.tolist(), chosen.tolist(), strict=True))
        kept, whole = probs[rows, chosen].sum(), probs[rows, all_ids].sum()
        return api.Routing((first + experts).tolist(), tokens.tolist(), kept, whole, chosen.size, substituted=gone)


class Fitted(LRU):
    """Prefetches what a fitted predictor says, protects what the past liked, and clears each layer behind itself."""

    name = "fitted"
    signals = frozenset({Signal.ROUTER_PROBS, Signal.EMBEDDING})
    learns = True

    def predictors(self) -> frozenset[str]:
        return frozenset(PREDICTORS)

    def fit(self, history: History) -> None:
        sums = sum(s.router_probs().sum(0, dtype=np.float64) * (1 + s.embedding().mean()) for s in history.steps())
        self.liked = set(np.argsort(-sums.ravel())[:9].tolist())  # type: ignore[union-attr]

    def on_step(self, step: Step) -> None:
        for x in sorted(self.liked):
            self.actions.prefetch(x, -1.0)

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        for name, predictor in self.setup.predictors.items():
            layer = event.layer + predictor.stride
            if layer < self.setup.n_layers:
                said = event.signals.predicted(name).ravel().tolist()
                wanted = [layer * self.setup.n_experts + x for x in dict.fromkeys(said)]
                self.actions.expect(wanted)
                for x in wanted[:3]:
                    self.actions.prefetch(x, float(predictor.top_k))

    def keep(self, expert: int) -> bool:
        others = range(expert - expert % self.setup.n_experts, expert)
        for x in others:
            if x not in self.liked:
                self.actions.evict(x)
        return True


@dataclass(frozen=True)
class Planted(Variant):
    kind: type[Policy] = LRU
    layers: int = 3

    def build(self, setup: Setup) -> Policy:
        return self.kind(setup)

    def roomy(self, setup: Setup) -> Setup:
        return replace(setup, budget=max(setup.budget, self.kind(setup).min_budget()))


PLANTED = [Planted(kind.name, (), kind) for kind in (Whole, Masked, Fitted)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_the_contracts_hold_for_all_that_a_policy_may_do(planted: Planted, seed: int) -> None:
    assert_keeps_the_rules(planted, seed)
    assert_causal(lambda setup, _: planted.build(setup), seed)


def test_they_do_what_they_are_planted_for() -> None:
    routing, setup = everything(1)
    whole, masked, fitted = (run(planted.build(setup), routing) for planted in PLANTED)
    recorded = sum(len(d) for p in routing.passes() for d in p.demand)
    assert whole.lookups == fitted.lookups == recorded
    layers = sum(len(p.demand) for p in routing.passes())
    assert whole.core.demanded_bytes == layers * setup.n_experts * setup.expert_bytes[0]
    (kept, mass, slots, substituted, skipped, low, unstated) = masked.accounts.quality_row()
    assert 0 < kept < mass
    assert 0 < substituted < slots
    assert skipped == low == 0
    assert 0 < unstated < layers
    assert fitted.accounts.predicts
    assert fitted.accounts.issued > 10


class PeeksAtTheRoute(Masked):
    """Planted: computes what the layer's next token chooses."""

    def route(self, event: LayerEvent) -> api.Routing | None:
        same_layer = [x for x in self.later() if self.setup.layer_of(x) == event.layer] or event.demand
        return api.Routing(same_layer, [1] * len(same_layer))


class PeeksAtTheOrder(LRU):
    """Planted: copies first what the next token needs, too."""

    def schedule(self, event: LayerEvent) -> Schedule | None:
        later = self.later()
        return Schedule(sorted(event.demand, key=lambda x: x not in later))


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


@pytest.mark.parametrize("kind", [PeeksAtTheRoute, PeeksAtTheOrder, Prefetches, Schemes])
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


class Pretender(Masked):
    """Planted: it masks, and says that nothing is lost."""

    name = "pretender"
    lossless = True


def test_a_lossless_policy_that_is_not_does_not_run() -> None:
    with pytest.raises(CoreError, match="is lossless"):
        assert_keeps_the_rules(Planted("pretender", (), Pretender), 1)


def test_what_is_learnt_from_is_what_was_asked_for() -> None:
    """The lab gives a history to who wants one, and to nobody else."""

    class Never(Fitted):
        def wants_history(self) -> bool:
            return False

    routing = draw(0)
    assert hasattr(ready(Fitted(setup_of(routing, 1000)), routing), "liked")
    assert not hasattr(ready(Never(setup_of(routing, 1000)), routing), "liked")
