"""Least recently used, and first in, first out."""

from policies.api import LayerEvent, Setup
from policies.parts.pools import Pooled, Queue, Scope


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


class FIFO(Pooled[Queue]):
    """Evict the expert that has had its slot for the longest time, however often it was used.

    A folklore baseline; equals libCacheSim's FIFO on one-expert events. ``scope`` as for lru. No ties.
    O(1) per lookup, O(pinned) per victim. Lossless; needs no signals.
    """

    name = "fifo"
    title = "FIFO"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        super().__init__(setup, scope, Queue)
