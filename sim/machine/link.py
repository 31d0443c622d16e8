"""A link from host memory to one GPU: copies, one after the other."""

from collections import deque
from collections.abc import Sequence

from sim.core.core import Core
from sim.core.loads import NONE


class Link:
    """Copies chunks in the order that the core gives, ``depth`` of them handed over at a time; these always finish.

    ``copy_ns``: of each chunk alone. A further GPU has a link of its own; of several lanes each is such a queue; who
    else reads the host's memory would lengthen a copy where it begins, in :meth:`hand_over`.
    """

    def __init__(self, core: Core, copy_ns: Sequence[int], depth: int) -> None:
        self.core, self.copy_ns, self.depth = core, copy_ns, depth
        self.under_way: deque[tuple[int, int]] = deque()  # (end, chunk)
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
        """Nanoseconds of the copies handed over that lie after ``now``."""
        return self.under_way[-1][0] - now if self.under_way else 0
