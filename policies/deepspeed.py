"""Offloading that knows layers, not experts."""

from __future__ import annotations

from typing import Literal

from policies.api import LayerEvent, Routing, Setup
from policies.lru import LRU

Fetch = Literal["whole_layer", "active", "next_layer"]
Cache = Literal["lru", "mru", "none"]


class DeepSpeed(LRU):
    """Copy whole layers, whichever of their experts a token needs: three things that papers call DeepSpeed.

    ``whole_layer``: a layer is copied when it is reached, nothing is prefetched (DeepSpeed-Inference as the baseline of
    fMoE, arXiv 2502.05370, section 6.1, which gives it an expert cache). ``active``: only what the gate chose, after
    the gate (MoE-OnDemand of Pre-gated MoE, arXiv 2308.12066). ``next_layer``: all of layer l + 1 is prefetched from
    the gate of layer l on, from the last layer into the next step (its MoE-Prefetch; ZeRO-Inference).
    A layer's experts are copied by index and wait for no other; the gate's compute as they arrive, and the layer ends
    when all of it is there. All of it counts as used, so ``lru``, of what is a cyclic scan, hits nothing below the
    budget of the whole model; ``mru`` keeps what came first; ``none`` drops each expert once it is computed.
    What is prefetched is no victim of a prefetch. No ties. A layer's index costs nothing to predict, hence no latency.
    O(E) per event, O(layers under way x E) per victim. Lossless; needs no signals.
    """

    name = "deepspeed"

    def __init__(self, setup: Setup, *, fetch: Fetch = "whole_layer", cache: Cache = "lru") -> None:
        super().__init__(setup)
        self.fetch, self.cache = fetch, cache
        self.coming = -1
        """The layer that is being prefetched."""

    def min_budget(self) -> int:
        sizes, n = self.setup.expert_bytes, self.setup.n_experts
        if self.fetch == "active":
            return super().min_budget()
        if self.fetch == "whole_layer":
            return n * max(sizes)
        return n * max(size + after for size, after in zip(sizes, (*sizes[1:], sizes[0]), strict=True))

    def route(self, event: LayerEvent) -> Routing | None:
        if self.fetch == "active":
            return None
        tokens = dict(zip(event.demand, event.tokens, strict=True))
        layer = self._layer(event.layer)
        return Routing(layer, [tokens.get(x, 0) for x in layer])

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        if self.fetch == "next_layer":
            self.coming = (event.layer + 1) % self.setup.n_layers
            coming = self._layer(self.coming)
            self.actions.expect(coming)
            for expert in coming:
                self.actions.prefetch(expert, 0.0)

    def keep(self, expert: int) -> bool:
        return self.cache != "none"

    def victim(self, incoming: int, speculative: bool) -> int | None:
        order = reversed(self.orders[0]) if self.cache == "mru" else iter(self.orders[0])
        spared = None
        for expert in filter(self.view.evictable, order):
            if self.setup.layer_of(expert) != self.coming:
                return expert
            if spared is None:
                spared = expert
        return None if speculative else spared

    def _layer(self, layer: int) -> range:
        return range(layer * self.setup.n_experts, (layer + 1) * self.setup.n_experts)
