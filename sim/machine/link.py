"""A link from host memory to one GPU: copies, one after the other on each of its lanes."""

from bisect import insort
from collections import deque
from collections.abc import Sequence
from heapq import heapreplace
from operator import itemgetter
from typing import Protocol

from sim.core.loads import NONE
from sim.core.state import State


class Source(Protocol):
    """What a link asks for chunks: a core, or what one of several GPUs has of it."""

    pending: bool

    @property
    def state(self) -> State: ...

    def next_chunk(self) -> int: ...


class Link:
    """Copies chunks in the order that the core gives, ``depth`` of them handed over at a time; these always finish.

    ``copy_ns``: of each chunk alone.
    """

    lanes = 1

    def __init__(self, core: Source, copy_ns: Sequence[int], depth: int) -> None:
        self.core, self.copy_ns, self.depth = core, copy_ns, depth
        self.under_way: deque[tuple[int, int]] = deque()  # (end, chunk), the one that ends first is the first
        self.busy_ns = 0
        self._next_chunk = core.next_chunk

    def hand_over(self, now: int) -> None:
        """Take chunks, as long as the core has some and there is a place."""
        core, under_way = self.core, self.under_way
        while core.pending and len(under_way) < self.depth:
            chunk = self._next_chunk()
            if chunk == NONE:
                return
            ns = self.copy_ns[chunk]
            self.busy_ns += ns
            under_way.append(((under_way[-1][0] if under_way else now) + ns, chunk))

    def busy_after(self, now: int) -> int:
        """Nanoseconds of the copies handed over that lie after ``now``, summed over the lanes."""
        return self.under_way[-1][0] - now if self.under_way else 0


class Lanes(Link):
    """A link that copies so many chunks at once, each as if it were alone: a chunk goes to the lane that is free first.

    They begin in the order in which they were handed over, ``depth`` for each lane. With one lane this is a
    :class:`Link`, only slower.
    """

    def __init__(self, core: Source, copy_ns: Sequence[int], depth: int, lanes: int) -> None:
        super().__init__(core, copy_ns, depth * lanes)
        self.lanes = lanes
        self._free = [0] * lanes  # a heap of when each lane is free

    def hand_over(self, now: int) -> None:
        """Take chunks, as long as the core has some and there is a place."""
        core, under_way, free = self.core, self.under_way, self._free
        while core.pending and len(under_way) < self.depth:
            chunk = self._next_chunk()
            if chunk == NONE:
                return
            ns = self.copy_ns[chunk]
            self.busy_ns += ns
            end = max(now, free[0]) + ns
            heapreplace(free, end)
            insort(under_way, (end, chunk), key=itemgetter(0))  # of one end, the one that began first

    def busy_after(self, now: int) -> int:
        """Nanoseconds of the copies handed over that lie after ``now``, summed over the lanes."""
        return sum(min(self.copy_ns[chunk], end - now) for end, chunk in self.under_way)

    def carried(self, now: int) -> list[int]:
        """The chunks that are on a lane from ``now`` on; those that wait for one are not."""
        return [chunk for end, chunk in self.under_way if end - self.copy_ns[chunk] <= now]
