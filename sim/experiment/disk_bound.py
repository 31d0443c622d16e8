"""What must be read from a disk below host memory, at least, and how long that takes (docs/design.md, rule 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from policies.api import Setup
from policies.bounds.belady_bypass import belady_bypass_bytes
from policies.bounds.future import Future
from sim.core.host_memory import filled
from sim.core.state import split_chunks

if TYPE_CHECKING:
    from sim.machine.disk import Reads


@dataclass(frozen=True, slots=True)
class DiskFloor:
    """Of the measured window."""

    nbytes: int
    """From the drive."""
    ns: int


def disk_floor(future: Future, setup: Setup, capacity: int, reads: Reads, *, warm: bool) -> DiskFloor:
    """The fewest bytes that the drive reads, with ``capacity`` bytes of host memory, and the time of all reads on all
    lanes at once. ``warm``: the demand follows a warm-up.

    Bytes: let U(t) be what is on the GPU or in host memory, or being read, when gate t has run. U fits in the budget
    and the host's memory together, whether they share experts or not, and what joins it was read: an expert on the
    GPU came from the host, one that an exclusive host gets back was on the GPU. What event t demands and is not in U(t)
    is read before it is computed. So the reads are a schedule of one cache of both sizes that loads whole or part, may
    pass an expert by, and is bounded by ``belady_bypass`` at that size. After a warm-up it may begin with anything;
    else the GPU is empty and the host is filled, so that the run and those bytes of the filling that are demanded
    together are a schedule from nothing, and the reads at least the difference.

    Time: each byte is part of a chunk's reads, which take no less per byte than those of the best chunk, and a lane
    reads one chunk at a time. Reads begin within the window: what was begun before it is in U.

    With a page cache that holds for all reads, whoever serves them, which are R bytes at least. For those of the drive
    it holds once more with what is cached as a part of U, which it came to by such a read; the cache is empty at the
    start. They are D bytes at least, at the size of all three. So d >= D bytes are read from the drive and h >= R - d
    out of the cache, each at its best rate per byte: no time is less than that of d = D, or, where the drive were the
    faster, of h = 0.
    """
    sizes, n = setup.expert_bytes, setup.n_experts
    there = [] if warm else [x for x in filled(setup, capacity) if future.first_use[x] < future.n_events]
    given = sum(sizes[x // n] for x in there)

    def fewest(room: int) -> int:
        return max(0, belady_bypass_bytes(future, sizes, n, room, warm=warm) - given)

    chunk_bytes = [b for size in sizes for _ in range(n) for b in split_chunks(size, setup.chunks)]
    read = fewest(setup.budget + capacity)
    best = _least_per_byte(reads.read_ns, chunk_bytes)
    if not reads.page_cache:
        return DiskFloor(read, int(read * best) // reads.lanes)
    drive = fewest(setup.budget + capacity + reads.page_cache)
    other = min(best, _least_per_byte(reads.cached_ns, chunk_bytes))
    return DiskFloor(drive, int(drive * best + max(0, read - drive) * other) // reads.lanes)


def _least_per_byte(ns: Sequence[int], nbytes: Sequence[int]) -> Fraction:
    """Of the best chunk."""
    return min(Fraction(*each) for each in set(zip(ns, nbytes, strict=True)))
