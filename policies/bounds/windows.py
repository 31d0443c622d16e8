"""The fewest bytes that must be copied within windows of passes, whatever is in memory when they begin; and what the
times of windows say of the whole run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from policies.bounds.belady_bypass import Nearest, sizes_of
from policies.bounds.future import Future

STRIDE = 8
"""A window begins at every eighth pass,"""
REACH = 32
"""and ends with any of the 32 from there on."""


def window_bytes(
    future: Future,
    expert_bytes: Sequence[int],
    n_experts: int,
    capacity_bytes: int,
    ends: Sequence[int],
    *,
    warm: bool = False,
) -> Iterator[list[tuple[int, int]]]:
    """Per pass, the windows that end with it: (first pass, bytes that no lossless policy does without copying).

    Copied means handed to the link when the window has begun, and complete before it ends. ``ends``: layer events up to
    the end of each pass; ``expert_bytes``, ``warm`` and what is meant by lossless are as for ``belady_bypass_bytes``.
    Each pass alone is a window too. O(REACH / STRIDE x log experts) per lookup; windows of any length and place gain
    little more, and cost as much as all that is simulated.

    Why: as there, let S(t) be the bytes that are handed over and have their slot when gate t has run, but now only
    those that keep it until a gate of this window demands them. S fits in the capacity. At the window's first gate it
    may be anything, for nothing; what is copied from there on is what its events lack, and what comes into S after a
    gate that did not demand it. All of that is handed over within the window, and complete before it ends, as compute
    within the window needs it. So the least cost over all sequences S, each free to begin as it likes, bounds these
    copies, and the rule of the nearest next use attains it. What is used next beyond a window's end is farther than all
    within, so one scan from a window's first pass is right for every end. In a single pass no expert is demanded twice,
    which leaves what it demands beyond the capacity. The first window of a cold run begins with nothing.
    """
    size, events = sizes_of(future, expert_bytes, n_experts), future.events()
    next_use, scans, begun = future.first_use.tolist(), list[tuple[int, Nearest]](), 0
    for number, end in enumerate(ends):
        scans = [(first, kept) for first, kept in scans if number < first + REACH]
        if number % STRIDE == 0:
            scans.append((number, Nearest(size, capacity_bytes, next_use if warm or number else None)))
        demanded = 0
        for event, (experts, then) in enumerate(islice(events, end - begun), begun):
            for _, kept in scans:
                kept.demand(event, experts, then)
            for x, use in zip(experts, then, strict=True):
                demanded += size[x]
                next_use[x] = use
        begun = end
        alone = [(number, demanded - capacity_bytes)] if demanded > capacity_bytes else []
        yield alone + [(first, kept.copied) for first, kept in scans]


def longest_cut(windows: Iterable[Sequence[tuple[int, int]]], time: Callable[[int, int, int], int]) -> int:
    """The most that the times of windows add up to, over all partitions of the run into these and single passes.

    ``windows``: per pass those that end with it, as (first pass, bytes that must be copied within it);
    ``time(first, end, nbytes)``: what the passes from ``first`` on, and before ``end``, take at least. A pass begins
    when the one before has ended, so that the makespan is the sum over any partition. O(windows).
    """
    best = [0]  # of the passes so far
    for number, ending in enumerate(windows):
        found = best[-1] + time(number, number + 1, 0)
        for first, nbytes in ending:
            found = max(found, best[first] + time(first, number + 1, nbytes))
        best.append(found)
    return best[-1]
