"""Orders in which experts give up their slots (:class:`policies.parts.pools.Order`): by entry, by rank, by score."""

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Rank = tuple[int, int]


class Queue(OrderedDict[int, None]):
    """First come, first to go; who is moved to the end has come last."""

    def __init__(self, members: range) -> None:
        super().__init__()

    # Without a Python call of their own: each copy takes a slot, and mostly another one's.
    add = OrderedDict[int, None].setdefault
    discard = OrderedDict[int, None].__delitem__

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        return next(filter(allowed, self), None)


class Scores:
    """Lowest score first, the lower expert among equals, where the scores of all may change at once.

    ``score(experts)`` gives those of a slice of all. Asked at the first victim after ``stale`` was set, in numpy;
    until then scores stand as they were, of those who enter, too. O(experts), then and per one that is refused.
    """

    def __init__(self, members: range, score: Callable[[slice], Reals]) -> None:
        self.first, self.members, self.score = members.start, slice(members.start, members.stop), score
        self.worth = np.zeros(len(members))  # of all
        self.scores = np.full(len(members), np.inf)  # of those that are in, else inf
        self.stale = True

    @property
    def present(self) -> NDArray[np.bool_]:
        """Who is in, of all."""
        return self.scores < np.inf

    def add(self, expert: int) -> None:
        self.scores[expert - self.first] = self.worth[expert - self.first]

    def discard(self, expert: int) -> None:
        self.scores[expert - self.first] = np.inf

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        if self.stale:
            self.worth = self.score(self.members)
            self.scores = np.where(self.present, self.worth, np.inf)
            self.stale = False
        scores, first, found = self.scores, self.first, None
        refused: list[tuple[int, float]] = []
        while found is None and scores[place := int(scores.argmin())] < np.inf:
            if allowed(first + place):
                found = first + place
            else:
                refused.append((place, float(scores[place])))
                scores[place] = np.inf
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
        entry = self.live[expert] = self.rank(expert), expert
        heappush(self.heap, entry)
        if len(self.heap) > 2 * len(self.live) + 64:  # those discarded before they came to the top
            self.heap = list(self.live.values())
            heapify(self.heap)

    def discard(self, expert: int) -> None:
        self.live.pop(expert, None)

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        heap, live, refused = self.heap, self.live, []
        found = None
        while heap and found is None:
            entry = heap[0]
            rank, expert = entry
            if live.get(expert) is not entry:
                heappop(heap)
            elif (now := self.rank(expert)) != rank:
                live[expert] = now, expert
                heapreplace(heap, live[expert])
            elif allowed(expert):
                found = expert
            else:
                refused.append(heappop(heap))
        for entry in refused:
            heappush(heap, entry)
        return found
