"""Belady's MIN as a cache that must admit: farthest next use first."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from policies.api import LayerEvent, Setup
from policies.bounds.future import Clairvoyant, Future, FutureError


class BeladyForced(Clairvoyant):
    """Evict the expert whose next demand is the farthest away; every demand load is admitted and kept.

    Belady, IBM Systems Journal 5(2), 1966. A reference row, not a bound: bypassing admission, prefetching or dividing
    experts can copy less or finish sooner. Ties go to the larger expert number. A heap holds what may be evicted, keyed
    by next use, an expert entering when its compute has ended. One that is demanded again leaves its entry behind; such
    entries lie at the bottom and are swept out once they are the majority: O(log experts) per lookup.
    """

    name = "belady_forced"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.n_all = setup.n_layers * setup.n_experts
        self.now = -1  # the current event
        self.next_use: list[int] = []
        self.heap: list[int] = []  # -(next use * n_all + expert)
        self.events: Iterator[tuple[list[int], list[int]]] = iter(())

    def foresee(self, future: Future) -> None:
        super().foresee(future)
        self.next_use = future.first_use.tolist()
        self.events = future.events()

    def on_gate(self, event: LayerEvent) -> None:
        self.now += 1
        experts, next_use = next(self.events, ([], []))
        if list(event.demand) != experts:
            raise FutureError(f"event {self.now} demands {list(event.demand)}, foretold was {experts}")
        for x, use in zip(experts, next_use, strict=True):
            self.next_use[x] = use

    def keep(self, expert: int) -> bool:
        self.offer(expert)
        return True

    def offer(self, expert: int) -> None:
        """Enter an expert, with a slot and not pinned, among the candidates for eviction."""
        heap = self.heap
        heappush(heap, -(self.next_use[expert] * self.n_all + expert))
        if len(heap) > 2 * self.n_all:
            bottom = -(self.now + 1) * self.n_all
            heap[:] = {key for key in heap if key <= bottom}
            heapify(heap)

    def farthest(self) -> int | None:
        """The evictable expert with the farthest next use."""
        heap, n_all, next_use, evictable = self.heap, self.n_all, self.next_use, self.view.evictable
        waiting: list[int] = []  # a chunk of theirs is on the link
        found = None
        while heap:
            use, x = divmod(-heap[0], n_all)
            if next_use[x] == use:
                if evictable(x):
                    found = x
                    break
                if self.view.resident(x):
                    waiting.append(heap[0])
            heappop(heap)
        for key in waiting:
            heappush(heap, key)
        return found

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return self.farthest()
