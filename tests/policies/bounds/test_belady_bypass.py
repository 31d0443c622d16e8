"""The fewest bytes, against exhaustive search and against a linear programme."""

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from policies.bounds.belady_bypass import belady_bypass_bytes
from policies.bounds.future import Future

N = 5
EVENTS = st.lists(st.lists(st.integers(0, N - 1), unique=True, min_size=1, max_size=4), min_size=1, max_size=12)
SIZES = st.lists(st.integers(1, 9), min_size=N, max_size=N)


def subsets(most: int) -> list[frozenset[int]]:
    sizes = range(min(most, N) + 1)
    return [frozenset(s) for s in chain.from_iterable(combinations(range(N), k) for k in sizes)]


def fewest_copies(events: list[list[int]], slots: int, warm: bool) -> int:
    """Whole experts of one byte, every content tried at every gate, prefetching included."""
    contents = subsets(slots)
    cost = {s: 0 if warm else len(s) for s in contents}  # at the first gate
    for event, following in zip(events, [*events[1:], None], strict=True):
        paid = {s: c + len(set(event) - s) for s, c in cost.items()}
        if following is None:
            return min(paid.values())
        cost = {to: min(c + len(to - s - set(event)) for s, c in paid.items()) for to in contents}
    raise AssertionError("no events")


def fewest_bytes(events: list[list[int]], sizes: list[int], capacity: int, warm: bool) -> float:
    """Divisible experts: s[t, x] is the share of x held at gate t, c[t, x] what is copied before gate t."""
    T = len(events)
    cost, rows, limits = np.zeros((2, T, N)), [], []
    cost[1] = sizes
    if warm:
        cost[1, 0] = 0
    constant = 0
    for t, event in enumerate(events):
        row = np.zeros((2, T, N))
        row[0, t] = sizes
        rows.append(row)
        limits.append(capacity)
        for x in range(N):
            if x in event:  # what is not held at its gate is copied for it
                constant += sizes[x]
                cost[0, t, x] = -sizes[x]
            if t == 0 or x not in events[t - 1]:  # what is held was held before, or was copied ahead
                row = np.zeros((2, T, N))
                row[0, t, x], row[1, t, x] = 1, -1
                if t:
                    row[0, t - 1, x] = -1
                rows.append(row)
                limits.append(0)
    found = linprog(cost.ravel(), np.reshape(rows, (len(rows), -1)), limits, bounds=(0, 1), method="highs")
    assert found.status == 0
    return float(found.fun) + constant


@settings(max_examples=120)
@given(EVENTS, st.integers(0, N), st.booleans())
def test_equals_exhaustive_search_on_whole_experts(events: list[list[int]], slots: int, warm: bool) -> None:
    bound = belady_bypass_bytes(Future.of(events, N), [1], N, slots, warm=warm)
    assert bound == fewest_copies(events, slots, warm)


@settings(max_examples=100)
@given(EVENTS, SIZES, st.floats(0, 1), st.booleans())
def test_equals_the_linear_programme_on_unequal_sizes(
    events: list[list[int]], sizes: list[int], share: float, warm: bool
) -> None:
    capacity = int(share * sum(sizes))
    bound = belady_bypass_bytes(Future.of(events, N), sizes, 1, capacity, warm=warm)
    assert bound == pytest.approx(fewest_bytes(events, sizes, capacity, warm), abs=1e-6)


@given(EVENTS, SIZES)
def test_warm_is_at_most_cold_and_both_fall_with_capacity(events: list[list[int]], sizes: list[int]) -> None:
    future, total = Future.of(events, N), sum(sizes)
    cold, warm = ([belady_bypass_bytes(future, sizes, 1, c, warm=w) for c in range(total + 2)] for w in (False, True))
    for falling in (cold, warm):
        assert falling == sorted(falling, reverse=True)
    assert all(0 <= c - w <= capacity for capacity, (c, w) in enumerate(zip(cold, warm, strict=True)))
    assert cold[0] == warm[0] == sum(sizes[x] for event in events for x in event)
    assert cold[-1] == sum(sizes[x] for x in set().union(*events))
    assert warm[-1] == 0


def test_by_hand() -> None:
    """Keeping 0 and letting 1 and 2 pass beats any cache of one that must admit: A B A C A."""
    future = Future.of([[0], [1], [0], [2], [0]], 3)
    assert belady_bypass_bytes(future, [10], 3, 10) == 30
    assert belady_bypass_bytes(future, [10], 3, 10, warm=True) == 20
    assert belady_bypass_bytes(future, [10], 3, 4) == 50 - 2 * 4  # four bytes of 0 stay


def test_what_does_not_fit_together_is_refused() -> None:
    future = Future.of([[0]], 4)
    with pytest.raises(ValueError, match="2 layers of 3 experts for a future of 4"):
        belady_bypass_bytes(future, [1, 1], 3, 1)
    with pytest.raises(ValueError, match="capacity_bytes=-1"):
        belady_bypass_bytes(future, [1, 1], 2, -1)


def test_sweeping_the_heap_changes_nothing() -> None:
    """A long trace over few experts: the heap is swept hundreds of times."""
    rng = np.random.default_rng(0)
    events = [rng.choice(6, 2, replace=False).tolist() for _ in range(2000)]
    copied, content = 0, set[int]()
    future = Future.of(events, 6)
    use = future.first_use.tolist()
    for experts, next_use in future.events():
        copied += len(set(experts) - content)
        for x, then in zip(experts, next_use, strict=True):
            use[x] = then
        content = set(sorted(content | set(experts), key=lambda x: use[x])[:3])
    assert belady_bypass_bytes(future, [1], 6, 3) == copied
