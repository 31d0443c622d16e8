"""Least frequently used, with perfect counts."""

from policies.api import LayerEvent, Setup
from policies.parts.orders import Rank, Ranking
from policies.parts.pools import Pooled, Scope


class LFU(Pooled[Ranking]):
    """Evict the expert that was demanded least often since the beginning, whether it was on the GPU or not.

    Perfect LFU: counts are never forgotten (``lfu_incache`` forgets them on eviction). A layer event counts an expert
    once. Ties: least recently used, then lower expert number. ``scope`` as for lru.
    O(log residents) per lookup, amortised. Lossless; needs no signals.
    """

    name = "lfu"
    title = "LFU"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        super().__init__(setup, scope, lambda _: Ranking(self.rank))
        self.count = [0] * (setup.n_layers * setup.n_experts)
        self.last = [0] * len(self.count)
        self.lookups = 0

    def rank(self, expert: int) -> Rank:
        return self.count[expert], self.last[expert]

    def on_gate(self, event: LayerEvent) -> None:
        count, last, now = self.count, self.last, self.lookups
        for expert in event.demand:
            now += 1
            count[expert] += 1
            last[expert] = now
        self.lookups = now
