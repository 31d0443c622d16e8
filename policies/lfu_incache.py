"""Least frequently used, counting only what is in the cache."""

from policies.lfu import LFU


class LFUInCache(LFU):
    """Evict the expert that was demanded least often since it last took a slot: an eviction forgets its count.

    What caches without a history mean by LFU; equals libCacheSim's LFU on one-expert events, ties included: least
    recently used first, then lower expert number. ``scope`` as for lru.
    O(log residents) per lookup, amortised. Lossless; needs no signals.
    """

    name = "lfu_incache"
    title = "LFU in cache"

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        self.count[expert] = 0
