"""The operating system's page cache between a disk and who reads from it: a price of reads, and no decision.

A read of bytes that were read before, and are still cached, is a copy within memory and leaves the drive alone. The
policy, the core and host memory know nothing of it, as on a real system.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from sim.core.accounts import PageCacheAccounts


class PageCache:
    """Which chunks are cached: whole experts go, the least recently read first (an approximation of pages).

    An expert takes room for all its bytes with the first chunk that is read of it, when that read begins, whether a
    gate or a prediction wanted it; of one that is larger than all of the cache nothing is kept. Empty at the start.

    ``chunk_bytes``: of each chunk, ``chunks`` of them for an expert; ``capacity`` in bytes.
    """

    def __init__(self, chunk_bytes: Sequence[int], chunks: int, capacity: int) -> None:
        self.chunk_bytes, self.chunks, self.capacity = chunk_bytes, chunks, capacity
        self.used = 0
        self.counts = PageCacheAccounts()
        self.serves = set[int]()
        """The chunks of the reads under way that it serves."""
        self._there: OrderedDict[int, set[int]] = OrderedDict()  # by expert, the one to go first is the first

    def read(self, chunk: int) -> bool:
        """A read begins; returns whether the cache serves it."""
        expert, counts, nbytes = chunk // self.chunks, self.counts, self.chunk_bytes[chunk]
        there = self._touched(expert)
        if chunk in there:
            counts.reads += 1
            counts.nbytes += nbytes
            self.serves.add(chunk)
            return True
        there.add(chunk)
        counts.disk_reads += 1
        counts.disk_bytes += nbytes
        return False

    def read_done(self, chunk: int) -> None:
        """That read has ended."""
        self.serves.discard(chunk)

    def priced(self, read_ns: Sequence[int], cached_ns: Sequence[int]) -> Callable[[int], int]:
        """What a read that begins takes, by its chunk: of the drive, or where the cache serves it."""
        return lambda chunk: (cached_ns if self.read(chunk) else read_ns)[chunk]

    def measure(self) -> None:
        """A window begins: what is cached stays."""
        self.counts = PageCacheAccounts()

    def _touched(self, expert: int) -> set[int]:
        """The chunks of ``expert`` that are cached, which is now the last to go."""
        there = self._there.get(expert)
        if there is not None:
            self._there.move_to_end(expert)
            return there
        size = self._size(expert)
        if size > self.capacity:
            return set()
        self.used += size
        while self.used > self.capacity:
            gone, _ = self._there.popitem(last=False)
            self.used -= self._size(gone)
        self._there[expert] = there = set()
        return there

    def _size(self, expert: int) -> int:
        return sum(self.chunk_bytes[expert * self.chunks : (expert + 1) * self.chunks])
