"""Who gives up a slot for whom: pools of all experts or of a layer's, and orders in them, by entry, rank or score."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.api import Policy, Setup

Scope = Literal["global", "layer"]
Reals = NDArray[np.float64]
INF = float("inf")
Rank = int | tuple[int, int]
"""Of the members of one pool, all of one kind."""


class Order(Protocol):
    """The experts of a pool that have a slot, in the order in which they would give it up."""

    def add(self, expert: int) -> None:
        """It has taken a slot."""

    def discard(self, expert: int) -> None:
        """It has lost its slot."""

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        """The first that is allowed, which stays a member; None if none is."""


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


def shortcut(policy: Policy, hook: str) -> Callable[[int], object]:
    """A hook of ``policy``; of one that has one pool, and only adds to it or takes from it there, the pool's own.

    That saves a call in each load.
    """
    found: Callable[[int], object] = getattr(policy, hook)
    if isinstance(policy, Pooled) and not policy.by_layer and hook not in vars(policy):
        if hook == "on_slot" and type(policy).on_slot is Pooled.on_slot:
            found = policy.pools[0].add
        elif hook == "on_evict" and type(policy).on_evict is Pooled.on_evict:
            found = policy.pools[0].discard
    return found


def chooser(policy: Policy) -> Callable[[int, bool], int | None]:
    """``victim`` of a policy that has its view; of one pool that knows no more, the pool's own in one call less."""
    its_own = type(policy).victim is not Pooled.victim or "victim" in vars(policy)
    if isinstance(policy, Pooled) and not policy.by_layer and not its_own:
        lowest, evictable = policy.pools[0].lowest, policy.view.evictable
        return lambda incoming, speculative: lowest(evictable)
    return policy.victim


class Queue(OrderedDict[int, None]):
    """First come, first to go; who is moved to the end has come last."""

    def __init__(self, members: range) -> None:
        super().__init__()

    # Without a Python call of their own: each copy takes a slot, and mostly another one's.
    add = OrderedDict[int, None].setdefault
    discard = OrderedDict[int, None].__delitem__

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        return next(filter(allowed, self), None)


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

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        heap, live, rank_of, refused = self.heap, self.live, self.rank, list[tuple[Rank, int]]()
        found = None
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
