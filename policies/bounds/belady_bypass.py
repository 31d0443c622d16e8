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
    n = future.n_all
    size = [nbytes for nbytes in expert_bytes for _ in range(n_experts)]
    if len(size) != n:
        raise ValueError(f"{len(expert_bytes)} layers of {n_experts} experts for a future of {n} experts")
    if capacity_bytes < 0:
        raise ValueError(f"capacity_bytes={capacity_bytes}: allowed: 0 or more")
    # An expert's live entry -(next use * n + expert) is the latest; what has been used again lies below all live ones.
    held, heap = [0] * n, list[int]()
    if warm:  # as if an event had demanded every expert, free of charge
        held, heap = size.copy(), [-(use * n + x) for x, use in enumerate(future.first_use.tolist())]
        heapify(heap)
    used, copied = sum(held), 0
    for event, (experts, next_use) in enumerate(future.events()):
        if len(heap) > 4 * n:
            heap = [key for key in heap if key <= -event * n]
            heapify(heap)
        while used > capacity_bytes:
            x = -heap[0] % n
            cut = min(held[x], used - capacity_bytes)
            held[x] -= cut
            used -= cut
            if not held[x]:
                heappop(heap)
        for x, use in zip(experts, next_use, strict=True):
            missing = size[x] - held[x]
            if missing:
                copied += missing
                used += missing
                held[x] = size[x]
            heappush(heap, -(use * n + x))
    return copied
