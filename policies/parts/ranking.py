"""Who ranks lowest: without looking at everybody, or all at once in numpy."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np
from numpy.typing import NDArray

Rank = tuple[int, int]


def lowest(scores: NDArray[np.float64], allowed: Callable[[int], bool]) -> int | None:
    """Place of the lowest finite score that is allowed, the first among equals; None if there is none.

    ``scores`` [n] is written to in between, and is as it was in the end. O(n) per place that is refused.
    """
    refused: list[tuple[int, float]] = []
    found = None
    while found is None and scores[place := int(scores.argmin())] < np.inf:
        if allowed(place):
            found = place
        else:
            refused.append((place, float(scores[place])))
            scores[place] = np.inf
    for place, score in refused:
        scores[place] = score
    return found


class Ranking:
    """Members by rank, lowest first, the lower number first among equals. A member's rank may grow, never fall.

    A heap with one live entry per member, brought up to date when it comes to the top: growth costs nothing until
    then. O(log members) amortised over additions and growths; refused members are put back, O(log members) each.
    """

    def __init__(self, rank: Callable[[int], Rank]) -> None:
        self.rank = rank
        self.heap: list[tuple[Rank, int]] = []
        self.live: dict[int, tuple[Rank, int]] = {}

    def add(self, member: int) -> None:
        entry = self.live[member] = self.rank(member), member
        heappush(self.heap, entry)
        if len(self.heap) > 2 * len(self.live) + 64:  # those discarded before they came to the top
            self.heap = list(self.live.values())
            heapify(self.heap)

    def discard(self, member: int) -> None:
        self.live.pop(member, None)

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        """The lowest member that is allowed; it stays a member."""
        heap, live, refused = self.heap, self.live, []
        found = None
        while heap and found is None:
            entry = heap[0]
            rank, member = entry
            if live.get(member) is not entry:
                heappop(heap)
            elif (now := self.rank(member)) != rank:
                live[member] = now, member
                heapreplace(heap, live[member])
            elif allowed(member):
                found = member
            else:
                refused.append(heappop(heap))
        for entry in refused:
            heappush(heap, entry)
        return found
