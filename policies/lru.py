"""Least recently used, and first in, first out."""

from collections.abc import Sequence

from policies.api import LayerEvent, Schedule, Setup
from policies.parts.pools import Arrivals, Pooled, Queue, Scope


class LRU(Pooled[Queue]):
    """Evict the expert whose last demand is the longest ago; a demand load is always admitted.

    ``scope=global`` keeps one list for all layers, ``scope=layer`` one per layer with an even share of the budget
    (as Mixtral-Offloading, arXiv 2312.17238, section 3.1). A speculative load enters as the most recent. No ties.
    O(1) per lookup, O(pinned) per victim. Lossless; needs no signals.
    """

    name = "lru"
    title = "LRU"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        super().__init__(setup, scope, Queue)

    def on_gate(self, event: LayerEvent) -> None:
        order = self.pools[event.demand[0] // self.span]
        for expert in event.demand:
            order[expert] = None
            order.move_to_end(expert)


class LRUCopyFirst(LRU):
    """LRU on an engine that computes nothing of a layer before all of its experts are there.

    What it loses to ``lru``, whose hits are computed while misses are copied, is what hits first are worth. Scope and
    ties as there; where the budget cannot hold a layer's demand, it streams through. O(1) per lookup, O(pinned) per
    victim. Lossless; needs no signals.
    """

    name = "lru_copy_first"
    title = "LRU, copies first"

    def schedule(self, event: LayerEvent) -> Schedule | None:
        there = [x for x in event.demand if self.view.complete(x)]
        missing = [x for x in event.demand if not self.view.complete(x)]
        # Whoever is copied last is waited for first.
        return Schedule(compute=[*reversed(missing), *there], copy=missing) if missing else None


class FIFO(Pooled[Arrivals]):
    """Evict the expert that has had its slot for the longest time, however often it was used.

    A folklore baseline; equals libCacheSim's FIFO on one-expert events. ``scope`` as for lru. No ties.
    O(1) per lookup, O(pinned) per victim. Lossless; needs no signals.
    """

    name = "fifo"
    title = "FIFO"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        super().__init__(setup, scope, Arrivals)

    def orders(self, n: int) -> Sequence[Arrivals] | None:
        return self.more_pools(n) if type(self) is FIFO else None
