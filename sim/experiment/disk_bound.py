"""What must be read from a disk below host memory, at least, and how long that takes (docs/design.md, rule 7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from policies.api import Setup
from policies.bounds.belady_bypass import belady_bypass_bytes
from policies.bounds.future import Future
from sim.core.host_memory import filled
from sim.core.state import split_chunks


@dataclass(frozen=True, slots=True)
class DiskFloor:
    """Of the measured window."""

    nbytes: int
    ns: int


def disk_floor(
    future: Future, setup: Setup, capacity: int, read_ns: Sequence[int], lanes: int, *, warm: bool
) -> DiskFloor:
    """The fewest bytes that are read, with ``capacity`` bytes of host memory, and their time on all lanes at once.

    ``read_ns``: of each chunk of each expert. ``warm``: the demand follows a warm-up.

    Bytes: let U(t) be what is on the GPU or in host memory, or being read, when gate t has run. U fits in the budget
    and the host's memory together, whether they share experts or not, and what joins it was read: an expert on the
    GPU came from the host, one that an exclusive host gets back was on the GPU. What event t demands and is not in U(t)
    is read before it is computed. So the reads are a schedule of one cache of both sizes that loads whole or part, may
    pass an expert by, and is bounded by ``belady_bypass`` at that size. After a warm-up it may begin with anything;
    else the GPU is empty and the host is filled, so that the run and those bytes of the filling that are demanded
    together are a schedule from nothing, and the reads at least the difference.

    Time: each byte is part of a chunk's reads, which take no less per byte than those of the best chunk, and a lane
    reads one chunk at a time. Reads begin within the window: what was begun before it is in U.
    """
    sizes, n = setup.expert_bytes, setup.n_experts
    nbytes = belady_bypass_bytes(future, sizes, n, setup.budget + capacity, warm=warm)
    if not warm:
        there = [x for x in filled(setup, capacity) if future.first_use[x] < future.n_events]
        nbytes = max(0, nbytes - sum(sizes[x // n] for x in there))
    chunk_bytes = [b for size in sizes for _ in range(n) for b in split_chunks(size, setup.chunks)]
    best = min({(ns, b) for ns, b in zip(read_ns, chunk_bytes, strict=True)}, key=lambda read: Fraction(*read))
    return DiskFloor(nbytes, nbytes * best[0] // best[1] // lanes)
