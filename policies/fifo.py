"""First in, first out."""

from policies.api import Setup
from policies.parts.pools import Pooled, Queue, Scope


class FIFO(Pooled[Queue]):
    """Evict the expert that has had its slot for the longest time, however often it was used.

    A folklore baseline; equals libCacheSim's FIFO on one-expert events. ``scope`` as for lru. No ties.
    O(1) per lookup, O(pinned) per victim. Lossless; needs no signals.
    """

    name = "fifo"
    title = "FIFO"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        super().__init__(setup, scope, Queue)
