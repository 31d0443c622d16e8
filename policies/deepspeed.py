"""Offloading that knows layers, not experts."""

from collections.abc import Sequence
from typing import Literal

from policies.api import LayerEvent, Routing, Setup
from policies.lru import LRU
from policies.parts.pools import least

Fetch = Literal["whole_layer", "active", "next_layer"]
Cache = Literal["lru", "mru", "none"]


class DeepSpeed(LRU):
    """Copy whole layers, whichever of their experts a token needs: three things that papers call DeepSpeed (README.md).

    ``whole_layer``: a layer is copied when it is reached, nothing is prefetched (the baseline of arXiv 2502.05370).
    ``active``: only what the gate chose, after the gate. ``next_layer``: all of layer l + 1 is prefetched from the gate
    of layer l on, from the last layer into the next step (both: arXiv 2308.12066). A layer's experts are copied by
    index; those that the gate chose compute as they arrive, and the layer ends when all of it is there. ``lru`` hits
    nothing if it is short of the model by a layer, a cyclic scan; ``mru`` keeps what came first; ``none`` drops the
    layer at the next gate. What is prefetched is no victim of a prefetch. No ties. O(E) per event and per victim.
    Lossless; needs no signals.
    """

    name = "deepspeed"
    title = "DeepSpeed"

    def __init__(self, setup: Setup, *, fetch: Fetch = "whole_layer", cache: Cache = "lru") -> None:
        super().__init__(setup)
        self.fetch, self.cache = fetch, cache
        self.coming = self.current = -1  # the layer that is being prefetched, and the one that is computed

    def min_budget(self) -> int:
        return super().min_budget() if self.fetch == "active" else least(self.setup, self._layers)

    def _layers(self, held: Sequence[int]) -> int:
        layers = [n * size for n, size in zip(held, self.setup.expert_bytes, strict=True)]
        if self.fetch == "whole_layer" or len(layers) == 1:
            return max(layers)
        return max(nbytes + after for nbytes, after in zip(layers, (*layers[1:], layers[0]), strict=True))

    def route(self, event: LayerEvent) -> Routing | None:
        if self.fetch == "active":
            return None
        return Routing.whole(event, self.setup.experts_of(event.layer))

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        if self.fetch == "active":
            return
        if self.coming not in (-1, event.layer):  # no token saw that layer
            for expert in self.setup.experts_of(self.coming):
                self.actions.cancel(expert)
        self.current = event.layer
        if self.cache == "none":
            for expert in [x for x in self.pools[0] if self.setup.layer_of(x) != event.layer]:
                self.actions.evict(expert)
        if self.fetch == "next_layer":
            self.coming = (event.layer + 1) % self.setup.n_layers
            coming = self.setup.experts_of(self.coming)
            self.actions.expect(coming)
            for expert in coming:
                self.actions.prefetch(expert, 0.0)

    def keep(self, expert: int) -> bool:
        return self.cache != "none" or self.fetch != "active"

    def victim(self, incoming: int, speculative: bool) -> int | None:
        order, evictable, n = self.pools[0], self.view.evictable, self.setup.n_experts
        for expert in reversed(order) if self.cache == "mru" else order:
            if expert // n not in (self.current, self.coming) and evictable(expert):
                return expert
        return None if speculative else next(filter(evictable, order), None)
