"""What a layer takes where the GPU and the host compute it at once, and who of its experts should go where."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from fractions import Fraction
from heapq import heapreplace
from itertools import product
from math import prod
from typing import NamedTuple

from policies.api import Host, LayerEvent, Schedule, Setup, View
from policies.parts.lanes import alone_ns, copied

ASSIGNMENTS = 256
"""How many are tried one by one: all those of eight experts, and of more where few token counts differ."""


class Lookup(NamedTuple):
    """A member of an event's demand set."""

    expert: int
    tokens: int
    complete: bool

    @property
    def hotness(self) -> tuple[int, int]:
        """To sort by: most tokens first, of equals the lower number."""
        return -self.tokens, self.expert


def lookups(event: LayerEvent, view: View) -> list[Lookup]:
    """The event's, the hottest first."""
    pairs = zip(event.demand, event.tokens, strict=True)
    return sorted((Lookup(x, n, view.complete(x)) for x, n in pairs), key=lambda it: it.hotness)


def hottest_first(event: LayerEvent, hosted: Collection[int], view: View) -> Schedule:
    """The order in which :class:`Sides` copies what the host does not compute."""
    return Schedule(copy=[it.expert for it in lookups(event, view) if not it.complete and it.expert not in hosted])


class Sides:
    """The time from the gate to the end of either side, each as the machine prices it where nobody is in its way.

    GPU: it computes first what is complete. Copies follow one another from the gate on, the hottest first, each chunk
    on the lane of the link that is free first, and what was fetched is computed in that order, each after its copy. It
    keeps one of ``places`` from the beginning of its copy to the end of its compute (None: there is always room). Host:
    the worker that is free first takes the next, the hottest first. What the two take from each other at the host's
    memory is left out, and so are copies that are under way.
    """

    def __init__(self, setup: Setup, places: int | None) -> None:
        self.setup, self.places = setup, places
        self.chunk_ns = [setup.chunk_ns(layer) for layer in range(setup.n_layers)]

    @property
    def host(self) -> Host:
        """The machine's: a policy that places is refused on one without."""
        assert self.setup.host is not None
        return self.setup.host

    def gpu_ns(self, layer: int, members: Iterable[Lookup]) -> int:
        """Of the GPU with its link. O(n log n)."""
        now, fetched = 0, []
        for it in members:
            if it.complete:
                now += self._computed_ns(layer, it.tokens)
            else:
                fetched.append(it)
        lanes, places = [0] * self.setup.lanes, self.places or len(fetched)
        freed: list[int] = []
        for i, it in enumerate(sorted(fetched, key=lambda it: it.hotness)):
            there = copied(lanes, self.chunk_ns[layer], freed[i - places] if i >= places else 0)
            now = max(now, there) + self._computed_ns(layer, it.tokens)
            freed.append(now)
        return now

    def host_ns(self, layer: int, members: Iterable[Lookup]) -> int:
        """Of the host's workers. O(n log n)."""
        host = self.host
        free = [0] * host.workers
        for it in sorted(members, key=lambda it: it.hotness):
            heapreplace(free, free[0] + host.expert_ns(layer, it.tokens))
        return max(free)

    def best_prefix(self, layer: int, first: Sequence[Lookup], order: Sequence[Lookup]) -> int:
        """The least N by which the longer side is the shortest, ``first`` and N of ``order`` being the GPU's.

        Exact: with N the GPU's side never falls and the host's never grows, so that the best is where they cross.
        O(n log^2 n).
        """

        def gpu(n: int) -> int:
            return self.gpu_ns(layer, [*first, *order[:n]])

        def host(n: int) -> int:
            return self.host_ns(layer, order[n:])

        everyone = range(len(order) + 1)
        crossing = bisect_left(everyone, True, key=lambda n: gpu(n) >= host(n))
        if not crossing or gpu(crossing) < host(crossing - 1):
            return crossing
        # Below the crossing the host is the longer side; without it, and with fewer, just as long.
        least = host(crossing - 1)
        return bisect_left(everyone, True, hi=crossing, key=lambda n: host(n) <= least)

    def best_split(self, layer: int, members: Sequence[Lookup]) -> list[int]:
        """Which of the members that are not complete the host computes, so that the longer side is the shortest.

        Of equal splits the one with the fewest copies, then the one that fetches the hotter. Experts of equal tokens
        are alike, so that only how many of them are fetched is tried: exact up to ASSIGNMENTS, thus always for eight
        experts. Beyond, in the order of host time saved per GPU time spent, the best number of the first; with one
        worker and one place at most one expert's time, on the side where it takes less, above the least: a split that
        may cut one expert in two is not longer, and lies between two such numbers.
        """
        there = [it for it in members if it.complete]
        missing = sorted((it for it in members if not it.complete), key=lambda it: it.hotness)
        alike: dict[int, list[Lookup]] = {}
        for it in missing:
            alike.setdefault(it.tokens, []).append(it)
        groups = list(alike.values())
        if prod(len(group) + 1 for group in groups) > ASSIGNMENTS:
            worth = self._worth(layer)
            missing.sort(key=lambda it: -worth(it.tokens))
            return _numbers(missing[self.best_prefix(layer, there, missing) :])
        best: tuple[int, int] | None = None
        hosted: list[Lookup] = []
        for taken in product(*(range(len(group), -1, -1) for group in groups)):
            fetched = [it for group, n in zip(groups, taken, strict=True) for it in group[:n]]
            others = [it for group, n in zip(groups, taken, strict=True) for it in group[n:]]
            longer = max(self.gpu_ns(layer, [*there, *fetched]), self.host_ns(layer, others))
            if best is None or (longer, len(fetched)) < best:
                best, hosted = (longer, len(fetched)), others
        return _numbers(hosted)

    def _worth(self, layer: int) -> Callable[[int], Fraction]:
        """By tokens: nanoseconds that the host is spared for each one of the GPU's side."""
        copy, host = alone_ns(self.setup, layer), self.host
        return lambda n: Fraction(host.expert_ns(layer, n), max(1, copy + self._computed_ns(layer, n)))

    def _computed_ns(self, layer: int, tokens: int) -> int:
        return self.setup.costs.expert_ns(layer, tokens) + self.setup.costs.launch_ns


def _numbers(members: Iterable[Lookup]) -> list[int]:
    return [it.expert for it in sorted(members, key=lambda it: it.hotness)]
