"""Belady's MIN as a cache that must admit: farthest next use first."""

from collections.abc import Iterator

from policies.api import LayerEvent, Setup
from policies.bounds.future import Clairvoyant, Future, FutureError
from policies.parts.orders import Ranking


class BeladyForced(Clairvoyant):
    """Evict the expert whose next demand is the farthest away; every demand load is admitted and kept.

    Belady, IBM Systems Journal 5(2), 1966. A reference row, not a bound: bypassing admission, prefetching or dividing
    experts can copy less or finish sooner. Ties go to the larger expert number. An expert is ranked anew when it has
    been computed; until then it is pinned, whatever its old rank says. O(log experts) per lookup.
    """

    name = "belady_forced"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.now = -1  # the current event
        self.next_use: list[int] = []
        self.order = Ranking(lambda x: (-self.next_use[x], -x))
        """Of those with a slot that have been computed since they were last demanded."""
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
        self.order.add(expert)
        return True

    def on_evict(self, expert: int) -> None:
        self.order.discard(expert)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return self.order.lowest(self.view.evictable)
