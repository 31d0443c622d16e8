"""fMoE, later called FineMoE: what to prefetch and to keep, from the expert maps of iterations that were alike."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from policies.api import History, LayerEvent, Learned, Policy, Routing, Schedule, Setup, Shapes, Signal, Step
from policies.fmoe.maps import Contexts, ExpertMaps, Prefill, Reals, Trajectory, best
from policies.fmoe.plans import ByUrgency, Eviction, Fifo, Found, Searcher, Selection, Worth, choose
from policies.parts.ranges import at_once, between, latency_ns, layers_ahead
from traces.kit.errors import UserError

BLOCK = 256  # contexts of the train requests that are compared at once
MOST_MAPS = 65536  # beyond the 50,000 that the paper's theory asks for, a slip


class FMoE(Policy):
    """Find the stored iteration most like this one, prefetch what it routed to, and evict the smallest p x frequency.

    arXiv 2502.05370, section 4. Layers 0 to d - 1: the map of the most similar embedding, at the start. Layer l + d: at
    gate l, the map of which layers 0 to l are most similar to what the gates have shown. Of a layer, the likeliest
    experts up to a sum of 1 - similarity, at least K; the highest p / (layers to go) first, p being what the map says.
    A batch searches per request, and takes the largest p and the union of what is chosen. Ties everywhere: lower index.
    The defaults are the paper's, and where it is silent those of the authors' rewrite (policies/fmoe/README.md).
    O(C x E) per gate, O(C x D) per step, O(L x E) per victim. Lossless; needs router_probs and embedding, and train
    requests unless the store is online.
    """

    name = "fmoe"
    ahead = "distance"
    title = "fMoE"
    without: ClassVar[Mapping[Signal, str]] = {
        Signal.ROUTER_PROBS: "policy.maps=choices",
        Signal.EMBEDDING: "policy.search=trajectory",
    }
    learns = True
    unlearned = "policy.store=online"

    def __init__(
        self,
        setup: Setup,
        *,
        distance: int = 3,
        capacity: int = 1000,
        store: Literal["offline", "updated", "online"] = "offline",
        maps: Literal["scores", "choices"] = "scores",
        search: Literal["both", "semantic", "trajectory"] = "both",
        search_us: float = 30.0,
        blocking: bool = False,
        prefill: Prefill = "mean",
        semantic_at: Literal["step", "gate"] = "step",
        selection: Selection = "threshold",
        replan: Literal["one_layer", "all_later"] = "one_layer",
        queue: Literal["urgency", "fifo_all"] = "urgency",
        outstanding: int = 1,
        protect: bool = True,
        eviction: Eviction = "p_freq",
        unsearched: Literal["last", "uniform"] = "last",
        forget: bool = False,
        double_buffer: bool = False,
        fetch_all: bool = False,
    ) -> None:
        super().__init__(setup)
        n_layers, n_experts = setup.n_layers, setup.n_experts
        self.distance, self.blocking = layers_ahead("distance", distance, setup), blocking
        self.outstanding = at_once("outstanding", outstanding, setup)
        self.by_embedding, self.by_map = search != "trajectory", search != "semantic"
        self.offline, self.updated = store != "online", store != "offline"
        self.prefill, self.at_gate, self.selection = prefill, semantic_at == "gate", selection
        self.all_later, self.protect = replan == "all_later", protect
        self.uniform, self.double_buffer, self.fetch_all = unsearched == "uniform", double_buffer, fetch_all
        self.contexts = Contexts(n_experts, prefill, choices=maps == "choices", embeds=self.by_embedding)
        self.worth = Worth(n_layers, n_experts, eviction, forget=forget)
        self.queue = ByUrgency(n_experts) if queue == "urgency" else Fifo(n_layers, n_experts)
        self.searcher = Searcher(latency_ns("search_us", search_us))
        self.store = ExpertMaps(n_layers, n_experts, between("capacity", capacity, 1, MOST_MAPS, "maps"), distance)

        self.layer = -1  # whose gate was the last to run in this iteration
        self.trajectory: Trajectory | None = None  # of this pass, a row per request; None: not predicted
        self.embeddings: Reals | None = None
        self.cosines: Reals | None = None  # of the embeddings, with what is stored
        self.held: Found | None = None  # by embedding, until the first gate
        self.match: Found | None = None  # by embedding, where no other search follows

        self.protected: set[int] = set()  # prefetched, gate not passed
        self.issued: dict[int, None] = {}  # not complete, not demanded
        self.leaving: set[int] = set()  # cancelled, its copy still on the link
        self.missing: set[int] = set()  # demanded, not complete

    def needs(self) -> frozenset[Signal]:
        return self.contexts.needs()

    def uses(self, hook: str) -> bool:
        return super().uses(hook) and {"route": self.fetch_all, "schedule": self.double_buffer}.get(hook, True)

    def wants_history(self) -> bool:
        return self.offline

    @staticmethod
    def learn(shapes: Shapes, history: History, given: Mapping[str, Any]) -> Learned:
        contexts = Contexts(shapes.n_experts, given["prefill"], choices=given["choices"], embeds=given["embeds"])
        store = ExpertMaps(shapes.n_layers, shapes.n_experts, given["capacity"], given["distance"])
        block: list[tuple[Reals, Reals | None]] = []
        for step in history.steps():
            block.append(contexts.past(step))
            if sum(len(maps) for maps, _ in block) >= BLOCK:
                _put(store, block)
        if block:
            _put(store, block)
        if not store.size:
            raise UserError("policy=fmoe: the train requests have no forward pass; allowed: store=online")
        return Learned(store.kept())

    def learns_by(self) -> Mapping[str, Any]:
        contexts, store = self.contexts, self.store
        given = {"prefill": contexts.prefill, "choices": contexts.choices, "embeds": contexts.embeds}
        return {**given, "capacity": store.capacity, "distance": self.distance}

    def recall(self, learned: Learned) -> None:
        self.store.restore(learned.arrays)

    def decided(self) -> Mapping[str, Any]:
        return {"maps": self.store.size}

    def memorises(self) -> bool:
        return self.updated

    def _remember(self) -> None:
        """The iteration that has ended goes into the store."""
        if self.updated and self.trajectory is not None:
            store, redundancy = self.store, None
            if store.size == store.capacity:
                redundancy = store.mixed(self.trajectory.cosines(self.setup.n_layers - 1), self.cosines)
                self.searcher.unpaid += len(redundancy)
            store.add(self.trajectory.maps, self.embeddings, redundancy)

    def on_step(self, step: Step) -> None:
        self._remember()
        self._pass(self.setup.n_layers, missed=False)
        self.layer, self.trajectory, self.embeddings, self.cosines = -1, None, None, None
        self.searcher.forget()
        self.held = self.match = None
        predicted = not (step.prefill and self.prefill == "unpredicted")
        if self.uniform or not predicted:
            self.worth.unknown()
        if predicted:
            self.trajectory = Trajectory(self.store, len(step.counts))
            if self.by_embedding:
                self.embeddings = self.contexts.embedded(step.signals.embedding(), step.counts)
                if self.store.size:
                    self.cosines = self.store.semantic(self.embeddings)
                    self._ask(Found(0, self.distance, *best(self.cosines)))
        self._issue()

    def route(self, event: LayerEvent) -> Routing | None:
        return Routing.whole(event, self.setup.experts_of(event.layer)) if self.fetch_all else None

    def on_gate(self, event: LayerEvent) -> None:
        self.worth.demanded(event.demand)
        self.layer = event.layer
        complete = self.view.complete
        self.missing = {x for x in event.demand if not complete(x)}
        self._pass(event.layer, missed=bool(self.missing))
        if self.held is not None:
            self._arrive(self.held)
            self.held = None
        if self.trajectory is not None:
            if self.updated or (self.by_map and self._next() < self.setup.n_layers):  # else nothing is compared with it
                self.trajectory.observe(event.layer, self.contexts.shown(event.signals, event.counts))
            self._look_ahead(self.trajectory)
        self._issue()

    def schedule(self, event: LayerEvent) -> Schedule | None:
        return Schedule(sorted(event.demand), ahead=1) if self.double_buffer else None

    def on_prediction(self, tag: int) -> None:
        if (found := self.searcher.end()) is not None:
            self._arrive(found)
        self._search()
        self._issue()

    def on_slot(self, expert: int) -> None:
        speculative = expert in self.issued
        self.worth.enter(expert, speculative=speculative)
        if speculative and self.protect:
            self.protected.add(expert)

    def on_complete(self, expert: int) -> None:
        self.issued.pop(expert, None)
        self.leaving.discard(expert)
        self.missing.discard(expert)
        self._issue()

    def on_evict(self, expert: int) -> None:
        self.worth.discard(expert)
        self.protected.discard(expert)
        self.issued.pop(expert, None)
        if expert in self.leaving:
            self.leaving.remove(expert)
            self._issue()

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return self.worth.lowest(self._yields if speculative and self.protected else self.view.evictable)

    def _pass(self, layer: int, *, missed: bool) -> None:
        """What was predicted up to ``layer`` is of no use any more."""
        self.queue.pass_layer(layer, missed)
        if self.protected:
            last = (layer + 1) * self.setup.n_experts
            self.protected = {x for x in self.protected if x >= last}
        for expert in [x for x in self.issued if self.queue.stale(x, layer, missed)]:
            self.issued.pop(expert, None)
            if self.actions.cancel(expert) and self.view.resident(expert):  # of no effect on a load that was demanded
                self.leaving.add(expert)

    def _next(self) -> int:
        """The first layer that is predicted when the gate of the present one has run."""
        return self.layer + self.distance + self.all_later

    def _look_ahead(self, trajectory: Trajectory) -> None:
        """The gate of a layer has run: the map for the layer (or all layers) that can be predicted now."""
        first = self._next()
        end = self.setup.n_layers if self.all_later else first + 1
        if first >= self.setup.n_layers or not self.store.size:
            return
        if self.by_map:
            self._ask(Found(first, end, *trajectory.best(self.layer)))
        elif self.match is not None:
            self._plan(Found(first, end, self.match.places, self.match.similarity))

    def _ask(self, found: Found) -> None:
        """Let the searcher find it, which takes a while; one that is overtaken by the gates is not begun."""
        if self.searcher.ns:
            self.searcher.line.append(found)
            self._search()
        else:
            self._arrive(found)

    def _search(self) -> None:
        if (latency_ns := self.searcher.begin(self.layer)) is not None:
            self.actions.predict(0, latency_ns, self.blocking)

    def _arrive(self, found: Found) -> None:
        """A search has its answer."""
        if found.first == 0:  # by embedding
            if self.at_gate and self.layer < 0:
                self.held = found
                return
            if not self.by_map:  # it serves the later layers too, as far ahead as a trajectory would
                self.match = found
                found.end = min(self.setup.n_layers, self.layer + 1 + self.distance)
        self._plan(found)

    def _plan(self, found: Found) -> None:
        """Take p from the map found, and queue what it says of the layers that are still to come."""
        first = max(found.first, self.layer + 1)
        n_layers, n_requests, n_experts = found.end - first, len(found.places), self.setup.n_experts
        if n_layers <= 0:
            return
        if n_requests == 1:
            probs = rows = self.store.maps[first : found.end, found.places[0]]
        else:
            maps = self.store.maps[first : found.end, found.places]
            probs, rows = maps.max(axis=1), maps.reshape(-1, n_experts)
        chosen = choose(rows, found.similarity * n_layers, self.setup.top_k, self.selection)
        self.worth.found(first, found.end, probs)
        if n_requests > 1:
            unions = [set().union(*chosen[i : i + n_requests]) for i in range(0, len(chosen), n_requests)]
            chosen = [sorted(union, key=lambda x: (-p[x], x)) for union, p in zip(unions, probs, strict=True)]
        for i, experts in enumerate(chosen):
            base = (first + i) * n_experts
            self.actions.expect([base + x for x in experts])
        self.queue.add(first, probs, chosen)

    def _issue(self) -> None:
        """A speculative load, if no demanded expert is waited for; the choice is made when the link could take it."""
        while len(self.issued) + len(self.leaving) < self.outstanding and not self.missing:
            found = self.queue.take(self.layer, self._needless)
            if found is None:
                return
            if self.actions.prefetch(*found):
                self.issued[found[0]] = None

    def _needless(self, expert: int) -> bool:
        return self.view.complete(expert) or expert in self.issued

    def _yields(self, expert: int) -> bool:
        return expert not in self.protected and self.view.evictable(expert)


def _put(store: ExpertMaps, block: list[tuple[Reals, Reals | None]]) -> None:
    """Store a block of contexts, and empty it."""
    embeddings = [e for _, e in block if e is not None]
    store.add(np.concatenate([m for m, _ in block]), np.concatenate(embeddings) if embeddings else None)
    block.clear()
