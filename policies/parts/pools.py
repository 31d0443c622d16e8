"""Who gives up a slot for whom: pools of all experts or of a layer's, and orders in them, by entry, rank or score."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.api import Hooks, Order, Policy, Setup

Scope = Literal["global", "layer"]
Reals = NDArray[np.float64]
INF = float("inf")
Rank = int | tuple[int, int]
"""Of the members of one pool, all of one kind."""


def least(setup: Setup, need: Callable[[Sequence[int]], int]) -> int:
    """The budget of which every GPU's part is enough: ``need`` of the experts of each layer that it holds, in bytes."""
    return setup.gpus * max(map(need, setup.by_pool()))


AnyOrder = TypeVar("AnyOrder", bound=Order)


class Pooled(Policy, Generic[AnyOrder]):
    """Evict the first evictable expert in the order of its pool; an expert enters it when it takes its slot.

    ``scope=global``: one pool for all layers; ``scope=layer``: one per layer, each with an even share of the budget.
    ``order``: makes that of a pool, of these experts. With several GPUs an order holds the experts of all of them, and
    gives up the first on the GPU in question, as no other is evictable then. ``pools`` stay the same during a run.
    """

    def __init__(self, setup: Setup, scope: Scope, order: Callable[[range], AnyOrder]) -> None:
        super().__init__(setup)
        self._order = order
        self.by_layer = scope == "layer"
        n_pools, n = (setup.n_layers if self.by_layer else 1), setup.n_layers * setup.n_experts
        self.span = n // n_pools
        """Experts per pool: one belongs to pool ``expert // span``."""
        self.pools = [order(range(first, first + self.span)) for first in range(0, n, self.span)]

    def min_budget(self) -> int:
        return self.gpu_bytes() + least(self.setup, self._one_of_each) if self.by_layer else super().min_budget()

    def layer_budgets(self) -> list[int] | None:
        return self.setup.layer_budgets(self.setup.budget - self.gpu_bytes()) if self.by_layer else None

    def _one_of_each(self, held: Sequence[int]) -> int:
        return sum(size for size, n in zip(self.setup.expert_bytes, held, strict=True) if n)

    def on_slot(self, expert: int) -> None:
        self.pools[expert // self.span].add(expert)

    def on_evict(self, expert: int) -> None:
        self.pools[expert // self.span].discard(expert)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return self.pools[incoming // self.span].lowest(self.view.evictable)

    def hooks(self) -> Hooks:
        """Of one pool its own ways to what the hooks above do, but where a class or the object has another one."""
        own = super().hooks()
        if self.by_layer:
            return own
        pool, evictable, here = self.pools[0], self.view.evictable, self._as_here
        lowest = pool.lowest
        return Hooks(
            (lambda incoming, speculative: lowest(evictable)) if here("victim") else own.victim,
            pool.add if own.on_slot is not None and here("on_slot") else own.on_slot,
            pool.discard if own.on_evict is not None and here("on_evict") else own.on_evict,
        )

    def _as_here(self, hook: str) -> bool:
        return getattr(type(self), hook) is getattr(Pooled, hook) and hook not in vars(self)

    def more_pools(self, n: int) -> list[AnyOrder] | None:
        """``n`` more pools of all layers, for ``orders`` of a class whose own these are: a subclass may look at who is
        there. None where one has hooks of its own, or a pool per layer."""
        changed = any(callable(getattr(Policy, name, None)) for name in vars(self))
        if self.by_layer or changed or not all(map(self._as_here, ("victim", "on_slot", "on_evict"))):
            return None
        self.pools += [self._order(range(self.span)) for _ in range(n)]
        return self.pools[1:]


class Queue(OrderedDict[int, None]):
    """First come, first to go; who is moved to the end has come last."""

    def __init__(self, members: range) -> None:
        super().__init__()

    # Without a Python call of their own: each copy takes a slot, and mostly another one's.
    add = OrderedDict[int, None].setdefault
    discard = OrderedDict[int, None].__delitem__

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        return next(filter(allowed, self), None)


class Arrivals(Queue):
    """A queue that nobody enters but with a slot."""

    def exchange(self, incoming: Sequence[int], allowed: Callable[[int], bool]) -> list[int]:
        """See :class:`policies.hooks.FullOrder`."""
        first = self.lowest(allowed)
        if first is None:
            return []
        left, entering = [first], incoming[0]
        del self[first]
        for expert in incoming[1:]:
            if self:
                left.append(self.popitem(last=False)[0])
                self[entering] = None
            else:
                left.append(entering)
            entering = expert
        self[entering] = None
        return left


class Stack(Queue):
    """Last come, first to go."""

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        return next(filter(allowed, reversed(self)), None)


class Scores:
    """Lowest score first, the lower expert among equals, where the scores of all may change at once.

    ``score(experts)`` gives those of a slice of all. Asked at the first victim after ``stale`` was set, in numpy;
    until then scores stand as they were, of those who enter, too. O(experts), then and per one that is refused.
    """

    def __init__(self, members: range, score: Callable[[slice], Reals]) -> None:
        self.first, self.members, self.score = members.start, slice(members.start, members.stop), score
        self.worth = np.zeros(len(members))  # of all
        self.scores = np.full(len(members), np.inf)  # of those that are in, else inf
        self.least = np.full(len(members), np.inf)  # what a score cannot be below: -inf of those that are in, else inf
        self.stale = True

    @property
    def present(self) -> NDArray[np.bool_]:
        """Who is in, of all."""
        return self.least < 0

    def add(self, expert: int) -> None:
        place = expert - self.first
        self.scores[place], self.least[place] = self.worth[place], -INF

    def discard(self, expert: int) -> None:
        place = expert - self.first
        self.scores[place] = self.least[place] = INF

    def exchange(self, incoming: Sequence[int], allowed: Callable[[int], bool]) -> list[int]:
        """See :class:`policies.hooks.FullOrder`."""
        lowest = self.lowest(allowed)
        if lowest is None:
            return []
        self.discard(lowest)
        left, entering = [lowest], incoming[0]
        scores, least, worth, first = self.scores, self.least, self.worth, self.first
        for expert in incoming[1:]:
            gone, place = int(scores.argmin()), entering - first
            if len(left) == 1 and least[gone] == INF:  # there was room for one alone
                left += incoming[:-1]
                entering = incoming[-1]
                break
            scores[gone] = least[gone] = INF
            scores[place], least[place] = worth[place], -INF
            left.append(first + gone)
            entering = expert
        self.add(entering)
        return left

    def worth_of(self, expert: int) -> float:
        """Its score, as of the last victim."""
        return float(self.worth[expert - self.first])

    def scores_now(self) -> Reals:
        """Of all members, inf for those that are not in; a copy."""
        self._refresh()
        return self.scores.copy()

    def _refresh(self) -> None:
        if self.stale:
            self.worth = self.score(self.members)
            self.scores = np.maximum(self.worth, self.least)  # a choice by a mask takes several times as long
            self.stale = False

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        self._refresh()
        scores, first, found = self.scores, self.first, None
        refused: list[tuple[int, float]] = []
        while found is None and (score := scores.item(place := int(scores.argmin()))) < INF:
            if allowed(first + place):
                found = first + place
            else:
                refused.append((place, score))
                scores[place] = INF
        for place, score in refused:
            scores[place] = score
        return found


class Ranking:
    """Lowest rank first, the lower expert among equals. A member's rank may grow, never fall.

    A heap with one live entry per member, brought up to date when it comes to the top: growth costs nothing until
    then. O(log members) amortised over additions and growths; refused members are put back, O(log members) each.
    """

    def __init__(self, rank: Callable[[int], Rank]) -> None:
        self.rank = rank
        self.heap: list[tuple[Rank, int]] = []
        self.live: dict[int, tuple[Rank, int]] = {}

    def add(self, expert: int) -> None:
        heap, live = self.heap, self.live
        entry = self.rank(expert), expert
        if heap and live.get(heap[0][1]) is not heap[0]:  # mostly the victim that has made room for it
            heapreplace(heap, entry)
        else:
            heappush(heap, entry)
        live[expert] = entry
        if len(heap) > 2 * len(self.live) + 64:  # those discarded before they came to the top
            self.heap = list(self.live.values())
            heapify(self.heap)

    def discard(self, expert: int) -> None:
        self.live.pop(expert, None)

    def exchange(self, incoming: Sequence[int], allowed: Callable[[int], bool]) -> list[int]:
        """See :class:`policies.hooks.FullOrder`."""
        first = self.lowest(allowed)
        if first is None:
            return []
        heap, live, rank_of = self.heap, self.live, self.rank
        left, entering = [first], incoming[0]
        del live[first]
        if not live:  # there was room for one alone
            left += incoming[:-1]
            self.add(incoming[-1])
            return left
        for expert in incoming[1:]:
            while True:
                entry = heap[0]
                rank, lowest = entry
                now = rank_of(lowest)
                if live.get(lowest) is not entry:
                    heappop(heap)
                elif now == rank:
                    break
                else:
                    live[lowest] = entry = now, lowest
                    heapreplace(heap, entry)
            del live[lowest]
            live[entering] = entry = rank_of(entering), entering
            heapreplace(heap, entry)
            left.append(lowest)
            entering = expert
        self.add(entering)
        return left

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        heap, live, rank_of, found = self.heap, self.live, self.rank, None
        refused: list[tuple[Rank, int]] = []
        while heap and found is None:
            entry = heap[0]
            rank, expert = entry
            if live.get(expert) is not entry:
                heappop(heap)
            elif (now := rank_of(expert)) != rank:
                live[expert] = now, expert
                heapreplace(heap, live[expert])
            elif allowed(expert):
                found = expert
            else:
                refused.append(heappop(heap))
        for entry in refused:
            heappush(heap, entry)
        return found
