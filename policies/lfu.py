"""Least frequently used: with perfect counts, with those of the cache, and by age (LFRU)."""

from collections.abc import Sequence

import numpy as np

from policies.api import LayerEvent, Setup
from policies.parts.pools import Pooled, Ranking, Reals, Scope, Scores

LOOKUPS = 1 << 40
"""More than a run has: a count and the last lookup are one whole number, which compares sooner than a pair."""


class LFU(Pooled[Ranking]):
    """Evict the expert that was demanded least often since the beginning, whether it was on the GPU or not.

    Perfect LFU: counts are never forgotten (``lfu_incache`` forgets them on eviction). A layer event counts an expert
    once. Ties: least recently used, then lower expert number. ``scope`` as for lru.
    O(log residents) per lookup, amortised. Lossless; needs no signals.
    """

    name = "lfu"
    title = "LFU"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        self.ranks = [0] * (setup.n_layers * setup.n_experts)
        """Of each expert, count * LOOKUPS + the number of its last lookup."""
        self.counts = [0] * len(self.ranks)  # times LOOKUPS
        self.lookups = 0
        super().__init__(setup, scope, lambda _: Ranking(self.ranks.__getitem__))

    def on_gate(self, event: LayerEvent) -> None:
        ranks, counts, now = self.ranks, self.counts, self.lookups
        for expert in event.demand:
            now += 1
            counts[expert] = count = counts[expert] + LOOKUPS
            ranks[expert] = count + now
        self.lookups = now

    def orders(self, n: int) -> Sequence[Ranking] | None:
        return self.more_pools(n) if type(self) is LFU else None


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
        self.ranks[expert] -= self.counts[expert]
        self.counts[expert] = 0


class LFRU(Pooled[Scores]):
    """Evict the expert with the smallest frequency / age, age being layer events since its last demand, plus one.

    The best causal policy in 12 of 13 settings of arXiv 2608.07911 (moe-cache-eval, ``simulate_event_atomic``), with
    its counts: never forgotten, one per layer event. There the event's own experts compete for a place when it ends;
    here they are pinned and admitted (rule 3). Ties: lower number (exact up to 2**26 events). ``scope``: see lru.
    Scores fall at unequal speeds, so no heap: O(experts) in numpy per event with a miss. Lossless; needs no signals.
    """

    name = "lfru"
    title = "LFRU"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        super().__init__(setup, scope, lambda pool: Scores(pool, self.score))
        n = setup.n_layers * setup.n_experts
        self.count, self.last, self.event = np.zeros(n), np.zeros(n), 0
        self.scored, self.scores = (-1, 0), self.count  # (event, first expert) last asked for, and what they score

    def score(self, experts: slice) -> Reals:
        if self.scored != (asked := (self.event, experts.start)):
            self.scored = asked
            self.scores = self.count[experts] / (self.event + 1 - self.last[experts])
        return self.scores

    def on_gate(self, event: LayerEvent) -> None:
        demand = np.array(event.demand)
        self.event += 1
        self.count[demand] += 1
        self.last[demand] = self.event
        for pool in self.pools:
            pool.stale = True

    def orders(self, n: int) -> Sequence[Scores] | None:
        return self.more_pools(n) if type(self) is LFRU else None
