"""The lanes of a link: when copies end that take the first one that is free."""

from collections.abc import Iterable
from heapq import heapreplace

from policies.api import Setup


def copied(lanes: list[int], chunks_ns: Iterable[int], after: int = 0) -> int:
    """Put one chunk after the other on the lane that is free first, none before ``after``; returns when all have ended.

    ``lanes``: when each is free, a heap. Nanoseconds. O(log lanes) per chunk.
    """
    end = max(lanes[0], after)
    for ns in chunks_ns:
        free = max(lanes[0], after) + ns
        heapreplace(lanes, free)
        end = max(end, free)
    return end


def alone_ns(setup: Setup, layer: int) -> int:
    """An expert's copy while the link carries nothing else."""
    return copied([0] * setup.lanes, setup.chunk_ns(layer))
