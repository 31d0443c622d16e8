"""The queue of speculative loads."""

from heapq import heapify, heappop, heappush

EMPTY = -1


class SpeculativeQueue:
    """Pending loads by priority, then first come. An expert has at most one live entry; others are skipped."""

    __slots__ = ("_issued", "_live", "heap")

    def __init__(self, n_experts: int) -> None:
        self.heap: list[tuple[float, int, int]] = []  # (-priority, number, expert)
        self._live = [0] * n_experts  # number of an expert's live entry, 0 for none
        self._issued = 0

    def push(self, expert: int, priority: float) -> None:
        """Queue an expert, or move it."""
        self._issued += 1
        self._live[expert] = self._issued
        heappush(self.heap, (-priority, self._issued, expert))
        if len(self.heap) > 4 * len(self._live):  # mostly dead entries that never come to the head
            self.heap[:] = [entry for entry in self.heap if self._live[entry[2]] == entry[1]]
            heapify(self.heap)

    def drop(self, expert: int) -> None:
        """Take an expert out, if it is in."""
        self._live[expert] = 0

    def entry(self, expert: int) -> int:
        """What changes when an expert is queued anew or dropped."""
        return self._live[expert]

    def head(self) -> int:
        """The expert whose turn it is, or EMPTY."""
        heap = self.heap
        while heap:
            _, number, expert = heap[0]
            if self._live[expert] == number:
                return expert
            heappop(heap)
        return EMPTY
