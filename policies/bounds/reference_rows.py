"""Reference rows that know the future: Belady's MIN that must admit, and with it a perfect look one layer ahead."""

from collections.abc import Iterator

from policies.api import LayerEvent, Setup
from policies.bounds.future import Clairvoyant, Future, FutureError
from policies.parts.pools import Ranking


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


class PerfectNextLayer(BeladyForced):
    """When a gate has run, prefetch what the next gate will demand, from the last layer on into the next step.

    Victims by farthest next use; a speculative load displaces only what is used later than itself, so nothing is
    copied in vain unless demand itself needs the room. A reference row, not a bound: a deeper look ahead may finish
    sooner. O(log experts) per lookup.
    """

    name = "perfect_next_layer"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.coming: frozenset[int] = frozenset()

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        starts, then = self.future.starts, self.now + 1
        coming = []
        if then < self.future.n_events:
            coming = self.future.experts[starts[then] : starts[then + 1]].tolist()
            self.actions.expect(coming)
        self.coming = frozenset(coming)
        for x in coming:
            self.actions.prefetch(x, 0.0)

    def on_slot(self, expert: int) -> None:
        if expert in self.coming:
            self.order.add(expert)

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        if expert in self.coming:  # demand needed the room; fetch it again when there is some
            self.actions.prefetch(expert, 0.0)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        victim = super().victim(incoming, speculative)
        if victim is not None and speculative and self.next_use[victim] <= self.next_use[incoming]:
            return None
        return victim
