"""Reference rows that know the future: Belady's MIN that must admit, and with it perfect looks ahead."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from policies.api import LayerEvent, Setup, Step
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
        victim = self.order.lowest(self.view.evictable)
        if victim is not None and speculative and self.next_use[victim] <= self.next_use[incoming]:
            return None  # of those below, which prefetch: nothing goes for what is needed later
        return victim


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


class OracleAhead(BeladyForced):
    """Prefetch what is absent in the order in which it will be needed, however far ahead, while there is room for it.

    Whenever the link is free it gets the absent expert with the nearest next use, provided that there is room or that
    an expert goes for it that is needed later: the algorithm "aggressive" of P. Cao et al., A study of integrated
    prefetching and caching strategies (SIGMETRICS 1995). So the link is busy as long as anything useful can be copied;
    demand goes first, as ever. A reference row, not a bound: who waited would sometimes know a better victim, and copy
    less. O(log experts) per lookup and load.
    """

    name = "oracle_ahead"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.absent: list[list[tuple[int, int]]] = [[] for _ in range(setup.gpus)]
        """Of each GPU, a heap of (next use, expert): all that have neither a slot nor a load, and some that have."""
        self.waiting: list[set[int]] = [set() for _ in range(setup.gpus)]
        """Of each, asked for, and neither demanded nor given a slot since: one, or those that it was put before."""

    def foresee(self, future: Future) -> None:
        super().foresee(future)
        for x, use in enumerate(self.next_use):
            if use < future.n_events:
                self.absent[self.setup.pool_of(x)].append((use, x))
        for absent in self.absent:
            heapify(absent)

    def on_step(self, step: Step) -> None:
        self.ask()  # before the first gate, too

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        for waiting in self.waiting:
            waiting.difference_update(event.demand)
        self.ask()

    def on_slot(self, expert: int) -> None:
        waiting = self.waiting[self.setup.pool_of(expert)]
        if expert in waiting:
            waiting.remove(expert)
            self.order.add(expert)
            self.ask()

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        use = self.next_use[expert]
        if use < self.future.n_events:
            heappush(self.absent[self.setup.pool_of(expert)], (use, expert))
            self.ask()

    def ask(self) -> None:
        """For each GPU, queue its absent expert that is needed first, unless what is waiting is needed as soon."""
        for absent, waiting in zip(self.absent, self.waiting, strict=True):
            self._ask(absent, waiting)

    def _ask(self, absent: list[tuple[int, int]], waiting: set[int]) -> None:
        next_use, view = self.next_use, self.view
        while absent:
            use, x = absent[0]
            if use != next_use[x] or view.resident(x) or view.loading(x):
                heappop(absent)
                continue
            if all(use < next_use[y] for y in waiting):
                heappop(absent)
                waiting.add(x)
                self.actions.prefetch(x, -float(use))
            return
