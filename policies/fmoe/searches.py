"""fMoE's searcher: it finds contexts like the present ones beside the inference, one search after the other."""

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Found:
    """The answer of a search: for the layers ``first`` to ``end`` - 1, the map at ``places``, one per request."""

    first: int
    end: int
    places: list[int]
    similarity: list[float]


class Searcher:
    """Who is asked has an answer after ``ns`` per request; what the gates have overtaken meanwhile is not begun."""

    def __init__(self, ns: int) -> None:
        self.ns = ns
        self.line = deque[Found]()
        self.busy = False
        self.sought: Found | None = None  # by the search under way; None: it is of no use any more
        self.unpaid = 0  # comparisons for the store's update, that the next search pays for

    def forget(self) -> None:
        """Nobody wants the answers any more; the search under way goes on."""
        self.line.clear()
        self.sought = None

    def begin(self, layer: int) -> int | None:
        """The nanoseconds of the search that begins when the gate of ``layer`` was the last to run; None: none does."""
        while self.line and not self.busy:
            found = self.line.popleft()
            if found.end > layer + 1:
                self.busy, self.sought = True, found
                requests, self.unpaid = len(found.places) + self.unpaid, 0
                return self.ns * requests
        return None

    def end(self) -> Found | None:
        """The search under way has ended: its answer, if anybody wants it."""
        self.busy = False
        return self.sought
