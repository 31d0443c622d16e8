"""learned_use: evict what is least likely to be used soon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from policies.api import History, LayerEvent, Learned, Setup, Shapes, Signal, Step
from policies.learned_use.fit import Estimate, learn
from policies.learned_use.recent import Context, Reals, Recent, choices
from policies.parts.pools import Pooled, Scope, Scores
from policies.parts.ranges import between

ARRAYS = ("weights", "offsets", "basis", "mean", "turns")
"""Of an estimate."""


class LearnedUse(Pooled[Scores]):
    """Evict the expert with the least expected discount ^ (tokens to its next use), estimated from its layer's routing.

    This workbench's own. The estimate is a logistic regression on running averages of being chosen, of the router's
    scores (``scores``), age and popularity, fitted on the train requests; it is made anew for a layer when its gate has
    run. Layers still to come in this pass count as nearer; in a prompt these count by all of its tokens, each of which
    may choose. ``scope`` as for lru. O(features x E) per event, O(experts) per event with a miss. Lossless; needs
    train requests, and router_probs unless ``scores`` is false.
    """

    name = "learned_use"
    title = "learned use"
    learns = True
    without: ClassVar[Mapping[Signal, str]] = {Signal.ROUTER_PROBS: "policy.scores=false"}

    def __init__(
        self,
        setup: Setup,
        *,
        discount: float = 0.7,
        scores: bool = True,
        components: int = 64,
        due: bool = True,
        scope: Scope = "global",
    ) -> None:
        super().__init__(setup, scope, lambda pool: Scores(pool, self.score))
        self.discount = between("discount", discount, 0, 1, "of a use, per token before it")
        self.scores, self.due = scores, due
        self.components = between("components", components, 0, 1024, "components")
        n_layers, n_experts = setup.n_layers, setup.n_experts
        self.recent = Recent(n_layers, n_experts, scores=scores)
        self.estimate: Estimate | None = None
        self.context: Context | None = None
        self.worth: Reals = np.full((n_layers, n_experts), 0.5)
        self.layer, self.rows = -1, 1
        ahead = (np.arange(n_layers)[None] - np.arange(n_layers)[:, None] - 1) % n_layers
        self.nearer: Reals = discount ** (ahead / n_layers)
        """[L now, L]: what a use in each layer is discounted by, for the layers that come before it."""

    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.ROUTER_PROBS}) if self.scores else frozenset()

    @staticmethod
    def learn(shapes: Shapes, history: History, given: Mapping[str, Any]) -> Learned:
        found = learn(history, shapes.n_layers, shapes.n_experts, **given)
        return Learned({name: getattr(found, name) for name in ARRAYS}, {"loss": found.loss, "ridge": found.ridge})

    def learns_by(self) -> Mapping[str, Any]:
        return {"discount": self.discount, "scores": self.scores, "components": self.components}

    def recall(self, learned: Learned) -> None:
        arrays = {name: np.asarray(learned.arrays[name], np.float64) for name in ARRAYS}
        self.estimate = Estimate(**arrays, loss=learned.facts["loss"], ridge=learned.facts["ridge"])
        self.context = Context(self.estimate.basis) if self.estimate.ridge is not None else None

    def decided(self) -> Mapping[str, Any]:
        assert self.estimate is not None
        return {"loss": round(self.estimate.loss, 6), "ridge": self.estimate.ridge}

    def foretells(self, layer: int) -> Reals:
        return self.worth[layer]  # as of the layer's gate in the pass before

    def on_step(self, step: Step) -> None:
        self.rows = step.rows if step.prefill else 1

    def on_gate(self, event: LayerEvent) -> None:
        assert self.estimate is not None
        layer, signals = event.layer, event.signals
        probs = signals.router_probs()[:, None] if self.scores else None
        ids = signals.expert_ids()
        self.recent.see(slice(layer, layer + 1), ids[:, None], probs)
        at = np.empty(0)
        if self.context is not None:
            last = ids[np.cumsum(event.counts) - 1]
            at = self.context.see(layer, choices(last, self.setup.n_experts).mean(0))
        self.worth[layer] = self.estimate.of(self.recent, layer, at)
        self.layer = layer
        for pool in self.pools:
            pool.stale = True

    def score(self, experts: slice) -> Reals:
        worth = self.worth
        if self.due and self.rows > 1 and self.layer + 1 < len(worth):
            worth = worth.copy()
            worth[self.layer + 1 :] = 1 - (1 - worth[self.layer + 1 :]) ** self.rows
        return np.asarray((worth * self.nearer[self.layer][:, None]).ravel()[experts])
