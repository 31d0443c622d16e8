"""The fewest bytes that any lossless policy can copy."""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from policies.bounds.future import Future


def belady_bypass_bytes(
    future: Future, expert_bytes: Sequence[int], n_experts: int, capacity_bytes: int, *, warm: bool = False
) -> int:
    """Lower bound on the bytes copied by a lossless policy that computes on the GPU within ``capacity_bytes``.

    ``expert_bytes``: of one expert, per layer. The GPU starts empty, and all that is copied counts; with ``warm`` it
    starts with what it likes, for a window that follows a warm-up. After every layer event, keep the bytes with the
    nearest next use. O(log experts) per lookup.

    Why it bounds: let S(t) be the bytes that have been handed to the link and still have their slot when gate t has
    run; they fit in the capacity. A demanded byte outside S(t) is handed over after gate t and before gate t + 1, a
    byte of S(t + 1) that is neither in S(t) nor demanded by event t likewise. The bound is the least sum of these
    copies over all sequences S: experts are divisible, staging is free, pins are ignored. So it holds for any chunks,
    sizes, prefetching, bypassing, or order within an event. Why the rule attains it: copying ahead costs what copying
    on demand costs, so what is left to choose is which gaps, from a byte's demand to its next, to bridge by keeping
    the byte. Each gap bridged saves one byte, and at most capacity_bytes of them may cover any gate. Choosing the most
    intervals with at most C over any point is solved by going from left to right and dropping, wherever more than C
    overlap, the one that ends last (Faigle and Nawijn, 1995; Carlisle and Lloyd, 1995). All bytes of an expert have
    the same gaps, so an expert may be kept in part, and unequal sizes cost nothing in exactness.
    """
    size = sizes_of(future, expert_bytes, n_experts)
    if capacity_bytes < 0:
        raise ValueError(f"capacity_bytes={capacity_bytes}: allowed: 0 or more")
    kept = Nearest(size, capacity_bytes, future.first_use.tolist() if warm else None)
    for event, (experts, next_use) in enumerate(future.events()):
        kept.demand(event, experts, next_use)
    return kept.copied


def sizes_of(future: Future, expert_bytes: Sequence[int], n_experts: int) -> list[int]:
    """Bytes of each expert. ValueError for other layers or experts than those of ``future``."""
    size = [nbytes for nbytes in expert_bytes for _ in range(n_experts)]
    if len(size) != future.n_all:
        raise ValueError(f"{len(expert_bytes)} layers of {n_experts} experts for a future of {future.n_all} experts")
    return size


class Nearest:
    """The bytes with the nearest next use, as many as fit, after each of a sequence of events.

    ``next_use``: of each expert, before the first event; those that are needed first are then there, free of charge.
    None: it starts empty.
    """

    def __init__(self, size: Sequence[int], capacity: int, next_use: Sequence[int] | None) -> None:
        self.size, self.capacity = size, capacity
        self.held, self.used, self.copied = [0] * len(size), 0, 0
        self.heap: list[int] = []
        """-(next use * n + expert) of what is held; of an expert's entries the latest lies above the others."""
        if next_use is not None:
            for use, x in sorted(zip(next_use, range(len(size)), strict=True)):
                if self.used == capacity:
                    break
                self.held[x] = min(size[x], capacity - self.used)
                self.used += self.held[x]
                self.heap.append(-(use * len(size) + x))
            heapify(self.heap)

    def demand(self, event: int, experts: Sequence[int], next_use: Sequence[int]) -> None:
        """An event's gate runs: drop what is too much, and copy what is missing."""
        heap, held, size, n = self.heap, self.held, self.size, len(self.size)
        if len(heap) > 4 * n:
            heap = self.heap = [key for key in heap if key <= -event * n]
            heapify(heap)
        surplus = self.used - self.capacity
        while surplus > 0:
            x = -heap[0] % n
            cut = min(held[x], surplus)
            held[x] -= cut
            surplus -= cut
            if not held[x]:
                heappop(heap)
        self.used = self.capacity + surplus
        for x, use in zip(experts, next_use, strict=True):
            missing = size[x] - held[x]
            if missing:
                self.copied += missing
                self.used += missing
                held[x] = size[x]
            heappush(heap, -(use * n + x))
