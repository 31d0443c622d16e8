"""next_use: evict what is least likely to be used soon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from policies.api import History, LayerEvent, Learned, Schedule, Setup, Shapes, Signal, Step
from policies.next_use.ahead import Ahead, Gain, Named
from policies.next_use.fit import Discount, Estimate, learn
from policies.next_use.learner import Learner
from policies.next_use.ledger import Ledger, victims
from policies.next_use.recent import Context, Reals, Recent, choices
from policies.parts.foreseen import by_tokens
from policies.parts.pools import Pooled, Scope, Scores
from policies.parts.ranges import between
from policies.parts.sides import hottest_first, lookups

Prefetch = Literal["off", "next", "deep"]
DEEP = 2
"""Layers that deep looks ahead."""
HORIZONS = ((0.35, (0.5, 0.0)), (0.6, (0.7, 0.3)), (1.0, (0.85, 0.3)))
"""Up to which share of the experts that the budget holds, and the discount and its far part."""


def horizon(setup: Setup) -> tuple[float, float]:
    """Discount and far part by the budget: the more it holds, the later is what it can still have when it is used."""
    share = setup.budget / (setup.n_experts * sum(setup.expert_bytes[: setup.n_layers]))
    return next((it for most, it in HORIZONS if share <= most), HORIZONS[-1][1])


class NextUse(Pooled[Scores]):
    """Evict the expert with the least expected discount ^ (tokens to its next use), estimated from its layer's routing.

    This workbench's own. The estimate is a logistic regression on running averages of being chosen, of the router's
    scores (``scores``), age, popularity and the request's own shares (``shares``), fitted on the train requests; it is
    made anew for a layer when its gate has run. ``discount`` and its slower part ``far`` go by the budget unless given.
    Layers still to come in this pass count as nearer; in a prompt these count by all of its tokens, each of which
    may choose. A ridge per layer adds what this and the last token's choices in all layers say (``components``) and
    learns on from what is served (``online``); what gates ahead name is prefetched where such names have come true
    (``prefetch``) and it pays (``priced``); with ``host`` a ledger of seconds shares the misses with it. ``scope`` as
    for lru.
    O((features + components) x E) per event, O(experts) per event with a miss. Lossless; needs train requests,
    router_probs unless ``scores`` is false, gate_ahead unless ``gates`` is false.
    """

    name = "next_use"
    title = "next use"
    learns = True
    without: ClassVar[Mapping[Signal, str]] = {
        Signal.ROUTER_PROBS: "policy.scores=false",
        Signal.GATE_AHEAD: "policy.gates=false",
    }

    def __init__(
        self,
        setup: Setup,
        *,
        discount: float | None = None,
        far: float | None = None,
        scores: bool = True,
        shares: bool = True,
        components: int = 48,
        due: bool = True,
        online: bool = True,
        prefetch: Prefetch = "deep",
        gates: bool = True,
        sure: float = 0.6,
        margin: float = 0.1,
        priced: bool = True,
        host: bool = False,
        scope: Scope = "global",
    ) -> None:
        super().__init__(setup, scope, lambda pool: Scores(pool, self.score))
        near, slow = horizon(setup)
        self.discount = (
            near if discount is None else between("discount", discount, 0, 1, "of a use, per token before it")
        )
        self.far = slow if far is None else between("far", far, 0, 1, "of a use's worth, which fades a third as fast")
        self.scores, self.due, self.online = scores, due, online
        self.shares = shares
        self.components = between("components", components, 0, 1024, "components")
        n_layers, n_experts = setup.n_layers, setup.n_experts
        self.recent = Recent(n_layers, n_experts, scores=scores, shares=shares)
        self.estimate: Estimate | None = None
        self.context: Context | None = None
        self.worth: Reals = np.full((n_layers, n_experts), 0.5)
        self.prefetch, self.gates = prefetch, gates
        self.sure = between("sure", sure, 0, 1, "of what was named and absent has been chosen")
        self.margin = between("margin", margin, 0, 1, "of worth, above the victim's")
        self.distances = 0 if prefetch == "off" else min(DEEP if prefetch == "deep" else 1, n_layers - 1)
        self.names = Ahead(n_layers, self.distances, setup.top_k) if self.distances else None
        self.gain = Gain(setup) if priced else None
        self.hoped: dict[int, float] = {}  # asked for, its gate still to come: how likely it is chosen
        self.ledger = Ledger(setup) if host else None
        self.hosted: frozenset[int] = frozenset()  # of the event under way
        self.layer, self.rows = -1, 1
        self.known: set[int] = set()  # requests that have begun
        self.learner: Learner | None = None
        self.at: Reals = np.empty(0)
        self.seen: list[tuple[NDArray[np.integer], NDArray[np.floating] | None]] = []  # by layer, of one request
        ahead = (np.arange(n_layers)[None] - np.arange(n_layers)[:, None] - 1) % n_layers
        self.nearer: Reals = self.discount ** (ahead / n_layers)
        """[L now, L]: what a use in each layer is discounted by, for the layers that come before it."""

    def uses(self, hook: str) -> bool:
        return super().uses(hook) and (hook not in ("place", "schedule") or self.ledger is not None)

    def needs(self) -> frozenset[Signal]:
        wanted = {Signal.ROUTER_PROBS: self.scores, Signal.GATE_AHEAD: self.gates and self.prefetch != "off"}
        return frozenset(signal for signal, read in wanted.items() if read)

    def layers_ahead(self) -> int | None:
        return self.distances or None

    @staticmethod
    def learn(shapes: Shapes, history: History, given: Mapping[str, Any]) -> Learned:
        rest = dict(given)
        discount = Discount(rest.pop("near"), rest.pop("far"))
        return learn(history, shapes.n_layers, shapes.n_experts, discount=discount, **rest).kept()

    def learns_by(self) -> Mapping[str, Any]:
        ahead = 0 if self.gates else self.distances
        fitted = {"scores": self.scores, "shares": self.shares, "components": self.components, "ahead": ahead}
        return {"near": self.discount, "far": self.far, **fitted}

    def recall(self, learned: Learned) -> None:
        self.estimate = Estimate.recalled(learned)
        given = {"scores": self.scores, "shares": self.shares}
        self.recent = self.estimate.recent(**given)
        if self.estimate.ridge is not None:
            self.context = Context(self.estimate.basis)
            if self.online:
                self.learner = Learner(self.estimate, Discount(self.discount, self.far), **given)

    def decided(self) -> Mapping[str, Any]:
        assert self.estimate is not None
        return {"loss": round(self.estimate.loss, 6), "ridge": self.estimate.ridge}

    def foretells(self, layer: int) -> Reals:
        return np.asarray(self.worth[layer])  # as of the layer's gate in the pass before

    def memorises(self) -> bool:
        return self.online

    def on_step(self, step: Step) -> None:
        self._learn()
        if self.names is not None:
            self._forget(self.names.drop())
        self.rows = step.rows if step.prefill else 1
        if self.known.isdisjoint(step.requests):
            self.recent.begin()
        self.known.update(step.requests)
        if self.learner is not None and step.rows > 1:
            self.learner.begin(self.recent)

    def place(self, event: LayerEvent) -> Sequence[int]:
        assert self.ledger is not None
        self._observe(event)
        members, layer, pool = lookups(event, self.view), event.layer, self.pools[event.demand[0] // self.span]
        missing = [it.expert for it in members if not it.complete]
        if not missing:
            self.hosted = frozenset()
            return ()
        free = self.view.free_bytes() // self.setup.expert_bytes[layer]
        base, worth = layer * self.setup.n_experts, self.worth[layer]
        going = victims(pool, len(missing), event.demand, free)
        found = self.ledger.hosted(layer, members, {x: float(worth[x - base]) for x in missing}, going)
        self.hosted = frozenset(found)
        return found

    def schedule(self, event: LayerEvent) -> Schedule:
        return hottest_first(event, self.hosted, self.view)

    def on_gate(self, event: LayerEvent) -> None:
        at = self.at if self.ledger is not None else self._observe(event)
        if self.names is not None:
            self._look_ahead(self.names, event, at)
            for pool in self.pools:
                pool.stale = True

    def _observe(self, event: LayerEvent) -> Reals:
        """A gate has run: the layer's worth anew. The context's components, valid until the next time."""
        assert self.estimate is not None
        layer, signals = event.layer, event.signals
        scores = signals.router_probs() if self.scores else None
        ids = signals.expert_ids()
        if self.learner is not None and len(event.requests) == 1:
            self.seen.append((ids, scores))
        marks = self.recent.see(slice(layer, layer + 1), ids[:, None], None if scores is None else scores[:, None])
        if self.context is not None:
            if len(event.counts) == 1:
                last: NDArray[np.generic] = marks[-1, 0]
            else:
                last = choices(ids[np.cumsum(event.counts) - 1], self.setup.n_experts).mean(0)
            self.at = self.context.see(layer, last)
        self.worth[layer] = self.estimate.of(self.recent, layer, self.at)
        self.layer = layer
        for pool in self.pools:
            pool.stale = True
        return self.at

    def _learn(self) -> None:
        """From the pass that has ended, if it was of one request: others' rows are no sequence of tokens."""
        seen, self.seen = self.seen, []
        if self.learner is None or len(seen) != self.setup.n_layers:
            return
        ids = np.stack([ids for ids, _ in seen], 1)
        scores = [scores for _, scores in seen if scores is not None]
        self.estimate = self.learner.see(ids, np.stack(scores, 1) if scores else None, self.recent) or self.estimate

    def _look_ahead(self, ahead: Ahead, event: LayerEvent, at: Reals) -> None:
        """In decoding a single request: name what later layers of this pass will choose, and ask for what is sure."""
        assert self.estimate is not None
        layer, n_experts, view = event.layer, self.setup.n_experts, self.view
        self._forget(ahead.settle(layer, event.demand))
        for expert in event.demand:
            self.hoped.pop(expert, None)
        if self.rows > 1 or event.prefill or len(event.requests) > 1:
            return
        if self.gain is not None:
            self.gain.saw(not all(map(view.complete, event.demand)))
        for distance in range(1, min(self.distances, self.setup.n_layers - 1 - layer) + 1):
            later = layer + distance
            if self.gates:
                names = by_tokens(event.signals.gate_ahead(distance), later, n_experts)
            elif self.estimate.later is not None:
                likely = self.estimate.named(self.own_of(later), layer, distance, at, self.setup.top_k)
                names = (likely + later * n_experts).tolist()
            else:
                return
            for rank, x in enumerate(names):
                if view.resident(x):
                    continue
                odds = ahead.odds.of(distance, rank)
                issued = (
                    odds >= self.sure and self._pays(x, distance, odds) and self.actions.prefetch(x, odds - distance)
                )
                if issued:
                    self.hoped[x] = odds
                    self.actions.expect([x])
                ahead.named[later].append(Named(x, distance, rank, issued))

    def _pays(self, expert: int, distance: int, odds: float, victim: float = 0.0) -> bool:
        return self.gain is None or self.gain.pays(self.setup.layer_of(expert), distance, odds, victim)

    def own_of(self, layer: int) -> Reals:
        """Worth from an expert's own features alone, as of the last token of the layer."""
        assert self.estimate is not None
        return self.estimate.own(self.recent, layer)

    def _forget(self, experts: list[int]) -> None:
        for expert in experts:
            self.hoped.pop(expert, None)
            self.actions.cancel(expert)  # of no effect where it is complete

    def victim(self, incoming: int, speculative: bool) -> int | None:
        found = super().victim(incoming, speculative)
        if speculative and found is not None:
            worth = max(self.hoped.get(found, 0.0), self.pools[found // self.span].worth_of(found))
            odds = self.hoped.get(incoming, 0.0)
            if worth + self.margin >= odds or not self._pays(incoming, self._ahead_of(incoming), odds, worth):
                return None
        return found

    def _ahead_of(self, expert: int) -> int:
        return max(1, self.setup.layer_of(expert) - self.layer)

    def score(self, experts: slice) -> Reals:
        worth = self.worth
        if self.due and self.rows > 1 and self.layer + 1 < len(worth):
            worth = worth.copy()
            worth[self.layer + 1 :] = 1 - (1 - worth[self.layer + 1 :]) ** self.rows
        scores = (worth * self.nearer[self.layer][:, None]).ravel()
        for expert, odds in self.hoped.items():
            scores[expert] = max(scores[expert], odds)
        return np.asarray(scores[experts])
