"""Least frequently used, with perfect counts."""

from __future__ import annotations

from policies.api import LayerEvent, Setup
from policies.parts.ranking import Rank, Ranking
from policies.parts.scoped import Scope, Scoped


class LFU(Scoped):
    """Evict the expert that was demanded least often since the beginning, whether it was on the GPU or not.

    Perfect LFU: counts are never forgotten (``lfu_incache`` forgets them on eviction). A layer event counts an expert
    once. Ties: least recently used, then lower expert number. ``scope`` as for lru.
    O(log residents) per lookup, amortised. Lossless; needs no signals.
    """

    name = "lfu"
    title = "LFU"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        super().__init__(setup, scope)
        self.count = [0] * (setup.n_layers * setup.n_experts)
        self.last = [0] * len(self.count)
        self.lookups = 0
        self.rankings = [Ranking(self.rank) for _ in range(self.n_pools)]

    def rank(self, expert: int) -> Rank:
        return self.count[expert], self.last[expert]

    def on_gate(self, event: LayerEvent) -> None:
        count, last, now = self.count, self.last, self.lookups
        for expert in event.demand:
            now += 1
            count[expert] += 1
            last[expert] = now
        self.lookups = now

    def on_slot(self, expert: int) -> None:
        self.rankings[expert // self.span].add(expert)

    def on_evict(self, expert: int) -> None:
        self.rankings[expert // self.span].discard(expert)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return self.rankings[incoming // self.span].lowest(self.view.evictable)
