"""Requests that began alike go on alike."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policies.api import History, LayerEvent, Learned, Policy, Setup, Shapes, Step
from policies.lfu import LFUInCache
from policies.moe_infinity.eam import Iteration, Matrix, Requests, by_request, shares
from policies.parts.pools import Scores
from policies.parts.ranges import at_least, at_once, between, latency_ns

EPSILON = 1e-6
"""Alg. 1's, of which the paper gives no value: among experts that no match used, later layers go first."""
MOST_EAMS = 100_000  # what fits in memory; the paper goes to 40 thousand
MATCH_US_PER_EAM = 21 / 1000  # appendix B.1: 21 us for 1,000 EAMs, 226 us for 10,000


class MoEInfinity(Policy):
    """Match the layers of this pass that have run with past requests; what those used next is prefetched and kept.

    MoE-Infinity (arXiv 2401.14361v3, sections 4.5 to 4.7, Alg. 1, appendix B). Each request leaves a matrix of tokens
    per expert (EAM), for its prefill and for its decode steps apart, in a collection of ``capacity``; a full one drops
    the most similar. After each gate the current pass is matched by cosine over the layers so far; the matches are
    summed and row-normalised: pEAM. Later layers' experts are loaded in the order of pEAM * (1 - (i - l) / L), from
    layer l for layer i, ranked anew at each gate, one at a time. Victim: the least (pEAM + epsilon) * (1 - i / L).
    What a pass has gone by is dropped. Ties: lower number. In a batch each request is matched, and all are summed.
    O(capacity x K + L x E) per event, O(L x E) per victim, in numpy. Lossless; needs no signals, but train requests.
    """

    name = "moe_infinity"
    title = "MoE-Infinity"
    learns = True
    unlearned = "policy.filled=false"

    def __init__(
        self,
        setup: Setup,
        *,
        capacity: int = 120,
        matches: int = 1,
        filled: bool = True,
        online: bool = True,
        one_in: int = 1,
        horizon: int | None = None,
        band: int = 0,
        eviction: Literal["eam", "lfu_incache"] = "eam",
        outstanding: int = 1,
        latency_us: float | None = None,
        blocking: bool = False,
    ) -> None:
        super().__init__(setup)
        self.matches = at_least(1, "matches", matches, "matrices")
        self.horizon = setup.n_layers if horizon is None else at_least(1, "horizon", horizon, "layers, or null")
        self.outstanding = at_once("outstanding", outstanding, setup)
        self.top = max(1, setup.n_experts // at_least(1, "one_in", one_in, "experts"))
        self.band = at_least(0, "band", band, "layers")
        self.filled, self.online, self.blocking = filled, online, blocking
        between("capacity", capacity, 1, MOST_EAMS, "matrices")
        self.latency_ns = latency_ns("latency_us", capacity * MATCH_US_PER_EAM if latency_us is None else latency_us)
        self.lfu = LFUInCache(setup) if eviction == "lfu_incache" else None

        n_layers, n_experts = setup.n_layers, setup.n_experts
        self.requests = Requests(capacity, n_layers, n_experts)
        self.iterations: list[Iteration] = []  # of the step's requests, beside what is collected of their phase
        self.layer = -1
        self.asked: tuple[int, list[NDArray[np.intp]]] | None = None  # tag, matches per request
        self.behind = False  # whether a gate has run since
        self.tags = 0
        self.likely = np.zeros((n_layers, n_experts))  # the pEAM
        self.nearness = 1 - np.arange(n_layers)[:, None] / n_layers
        """By layers ahead; from layer 0, what Alg. 1 weighs the layers with."""
        self.matched: list[list[int]] = []  # the places that the pEAM comes from
        self.ranked = np.zeros((n_layers, n_experts))  # priority of what is predicted; 0: not predicted
        self.declared = np.zeros(n_experts, np.bool_)  # of the next layer, whether it is in the recall account
        self.plan = np.zeros(n_layers * n_experts)  # priority of what may still be prefetched; 0: nothing to do
        self.issued: dict[int, None] = {}  # not complete
        self.worth = Scores(range(n_layers * n_experts), self._worth)  # of residents, Alg. 1's p

    def wants_history(self) -> bool:
        return self.filled

    @staticmethod
    def learn(shapes: Shapes, history: History, given: Mapping[str, Any]) -> Learned:
        requests = Requests(given["capacity"], shapes.n_layers, shapes.n_experts)
        requests.learn(history)
        decode, prefill = requests.collections
        return Learned({"decode": decode.counts[:, : decode.size], "prefill": prefill.counts[:, : prefill.size]})

    def learns_by(self) -> Mapping[str, Any]:
        return {"capacity": self.requests.collections[0].capacity}

    def recall(self, learned: Learned) -> None:
        for collection, name in zip(self.requests.collections, ("decode", "prefill"), strict=True):
            collection.restore(learned.arrays[name])

    def decided(self) -> Mapping[str, Any]:
        decode, prefill = self.requests.collections
        return {"matrices_prefill": prefill.size, "matrices_decode": decode.size}

    def memorises(self) -> bool:
        return self.online

    def on_step(self, step: Step) -> None:
        prompts = step.of_prompts()
        for prefill in sorted(set(prompts)):
            self.requests.close(prefill, [x for x, its in zip(step.requests, prompts, strict=True) if its == prefill])
        self.layer = -1
        self.iterations = [Iteration(self.requests.collections[prefill]) for prefill in prompts]
        self.asked, self.behind = None, False
        self._pass_by(self.setup.n_layers)
        self.matched = []
        self.ranked.fill(0)
        self.plan.fill(0)

    def on_gate(self, event: LayerEvent) -> None:
        if self.lfu is not None:
            self.lfu.on_gate(event)
        self.layer, prompts = event.layer, event.of_prompts()
        for i, (experts, tokens) in enumerate(by_request(event, self.setup.n_experts)):
            self.iterations[i].see(experts, tokens)
            if self.online:
                self.requests.count(event.requests[i], prompts[i], experts, tokens)
        self._pass_by(event.layer)
        self.declared.fill(False)
        if not self.latency_ns:
            self._predicted(self._nearest())
            return
        self.plan[: (event.layer + 1) * self.setup.n_experts] = 0  # the rest stands until the next prediction is there
        self._declare()
        self._prefetch(self._best())
        if self.asked is None:
            self._ask()
        else:
            self.behind = True

    def _nearest(self) -> list[NDArray[np.intp]]:
        return [iteration.nearest(self.layer, self.matches) for iteration in self.iterations]

    def _ask(self) -> None:
        self.tags += 1
        self.asked, self.behind = (self.tags, self._nearest()), False
        self.actions.predict(self.tags, self.latency_ns * len(self.iterations), self.blocking)

    def on_prediction(self, tag: int) -> None:
        if self.asked is None or self.asked[0] != tag:
            return  # its step is over
        matched, self.asked = self.asked[1], None
        self._predicted(matched)
        if self.behind:
            self._ask()

    def _predicted(self, matched: list[NDArray[np.intp]]) -> None:
        places = [found.tolist() for found in matched]
        if places != self.matched:
            self.matched = places
            pairs = zip(self.iterations, matched, strict=True)
            total = sum((its.collection.total(found) for its, found in pairs), np.zeros(len(self.plan)))
            self.likely = shares(total, self.setup.n_layers)
            self.worth.stale = True
        self._rank()

    def _worth(self, experts: slice) -> Matrix:
        return np.asarray(((self.likely + EPSILON) * self.nearness).ravel())

    def _rank(self) -> None:
        """Rank what may be prefetched from the current layer on; withdraw what has not begun and is not the best."""
        after = self.layer + 1
        self.ranked.fill(0)
        near = self.ranked[after : after + self.horizon]
        np.multiply(self.likely[after : after + len(near)], self.nearness[1 : 1 + len(near)], out=near)
        if self.top < self.setup.n_experts:
            unlikely = np.argsort(-near, axis=1, kind="stable")[:, self.top :]
            near[np.arange(len(near))[:, None], unlikely] = 0
        if self.band:
            band = self.ranked[after : after + self.band]
            np.maximum(band, EPSILON, out=band)
        self._declare()
        self.plan = np.where(self.worth.present, 0.0, self.ranked.ravel())
        begun = {x: None for x in self.issued if self.view.resident(x)}
        waiting, self.issued = self.issued.keys() - begun, begun
        best = self._best()
        for expert in sorted(waiting - best.keys()):
            self.actions.cancel(expert)
        self._prefetch(best)

    def _declare(self) -> None:
        """Tell the recall account what is predicted of the next layer."""
        after = self.layer + 1
        if after < self.setup.n_layers:
            predicted = self.ranked[after] > 0
            news = np.flatnonzero(predicted & ~self.declared)
            self.declared |= predicted
            self.actions.expect((news + after * self.setup.n_experts).tolist())

    def _best(self) -> dict[int, float]:
        """The next of the plan, as many as may be outstanding, with their priorities."""
        best: dict[int, float] = {}
        while len(self.issued) + len(best) < self.outstanding:
            expert = int(self.plan.argmax())
            if not self.plan[expert]:
                break
            best[expert] = float(self.plan[expert])
            self.plan[expert] = 0
        return best

    def _prefetch(self, best: dict[int, float]) -> None:
        for expert, priority in best.items():
            self.actions.prefetch(expert, priority)
            self.issued[expert] = None

    def _pass_by(self, layer: int) -> None:
        for expert in [x for x in self.issued if self.setup.layer_of(x) <= layer]:
            del self.issued[expert]
            self.actions.cancel(expert)  # of no effect on a load that was demanded

    def on_complete(self, expert: int) -> None:
        if expert in self.issued:
            del self.issued[expert]
            self._prefetch(self._best())

    def on_slot(self, expert: int) -> None:
        self.worth.add(expert)
        if self.lfu is not None:
            self.lfu.on_slot(expert)

    def on_evict(self, expert: int) -> None:
        self.worth.discard(expert)
        self.issued.pop(expert, None)
        if self.lfu is not None:
            self.lfu.on_evict(expert)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        order = self.worth if self.lfu is None else self.lfu.pools[0]
        return order.lowest(self.view.evictable)
