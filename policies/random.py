"""Random replacement."""

from __future__ import annotations

from random import Random as Generator

from policies.api import Setup
from policies.parts.scoped import Scope, Scoped


class Random(Scoped):
    """Evict an expert drawn evenly from the evictable ones.

    A folklore baseline: what recency or frequency must beat. Seeded with ``setup.seed``; draws only while more than
    one expert is left to choose from, so ties cannot arise. ``scope`` as for lru.
    O(1) per lookup, O(pinned) per victim. Lossless; needs no signals.
    """

    name = "random"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        super().__init__(setup, scope)
        self.draw = Generator(setup.seed).random  # the one method whose sequence Python guarantees
        self.pools = [list[int]() for _ in range(self.n_pools)]
        self.place: dict[int, int] = {}

    def on_slot(self, expert: int) -> None:
        pool = self.pools[expert // self.span]
        self.place[expert] = len(pool)
        pool.append(expert)

    def on_evict(self, expert: int) -> None:
        pool = self.pools[expert // self.span]
        self.swap(pool, self.place[expert], len(pool) - 1)
        del self.place[pool.pop()]

    def swap(self, pool: list[int], i: int, j: int) -> None:
        pool[i], pool[j] = pool[j], pool[i]
        self.place[pool[i]], self.place[pool[j]] = i, j

    def victim(self, incoming: int, speculative: bool) -> int | None:
        pool = self.pools[incoming // self.span]
        for left in range(len(pool), 0, -1):  # the first ``left`` of the pool have not been drawn
            i = int(self.draw() * left) if left > 1 else 0
            if self.view.evictable(pool[i]):
                return pool[i]
            self.swap(pool, i, left - 1)
        return None
