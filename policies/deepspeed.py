"""Offloading that knows layers, not experts."""

from collections.abc import Iterable
from typing import Literal

from policies.api import LayerEvent, Routing, Setup
from policies.parts.layers import Layers

Fetch = Literal["whole_layer", "active", "next_layer"]
Cache = Literal["lru", "mru", "none"]


class DeepSpeed(Layers):
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

    def min_budget(self) -> int:
        if self.fetch == "active":
            return super().min_budget()
        return self.two_layers() if self.fetch == "next_layer" else self.one_layer()

    def route(self, event: LayerEvent) -> Routing | None:
        if self.fetch == "active":
            return None
        return Routing.whole(event, self.setup.experts_of(event.layer))

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        if self.fetch == "active":
            return
        self.reach(event.layer)
        if self.cache == "none":
            self.release(self.pools[0])
        if self.fetch == "next_layer":
            coming = (event.layer + 1) % self.setup.n_layers
            self.actions.expect(self.setup.experts_of(coming))
            self.copy_ahead(coming)

    def keep(self, expert: int) -> bool:
        return self.cache != "none" or self.fetch != "active"

    def candidates(self) -> Iterable[int]:
        return reversed(self.pools[0]) if self.cache == "mru" else self.pools[0]
